"""Wrong deployments: a bad schedule, a worker in another folder or Python, a slow server."""

from __future__ import annotations

import re
import shutil
import site
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import deployment, schedules, workplace
from flows.services import ask, tied
from isdh.errors import InputError
from tests.flows.scheduled import until
from tests.loopback import free_port, service_ports
from tests.workspaces import ROOT, copy_project, environment, run

PACKAGES = Path(site.getsitepackages()[0])
WORKER = ("-m", "prefect", "worker", "start", "--pool", "local", "--type", "process")


def plan(folder: Path, name: str, **changes: Any) -> Path:
    """The project's prefect.yaml with one deployment changed."""
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    for each in content["deployments"]:
        if each["name"] == name:
            each.update(changes)
    path = folder / "prefect.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_projects_own_deployments_are_right():
    schedules.check(ROOT / "prefect.yaml", name="nightly")


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ({"cron": "0 25 * * *"}, "cron='0 25 * * *': no cron; want five fields: minute, hour"),
        ({"cron": "0 3 * *"}, "cron='0 3 * *': no cron; want five fields"),
        ({"cron": 3}, "cron=3: no cron; want five fields"),
        (
            {"cron": "0 3 * * *", "timezone": "Europe/Berln"},
            "timezone='Europe/Berln': no such time zone, did you mean 'Europe/Berlin'? want",
        ),
        ({"interval": 300, "timezone": "home"}, "timezone='home': no such time zone; want a name"),
        ({"interval": 0}, "interval=0: no interval; want seconds between runs"),
        ({"rrule": "FREQ=DALY"}, "rrule='FREQ=DALY': no rrule; want an iCalendar rule"),
        (
            {"cron": "0 3 * * *", "tiemzone": "UTC"},
            "unknown key 'tiemzone', did you mean 'timezone'?",
        ),
        ({"corn": "0 3 * * *"}, "want exactly one of cron, interval, rrule"),
    ],
)
def test_a_wrong_schedule_is_told_with_deployment_value_rule_and_remedy(tmp_path, schedule, said):
    path = plan(tmp_path, "nightly", schedules=[schedule])
    with pytest.raises(InputError) as refused:
        schedules.check(path, name="nightly")
    assert f"{path}: deployment 'nightly': " in str(refused.value)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "schedule",
    [
        {"cron": "0 3 * * mon-fri", "timezone": "Europe/Berlin", "slug": "nightly"},
        {"cron": "@daily", "active": False},
        {"interval": 0.5, "anchor_date": "2026-01-01T00:00:00Z", "timezone": "UTC"},
        {"interval": "PT5M"},
        {"rrule": "FREQ=DAILY;BYHOUR=3"},
        {"cron": "{{ $CRON }}", "timezone": "{{ $ZONE }}"},
    ],
)
def test_schedules_that_prefect_takes_are_let_through(tmp_path, schedule):
    schedules.check(plan(tmp_path, "nightly", schedules=[schedule]), name="nightly")


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"datasets": ["mirflikr"]}, "unknown dataset 'mirflikr', did you mean 'mirflickr'?"),
        ({"methods": ["isdg"]}, "unknown method 'isdg', did you mean 'isdh'?"),
        ({"bits": []}, "bits=[]: want a list, e.g. [16, 64]"),
    ],
)
def test_a_sweep_that_would_fail_is_refused_before_it_is_deployed(
    tmp_path, monkeypatch, parameters, said
):
    monkeypatch.chdir(ROOT)
    path = plan(tmp_path, "sweep", parameters=parameters)
    with pytest.raises(InputError) as refused:
        schedules.check(path, name="nightly")
    assert f"{path}: deployment 'sweep': parameters: " in str(refused.value)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (": [", "not YAML"),
        ("deployments: none", "no list `deployments`"),
        ("name: isdh", "no list `deployments`"),
        ("deployments: [{name: nihtly}]", "unknown deployment 'nightly', did you mean 'nihtly'"),
    ],
)
def test_a_file_that_says_no_deployments_is_refused(tmp_path, text, said):
    path = tmp_path / "prefect.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        schedules.check(path, name="nightly")


def test_this_python_can_run_the_project():
    assert workplace.fault(ROOT) == ""


def test_versions_other_than_tested_are_named_with_both_numbers(tmp_path):
    for name in workplace.FILES:
        shutil.copy(ROOT / name, tmp_path)
    lock = (ROOT / "requirements.lock").read_text()
    other = re.sub(r"(?m)^numpy==.*$", "numpy==9.9.9", lock)
    (tmp_path / "requirements.lock").write_text(other)
    found = workplace.differences(tmp_path)
    assert re.search(r"numpy \d\S+ \(there 9\.9\.9\)", found)
    assert "make setup" in found


