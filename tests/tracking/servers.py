"""Real servers for tests: PostgreSQL, `mlflow server` over it and over SQLite, and a wire to them.

The one over SQLite is what `make up` starts: on this machine, files beside the runs' workspace. The
one over PostgreSQL is a team's: it counts as one on another machine, and files go through it.
"""

from __future__ import annotations

import ctypes
import http.client
import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg2

from flows.services import tail, tied
from flows.tied import PR_SET_PDEATHSIG
from tests.loopback import direct, free_port
from tests.workspaces import environment

FAR = "127.1"  # this machine by a name that isdh takes for another's
LARGEST_FILE = 16 << 20  # bytes, of PostgreSQL's: as large as those of its log are from the start


def binaries() -> Path | None:
    """The folder of initdb and postgres, if they are installed."""
    found = shutil.which("initdb")
    debian = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3])
    )
    candidates = [Path(found)] if found else debian[-1:]
    return candidates[0].resolve().parent if candidates else None


def _owner() -> dict[str, Any]:
    """For subprocess: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    return {"user": "postgres", "group": "postgres", "extra_groups": []}


def _limit_and_tie() -> None:
    """Of a process that is about to become PostgreSQL: no large files, and an end with ours."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, hard))
    with suppress(AttributeError):  # Linux alone has it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)


@contextmanager
def postgres() -> Iterator[str]:
    """A cluster of its own on loopback, without passwords; yields the address of a database.

    It lies outside of pytest's folders, which are closed to the user that it runs as.
    """
    programs = binaries()
    assert programs
    folder = Path(tempfile.mkdtemp(prefix="isdh-postgres-"))
    if owner := _owner():
        shutil.chown(folder, owner["user"], owner["group"])
    environ = {"PATH": os.defpath, "LC_ALL": "C"}
    data, port = str(folder / "data"), free_port()
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "isdh", "-A", "trust", "-E", "UTF8", "--no-sync"],
        env=environ,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        check=True,
        **owner,
    )
    settings = {"fsync": "off", "autovacuum": "off", "unix_socket_directories": ""}
    options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    log = folder / "log"
    with log.open("wb") as output:
        cluster = subprocess.Popen(
            [programs / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), *options],
            env=environ,
            cwd=folder,
            stdout=output,
            stderr=output,
            preexec_fn=_limit_and_tie,
            **owner,
        )
    try:
        address = f"postgresql://isdh@127.0.0.1:{port}/postgres"
        _wait(lambda: psycopg2.connect(address).close(), psycopg2.OperationalError, cluster, log)
        yield address
    finally:
        cluster.send_signal(signal.SIGINT)
        _end(cluster)
        shutil.rmtree(folder)


