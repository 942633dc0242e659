"""Is a Prefect server there, and one for as long as a run lasts. Standard library only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from isdh.errors import InputError

LOOPBACK = "127.0.0.1"
PREFECT_PORT = 4200  # Prefect's own
MLFLOW_PORT = 5000  # MLflow's own
SEARCH_PORT = 8000  # of `isdh serve`
HEALTHY_WITHIN = 90.0  # seconds; 6 to 9 are usual, 12 the first time
STOPPED_WITHIN = 10.0  # seconds; 1 to 2 are usual


def prefect_api_url() -> str:
    """Where the API is expected: PREFECT_API_URL, or the port ISDH_PREFECT_PORT of this machine."""
    port = os.environ.get("ISDH_PREFECT_PORT") or PREFECT_PORT
    return os.environ.get("PREFECT_API_URL") or f"http://{LOOPBACK}:{port}/api"


def mlflow_url() -> str:
    """Where `make up` puts MLflow: the port ISDH_MLFLOW_PORT of this machine."""
    return f"http://{LOOPBACK}:{os.environ.get('ISDH_MLFLOW_PORT') or MLFLOW_PORT}"


def api_answers(url: str, *, timeout: float = 1.0) -> bool:
    """Whether a healthy Prefect API is at `url`; false too for another program on that port.

    Args:
        url: of the API.
        timeout: seconds that it may take to answer.
    """
    try:
        return ask(f"{url}/health", timeout=timeout) is True
    except (OSError, ValueError):
        return False


def ask(url: str, content: Any = None, *, method: str | None = None, timeout: float = 5.0) -> Any:
    """Send JSON, read JSON; GET without content, POST with it. No proxy stands between.

    Raises:
        OSError: nobody listens, no answer in time, or an HTTP error (urllib.error.HTTPError).
        ValueError: the answer is not JSON.
    """
    import http.client
    import json
    import urllib.request

    request = urllib.request.Request(
        url,
        data=None if content is None else json.dumps(content).encode(),
        headers={"Content-Type": "application/json"},
        method=method,
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout) as answer:
            body = answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"{url}: {error!r}") from None
    return json.loads(body) if body else None


def port_is_free(port: int) -> bool:
    """Whether a server could listen at this port of the loopback interface now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def tied(*command: str) -> list[str]:
    """The command that runs `python COMMAND ...` and ends it when this process is gone."""
    return [sys.executable, str(Path(__file__).with_name("tied.py")), sys.executable, *command]


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log, as the end of an error's message."""
    text = log.read_text(encoding="utf-8", errors="replace").rstrip() if log.exists() else ""
    return f"the end of {log}:\n" + "\n".join(text.splitlines()[-lines:])


@contextmanager
def prefect_server(root: Path) -> Iterator[str]:
    """A Prefect server for as long as the body runs; one that answers already is used and left.

    The port is that of PREFECT_API_URL where it names this machine, or else 4200; where another
    program holds it, any free one. Enter it from the main thread: the kernel ends the server when
    the thread that started it ends.

    Args:
        root: the project's folder; the server's output goes to .isdh/logs/prefect-server.log.

    Yields:
        The URL of the API. It is not put into the environment.

    Raises:
        InputError: the server ended, or was not healthy within 90 s; the log's end stands there.
    """
    url = prefect_api_url()
    if api_answers(url):
        yield url
        return
    port = _port(url)
    started = f"http://{LOOPBACK}:{port}/api"
    log = root / ".isdh" / "logs" / "prefect-server.log"
    sys.stderr.write(
        f"no Prefect server at {url}: starting one at {started} for this run ({log})\n"
    )
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        server = _start(port, output)
        try:
            _wait_until_healthy(server, started, log)
            yield started
        finally:
            _stop(server)


def _port(url: str) -> int:
    parts = urlsplit(url)
    wanted = parts.port if parts.hostname in {LOOPBACK, "localhost"} else PREFECT_PORT
    if wanted and port_is_free(wanted):
        return wanted
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _start(port: int, output: BinaryIO) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        tied("-m", "flows.server", "--host", LOOPBACK, "--port", str(port)),
        env={**os.environ, "PREFECT_API_URL": f"http://{LOOPBACK}:{port}/api"},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C ends the body first, then this
    )


def _wait_until_healthy(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + HEALTHY_WITHIN
    while not api_answers(url):
        if server.poll() is not None:
            raise InputError(f"Prefect server: ended with code {server.returncode}; {tail(log)}")
        if time.monotonic() > deadline:
            raise InputError(
                f"Prefect server: not healthy within {HEALTHY_WITHIN:.0f} s; {tail(log)}"
            )
        time.sleep(0.2)


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(STOPPED_WITHIN)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
