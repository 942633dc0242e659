"""One MLflow run a training, however it came about: by real stages, DVC and servers."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from flows import tracked
from isdh import params, tracking
from isdh.artifacts import Cell, Workspace, read_json
from isdh.tracking import server
from tests import synthetic
from tests.tracking.servers import Server, Wire
from tests.workspaces import SMALL, copy_project, environment, run, write_params

pytestmark = pytest.mark.slow

MATRIX = {"methods": ["isdh", "dhn"]}
ISDH, DHN = Cell("digits", "isdh", 12, 0), Cell("digits", "dhn", 12, 0)


def runs_of(uri: str, cell: Cell) -> list[Run]:
    client = MlflowClient(tracking_uri=uri)
    number = server.find_experiment(client, cell.dataset)
    return server.search(client, number, f"tags.`isdh.cell` = '{cell}'") if number else []


def dvc(folder: Path, *words: str) -> None:
    done = run(folder, "dvc", *words)
    assert done.returncode == 0, done.stderr


def publish(folder: Path) -> tracking.Published:
    return tracking.publish_all(Workspace(folder), params.load(folder / "params.yaml"))


def current_run(folder: Path, uri: str, cell: Cell) -> Run:
    """The current run of a cell, after a look at all: it is of the files, none is there twice."""
    runs = runs_of(uri, cell)
    assert set(Counter(each.data.tags["isdh.fingerprint"] for each in runs).values()) == {1}
    (found,) = [each for each in runs if each.data.tags["isdh.state"] == "current"]
    history = read_json(Workspace(folder).model(cell) / "history.json")
    assert found.data.tags["isdh.fingerprint"] == history["fingerprint"]
    points = MlflowClient(tracking_uri=uri).get_metric_history(found.info.run_id, "loss")
    assert sorted(point.step for point in points) == [each["epoch"] for each in history["epochs"]]
    return found


@contextmanager
def slow_and_live(folder: Path) -> Iterator[None]:
    """A training that is started here tells its curves at once and has time to be killed."""
    module = folder / "flows" / "tracked.py"
    before = module.read_text()
    live = re.sub(r"LIVE_SECONDS = \S+", "LIVE_SECONDS = 0.3", before)
    module.write_text(live.replace("tuple(epochs)", "tuple(epochs); self.ended.wait(0.3)"))
    try:
        yield
    finally:
        module.write_text(before)


def training(folder: Path, cell: Cell, server: Server) -> subprocess.Popen[str]:
    words = [cell.dataset, cell.method, str(cell.bits), str(cell.seed)]
    return subprocess.Popen(
        [sys.executable, "-m", "flows.train", *words],
        cwd=folder,
        env=environment(MLFLOW_TRACKING_URI=server.uri),
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_training_killed_and_resumed_without_its_server_is_one_run_when_that_is_back(
    made, servers, monkeypatch
):
    """Two of them, side by side, since there are two kinds of server."""
    digits = {**SMALL["dataset"]["digits"], "training": {"epochs": 60, "batch_size": 20}}
    write_params(made, **MATRIX, dataset={"digits": digits})
    monkeypatch.setenv("no_proxy", "*")
    told = list(zip((ISDH, DHN), servers.values(), strict=False))
    checkpoints = {cell: Workspace(made).checkpoints(cell) for cell, _ in told}
    for folder in checkpoints.values():
        shutil.rmtree(folder, ignore_errors=True)
    try:
        with slow_and_live(made):
            trainings = [training(made, *each) for each in told]
            for (cell, server), process in zip(told, trainings, strict=True):
                wait_until(
                    lambda cell=cell, server=server: (
                        runs_of(server.uri, cell) and list(checkpoints[cell].glob("*.pt"))
                    )
                )
                assert process.poll() is None
            for process in trainings:
                process.kill()
                process.communicate()
        live = {cell: runs_of(server.uri, cell) for cell, server in told}
        for _, server in told:
            server.ask_to_stop()
        for _, server in told:
            server.stop()
        try:
            trainings = [training(made, *each) for each in told]
            said = [process.communicate()[1] for process in trainings]
        finally:
            for _, server in told:
                server.start()
            for _, server in told:
                server.wait()
        assert [process.returncode for process in trainings] == [0] * len(told), said
        for (cell, server), words in zip(told, said, strict=True):
            assert "not published: " in words
            (run,) = live[cell]
            assert run.info.status == "RUNNING"
            assert [each.info.run_id for each in runs_of(server.uri, cell)] == [run.info.run_id]
            monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
            publish(made)
            assert current_run(made, server.uri, cell).info.run_id == run.info.run_id
    finally:
        write_params(made, **MATRIX)
        dvc(made, "checkout", "--force")


def wait_until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_curves_are_live_again_when_the_server_is(served: Server, tmp_path, monkeypatch, capsys):
    cell = Cell("digits", "isdh", 12, 7)
    settings = synthetic.write_params(tmp_path)
    history = synthetic.history(cell)
    monkeypatch.setattr(tracked, "WORKSPACE", Workspace(tmp_path))
    monkeypatch.setattr(tracked, "LIVE_SECONDS", 0.05)
    monkeypatch.setenv("no_proxy", "*")
    with Wire(served) as wire:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", wire.uri)
        wire.cut()
        with tracked.Live(settings, cell, history) as live:
            live.tell(history["epochs"])
            time.sleep(0.5)  # some attempts
            wire.is_cut = False
            wait_until(lambda: runs_of(served.uri, cell))
    assert capsys.readouterr().err.count("curves are not live while this lasts") == 1


def test_on_a_machine_that_pulled_everything_there_is_nothing_to_publish(
    made, tmp_path, monkeypatch
):
    uri = f"sqlite:///{made / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    publish(made)
    before = current_run(made, uri, ISDH)
    there = copy_project(tmp_path / "there", **MATRIX)
    shutil.copy(made / "dvc.lock", there)
    for folder in (made, there):
        dvc(folder, "remote", "add", "-d", "store", str(tmp_path / "store"))
    try:
        dvc(made, "push")
    finally:
        dvc(made, "remote", "remove", "store")
    dvc(there, "pull")
    assert publish(there) == tracking.Published(unchanged=2)
    assert current_run(there, uri, ISDH).info.run_id == before.info.run_id