def _wait(
    attempt: Callable[[], object],
    fault: type[Exception],
    process: subprocess.Popen[bytes],
    log: Path,
) -> None:
    """Try until it works.

    Raises:
        AssertionError: the process ended, or a minute passed; with the end of its log.
    """
    deadline = time.monotonic() + 60
    while True:
        try:
            attempt()
        except fault:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(tail(log)) from None
            time.sleep(0.05)
        else:
            return


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass
class Server:
    """`mlflow server` over a database; may be stopped and started again.

    Attributes:
        name: of the kind of database.
        store: the database's address.
        folder: where its log and its files lie.
        host: by which it is asked.
        app: what is started in place of MLflow's own application.
        variables: added to its environment.
    """

    name: str
    store: str
    folder: Path
    host: str
    app: str | None = None
    variables: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """For MLFLOW_TRACKING_URI."""
        return f"http://{self.host}:{self.port}"

    def start(self) -> None:
        """Begin to start; `wait` waits for it."""
        words = ["--backend-store-uri", self.store, "--artifacts-destination", "./artifacts"]
        words += ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        words += ["--app-name", self.app] if self.app else []
        quick = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "log").open("ab") as output:
            self.process = subprocess.Popen(
                tied("-m", "mlflow", "server", *words, "--allowed-hosts", "*"),
                cwd=self.folder,
                env=environment(**quick, **self.variables),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait(self) -> Server:
        """Until it answers."""
        assert self.process
        url = f"http://127.0.0.1:{self.port}/health"
        _wait(lambda: direct.open(url).close(), OSError, self.process, self.folder / "log")
        return self

    def stop(self) -> None:
        """End it and what it started; return when it has gone."""
        self.ask_to_stop()
        assert self.process
        _end(self.process)

    def ask_to_stop(self) -> None:
        """Without waiting for it."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)

    def processes(self) -> list[int]:
        """Ids of all that runs for it."""
        assert self.process
        return [
            int(stat.parent.name)
            for stat in Path("/proc").glob("[0-9]*/stat")
            if _session(stat) == self.process.pid
        ]


def _session(stat: Path) -> int:
    """Of a process, as proc(5) has it behind its name; -1: it ended."""
    try:
        return int(stat.read_text().rsplit(")", 1)[1].split()[3])
    except OSError:
        return -1


@contextmanager
def serving(*roots: Path) -> Iterator[list[str]]:
    """Servers on loopback over the database of each folder; they keep files in `artifacts`."""
    found = [
        Server("sqlite", f"sqlite:///{root / 'mlflow.db'}", root, "127.0.0.1") for root in roots
    ]
    try:
        for server in found:
            server.start()
        yield [server.wait().uri for server in found]
    finally:
        for server in found:
            server.ask_to_stop()
        for server in found:
            server.stop()


@contextmanager
def started(folder: Path) -> Iterator[dict[str, Server]]:
    """By name a server over SQLite and, where that is installed, one over PostgreSQL."""
    with ExitStack() as stack:
        found = {}
        for name in ("sqlite", "postgres") if binaries() else ("sqlite",):
            place = folder / name
            place.mkdir()
            near = name == "sqlite"
            store = f"sqlite:///{place / 'mlflow.db'}" if near else stack.enter_context(postgres())
            found[name] = Server(name, store, place, "127.0.0.1" if near else FAR)
            found[name].start()
            stack.callback(found[name].stop)
        for server in found.values():
            server.wait()
        yield found
        for server in found.values():
            server.ask_to_stop()


class Wire:
    """Stands between a client and a server and can act when a certain request comes.

    Those count that change records; files do not. An action says whether the request is to be
    passed on; one that is not gets no answer.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.requests = 0  # all of them
        self.writes = 0
        self.actions: dict[int, Callable[[], bool]] = {}
        self.is_cut = False
        self.lock = threading.Lock()
        self.listener = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.listener.daemon_threads = True
        self.uri = f"http://{server.host}:{self.listener.server_port}"

    def before(self, write: int, action: Callable[[], bool]) -> None:
        """Act when a write comes; the first is 1."""
        self.actions[write] = action

    def cut(self) -> bool:
        """Answer nothing any more."""
        self.is_cut = True
        return False

    def lets_pass(self, command: str, path: str) -> bool:
        """Count a request and act."""
        is_write = command != "GET" and not re.search("/search$|/mlflow-artifacts/", path)
        with self.lock:
            self.requests += 1
            self.writes += is_write
            action = self.actions.pop(self.writes, None) if is_write else None
        return not self.is_cut and (action is None or action())

    def __enter__(self) -> Wire:
        self.thread = threading.Thread(target=self.listener.serve_forever, args=(0.02,))
        self.thread.start()
        return self

    def __exit__(self, *fault: object) -> None:
        self.listener.shutdown()
        self.thread.join()
        self.listener.server_close()


def _handler(wire: Wire) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if not wire.lets_pass(self.command, self.path):
                self.close_connection = True
                return
            upstream = http.client.HTTPConnection("127.0.0.1", wire.server.port)
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            content = answer.read()
            upstream.close()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            with suppress(OSError):  # the client may be gone
                self.end_headers()
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    return Handler
