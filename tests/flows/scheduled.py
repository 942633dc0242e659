"""A copy of the project with its services up and a schedule of seconds, to be disturbed."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from flows.services import ask
from isdh.artifacts import Cell, Workspace
from isdh.tracking import server
from tests.loopback import service_ports
from tests.workspaces import SMALL, copy_project, environment, run, write_params

EPOCHS = 40
QUICK = {  # seconds: how often a worker asks, and how long a run waits to ask for its place again
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "3",
}
LONG = {**SMALL["dataset"]["digits"], "training": {"epochs": EPOCHS, "batch_size": 20}}


def slow_down(
    folder: Path, *, pause: float = 0.3, live: float = 0.5, checkpoint: float = 0.1
) -> None:
    """A training there waits between epochs, and tells MLflow and writes checkpoints often."""
    replace(folder / "flows" / "tracked.py", r"LIVE_SECONDS = \S+", f"LIVE_SECONDS = {live}")
    replace(
        folder / "flows" / "tracked.py",
        r"tuple\(epochs\)",
        f"tuple(epochs); self.ended.wait({pause})",
    )
    replace(
        folder / "isdh" / "training.py",
        r"(?m)^CHECKPOINT_SECONDS = \S+",
        f"CHECKPOINT_SECONDS = {checkpoint}",
    )


def replace(path: Path, pattern: str, by: str) -> None:
    text, count = re.subn(pattern, by, path.read_text())
    assert count == 1, (path, pattern, count)
    path.write_text(text)


def until(holds: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What holds in the end; the test fails where nothing does in time."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "not within its time"
        time.sleep(0.1)
    return found


def insist(url: str, content: Any = None) -> Any:
    """An answer, from a server that may be busy or has just been started again."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return ask(url, content)
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.5)


def results_of(folder: Path, cell: Cell) -> dict[str, bytes] | None:
    """The bytes of a cell's codes, scores and weights, if all of them are there."""
    place = Workspace(folder)
    paths = {
        "codes": place.codes(cell) / "codes.npy",
        "scores": place.scores(cell),
        "weights": place.model(cell) / "weights.safetensors",
    }
    if not all(path.exists() for path in paths.values()):
        return None
    return {name: path.read_bytes() for name, path in paths.items()}


def checkpoint(folder: Path, cell: Cell) -> list[Path]:
    return list(Workspace(folder).checkpoints(cell).glob("*.pt"))


def runs_of(uri: str, cell: Cell) -> list[Run]:
    """A cell's runs in MLflow."""
    client = MlflowClient(tracking_uri=uri)
    number = server.find_experiment(client, cell.dataset)
    return server.search(client, number, f"tags.`isdh.cell` = '{cell}'") if number else []


@dataclass(frozen=True)
class Scheduled:
    """What `make up` started in a copy of the project."""

    folder: Path
    ports: dict[str, str]

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.ports['ISDH_PREFECT_PORT']}/api"

    @property
    def mlflow(self) -> str:
        return f"http://127.0.0.1:{self.ports['ISDH_MLFLOW_PORT']}"

    def params(self, **params: Any) -> None:
        write_params(self.folder, dataset={"digits": LONG}, **params)

    def runs(self, deployment: str = "nightly", *states: str) -> list[dict[str, Any]]:
        """Of a deployment, the latest first."""
        query: dict[str, Any] = {
            "deployments": {"name": {"any_": [deployment]}},
            "sort": "START_TIME_DESC",
            "limit": 50,
        }
        if states:
            query["flow_runs"] = {"state": {"type": {"any_": list(states)}}}
        found: list[dict[str, Any]] = insist(f"{self.api}/flow_runs/filter", query)
        return found

    def change(self, **params: Any) -> None:
        """Other parameters, between two runs."""
        deployment = insist(f"{self.api}/deployments/name/pipeline/nightly")["id"]
        insist(f"{self.api}/deployments/{deployment}/pause_deployment", {})
        until(lambda: not self.runs("nightly", "RUNNING", "PENDING"), 180)
        self.params(**params)
        insist(f"{self.api}/deployments/{deployment}/resume_deployment", {})

    def run(self, number: str) -> dict[str, Any]:
        found: dict[str, Any] = insist(f"{self.api}/flow_runs/{number}")
        return found

    def cancel(self, number: str) -> None:
        """As the button of Prefect's page does."""
        state = {"type": "CANCELLING", "name": "Cancelling", "message": "by a person"}
        insist(f"{self.api}/flow_runs/{number}/set_state", {"state": state, "force": True})

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Those that work in the folder, by what they are."""
        found: dict[str, list[psutil.Process]] = {name: [] for name in ROLES}
        for process in psutil.process_iter():
            try:
                if not Path(process.cwd()).is_relative_to(self.folder):
                    continue
                words = " ".join(process.cmdline())
                parent = " ".join(process.parent().cmdline()) if process.parent() else ""
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
            except psutil.Error:
                continue
            found[role(words, parent, process)].append(process)
        return found

    def operate(self, command: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "flows.operations", command]
        return run(self.folder, *words, **self.ports, **QUICK)


ROLES = ("supervisord", "server", "worker", "mlflow", "pipeline", "forkserver", "cell", "stage")
ROLES += ("dvc", "other")


def role(words: str, parent: str, process: psutil.Process) -> str:
    """What a process is, by its command line and its parent's; forks have that of their parent."""
    if "flows.forkserver" in words:
        if "flows.forkserver" not in parent:
            return "forkserver"
        above = process.parent().parent()
        return "stage" if above and "flows.forkserver" in " ".join(above.cmdline()) else "cell"
    kinds = {
        "supervisor.supervisord": "supervisord",
        "flows.server": "server",
        "worker start": "worker",
        "mlflow": "mlflow",
        "prefect.engine": "pipeline",
        "prefect.flow_engine": "pipeline",
        "-m dvc": "dvc",
        "-m flows.": "stage",
    }
    return next((kind for word, kind in kinds.items() if word in words), "other")


@contextmanager
def scheduled(
    folder: Path,
    *changes: Callable[[Path], None],
    every: int,
    deployments: tuple[str, ...] = ("nightly",),
    **params: Any,
) -> Iterator[Scheduled]:
    """The project, copied and slowed down, with its services up.

    Args:
        folder: where to.
        *changes: made there before that.
        every: seconds between scheduled runs of the first deployment.
        deployments: of prefect.yaml, those that are kept.
        **params: of params.yaml, in place of the small ones.
    """
    copy_project(folder)
    for change in (slow_down, *changes):
        change(folder)
    path = folder / "prefect.yaml"
    content = yaml.safe_load(path.read_text())
    kept = [each for each in content["deployments"] if each["name"] in deployments]
    for each in kept:
        each["parameters"] = {}
        each["schedules"] = []
    kept[0]["schedules"] = [{"interval": every, "slug": kept[0]["name"]}]
    path.write_text(yaml.safe_dump({**content, "deployments": kept}))
    ports = service_ports()
    project = Scheduled(folder, ports)
    project.params(**params)
    up = project.operate("up")
    try:
        assert up.returncode == 0, up.stderr
        yield project
    finally:
        project.operate("down")


def stage(folder: Path, *words: str, **more: str) -> subprocess.Popen[str]:
    """A stage that was started by hand."""
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
