"""Finding, starting and stopping a Prefect server; the defaults that reach it."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from flows import deployment, services
from isdh.errors import InputError
from tests.loopback import free_port, service_ports
from tests.workspaces import ROOT, copy_project, environment, run

linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal is Linux's")


@contextmanager
def program_answering(body: bytes, port: int = 0) -> Iterator[int]:
    """An HTTP server that gives one answer to everything; yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone_within(seconds: float, pid: int) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def no_server(monkeypatch):
    """The environment names a port at which nobody listens."""
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{free_port()}/api")


@pytest.mark.parametrize(
    ("answer", "is_prefect"), [(b"true", True), (b"OK", False), (b"{}", False)]
)
def test_only_what_answers_true_is_taken_for_prefect(answer, is_prefect):
    with program_answering(answer) as port:
        assert services.api_answers(f"http://127.0.0.1:{port}/api") is is_prefect


def test_where_nobody_listens_nothing_answers():
    assert not services.api_answers(f"http://127.0.0.1:{free_port()}/api")


@pytest.mark.parametrize("said", [b"", b"220 mail.example ESMTP\r\n"])
def test_a_program_that_speaks_no_http_costs_about_a_second(said):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(said)
                time.sleep(1.5)

        thread = threading.Thread(target=greet)
        thread.start()
        start = time.monotonic()
        assert not services.api_answers(f"http://127.0.0.1:{port}/api")
        assert time.monotonic() - start < 1.4
        thread.join()


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with program_answering(b"true") as port:
        assert services.api_answers(f"http://127.0.0.1:{port}/api")


