"""What is killed or cancelled in the middle of a scheduled training, and what becomes of it.

A copy of the project with its services up and a schedule of some seconds. Each fault in turn hits
a training that has told MLflow of itself and has left a checkpoint; a cell of its own, so that
nothing is made yet. Measured are the seconds until every process of the run is gone, until the
run's record says how it ended, and until a later scheduled run has made the cell; compared are
codes, scores and weights with those of a run in another copy, undisturbed, byte by byte.

    python -m benchmarks.faults [FAULT ...] [--keep FOLDER]        about half an hour
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.record import record
from flows.deployment import CRASH_RULE
from isdh.artifacts import Cell, read_json
from tests.flows.scheduled import LONG, Scheduled, replace, results_of, runs_of, scheduled, until
from tests.flows.scheduled import checkpoint as checkpoints
from tests.workspaces import copy_project, run, write_params

EVERY = 5  # seconds between scheduled runs
ENDS = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
WORDS = {"True": "yes", "False": "no", "None": ""}
OF_RUN = ("pipeline", "forkserver", "cell", "stage", "dvc")


@dataclass(frozen=True)
class Fault:
    """What is done.

    Attributes:
        victims: roles of processes that get SIGKILL at once; none: Cancel.
        goes_on: the run is not to end by it.
        in_preprocess: it hits `dvc repro preprocess@digits` instead of a training.
    """

    victims: tuple[str, ...] = ()
    goes_on: bool = False
    in_preprocess: bool = False


FAULTS = {
    "cancel": Fault(),
    "stage": Fault(("stage",)),
    "dvc of a cell": Fault(("cell",)),
    "dvc repro": Fault(("dvc",), in_preprocess=True),
    "forkserver": Fault(("forkserver",)),
    "pipeline": Fault(("pipeline",)),
    "worker": Fault(("worker",)),
    "server": Fault(("server",), goes_on=True),
    "MLflow": Fault(("mlflow",), goes_on=True),
    "pipeline and worker": Fault(("pipeline", "worker")),
    "supervisord": Fault(("supervisord",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faults", nargs="*", default=list(FAULTS), help=", ".join(FAULTS))
    parser.add_argument("--keep", type=Path, help="work in this folder and leave it there")
    options = parser.parse_args()
    names, start = options.faults, time.monotonic()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="f-"))
    seeds = {fault: seed for seed, fault in enumerate(FAULTS, 1)}
    wanted = references(folder / "undisturbed", {fault: seeds[fault] for fault in names})
    found = {}
    with scheduled(folder / "up", slow_preprocess, every=EVERY, seeds=[0]) as project:
        until(lambda: project.runs("nightly", "COMPLETED"), 300)
        for fault in names:
            try:
                found[fault] = disturb(project, fault, seeds[fault], wanted[fault])
            except Exception as error:
                found[fault] = {"broken": repr(error)}
                traceback.print_exc()
            print(fault, json.dumps(found[fault]), flush=True)
    if not options.keep:
        shutil.rmtree(folder)
    some = [] if names == list(FAULTS) else [name.replace(" ", "-") for name in names]
    path = record(
        "-".join(["faults", *some]),
        packages=("prefect", "dvc", "mlflow"),
        seconds=round(time.monotonic() - start),
        heartbeat_s=30,
        silent_run_crashed_within_s=CRASH_RULE["trigger"]["within"],
        faults=found,
    )
    path.with_suffix(".md").write_text(table(found))
    print(table(found))


def references(folder: Path, seeds: dict[str, int]) -> dict[str, dict[str, bytes] | None]:
    """What an undisturbed run makes of each cell."""
    if not folder.exists():  # --keep had it made before
        copy_project(folder)
    found: dict[str, dict[str, bytes] | None] = {}
    for in_preprocess in (False, True):
        of_these = {n: s for n, s in seeds.items() if FAULTS[n].in_preprocess is in_preprocess}
        every = [seed for seed in of_these.values() if not results_of(folder, cell(seed))]
        for group in [[seed] for seed in every] if in_preprocess else [every] if every else []:
            more = {"generate": generated(group[0])} if in_preprocess else {}
            write_params(folder, dataset={"digits": LONG}, seeds=group, **more)
            done = run(folder, sys.executable, "-m", "flows.pipeline")
            assert done.returncode == 0, done.stderr
        found |= {name: results_of(folder, cell(seed)) for name, seed in of_these.items()}
    return found


def cell(seed: int) -> Cell:
    return Cell("digits", "isdh", 12, seed)


def generated(seed: int) -> dict[str, int]:
    return {"seed": seed, "train": 60, "query": 20, "database": 100}


def slow_preprocess(folder: Path) -> None:
    """Give somebody time to kill it."""
    path = folder / "flows" / "preprocess.py"
    replace(
        path, r"(?m)^    settings = params\.load\(\)$", "    import time; time.sleep(5)\n\\g<0>"
    )


def disturb(
    project: Scheduled, name: str, seed: int, wanted: dict[str, bytes] | None
) -> dict[str, Any]:
    """One fault, and what is there when a later run has completed."""
    fault, here = FAULTS[name], cell(seed)
    more = {"generate": generated(seed)} if fault.in_preprocess else {}
    project.change(seeds=[seed], **more)
    until(lambda: at_work(project, fault, here), 180)
    [hit_run] = project.runs("nightly", "RUNNING")  # never two at once
    processes = [each for role in OF_RUN for each in project.processes()[role]]
    pipelines = project.processes()["pipeline"]
    hit, start = time.time(), time.monotonic()
    if fault.victims:
        for victim in [each for role in fault.victims for each in project.processes()[role]]:
            victim.send_signal(signal.SIGKILL)
    else:
        project.cancel(hit_run["id"])
    found: dict[str, Any] = {}
    if not fault.goes_on:
        stages = [each for each in processes if each not in pipelines]
        found["stages_gone_s"] = round(after(start, lambda: not any(map(alive, stages)), 60), 1)
        found["gone_s"] = round(after(start, lambda: not any(map(alive, processes)), 60), 1)
        if name == "supervisord":
            until(lambda: sum(map(len, project.processes().values())) == 0, 30)
            found["all_gone_s"] = round(time.monotonic() - start, 1)
            project.operate("up")
        found["mlflow_then"] = answered(lambda: status(project, here))
    seconds = after(start, lambda: ended(project, hit_run["id"]), 400)
    found["run"] = project.run(hit_run["id"])["state"]["name"]
    found["run_ended_s"] = round(seconds, 1)
    seconds = after(
        start, lambda: completed_since(project, hit) and results_of(project.folder, here), 400
    )
    found["made_s"] = round(seconds, 1)
    found["equal"] = results_of(project.folder, here) == wanted
    found["went_on"] = went_on(project, here, hit) if not fault.in_preprocess else None
    until(lambda: answered(lambda: status(project, here)) == "FINISHED", 60)
    found["mlflow_at_last"] = status(project, here)
    found["mlflow_runs"] = len(runs_of(project.mlflow, here))
    return found


def at_work(project: Scheduled, fault: Fault, here: Cell) -> bool:
    """Whether the moment has come: a live curve and a checkpoint, or preprocess in the middle."""
    if fault.in_preprocess:
        words = [" ".join(each.cmdline()) for each in project.processes()["stage"] if alive(each)]
        return any("flows.preprocess" in each for each in words)
    return bool(
        checkpoints(project.folder, here) and answered(lambda: status(project, here)) == "RUNNING"
    )


def status(project: Scheduled, here: Cell) -> str | None:
    """Of the cell's run in MLflow."""
    runs = runs_of(project.mlflow, here)
    return str(runs[-1].info.status) if runs else None


