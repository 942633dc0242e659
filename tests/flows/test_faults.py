"""Who waits for whom, what is tried again, what ends when its time is over or a signal comes.

What is killed during scheduled runs stands in benchmarks/faults.py, which takes longer.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from flows import busy, services
from flows import stage as stages
from flows.deployment import within
from flows.services import ask
from isdh import params, tracking
from isdh.artifacts import Cell, Workspace, locked, tried
from isdh.errors import InputError, Unanswered
from tests.flows.scheduled import LONG, checkpoint, results_of, runs_of, slow_down, stage, until
from tests.flows.test_forkserver import answer, forkserver, order
from tests.flows.test_stage import alive
from tests.loopback import free_port
from tests.workspaces import environment, run, write_params

CELL = Cell("digits", "isdh", 12, 0)
TRAIN = ["flows.train", "digits", "isdh", "12", "0"]
MATRIX = {"methods": ["isdh", "dhn"]}


def lock_of(folder: Path) -> Path:
    return Workspace(folder).state("locks", "workspace")


# ---------------------------------------------------------------- who holds what


def test_who_waits_for_a_lock_is_told_which_process_has_it_and_since_when(tmp_path):
    told: list[str] = []
    with locked(tmp_path / "lock", who="run 'x'"), tried(tmp_path / "lock") as holder:
        assert holder.startswith(f"process {os.getpid()} (run 'x'), since 2")
        assert holder.endswith(" UTC")
    waits = threading.Thread(target=take, args=(tmp_path / "lock", told))
    with locked(tmp_path / "lock", who="run 'y'"):
        waits.start()
        assert within(5, lambda: bool(told))
    waits.join(5)
    assert not waits.is_alive()
    assert "run 'y'" in told[0]
    with tried(tmp_path / "lock") as holder:
        assert holder == ""


def take(path: Path, told: list[str]) -> None:
    with locked(path, waiting=told.append):
        pass


@pytest.fixture
def rwlock(tmp_path, monkeypatch):
    monkeypatch.setattr(busy, "RWLOCK", tmp_path / "rwlock")

    def write(process: int, command: str = "dvc repro") -> Path:
        entry = {"pid": process, "cmd": command}
        busy.RWLOCK.write_text(json.dumps({"write": {"a": entry}, "read": {"b": [entry]}}))
        return busy.RWLOCK

    return write


def test_a_dvc_that_has_paths_locked_is_named_and_its_locks_stay(rwlock):
    path = rwlock(os.getpid())
    assert busy.dvc_at_work() == [f"process {os.getpid()} (dvc repro)"]
    busy.clear_dead_locks()
    assert path.exists()


def test_locks_of_a_dead_dvc_are_taken_away_where_its_number_is_anothers_too(rwlock):
    with subprocess.Popen(["true"]) as dead:
        pass
    path = rwlock(dead.pid)
    assert busy.dvc_at_work() == []
    busy.clear_dead_locks()
    assert not path.exists()
    path = rwlock(os.getpid())
    os.utime(path, (0, 0))  # written before this process started
    assert busy.dvc_at_work() == []
    busy.clear_dead_locks()
    assert not path.exists()


def test_locks_in_whose_writing_dvc_was_killed_are_taken_away_unless_it_writes_still(rwlock):
    path = rwlock(os.getpid())
    path.write_text(path.read_text()[:20])
    with locked(path.with_name("rwlock.lock")):  # as DVC has it while it writes
        assert busy.dvc_at_work() == ["dvc"]
        busy.clear_dead_locks()
        assert path.exists()
    busy.clear_dead_locks()
    assert not path.exists()


# ---------------------------------------------------------------- what a retry helps


@pytest.mark.parametrize(
    "fault",
    [
        Unanswered("MLflow does not answer"),
        ConnectionResetError(),
        TimeoutError(),
        httpx.ConnectError("refused"),
        OSError(errno.ESTALE, "stale file handle"),
    ],
)
def test_what_was_away_or_busy_is_tried_again(fault):
    assert stages.passes(fault)
    wrapped = RuntimeError("in other words")
    wrapped.__cause__ = fault
    assert stages.passes(wrapped)


@pytest.mark.parametrize(
    "fault",
    [
        InputError("value: rule"),
        OSError(errno.ENOSPC, "no space left on device"),
        PermissionError(errno.EACCES, "denied"),
        FileNotFoundError(errno.ENOENT, "no such file"),
        ZeroDivisionError(),
        None,
    ],
)
def test_bad_input_a_full_disk_and_mistakes_are_not_tried_again(fault):
    assert not stages.passes(fault)


RETRIED = """
import asyncio, sys, time
from prefect import flow
from flows import stage
calls = {"away": [], "wrong": []}