@contextmanager
def slow_api(seconds: float) -> Iterator[str]:
    """A Prefect API that says that it is healthy, but takes its time to say so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(seconds)
            self.send_response(200)
            self.send_header("Content-Length", "4")
            self.end_headers()
            try:
                self.wfile.write(b"true")
            except OSError:  # who asked has gone
                return

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()
        thread.join()


def test_deploy_and_worker_wait_for_an_api_that_is_slow_and_say_so(monkeypatch, capfd):
    with slow_api(1.5) as url:
        monkeypatch.setenv("PREFECT_API_URL", url)
        assert deployment._wait_for_api() == url
    assert f"waiting for the Prefect server at {url}, 180 s at most" in capfd.readouterr().err


def test_a_server_that_never_answers_is_told_in_the_end(monkeypatch):
    monkeypatch.setattr(deployment, "WAIT", 0.5)
    monkeypatch.setenv("PREFECT_API_URL", url := f"http://127.0.0.1:{free_port()}/api")
    with pytest.raises(InputError, match=f"{url}: no Prefect server answered .* make up"):
        deployment._wait_for_api()


@pytest.mark.slow
def test_a_stage_does_not_wait_for_an_api_that_is_slow(tmp_path):
    folder = copy_project(tmp_path)
    with slow_api(20) as url:
        start = time.monotonic()
        done = run(folder, sys.executable, "-m", "flows.generate", PREFECT_API_URL=url)
        seconds = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    assert f"no Prefect server answered at {url} within a second" in done.stderr
    assert (folder / "raw" / "digits" / "labels.csv").exists()
    assert seconds < 20


@pytest.mark.slow
def test_make_up_refuses_a_wrong_schedule_and_starts_nothing(tmp_path):
    folder = copy_project(tmp_path)
    plan(folder, "nightly", schedules=[{"cron": "0 25 * * *"}])
    ports = service_ports()
    done = run(folder, sys.executable, "-m", "flows.operations", "up", **ports)
    assert done.returncode == 2
    assert done.stderr.startswith("error: prefect.yaml: deployment 'nightly': cron='0 25 * * *': ")
    assert done.stderr.count("\n") == 1
    assert not (folder / ".isdh" / "supervisord.pid").exists()


@dataclass(frozen=True)
class Deployed:
    """A Prefect server with the deployments of a copy of the project; no worker is there."""

    folder: Path
    api: str
    said: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        home = str(self.folder / ".isdh" / "prefect")
        return {"PREFECT_API_URL": self.api, "PREFECT_HOME": home}

    @contextmanager
    def worker(self, folder: Path, python: str | Path = sys.executable) -> Iterator[None]:
        """A worker that a person has started in a folder."""
        quick = {"PREFECT_WORKER_QUERY_SECONDS": "1", "PWD": str(folder)}
        process = subprocess.Popen(
            [str(python), *WORKER], cwd=folder, env=environment(**self.environment, **quick)
        )
        try:
            yield
        finally:
            end(process)

    def outcome(self, name: str, *parameters: str) -> dict[str, Any]:
        """The run of a deployment, when it has ended."""
        words = [word for each in parameters for word in ("-p", each)]
        command = ("prefect", "deployment", "run", name, *words)
        done = run(self.folder, *command, **self.environment)
        number = re.search(r"UUID: (\S+)", done.stdout)[1]
        return until(lambda: self._ended(number), 120)

    def _ended(self, number: str) -> dict[str, Any] | None:
        found: dict[str, Any] = ask(f"{self.api}/flow_runs/{number}")
        states = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
        return found if found["state"]["type"] in states else None


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """Worker and deploy are started first, the server seconds later; all as in the background."""
    folder = copy_project(tmp_path_factory.mktemp("deployed") / "project")
    port = str(free_port())
    url = {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    whole = {**url, "PREFECT_HOME": str(folder / ".isdh" / "prefect")}
    commands = {
        "worker": ["sh", "-c", f'trap "" INT; exec {sys.executable} -m flows.deployment worker'],
        "deploy": [sys.executable, "-m", "flows.deployment", "deploy"],
        "server": tied("-m", "flows.server", "--host", "127.0.0.1", "--port", port),
    }
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, command in commands.items():
            if name == "server":
                until(lambda: all("waiting" in log(folder, each) for each in started), 30)
            with (folder / f"{name}.log").open("wb") as output:
                started[name] = subprocess.Popen(
                    command, cwd=folder, env=environment(**whole), stdout=output, stderr=output
                )
        assert started["deploy"].wait(120) == 0, log(folder, "deploy")
        end(started["worker"])
        yield Deployed(folder, url["PREFECT_API_URL"], {n: log(folder, n) for n in commands})
    finally:
        for process in started.values():
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """As supervisord does, but without force."""
    process.terminate()
    process.wait(30)


def log(folder: Path, name: str) -> str:
    path = folder / f"{name}.log"
    return path.read_text() if path.exists() else ""


@pytest.mark.slow
def test_deploy_and_worker_started_before_the_server_do_their_work(deployed):
    waiting = f"waiting for the Prefect server at {deployed.api}, 180 s at most\n"
    assert deployed.said["deploy"].count(waiting) == 1
    assert deployed.said["worker"].count(waiting) == 1
    found = ask(f"{deployed.api}/deployments/filter", {})
    wanted = yaml.safe_load((deployed.folder / "prefect.yaml").read_text())["deployments"]
    assert {each["name"] for each in found} == {each["name"] for each in wanted}


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule", [{"cron": "0 25 * * *"}, {"cron": "0 3 * * *", "timezone": "Europe/Berln"}]
)
def test_with_a_wrong_schedule_the_old_deployments_stay(deployed, schedule):
    before = ask(f"{deployed.api}/deployments/name/{deployment.NAME}")
    text = (deployed.folder / "prefect.yaml").read_text()
    plan(deployed.folder, "nightly", schedules=[schedule], tags=["new"])
    command = (sys.executable, "-m", "flows.deployment", "deploy")
    done = run(deployed.folder, *command, **deployed.environment)
    (deployed.folder / "prefect.yaml").write_text(text)
    assert done.returncode == 2
    assert done.stderr.startswith("error: prefect.yaml: deployment 'nightly': ")
    assert "Traceback" not in done.stderr
    assert ask(f"{deployed.api}/deployments/name/{deployment.NAME}") == before


@pytest.mark.slow
def test_a_worker_in_another_folder_fails_the_run_and_names_the_folder(deployed, tmp_path):
    with deployed.worker(tmp_path):
        state = deployed.outcome("pipeline/nightly")["state"]
    assert state["type"] == "FAILED"
    assert state["message"].startswith(f"{tmp_path}: not the project's folder")
    assert "make up, or prefect worker start --pool local --type process" in state["message"]


@pytest.mark.slow
def test_a_worker_in_another_python_fails_the_run_and_says_what_that_lacks(deployed, tmp_path):
    python = other_python(tmp_path / "other")
    with deployed.worker(deployed.folder, python):
        state = deployed.outcome("pipeline/nightly")["state"]
    assert state["type"] == "FAILED"
    assert state["message"].startswith(f"{python}: has ")
    assert "no torch;" in state["message"]
    assert "sqlalchemy 2.1.9 (want <2.1)" in state["message"]
    assert "make setup && make up" in state["message"]


def other_python(folder: Path) -> Path:
    """An environment with Prefect, but without torch, and with a version that is refused."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    for path in PACKAGES.iterdir():
        if path.name != "torch" and not re.match(r"(torch|sqlalchemy)-.*info$", path.name):
            (packages / path.name).symlink_to(path)
    information = packages / "sqlalchemy-2.1.9.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: sqlalchemy\nVersion: 2.1.9")
    return folder / "bin" / "python"


