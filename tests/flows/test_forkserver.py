"""Cells by forks: the same results and the same dvc.lock as by `dvc repro`, whatever is killed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from flows import graph
from isdh.artifacts import Cell, Workspace
from tests.flows.conftest import copy_made
from tests.flows.test_stage import alive, children
from tests.workspaces import SMALL, environment, run, write_params

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks are made on Linux alone"),
]

CELL = Cell("digits", "isdh", 12, 0)
STAGES = [CELL.address(stage) for stage in graph.CELL_STAGES]


@pytest.fixture
def fresh(made, tmp_path) -> Path:
    """A copy of `made` whose cells are gone, from dvc.lock and the run cache too."""
    folder = tmp_path / "fresh"
    copy_made(made, folder)
    shutil.rmtree(folder / ".dvc" / "cache" / "runs")
    for made_of_cells in ("models", "codes", "metrics"):
        shutil.rmtree(folder / made_of_cells)
    lock = yaml.safe_load((folder / "dvc.lock").read_text())
    for name in list(lock["stages"]):
        if name.partition("@")[0] in graph.CELL_STAGES:
            del lock["stages"][name]
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))
    return folder


@contextmanager
def forkserver(folder: Path, **more: str) -> Iterator[subprocess.Popen[str]]:
    """The process, without the pipeline around it."""
    with subprocess.Popen(
        [sys.executable, "-m", "flows.forkserver"],
        cwd=folder,
        env=environment(ISDH_PUBLISH_LATER="1", **more),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            yield server
        finally:
            server.kill()


def order(server: subprocess.Popen[str], folder: Path) -> Path:
    assert server.stdin
    log = folder / ".isdh" / "logs" / "ordered.log"
    server.stdin.write(json.dumps({"cell": str(CELL), "log": str(log)}) + "\n")
    server.stdin.flush()
    return log


def answer(server: subprocess.Popen[str]) -> dict[str, object]:
    assert server.stdout
    found: dict[str, object] = json.loads(server.stdout.readline())
    return found


def outputs(folder: Path) -> dict[str, bytes]:
    kinds = ("models/**/*.safetensors", "codes/**/*.npy", "metrics/**/*.json")
    paths = [path for kind in kinds for path in folder.glob(kind)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def without_seconds(lock: Path) -> dict[str, object]:
    """dvc.lock but for what depends on how long a training took: models' folders, reports."""
    stages = yaml.safe_load(lock.read_text())["stages"]
    for name, entry in stages.items():
        if name.startswith(("train@", "report@")):
            del entry["outs"]
        if name.startswith("report@"):
            del entry["deps"]
    found: dict[str, object] = stages
    return found


def test_the_pipelines_cells_and_dvc_lock_are_those_of_dvc_repro(made, fresh):
    assert run(made, "dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    done = run(fresh, sys.executable, "-m", "flows.pipeline")
    assert done.returncode == 0, done.stderr
    assert "MLflow: 0 runs written, 2 unchanged" in done.stderr  # as they were made, whole
    log = (fresh / ".isdh" / "logs" / "digits" / "isdh-12-0.log").read_text()
    assert "train@digits-isdh-12-0: exec python" in log  # by a fork
    assert "Running stage" not in log  # and not by DVC
    assert outputs(fresh) == outputs(made)
    assert without_seconds(fresh / "dvc.lock") == without_seconds(made / "dvc.lock")
    assert run(fresh, "dvc", "status").stdout.strip() == "Data and pipelines are up to date."


def test_dvc_lock_is_written_as_dvc_writes_it(made, tmp_path):
    from flows.forkserver import merge

    text = (made / "dvc.lock").read_text()
    path = tmp_path / "dvc.lock"
    path.write_text(text)
    stages = yaml.safe_load(text)["stages"]
    merge(path, {STAGES[0]: stages[STAGES[0]]})
    assert path.read_text() == text

    nothing = {"cmd": "true", "params": {"params.yaml": {"rate": 1e-05, "none": None, "empty": []}}}
    merge(path, {"train@new": nothing})
    (made / "dvc.lock.mine").write_text(path.read_text())
    dvc = (
        "from dvc.utils.serialize import modify_yaml\n"
        "with modify_yaml('dvc.lock.mine') as content: content['stages'].update({})"
    )
    rewritten = run(made, sys.executable, "-c", dvc)
    assert rewritten.returncode == 0, rewritten.stderr
    assert (made / "dvc.lock.mine").read_text() == path.read_text() != text
    (made / "dvc.lock.mine").unlink()


def test_what_is_not_in_dvc_lock_when_all_is_killed_comes_from_the_run_cache(fresh):
    with forkserver(fresh) as server:
        log = order(server, fresh)
        assert answer(server)["exit"] == 0, log.read_text()
        server.kill()  # whether dvc.lock was written by now or not
    before = outputs(fresh)
    shutil.copy(fresh / "dvc.lock", fresh / "dvc.lock.kept")
    lock = yaml.safe_load((fresh / "dvc.lock").read_text())
    lock["stages"] = {k: v for k, v in lock["stages"].items() if k not in STAGES}
    (fresh / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))
    restored = run(fresh, "dvc", "repro", "-s", *STAGES)
    assert restored.returncode == 0, restored.stderr
    assert restored.stdout.count("is cached - skipping run") == len(STAGES)
    assert outputs(fresh) == before


