"""compose.yaml without containers: its commands and its environment, as processes of this machine.

Of its images none is started. PostgreSQL is the one that is installed here, with the password and
the databases that the file says, and moto's S3 stands for the store. Names and ports of services
become addresses of this machine; all else is as in the file.
"""

from __future__ import annotations

import http.client
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import boto3
import psycopg2
import pytest

from flows.deployment import NAME
from flows.services import ask, tail, tied
from tests.flows.test_forkserver import outputs
from tests.loopback import free_port
from tests.test_compose import SECRETS, composed
from tests.tracking.servers import FAR, binaries, postgres
from tests.workspaces import copy_project, environment, run, within

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # all has to start first: a minute where nothing else runs
    pytest.mark.skipif(not binaries(), reason="PostgreSQL is not installed: no initdb"),
]

PROJECT = "/home/isdh/project"  # these two as the file has them
SETTINGS = "/etc/isdh"
CONTENT = composed(SECRETS)
SERVICES: dict[str, dict[str, Any]] = CONTENT["services"]


class Stack:
    """The services that are ours, as processes.

    Args:
        root: where what is mounted in the file lies, in folders.
        database: host and port of PostgreSQL.
        store: of an S3.
    """

    def __init__(self, root: Path, database: str, store: str) -> None:
        self.root = root
        self.image = copy_project(root / "image")  # of the code, without a clone over it
        self.clone = copy_project(root / "clone")
        self.ports = {"4200": str(free_port()), "5000": str(free_port())}
        self.here = {
            "postgres:5432": database,
            "store:7070": store,
            "server:4200": f"127.0.0.1:{self.ports['4200']}",
            "mlflow:5000": f"{FAR}:{self.ports['5000']}",  # another's machine, by this name
            **self.ports,
            "0.0.0.0": "127.0.0.1",
            PROJECT: str(self.clone),
            SETTINGS: str(root / "settings"),
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        (root / "settings").mkdir()
        for config in SERVICES["worker"]["configs"]:
            content = CONTENT["configs"][config["source"]]["content"]
            Path(self.moved(config["target"])).write_text(self.moved(content))

    @property
    def api(self) -> str:
        return f"http://{self.here['server:4200']}/api"

    def moved(self, text: str) -> str:
        """What stands in the file, with what it is on this machine."""
        names = "|".join(map(re.escape, self.here))
        return re.sub(names, lambda found: self.here[found[0]], text)

    def command(self, words: list[str]) -> list[str]:
        assert words[0] == "python"
        return [self.moved(word) for word in words[1:]]

    def environment(self, service: str) -> dict[str, str]:
        """That of a service, and nothing of this process that has a say in it."""
        said = SERVICES[service]["environment"]
        stated = {name: self.moved(value) for name, value in said.items()}
        return {"PREFECT_API_URL": "", "PREFECT_WORKER_QUERY_SECONDS": "2", **stated}

    def start(self, service: str) -> None:
        is_mounted = f".:{PROJECT}" in SERVICES[service].get("volumes", [])
        with (self.root / f"{service}.log").open("wb") as output:
            self.processes[service] = subprocess.Popen(
                tied(*self.command(SERVICES[service]["command"])),
                cwd=self.clone if is_mounted else self.image,
                env=environment(**self.environment(service)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def wait(self, service: str) -> None:
        """Until it is healthy by the check that stands in the file."""
        kind, *words = SERVICES[service]["healthcheck"]["test"]
        assert kind == "CMD"
        check = [sys.executable, *self.command(words)]
        assert within(180, lambda: not run(self.root, *check).returncode), self.log(service)

    def log(self, service: str) -> str:
        return tail(self.root / f"{service}.log")

    def run_nightly(self) -> dict[str, Any]:
        """The deployed flow once, by the worker; its run, ended."""
        deployment = ask(f"{self.api}/deployments/name/{NAME}")["id"]
        begun = ask(f"{self.api}/deployments/{deployment}/create_flow_run", {})["id"]
        ended = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

        def look() -> dict[str, Any] | None:
            found: dict[str, Any] = ask(f"{self.api}/flow_runs/{begun}")
            return found if found["state"]["type"] in ended else None

        found: dict[str, Any] | None = within(300, look)
        assert found, self.log("worker")
        return found

    def end(self) -> None:
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def database() -> Iterator[str]:
    """PostgreSQL with the file's databases; who asks has to know the password. Host and port."""
    image = SERVICES["postgres"]["environment"]
    role, password = image["POSTGRES_USER"], image["POSTGRES_PASSWORD"]
    with postgres() as address:
        connection = psycopg2.connect(address)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER ROLE {role} PASSWORD %s", [password])
            for statement in CONTENT["configs"]["databases"]["content"].splitlines():
                cursor.execute(statement)
            cursor.execute("SHOW hba_file")
            rule = "COPY (SELECT 'host all all all scram-sha-256') TO %s"
            cursor.execute(rule, cursor.fetchone())
            cursor.execute("SELECT pg_reload_conf()")
        connection.close()
        yield address.rpartition("@")[2].partition("/")[0]


@contextmanager
def store(log: Path) -> Iterator[str]:
    """An S3 with the file's bucket; host and port."""
    port = str(free_port())
    with log.open("wb") as output:
        process = subprocess.Popen(
            tied("-m", "moto.server", "-H", "127.0.0.1", "-p", port),
            env=environment(),
            stdout=output,
            stderr=output,
        )
    try:
        [volume] = SERVICES["store"]["volumes"]
        client = s3(f"127.0.0.1:{port}")
        assert within(60, lambda: answers(client)), tail(log)
        client.create_bucket(Bucket=volume.removeprefix("store:/data/"))
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def s3(address: str) -> Any:
    keys = SERVICES["store"]["environment"]
    return boto3.client(
        "s3",
        endpoint_url=f"http://{address}",
        aws_access_key_id=keys["ROOT_ACCESS_KEY"],
        aws_secret_access_key=keys["ROOT_SECRET_KEY"],
        region_name="us-east-1",
    )


def answers(client: Any) -> bool:
    try:
        client.list_buckets()
    except Exception:
        return False
    return True


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All of it, deployed; its clone is committed, as a person's is."""
    root = tmp_path_factory.mktemp("elsewhere")
    with ExitStack() as ends:
        found = Stack(
            root, ends.enter_context(database()), ends.enter_context(store(root / "store.log"))
        )
        git(found.clone, "add", "--all")
        git(found.clone, "commit", "--quiet", "--message", "the project")
        ends.callback(found.end)
        for service in ("server", "mlflow"):
            found.start(service)
        for service in ("server", "mlflow"):
            found.wait(service)
        for service in ("worker", "deploy"):
            found.start(service)
        assert found.processes["deploy"].wait(180) == 0, found.log("deploy")
        yield found


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    done = subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(stack: Stack) -> Stack:
    """The scheduled job has run once."""
    found = stack.run_nightly()
    assert found["state"]["type"] == "COMPLETED", found["state"]["message"] + stack.log("worker")
    return stack


def test_the_scheduled_job_completes_and_commits_what_it_made(made):
    assert (made.clone / "reports" / "digits" / "index.html").exists()
    changed = git(made.clone, "show", "--name-only", "--format=%an", "HEAD").split()
    assert changed == ["isdh", "dvc.lock", "promotions.jsonl"]


def test_another_clone_pulls_what_the_job_pushed(made, tmp_path):
    settings = made.environment("worker")
    pushed = run(made.clone, "dvc", "push", **settings)
    assert pushed.stdout.strip() == "Everything is up to date.", pushed.stdout + pushed.stderr
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(made.clone), str(clone))
    pulled = run(clone, "dvc", "pull", **settings)
    assert pulled.returncode == 0, pulled.stderr
    assert outputs(clone) == outputs(made.clone)
    assert len(outputs(clone)) == 3  # weights, codes, scores
    assert "up to date" in run(clone, "dvc", "status", **settings).stdout


def test_files_of_mlflow_lie_in_the_store_and_come_back_through_the_server(made, tmp_path):
    code = (
        "import sys, mlflow\n"
        "client = mlflow.MlflowClient()\n"
        "[version] = client.search_model_versions(\"name='isdh-digits-12bit'\")\n"
        "print(mlflow.artifacts.download_artifacts(version.source, dst_path=sys.argv[1]))"
    )
    # a client knows the server, and neither the store nor its keys
    client = {"MLFLOW_TRACKING_URI": made.environment("worker")["MLFLOW_TRACKING_URI"]}
    done = run(tmp_path, sys.executable, "-c", code, str(tmp_path / "back"), **client)
    assert done.returncode == 0, done.stderr
    weights = "models/digits/isdh-12-0/weights.safetensors"
    [back] = (tmp_path / "back").rglob("weights.safetensors")
    assert back.read_bytes() == (made.clone / weights).read_bytes()
    listing = s3(made.here["store:7070"]).list_objects_v2(Bucket="isdh")
    kept = {key["Key"] for key in listing["Contents"]}
    assert {key.split("/")[0] for key in kept} == {"dvc", "mlflow"}
    assert any(key.endswith("/weights.safetensors") for key in kept)
    assert not list(made.clone.glob("ml*")), "files or records beside the clone"


def test_records_of_both_lie_in_postgres(made):
    password = SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"]
    asked = {"prefect": "SELECT count(*) FROM flow_run", "mlflow": "SELECT count(*) FROM metrics"}
    for name, query in asked.items():
        address = f"postgresql://isdh@{made.here['postgres:5432']}/{name}"
        with pytest.raises(psycopg2.OperationalError, match="no password"):
            psycopg2.connect(address)
        connection = psycopg2.connect(address, password=password)
        with connection, connection.cursor() as cursor:
            cursor.execute(query)
            assert cursor.fetchone()[0] > 3
        connection.close()
    assert not list(made.image.rglob("*.db"))


@pytest.mark.parametrize(
    ("name", "status"), [("mlflow:5000", 200), ("localhost:5001", 200), ("example.org", 403)]
)
def test_mlflow_answers_by_the_names_that_the_file_allows(stack, name, status):
    connection = http.client.HTTPConnection("127.0.0.1", int(stack.ports["5000"]), timeout=10)
    host = stack.here.get(name, name)
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    connection.request("GET", path, headers={"Host": host})
    assert connection.getresponse().status == status
    connection.close()


def test_the_page_of_prefect_asks_the_port_that_is_open_to_a_browser(stack):
    page = ask(f"{stack.api.removesuffix('/api')}/ui-settings")
    assert page["api_url"] == f"http://127.0.0.1:{stack.ports['4200']}/api"