@pytest.mark.slow
def test_a_worker_of_older_code_fails_the_run_and_says_what_that_lacks(deployed, tmp_path):
    older = copy_project(tmp_path / "older")
    (older / "flows" / "sweep.py").unlink()
    with deployed.worker(older):
        state = deployed.outcome("sweep/sweep")["state"]
    assert state["type"] == "FAILED"
    assert state["message"].startswith(f"{older}: has no flows/sweep.py, so its code is not what")
    assert "git pull" in state["message"]


@pytest.mark.slow
def test_a_worker_of_other_versions_goes_on_and_the_log_says_which(deployed):
    lock = deployed.folder / "requirements.lock"
    text = lock.read_text()
    lock.write_text(re.sub(r"(?m)^tqdm==.*$", "tqdm==9.9.9", text))
    with deployed.worker(deployed.folder):
        ended = deployed.outcome("sweep/sweep", 'methods=["isdg"]')
    lock.write_text(text)
    assert "unknown method 'isdg'" in ended["state"]["message"]
    query = {"logs": {"flow_run_id": {"any_": [ended["id"]]}}}
    told = [each["message"] for each in ask(f"{deployed.api}/logs/filter", query)]
    assert any("(there 9.9.9)" in each and "make setup" in each for each in told), told


@pytest.mark.slow
def test_our_worker_does_not_start_in_another_folder(deployed, tmp_path):
    (tmp_path / "flows").symlink_to(ROOT / "flows")
    (tmp_path / "isdh").symlink_to(ROOT / "isdh")
    command = (sys.executable, "-m", "flows.deployment", "worker")
    done = run(tmp_path, *command, **deployed.environment)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"error: {tmp_path}: not the project's folder, it has no dvc.yaml"
    )