@stage.task(name="away", retries=2, retry_delay_seconds=0.5)
async def away():
    calls["away"].append(time.monotonic())
    if len(calls["away"]) < 3:
        raise ConnectionResetError("gone")

@stage.task(name="wrong", retries=2, retry_delay_seconds=0.5)
async def wrong():
    calls["wrong"].append(time.monotonic())
    raise ZeroDivisionError

@flow(name="retried")
async def retried():
    await away()
    try:
        await wrong()
    except ZeroDivisionError:
        pass

asyncio.run(stage.run(retried, {}))
first, second, third = calls["away"]
print(second - first, third - second, len(calls["wrong"]))
"""


@pytest.fixture(scope="module")
def prefect(tmp_path_factory, made) -> str:
    """The API of a server for as long as this module's tests last."""
    folder = tmp_path_factory.mktemp("prefect")
    patch = pytest.MonkeyPatch()
    patch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{free_port()}/api")
    patch.setenv("PREFECT_HOME", str(folder / "home"))
    with services.prefect_server(folder) as url:
        patch.undo()
        yield url


@pytest.mark.slow
def test_retries_wait_longer_each_time_and_not_equally_long(made, prefect):
    done = run(made, sys.executable, "-c", RETRIED, PREFECT_API_URL=prefect)
    assert done.returncode == 0, done.stderr
    first, second, wrong = map(float, done.stdout.split())
    assert 0.25 < first < 1.5
    assert 0.5 < second < 2.5
    assert wrong == 1


# ---------------------------------------------------------------- one at a time


@pytest.mark.slow
def test_a_run_that_meets_another_says_who_has_the_workspace_in_prefect_too_and_waits(
    made, prefect
):
    with locked(lock_of(made), who="run 'nightly'"):
        waiting = stage(made, "flows.pipeline", PREFECT_API_URL=prefect)
        states = {"flow_runs": {"state": {"name": {"any_": ["AwaitingWorkspace"]}}}}
        [seen] = until(lambda: ask(f"{prefect}/flow_runs/filter", states))
        assert seen["state"]["type"] == "RUNNING"
        words = f"waiting for the workspace, held by process {os.getpid()} (run 'nightly'), since 2"
        assert seen["state"]["message"].startswith(words)
        assert waiting.poll() is None
    said, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, said
    assert said.count(words) == 1
    state = ask(f"{prefect}/flow_runs/{seen['id']}")["state"]
    assert state["type"] == "COMPLETED"
    history = ask(f"{prefect}/flow_run_states/?flow_run_id={seen['id']}")
    assert "AwaitingWorkspace" in [each["name"] for each in history]


@pytest.mark.slow
def test_a_run_that_is_cancelled_on_the_page_gives_its_place_back_once(prefect):
    """Without the name of its lease the place would be given back again when the lease ends."""
    flow = ask(f"{prefect}/flows/", {"name": "limited"})["id"]
    limited = {"name": "limited", "flow_id": flow, "concurrency_limit": 1}
    deployment = ask(f"{prefect}/deployments/", limited)["id"]
    number = ask(f"{prefect}/deployments/{deployment}/create_flow_run", {})["id"]
    leases = []
    for state, force in (("PENDING", False), ("RUNNING", False), ("CANCELLING", True)):
        content = {"state": {"type": state, "name": state.title()}, "force": force}
        ask(f"{prefect}/flow_runs/{number}/set_state", content)
        details = ask(f"{prefect}/flow_runs/{number}")["state"]["state_details"]
        leases.append(details["deployment_concurrency_lease_id"])
    assert leases[0]
    assert len(set(leases)) == 1


