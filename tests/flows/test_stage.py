"""The shell of the stages: exit codes, messages, locks, and what happens when a parent dies."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows import services
from flows import stage as stages
from tests.flows.test_one_run import ISDH, current_run
from tests.workspaces import SMALL, copy_project, environment, run, write_params

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A workspace in which nothing has been made."""
    return copy_project(tmp_path_factory.mktemp("bare"))


def stage(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run(folder, sys.executable, "-m", *words)


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"bits": [0]}, ("bits.0=0: ", "greater than or equal to 1")),
        ({"epoch": 3}, ("unknown key 'epoch'", "known: ")),
        ({"methods": ["isdg"]}, ("unknown method 'isdg', did you mean 'isdh'?",)),
        ({"datasets": {"mine": "raw/mine"}}, ("unknown dataset 'mine'", "known: digits")),
        ({"methods": ["idhn"]}, ("method.idhn: no such section; add `idhn: {}`",)),
    ],
)
def test_params_that_break_a_rule_are_refused_by_every_face(bare, params, words):
    write_params(bare, **params)
    try:
        for command in (["flows"], ["flows.train", "digits", "isdh", "12", "0"]):
            assert_refused(stage(bare, *command), "params.yaml: ", *words)
    finally:
        write_params(bare)


def test_a_missing_key_is_named(bare):
    write_params(bare)
    path = bare / "params.yaml"
    path.write_text(path.read_text().replace("seeds:\n- 0\n", ""))
    try:
        assert_refused(stage(bare, "flows"), "missing key 'seeds'; add it")
    finally:
        write_params(bare)


def test_a_missing_raw_folder_is_refused_before_anything_is_made(bare):
    dataset = {"mine": SMALL["dataset"]["digits"]}
    write_params(bare, datasets={"mine": "raw/mine"}, dataset=dataset)
    try:
        assert_refused(stage(bare, "flows"), "datasets.mine=raw/mine: no such folder")
    finally:
        write_params(bare)


def test_wrong_arguments_of_a_stage_are_answered_with_its_usage(bare):
    assert_refused(stage(bare, "flows.train", "digits"), "usage: python -m flows.train <dataset>")


def test_a_stage_ends_when_dvc_is_killed_and_the_next_run_equals_an_undisturbed_one(made):
    """kill -9 of dvc in the middle of a training; the stage follows, and the next one resumes."""
    digits = {**SMALL["dataset"]["digits"], "training": {"epochs": 200, "batch_size": 20}}
    write_params(made, methods=["isdh", "dhn"], dataset={"digits": digits})
    command = ["dvc", "repro", "-s", "train@digits-isdh-12-0"]
    checkpoints = made / ".isdh" / "checkpoints"
    shutil.rmtree(checkpoints, ignore_errors=True)
    try:
        with subprocess.Popen(
            command, cwd=made, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as dvc:
            wait_for(checkpoints, "digits/isdh-12-0/*.pt")
            [train] = children(dvc.pid)
            os.kill(dvc.pid, signal.SIGKILL)
            killed = time.time() * 1000
            deadline = time.monotonic() + 5
            while alive(train) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert not alive(train)
        resumed = run(made, *command)
        assert resumed.returncode == 0, resumed.stderr
        model = made / "models" / "digits" / "isdh-12-0"
        epochs = json.loads((model / "history.json").read_text())["epochs"]
        assert epochs[0]["timestamp"] < killed < epochs[-1]["timestamp"]  # it went on, not anew
        weights = (model / "weights.safetensors").read_bytes()
        database = f"sqlite:///{made / 'mlflow.db'}"
        told = current_run(made, database, ISDH).info.run_id
        shutil.rmtree(checkpoints)
        undisturbed = run(made, *command[:2], "-f", *command[2:])
        assert undisturbed.returncode == 0, undisturbed.stderr
        again = json.loads((model / "history.json").read_text())["epochs"]
        assert again[0]["timestamp"] > epochs[-1]["timestamp"]  # trained from the start
        assert (model / "weights.safetensors").read_bytes() == weights
        assert current_run(made, database, ISDH).info.run_id == told
    finally:
        write_params(made, methods=["isdh", "dhn"])
    assert run(made, "dvc", "repro").returncode == 0


def wait_for(folder: Path, pattern: str) -> Path:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := list(folder.glob(pattern)):
            return found[0]
        time.sleep(0.05)
    raise AssertionError(f"no {pattern} in {folder}")


def children(parent: int) -> list[int]:
    return [
        int(stat.parent.name)
        for stat in Path("/proc").glob("[0-9]*/stat")
        if status(stat).split()[1] == str(parent)
    ]


def alive(process: int) -> bool:
    return status(Path(f"/proc/{process}/stat")).split()[0] not in {"Z", "gone"}


def status(stat: Path) -> str:
    """State and parent of a process, as proc(5) has them behind its name."""
    try:
        return stat.read_text().rsplit(")", 1)[1]
    except OSError:
        return "gone -1"


def test_a_stage_that_completed_has_not_failed_where_the_server_kept_no_result(monkeypatch):
    """As where a slow server answers a state that it was told of twice."""
    from prefect.states import Completed, Failed

    async def recorded(return_state: bool) -> object:
        return state

    monkeypatch.setattr(services, "api_answers", lambda url: True)
    state = Completed()
    asyncio.run(stages.run(recorded, {}))
    state = Failed(message="no space")
    with pytest.raises(Exception, match="no space"):
        asyncio.run(stages.run(recorded, {}))