def test_the_url_is_the_environments_then_the_ports_then_prefects_own(monkeypatch):
    for name in ("PREFECT_API_URL", "ISDH_PREFECT_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert services.prefect_api_url() == "http://127.0.0.1:4200/api"
    monkeypatch.setenv("ISDH_PREFECT_PORT", "4711")
    assert services.prefect_api_url() == "http://127.0.0.1:4711/api"
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example/api")
    assert services.prefect_api_url() == "http://prefect.example/api"


def test_importing_services_loads_neither_prefect_nor_a_client():
    code = "import sys, flows.services; print(*sys.modules)"
    loaded = run(ROOT, sys.executable, "-c", code).stdout.split()
    assert not {"prefect", "httpx", "urllib.request", "yaml", "numpy"} & set(loaded)


def test_the_defaults_reach_a_process_and_yield_to_its_environment():
    code = "import json, os, flows; print(json.dumps(dict(os.environ)))"
    plain = json.loads(run(ROOT, sys.executable, "-c", code, DO_NOT_TRACK="true").stdout)
    assert plain["PREFECT_HOME"] == str(ROOT / ".isdh" / "prefect")
    assert plain["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    set_before = {"PREFECT_HOME": "/elsewhere", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60"}
    own = json.loads(run(ROOT, sys.executable, "-c", code, **set_before).stdout)
    assert set_before.items() <= own.items()


def test_a_run_finds_its_python_where_no_environment_is_activated():
    code = "import shutil, flows; print(shutil.which('python'))"
    done = run(ROOT, sys.executable, "-c", code, PATH="/usr/bin:/bin")
    assert done.stdout.strip() == str(Path(sys.executable).with_name("python"))


def test_mlflow_and_prefect_obey_the_defaults_that_keep_runs_private():
    code = (
        "import flows, os\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled\n"
        "from prefect._internal.analytics.enabled import is_telemetry_enabled\n"
        "os.environ.pop('CI', None)\n"
        "print(is_telemetry_disabled(), is_telemetry_enabled())"
    )
    without_ci = {"CI": "", "GITHUB_ACTIONS": ""}
    assert run(ROOT, sys.executable, "-c", code, **without_ci).stdout.split() == ["True", "False"]


@linux
def test_a_tied_command_ends_when_its_parent_is_killed(tmp_path):
    code = (
        "import subprocess, sys, time\n"
        "from flows import services\n"
        "child = subprocess.Popen(services.tied('-c', 'import time; time.sleep(60)'))\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    time.sleep(0.5)
    assert alive(child)
    parent.kill()
    parent.communicate()
    assert gone_within(2.0, child)


def test_a_server_that_answers_is_used_and_left_running(tmp_path, monkeypatch):
    with program_answering(b"true") as port:
        url = f"http://127.0.0.1:{port}/api"
        monkeypatch.setenv("PREFECT_API_URL", url)
        with services.prefect_server(tmp_path) as used:
            assert used == url
        assert services.api_answers(url)
    assert not (tmp_path / ".isdh").exists()


def test_a_server_that_does_not_start_is_told_with_its_log(tmp_path, monkeypatch, no_server):
    monkeypatch.setattr(services, "_start", lambda port, output: failing(output))
    refused = pytest.raises(InputError, match=r"ended with code 3; the end of .*\nno such table")
    with refused, services.prefect_server(tmp_path):
        pytest.fail("the body ran without a server")


def failing(output) -> subprocess.Popen[bytes]:
    code = "print('no such table', flush=True); raise SystemExit(3)"
    return subprocess.Popen([sys.executable, "-c", code], stdout=output)


def test_a_server_that_does_not_get_healthy_is_stopped(tmp_path, monkeypatch, no_server):
    started = []

    def hanging(port, output):
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        return started[0]

    monkeypatch.setattr(services, "_start", hanging)
    monkeypatch.setattr(services, "HEALTHY_WITHIN", 0.5)
    with pytest.raises(InputError, match="not healthy within"), services.prefect_server(tmp_path):
        pytest.fail("the body ran without a server")
    assert not alive(started[0].pid)


def test_a_server_that_ignores_the_signal_is_killed_with_its_group(monkeypatch):
    monkeypatch.setattr(services, "STOPPED_WITHIN", 0.5)
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True
    )
    child = int(server.stdout.readline())
    services._stop(server)
    server.stdout.close()
    assert server.returncode == -signal.SIGKILL
    assert gone_within(2.0, child)


BODY = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
from flows import services
with services.prefect_server(pathlib.Path(sys.argv[1])) as url:
    print(url, services.api_answers(url), flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_where_another_program_has_the_port_a_server_runs_elsewhere_until_ctrl_c(tmp_path):
    with program_answering(b"<html>a wiki</html>") as taken:
        process = subprocess.Popen(
            [sys.executable, "-c", BODY, str(tmp_path)],
            cwd=ROOT,
            env=environment(
                PREFECT_API_URL=f"http://127.0.0.1:{taken}/api", PREFECT_HOME=str(tmp_path / "home")
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        url, healthy = process.stdout.readline().split()
        assert healthy == "True"
        assert url != f"http://127.0.0.1:{taken}/api"
        process.send_signal(signal.SIGINT)
        try:
            _, told = process.communicate(timeout=20)
        finally:
            process.kill()
    assert not services.api_answers(url)
    assert services.port_is_free(int(re.search(r":(\d+)/", url)[1]))
    assert told.count("no Prefect server at") == 1
    assert url in told
    assert "KeyboardInterrupt" in told
    assert (tmp_path / ".isdh" / "logs" / "prefect-server.log").stat().st_size > 0


class Records:
    """The flow runs of a pool as the API keeps them; a run without a worker hears no wish."""

    def __init__(self, **runs: tuple[str, str]) -> None:
        self.runs = {
            name: {"id": name, "name": name, "state": {"type": state, "timestamp": timestamp}}
            for name, (state, timestamp) in runs.items()
        }
        self.forced: dict[str, bool] = {}

    def ask(self, url: str, content: dict, **_: object) -> object:
        path = url.removeprefix("api/flow_runs/")
        if path == "filter":
            assert content["work_pools"] == {"name": {"any_": ["local"]}}
            wanted = content["flow_runs"]["state"]["type"]["any_"]
            return [run for run in self.runs.values() if run["state"]["type"] in wanted]
        name, _, _ = path.partition("/set_state")
        state = content["state"]["type"]
        self.runs[name]["state"]["type"] = (
            "CANCELLED" if (name, state) == ("heard", "CANCELLING") else state
        )
        self.forced[name] = content["force"]
        return None

    def states(self) -> dict[str, str]:
        return {name: run["state"]["type"] for name, run in self.runs.items()}


def test_a_run_whose_worker_died_is_cancelled_in_the_records(monkeypatch):
    records = Records(
        heard=("RUNNING", "2026-01-01T02:00:00Z"),
        unheard=("PENDING", "2026-01-01T02:00:00Z"),
        ended=("COMPLETED", "2026-01-01T02:00:00Z"),
    )
    monkeypatch.setattr(deployment, "ask", records.ask)
    deployment.cancel_runs("api", seconds=0.1)
    assert records.states() == {"heard": "CANCELLED", "unheard": "CANCELLED", "ended": "COMPLETED"}
    assert records.forced == {"heard": False, "unheard": True}


def test_only_runs_from_before_the_workers_are_marked_as_crashed(monkeypatch):
    records = Records(
        old=("RUNNING", "2026-01-01T02:00:00Z"),
        new=("RUNNING", "2026-01-01T04:00:00Z"),
        ended=("FAILED", "2026-01-01T02:00:00Z"),
    )
    monkeypatch.setattr(deployment, "ask", records.ask)
    deployment.end_records("api", before=datetime(2026, 1, 1, 3, tzinfo=UTC))
    assert records.states() == {"old": "CRASHED", "new": "RUNNING", "ended": "FAILED"}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return copy_project(tmp_path_factory.mktemp("operations"))


@pytest.mark.parametrize(
    ("variable", "answer", "who"),
    [
        ("ISDH_MLFLOW_PORT", b"OK", "a program that `make up` did not start"),
        ("ISDH_PREFECT_PORT", b"true", "a Prefect server that `make up` did not start"),
    ],
)
def test_up_names_a_port_that_is_taken_and_starts_nothing(project, variable, answer, who):
    with program_answering(answer) as port:
        ports = service_ports()
        ports[variable] = str(port)
        done = run(project, sys.executable, "-m", "flows.operations", "up", **ports)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {variable}={port}: {who} listens there; ")
    assert f"make up {variable}={port + 1}" in done.stderr
    assert not (project / ".isdh" / "supervisord.pid").exists()


def test_a_port_that_is_none_is_refused(project):
    done = run(project, sys.executable, "-m", "flows.operations", "up", ISDH_PREFECT_PORT="http")
    assert done.returncode == 2
    assert done.stderr == "error: ISDH_PREFECT_PORT=http: want a port, 1 to 65535\n"


def test_down_where_nothing_runs_says_so(project):
    done = run(project, sys.executable, "-m", "flows.operations", "down")
    assert (done.returncode, done.stderr) == (0, "nothing runs\n")


@pytest.mark.parametrize("module", ["flows.operations", "flows.deployment"])
def test_an_unknown_command_is_answered_with_the_known_ones(project, module):
    done = run(project, sys.executable, "-m", module, "dwon")
    assert done.returncode == 2
    assert "known: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_too_deep_for_a_socket_is_refused(tmp_path):
    deep = tmp_path / ("d" * 60) / ("e" * 40)
    deep.mkdir(parents=True)
    for name in ("flows", "isdh", "prefect.yaml"):
        (deep / name).symlink_to(ROOT / name)
    (deep / "dvc.yaml").touch()
    ports = service_ports()
    done = run(deep, sys.executable, "-m", "flows.operations", "up", **ports)
    assert done.returncode == 2
    assert "too long a path for a Unix socket" in done.stderr