def ended(project: Scheduled, number: str) -> bool:
    return project.run(number)["state"]["type"] in ENDS


def completed_since(project: Scheduled, hit: float) -> bool:
    """Whether a scheduled run has completed that ended after the fault."""
    return bool(
        answered(
            lambda: [
                run
                for run in project.runs("nightly", "COMPLETED")
                if datetime.fromisoformat(run["end_time"]).timestamp() > hit
            ]
        )
    )


def went_on(project: Scheduled, here: Cell, hit: float) -> bool:
    """Whether the training was resumed, not begun anew."""
    folder = project.folder / "models" / here.dataset / here.name
    epochs = read_json(folder / "history.json")["epochs"]
    return bool(epochs[0]["timestamp"] < hit * 1000)


def answered(question: Callable[[], Any]) -> Any:
    """An answer, or None where a server was away."""
    try:
        return question()
    except Exception:
        return None


def after(start: float, holds: Callable[[], Any], seconds: float) -> float:
    """When it held first, since the start."""
    until(holds, seconds)
    return time.monotonic() - start


def alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def table(found: dict[str, dict[str, Any]]) -> str:
    """What operations.md shows."""
    titles = {
        "stages_gone_s": "dvc and stages gone, s",
        "gone_s": "all of the run gone, s",
        "run": "the run's record",
        "run_ended_s": "says so after, s",
        "mlflow_then": "MLflow then",
        "made_s": "cell made after, s",
        "equal": "equal bytes",
        "went_on": "from its checkpoint",
        "mlflow_at_last": "MLflow at last",
    }
    lines = [f"| fault | {' | '.join(titles.values())} |", "|---|" + "---|" * len(titles)]
    for fault, values in found.items():
        shown = [values.get(name) for name in titles]
        cells = [WORDS.get(str(each), str(each)) for each in shown]
        lines.append(f"| {fault} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
