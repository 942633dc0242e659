"""`make up` and `make down`: Prefect, worker, MLflow and search under one supervisor, on loopback.

    python -m flows.operations up | down

supervisord.conf says what runs. Exit codes: 0 done; 2 a port is taken or a program does not start,
with a message.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from flows import ROOT, deployment
from flows.deployment import within
from flows.services import (
    LOOPBACK,
    MLFLOW_PORT,
    PREFECT_PORT,
    SEARCH_PORT,
    api_answers,
    ask,
    port_is_free,
    tail,
)
from isdh.errors import InputError, unknown

HEALTHY_WITHIN = 180.0  # seconds
CANCELLED_WITHIN = 30.0  # seconds
STOPPED_WITHIN = 90.0  # seconds; supervisord kills what has not stopped after its stopwaitsecs
SOCKET_PATH = 95  # bytes; a Unix socket's path holds 103 to 107, and supervisord appends to it

STATE = ROOT / ".isdh"
LOGS = STATE / "logs"
SOCKET = STATE / "ctl"
RECORD = STATE / "services.json"  # where `up` put what it started


def main(arguments: list[str]) -> None:
    """Run a command; exit with 2 and a message where it cannot."""
    commands = {"up": up, "down": down}
    try:
        if len(arguments) != 1 or arguments[0] not in commands:
            raise unknown("command", " ".join(arguments), commands)
        commands[arguments[0]]()
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


def up() -> None:
    """Start everything, wait until it is healthy, print where it is; a second time only print.

    Raises:
        InputError: prefect.yaml is wrong, a port is taken, the project's path is too long for a
            socket, a program ended.
    """
    since = datetime.now(UTC)
    if supervisor := _supervisor():
        sys.stderr.write(f"runs already (process {supervisor.getPID()})\n")
        urls = json.loads(RECORD.read_text(encoding="utf-8"))
        _wait_until_healthy(supervisor, urls, datetime.min.replace(tzinfo=UTC))
    else:
        deployment.check()
        urls = _urls()
        try:
            _wait_until_healthy(_launch(urls), urls, since)
            deployment.end_records(f"{urls['prefect']}/api", before=since)
        except BaseException:
            down()
            raise
    page = ask(f"{urls['prefect']}/api/deployments/name/{deployment.NAME}")["id"]
    sys.stdout.write(
        f"runs      {urls['prefect']}\n"
        f"schedule  {urls['prefect']}/deployments/deployment/{page}\n"
        f"MLflow    {urls['mlflow']}\n"
        f"search    {urls['search']}, once a model is champion\n"
    )


def down() -> None:
    """Cancel the run in progress, stop what `up` started and nothing else, wait for it."""
    supervisor = _supervisor()
    if not supervisor:
        RECORD.unlink(missing_ok=True)
        sys.stderr.write("nothing runs\n")
        return
    pid = supervisor.getPID()
    with suppress(OSError, ValueError):  # no server to ask: what it recorded is lost, not more
        api = json.loads(RECORD.read_text(encoding="utf-8"))["prefect"] + "/api"
        deployment.cancel_runs(api, seconds=CANCELLED_WITHIN)
    supervisor.shutdown()
    if not within(STOPPED_WITHIN, lambda: not _alive(pid)):
        raise InputError(
            f"supervisord, process {pid}: does not end; {tail(LOGS / 'supervisord.log')}"
        )
    RECORD.unlink(missing_ok=True)
    sys.stderr.write("stopped\n")


def _urls() -> dict[str, str]:
    ports = {
        "prefect": _port("ISDH_PREFECT_PORT", PREFECT_PORT),
        "mlflow": _port("ISDH_MLFLOW_PORT", MLFLOW_PORT),
        "search": _port("ISDH_SEARCH_PORT", SEARCH_PORT),
    }
    return {name: f"http://{LOOPBACK}:{port}" for name, port in ports.items()}


def _port(variable: str, usual: int) -> int:
    text = os.environ.get(variable) or str(usual)
    if not text.isdecimal() or not 0 < int(text) < 1 << 16:
        raise InputError(f"{variable}={text}: want a port, 1 to 65535")
    if not port_is_free(int(text)):
        other = "a Prefect server" if api_answers(f"http://{LOOPBACK}:{text}/api") else "a program"
        raise InputError(
            f"{variable}={text}: {other} that `make up` did not start listens there; "
            f"stop it, or take another port: make up {variable}={int(text) + 1}"
        )
    return int(text)


def _launch(urls: dict[str, str]) -> Any:
    if len(os.fsencode(SOCKET)) > SOCKET_PATH:
        raise InputError(f"{ROOT}: too long a path for a Unix socket; move the project nearer to /")
    LOGS.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps(urls), encoding="utf-8")
    sys.stderr.write(
        f"starting Prefect server, worker, MLflow and search; logs: {os.path.relpath(LOGS)}\n"
    )
    started = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "-c", str(ROOT / "supervisord.conf")],
        cwd=ROOT,
        env={
            **os.environ,
            "ISDH_PREFECT_PORT": urls["prefect"].rpartition(":")[2],
            "ISDH_MLFLOW_PORT": urls["mlflow"].rpartition(":")[2],
            "ISDH_SEARCH_PORT": urls["search"].rpartition(":")[2],
            "PREFECT_API_URL": f"{urls['prefect']}/api",
            "PWD": str(ROOT),  # where the worker works: prefect.yaml
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if started.returncode or not within(10.0, lambda: _supervisor() is not None):
        raise InputError(f"supervisord: did not start: {started.stdout}{started.stderr}")
    return _supervisor()


def _supervisor() -> Any:
    """The interface of the supervisord that `up` started, or None."""
    from supervisor.childutils import getRPCInterface  # type: ignore[import-untyped]

    interface = getRPCInterface({"SUPERVISOR_SERVER_URL": f"unix://{SOCKET}"}).supervisor
    try:
        interface.getPID()
    except OSError:
        return None
    return interface


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _wait_until_healthy(supervisor: Any, urls: dict[str, str], since: datetime) -> None:
    if not within(HEALTHY_WITHIN, lambda: _healthy(supervisor, urls, since)):
        raise InputError(f"not healthy within {HEALTHY_WITHIN:.0f} s; the logs: {LOGS}")


def _healthy(supervisor: Any, urls: dict[str, str], since: datetime) -> bool:
    """Whether each program does its work; a worker's must be a sign of life after `since`.

    Raises:
        InputError: one never will.
    """
    programs = {program["name"]: program for program in supervisor.getAllProcessInfo()}
    for name, program in programs.items():
        failed = name == "deploy" and program["statename"] == "EXITED" and program["exitstatus"]
        if failed or program["statename"] == "FATAL":
            raise InputError(f"{name}: ended; {tail(LOGS / f'{name}.log')}")
    if programs["deploy"]["statename"] != "EXITED":
        return False
    try:
        ask(f"{urls['mlflow']}/api/2.0/mlflow/experiments/search", {"max_results": 1})
        heard = [
            worker["last_heartbeat_time"]
            for worker in deployment.workers(f"{urls['prefect']}/api") or []
        ]
    except (OSError, ValueError):
        return False
    return any(datetime.fromisoformat(time) > since for time in heard)


if __name__ == "__main__":
    main(sys.argv[1:])
