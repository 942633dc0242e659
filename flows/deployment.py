"""What `make up` asks of a Prefect server: a worker, the schedule, the rule for dead runs.

    python -m flows.deployment worker | deploy

Two programs of supervisord.conf. A server elsewhere is used the same way: set PREFECT_API_URL.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from flows import ROOT, notices, schedules, workplace
from flows.services import api_answers, ask, prefect_api_url
from isdh.errors import InputError, unknown

POOL = "local"
NAME = "pipeline/nightly"  # flow and deployment, as prefect.yaml has them
WAIT = 180.0  # seconds, for the API and for the pool
SLOW = 15.0  # seconds that a busy API may take to answer

# A run not heard of for three minutes is dead: its process was killed, or the machine went down.
# Marked so it gives back the only place a run may hold. Heartbeats come every 30 s, from a thread
# that work does not hold up (flows/__init__.py).
CRASH_RULE: dict[str, Any] = {
    "name": "a silent run has crashed",
    "description": "No heartbeat for 180 s.",
    "enabled": True,
    "trigger": {
        "type": "event",
        "posture": "Proactive",
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "for_each": ["prefect.resource.id"],
        "after": ["prefect.flow-run.heartbeat"],
        "expect": [
            "prefect.flow-run.heartbeat",
            "prefect.flow-run.Completed",
            "prefect.flow-run.Failed",
            "prefect.flow-run.Cancelled",
            "prefect.flow-run.Crashed",
            "prefect.flow-run.TimedOut",
        ],
        "threshold": 1,
        "within": 180,
    },
    "actions": [
        {"type": "change-flow-run-state", "state": "CRASHED", "message": "no heartbeat for 180 s"}
    ],
}


def main(arguments: list[str]) -> None:
    """Run one of the two; exit with 2 and a message where it cannot."""
    programs = {"worker": worker, "deploy": deploy}
    try:
        if len(arguments) != 1 or arguments[0] not in programs:
            raise unknown("program", " ".join(arguments), programs)
        programs[arguments[0]]()
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


def worker() -> None:
    """Become a Prefect worker once the API answers; it creates the pool where there is none.

    Raises:
        InputError: this is not the project's folder, or this Python lacks what runs need.
    """
    if fault := workplace.fault(Path.cwd()):
        raise InputError(fault)
    _wait_for_api()
    machine = os.uname().nodename
    # told to end it tells itself so by SIGINT, which what a shell starts in the background ignores
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ["ISDH_WORKER"] = str(os.getpid())  # a run ends with it: flows/turns.py
    command = ["worker", "start", "--pool", POOL, "--type", "process", "--name", machine]
    os.execv(sys.executable, [sys.executable, "-m", "prefect", *command])


def deploy() -> None:
    """Deploy prefect.yaml once the pool is there, and put the rule for dead runs in force."""
    check()
    api = _wait_for_api()
    if not _has_pool(api):
        sys.stderr.write(f"waiting for a worker of the pool {POOL!r}, {WAIT:.0f} s at most\n")
    if not within(WAIT, lambda: _has_pool(api)):
        raise InputError(f"work pool {POOL!r}: not there after {WAIT:.0f} s; start a worker")
    # prefect.yaml says {{ $PWD }}: without one here it stays open, and each worker fills in its own
    environment = {name: value for name, value in os.environ.items() if name != "PWD"}
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    if code := subprocess.run(command, env=environment, check=False).returncode:
        sys.exit(code)
    # A rule that is there stays: writing it again would forget the runs that it watches.
    if not ask(
        f"{api}/automations/filter", {"automations": {"name": {"any_": [CRASH_RULE["name"]]}}}
    ):
        ask(f"{api}/automations/", CRASH_RULE)
    notices.install(api)


def check() -> None:
    """Refuse a prefect.yaml that would be deployed wrongly; see flows/schedules.py."""
    plan = Path(os.path.relpath(ROOT / "prefect.yaml"))
    schedules.check(plan, name=NAME.partition("/")[2])


def workers(api: str) -> list[dict[str, Any]] | None:
    """The workers of the pool, dead ones included; None where there is no pool yet."""
    if not ask(f"{api}/work_pools/filter", {"work_pools": {"name": {"any_": [POOL]}}}):
        return None
    found: list[dict[str, Any]] = ask(f"{api}/work_pools/{POOL}/workers/filter", {})
    return found


def _has_pool(api: str) -> bool:
    try:
        return workers(api) is not None
    except OSError:  # a server that has just started may be slow
        return False


def cancel_runs(api: str, *, seconds: float) -> None:
    """Cancel the runs that the pool's workers are at, and wait until they have ended.

    A run whose worker died hears nothing of it; after so many seconds it is cancelled in the
    records alone, so that it gives back the only place.
    """
    for run in _unfinished(api):
        sys.stderr.write(f"cancelling {run['name']}\n")
        _set_state(api, run, "CANCELLING", "make down")
    if not within(seconds, lambda: not _unfinished(api)):
        for run in _unfinished(api):
            _set_state(api, run, "CANCELLED", "make down", force=True)


def end_records(api: str, *, before: datetime) -> None:
    """Mark runs as crashed that the records call unfinished since before the workers started."""
    for run in _unfinished(api):
        if datetime.fromisoformat(run["state"]["timestamp"]) < before:
            sys.stderr.write(f"{run['name']} did not end in its time: marked as crashed\n")
            _set_state(api, run, "CRASHED", "its worker ended before it", force=True)


def _unfinished(api: str) -> list[dict[str, Any]]:
    states = {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}
    query = {"flow_runs": {"state": states}, "work_pools": {"name": {"any_": [POOL]}}}
    found: list[dict[str, Any]] = ask(f"{api}/flow_runs/filter", query)
    return found


def _set_state(
    api: str, run: dict[str, Any], state: str, message: str, *, force: bool = False
) -> None:
    content = {"state": {"type": state, "message": message}, "force": force}
    ask(f"{api}/flow_runs/{run['id']}/set_state", content)


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Wait until something holds; False where it does not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def _wait_for_api() -> str:
    url = prefect_api_url()
    if api_answers(url):
        return url
    sys.stderr.write(f"waiting for the Prefect server at {url}, {WAIT:.0f} s at most\n")
    if not within(WAIT, lambda: api_answers(url, timeout=SLOW)):
        raise InputError(
            f"PREFECT_API_URL={url}: no Prefect server answered within {WAIT:.0f} s; "
            "start it: make up"
        )
    return url


if __name__ == "__main__":
    main(sys.argv[1:])