@pytest.mark.slow
def test_a_run_waits_for_a_dvc_of_a_person(made):
    path = made / ".dvc" / "tmp" / "rwlock"
    path.write_text(json.dumps({"write": {"a": {"pid": os.getpid(), "cmd": "dvc repro"}}}))
    waiting = stage(made, "flows.pipeline")
    line = waiting.stdout.readline()
    while "waiting" not in line:
        line = waiting.stdout.readline()
        assert line
    assert line.strip() == f"waiting for the workspace, held by process {os.getpid()} (dvc repro)"
    path.unlink()
    said, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, said


@pytest.mark.slow
def test_dvc_repro_beside_a_pipeline_says_who_has_the_workspace_and_is_no_harm(made):
    with locked(lock_of(made), who="run 'nightly'"):
        done = run(made, "dvc", "repro", "-f", "-s", CELL.address("evaluate"))
    assert done.returncode == 0, done.stderr
    assert f"the workspace is held by process {os.getpid()} (run 'nightly'), since" in done.stderr


# ---------------------------------------------------------------- time-outs, signals


@pytest.fixture
def long(made, tmp_path) -> Path:
    """A copy of `made` in which the training of a cell takes long, and tells MLflow at once."""
    folder = tmp_path / "long"
    shutil.copytree(made, folder, symlinks=True)
    write_params(folder, methods=["isdh"], dataset={"digits": LONG})
    slow_down(folder)
    return folder


