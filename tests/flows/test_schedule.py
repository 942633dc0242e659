"""`make up` in a copy of the project: a run happens by itself; `make down` leaves nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.deployment import CRASH_RULE, NAME
from flows.services import ask, port_is_free
from tests.loopback import service_ports
from tests.workspaces import copy_project, environment, run, within

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are read in /proc"),
]

EVERY = 4  # seconds between scheduled runs: shorter than one takes, so some would overlap


@dataclass(frozen=True)
class Services:
    """What `make up` started in a copy of the project."""

    folder: Path
    ports: dict[str, str]
    said: str

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.ports['ISDH_PREFECT_PORT']}/api"

    def operate(self, command: str) -> subprocess.CompletedProcess[str]:
        return run(self.folder, sys.executable, "-m", "flows.operations", command, **self.ports)

    def runs(self, *states: str) -> list[dict[str, Any]]:
        query = {
            "flow_runs": {"state": {"type": {"any_": list(states)}}},
            "deployments": {"name": {"any_": [NAME.partition("/")[2]]}},
        }
        found: list[dict[str, Any]] = ask(f"{self.api}/flow_runs/filter", query)
        return found


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    folder = copy_project(tmp_path_factory.mktemp("up"))
    shorten_schedule(folder / "prefect.yaml")
    ports = service_ports()
    quick = {"PREFECT_WORKER_QUERY_SECONDS": "2"}
    command = [sys.executable, "-m", "flows.operations"]
    up = run(folder, *command, "up", **ports, **quick)
    try:
        assert up.returncode == 0, up.stderr
        yield Services(folder, ports, up.stdout)
    finally:
        run(folder, *command, "down", **ports)


def shorten_schedule(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    [deployment] = [each for each in content["deployments"] if each["name"] == "nightly"]
    deployment["schedules"] = [{"interval": EVERY, "slug": "nightly"}]
    content["deployments"] = [deployment]
    path.write_text(yaml.safe_dump(content))


def processes_in(folder: Path) -> dict[int, str]:
    """Processes that work in a folder or below: process id -> command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            if Path(os.readlink(entry / "cwd")).is_relative_to(folder):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found[int(entry.name)] = command
        except OSError:  # it ended meanwhile
            continue
    return found


def test_a_scheduled_run_happens_by_itself_and_completes(services):
    [run] = within(75, lambda: services.runs("COMPLETED"))[:1] or [None]
    log = (services.folder / ".isdh" / "logs" / "worker.log").read_text()
    assert run, log[-4000:]
    assert run["auto_scheduled"]
    assert json.loads((services.folder / "metrics" / "digits" / "isdh-12-0.json").read_text())
    assert (services.folder / "reports" / "digits" / "index.html").exists()


def test_a_run_that_would_overlap_another_is_cancelled(services):
    [cancelled, *_] = within(30, lambda: services.runs("CANCELLED"))
    assert cancelled["state"]["message"] == "Deployment concurrency limit reached."


def test_the_stages_are_recorded_as_runs_of_their_own(services):
    flows = {flow["id"]: flow["name"] for flow in ask(f"{services.api}/flows/filter", {})}
    completed = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    runs = ask(f"{services.api}/flow_runs/filter", completed)
    recorded = {flows[run["flow_id"]] for run in runs}
    stages = {"dataset", "preprocess", "train", "encode", "evaluate", "report"}
    assert stages | {"pipeline"} <= recorded


def test_no_path_of_a_machine_stands_in_the_deployment(services):
    deployment = ask(f"{services.api}/deployments/name/{NAME}")
    step = deployment["pull_steps"][0]
    assert step == {"prefect.deployments.steps.set_working_directory": {"directory": "{{ $PWD }}"}}
    assert str(services.folder) not in json.dumps(deployment)


def test_mlflow_shows_the_run_that_the_pipeline_published(services):
    mlflow = f"http://127.0.0.1:{services.ports['ISDH_MLFLOW_PORT']}/api/2.0/mlflow"
    experiments = ask(f"{mlflow}/experiments/search", {"max_results": 10})["experiments"]
    [digits] = [e["experiment_id"] for e in experiments if e["name"] == "isdh/digits"]
    [found] = ask(f"{mlflow}/runs/search", {"experiment_ids": [digits]})["runs"]
    metrics = {metric["key"] for metric in found["data"]["metrics"]}
    assert "map_at_all" in metrics


def test_a_second_up_says_that_it_runs_and_where(services):
    again = services.operate("up")
    assert again.returncode == 0
    assert re.fullmatch(r"runs already \(process \d+\)\n", again.stderr)
    assert again.stdout == services.said
    page = services.api.removesuffix("/api")
    assert services.said.splitlines()[0] == f"runs      {page}"


def test_a_stage_by_hand_is_recorded_by_the_server_that_runs(services, tmp_path):
    """Without PREFECT_API_URL, as a person calls it; Prefect would start a server of its own."""
    elsewhere = copy_project(tmp_path)
    stage = [sys.executable, "-m", "flows.generate"]
    done = run(elsewhere, *stage, PREFECT_API_URL="", **services.ports)
    assert done.returncode == 0, done.stderr
    assert "temporary server" not in done.stderr
    named = {"flow_runs": {"name": {"any_": ["generate digits"]}}, "sort": "START_TIME_DESC"}
    runs = ask(f"{services.api}/flow_runs/filter", named)
    assert [run["state"]["type"] for run in runs] == ["COMPLETED"] * 2  # the pipeline's, and this


def test_deploying_again_leaves_one_deployment_and_one_rule(services):
    more = {**services.ports, "PREFECT_API_URL": services.api}
    done = run(services.folder, sys.executable, "-m", "flows.deployment", "deploy", **more)
    assert done.returncode == 0, done.stderr + done.stdout
    [rule] = ask(f"{services.api}/automations/filter", {})
    assert rule["name"] == CRASH_RULE["name"]
    assert rule["trigger"]["posture"] == "Proactive"
    assert rule["trigger"]["within"] == 180.0
    assert len(ask(f"{services.api}/deployments/filter", {})) == 1


def test_down_cancels_the_run_in_progress_and_leaves_nothing_but_what_was_there(services):
    bystander = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(300)"],
        cwd=services.folder,
        env=environment(),
        start_new_session=True,
    )
    try:
        assert within(30, lambda: services.runs("RUNNING"))
        before = processes_in(services.folder)
        down = services.operate("down")
        assert down.returncode == 0, down.stderr
        assert down.stderr.endswith("stopped\n")
        assert "cancelling " in down.stderr
        assert len(before) > 5
        assert set(processes_in(services.folder)) == {bystander.pid}
    finally:
        bystander.kill()
        bystander.wait()
    assert all(port_is_free(int(port)) for port in services.ports.values())
    assert not (services.folder / ".isdh" / "services.json").exists()  # `make clean` goes by it
    assert services.operate("down").stderr == "nothing runs\n"