def test_whoever_is_killed_no_fork_goes_on_and_the_next_order_resumes(fresh):
    """kill -9 of stage, cell and server in the middle of one training, which ends all the same."""
    digits = {**SMALL["dataset"]["digits"], "training": {"epochs": 200, "batch_size": 20}}
    write_params(fresh, methods=["isdh", "dhn"], dataset={"digits": digits})
    training = fresh / "isdh" / "training.py"
    text = training.read_text()
    assert "\nCHECKPOINT_SECONDS = 5.0\n" in text
    often = text.replace("CHECKPOINT_SECONDS = 5.0", "CHECKPOINT_SECONDS = 0.1")
    training.write_text(often)  # three checkpoints are written long before the last epoch
    killed = []
    with forkserver(fresh) as server:
        for victim in ("stage", "cell", "server"):
            ordered = time.time()
            order(server, fresh)
            cell, stage = within_training(server.pid, fresh, since=ordered)
            os.kill({"server": server.pid, "cell": cell, "stage": stage}[victim], signal.SIGKILL)
            killed.append(time.time() * 1000)
            if victim != "server":
                assert answer(server)["exit"] == 1
            deadline = time.monotonic() + 5
            while (alive(cell) or alive(stage)) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert not alive(cell)
            assert not alive(stage)
    with forkserver(fresh) as server:
        log = order(server, fresh)
        assert answer(server)["exit"] == 0, log.read_text()
    history = json.loads((fresh / "models" / "digits" / "isdh-12-0" / "history.json").read_text())
    ended = [epoch["timestamp"] for epoch in history["epochs"]]
    assert ended[0] < killed[0] < killed[1] < killed[2] < ended[-1]  # went on, never anew


def within_training(server: int, folder: Path, *, since: float) -> tuple[int, int]:
    """A cell's process and its stage's, once it has written a checkpoint."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        written = (folder / ".isdh" / "checkpoints").glob("digits/isdh-12-0/*.pt")
        if any(path.stat().st_mtime > since for path in written):
            [cell] = children(server)
            [stage] = children(cell)
            return cell, stage
        time.sleep(0.02)
    raise AssertionError("no checkpoint")


def test_code_that_changed_since_it_was_read_is_read_by_an_interpreter_of_its_own(fresh):
    with forkserver(fresh) as server:
        assert server.stdout
        order(server, fresh)
        assert answer(server)["exit"] == 0  # everything has been read
        method = fresh / "isdh" / "methods" / "isdh.py"
        method.write_text(method.read_text() + "\nraise ArithmeticError\n")
        log = order(server, fresh)
        assert answer(server)["exit"] == 1
        assert "> exec python -m flows.train" in log.read_text()  # DVC's own words
        assert "ArithmeticError" in log.read_text()


def test_a_stage_that_refuses_its_input_is_told_from_one_that_fails(fresh):
    (fresh / "data" / "digits" / "labels.npy").unlink()
    (fresh / "data" / "digits" / "labels.npy").write_bytes(b"no array")
    with forkserver(fresh) as server:
        log = order(server, fresh)
        assert answer(server)["exit"] == 2
    assert "labels.npy" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_fork_server_that_ends_is_told_with_its_log(fresh):
    encode = fresh / "flows" / "encode.py"
    encode.write_text(encode.read_text() + "\nraise ArithmeticError\n")
    done = run(fresh, sys.executable, "-m", "flows.pipeline")
    assert done.returncode == 1
    assert "flows.forkserver failed; from .isdh/logs/forkserver.log" in done.stderr
    assert "ArithmeticError" in done.stderr


def test_where_no_forks_are_made_dvc_makes_the_cell(fresh, monkeypatch):
    for name, value in environment(ISDH_PUBLISH_LATER="1").items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(fresh)
    asyncio.run(graph.repro_cell(Workspace(), CELL))
    assert run(fresh, "dvc", "status", *STAGES).stdout.strip().endswith("up to date.")