def database(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def status(folder: Path) -> str | None:
    """Of the run of the training that is long; the one before it was completed."""
    runs = [each for each in runs_of(database(folder), CELL) if each.info.status != "FINISHED"]
    assert len(runs) <= 1
    return str(runs[0].info.status) if runs else None


@pytest.mark.slow
def test_a_cell_that_a_person_makes_by_dvc_is_waited_for_and_not_made_again(long):
    person = subprocess.Popen(
        ["dvc", "repro", "-s", CELL.address("train")],
        cwd=long,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: checkpoint(long, CELL))
    with forkserver(long) as server:
        log = order(server, long)
        until(lambda: log.exists() and "is busy" in log.read_text())
        assert person.poll() is None
        assert "dvc repro -s train@digits-isdh-12-0" in log.read_text()
        assert answer(server)["exit"] == 0
    assert person.wait() == 0
    assert "'train@digits-isdh-12-0' is cached - skipping run" in log.read_text()
    assert results_of(long, CELL)


@pytest.mark.slow
def test_dvc_repro_of_a_person_is_told_which_pipeline_has_the_cell(long):
    with forkserver(long, ISDH_PIPELINE="run 'nightly'") as server:
        order(server, long)
        until(lambda: checkpoint(long, CELL))
        done = run(long, "dvc", "repro", "-s", CELL.address("train"))
    assert done.returncode == 255
    assert "models/digits/isdh-12-0' is busy, it is being blocked by:" in done.stderr
    assert re.search(r"\(PID \d+\): run 'nightly'", done.stderr)


@pytest.mark.parametrize("text", ["trian=24", "train", "train=long", "24"])
def test_hours_that_are_none_are_refused(monkeypatch, text):
    monkeypatch.setenv("ISDH_HOURS", text)
    with pytest.raises(InputError, match=f"ISDH_HOURS: {text}: "):
        stages.seconds_allowed("train")


def test_hours_are_those_of_the_stage(monkeypatch):
    monkeypatch.setenv("ISDH_HOURS", "train=0.5 report=0")
    assert [stages.seconds_allowed(name) for name in ("train", "report", "encode")] == [
        1800.0,
        None,
        None,
    ]


@pytest.mark.slow
def test_a_stage_whose_time_is_over_ends_says_what_to_do_and_goes_on_next_time(long, prefect):
    hours = {"ISDH_HOURS": "train=0.0015", "PREFECT_API_URL": prefect}
    done = run(long, sys.executable, "-m", "flows.pipeline", **hours)
    assert done.returncode == 1
    assert "error: train-digits-isdh-12-0: ended after 0.0015 hours" in done.stderr
    assert "a training goes on from its last checkpoint in the next run" in done.stderr
    assert checkpoint(long, CELL)
    named = {"flow_runs": {"state": {"name": {"any_": ["TimedOut"]}}}}
    [seen] = ask(f"{prefect}/flow_runs/filter", named)
    assert seen["name"] == "train digits isdh 12 seed 0"
    assert status(long) == "KILLED"
    resumed = run(long, sys.executable, "-m", *TRAIN)
    assert resumed.returncode == 0, resumed.stderr
    epochs = json.loads((Workspace(long).model(CELL) / "history.json").read_text())["epochs"]
    assert epochs[0]["timestamp"] / 1000 < end_of(seen) < epochs[-1]["timestamp"] / 1000


def end_of(run: dict) -> float:
    return datetime.fromisoformat(run["end_time"]).timestamp()


HUNG = """
import asyncio, time
from prefect import flow
from flows import stage
stage.SECONDS_TO_END = 0.5

@flow(name="train")
async def hung():
    time.sleep(60)

stage.main(hung, [])
"""


@pytest.mark.slow
def test_a_stage_that_hangs_is_ended_by_force_and_shows_where(made):
    start = time.monotonic()
    done = run(made, sys.executable, "-c", HUNG, ISDH_HOURS="train=0.0003")
    assert time.monotonic() - start < 15
    assert done.returncode == 1
    assert "Timeout (0:00:0" in done.stderr
    assert "in hung" in done.stderr


@pytest.mark.slow
def test_a_training_that_is_asked_to_end_says_killed_at_once_and_goes_on_as_one_run(long):
    """Asked twice, as by its group and by its parent's end; the second time it is not undone."""
    training = stage(long, *TRAIN)
    until(lambda: status(long) == "RUNNING" and checkpoint(long, CELL))
    asked = time.monotonic()
    training.send_signal(signal.SIGTERM)
    time.sleep(0.05)
    training.send_signal(signal.SIGTERM)
    said, _ = training.communicate(timeout=20)
    assert time.monotonic() - asked < 8
    assert training.returncode == 128 + signal.SIGTERM, said
    assert status(long) == "KILLED"
    resumed = run(long, sys.executable, "-m", *TRAIN)
    assert resumed.returncode == 0, resumed.stderr
    assert status(long) == "RUNNING"  # not scored yet
    settings = params.load(long / "params.yaml")
    tracking.mark_broken_off(Workspace(long), settings)
    assert status(long) == "RUNNING"


PARENT = """
import subprocess, sys, time
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_training_whose_parent_is_killed_ends_though_nobody_reads_what_it_says(long):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, sys.executable, "-m", *TRAIN],
        cwd=long,
        env=environment(),
        stdout=subprocess.PIPE,
    )
    training = int(parent.stdout.readline())
    until(lambda: status(long) == "RUNNING" and checkpoint(long, CELL))
    parent.kill()
    parent.communicate()
    until(lambda: not alive(training), 15)
    assert status(long) == "KILLED"


SLEEPS = """
import asyncio, os
from prefect import flow
from flows import stage

@flow(name="sleeps", flow_run_name="sleeps")
async def sleeps():
    await asyncio.sleep(600)

stage.end_with_parent(os.getppid())
asyncio.run(stage.run(sleeps, {}))
"""


@pytest.mark.slow
def test_a_run_whose_worker_is_killed_ends_and_says_that_it_crashed(made, prefect):
    """Its log was the worker's to read: nobody does any more."""
    worker = subprocess.Popen(
        [sys.executable, "-c", PARENT, sys.executable, "-c", SLEEPS],
        cwd=made,
        env=environment(PREFECT_API_URL=prefect),
        stdout=subprocess.PIPE,
    )
    run_of_it = int(worker.stdout.readline())
    named = {"flow_runs": {"name": {"any_": ["sleeps"]}}}

    def state() -> str | None:
        found = ask(f"{prefect}/flow_runs/filter", named)
        return found[0]["state"]["name"] if found else None

    until(lambda: state() == "Running")
    worker.kill()
    worker.communicate()
    until(lambda: not alive(run_of_it), 15)
    assert state() == "Crashed"


@pytest.mark.slow
def test_a_training_that_was_killed_is_called_so_by_the_next_publish_and_no_other(
    long, monkeypatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    training = stage(long, *TRAIN)
    until(lambda: status(long) == "RUNNING" and checkpoint(long, CELL))
    settings = params.load(long / "params.yaml")
    tracking.mark_broken_off(Workspace(long), settings)
    assert status(long) == "RUNNING"  # it is at it
    training.kill()
    training.communicate()
    assert status(long) == "RUNNING"
    tracking.mark_broken_off(Workspace(long), settings)
    assert status(long) == "KILLED"
