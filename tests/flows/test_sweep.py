"""`sweep`: another matrix in a workspace of its own, which leaves the project as it is."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from mlflow import MlflowClient

from flows import sweep
from flows.services import ask
from isdh.artifacts import Cell, Workspace, current_scores
from isdh.errors import InputError
from isdh.params import Params
from isdh.settings import validate
from isdh.tracking import provenance, server
from tests.flows.scheduled import Scheduled, checkpoint, results_of, runs_of, scheduled, until
from tests.workspaces import SMALL, copy_project, run, write_params

KNOWN = Cell("digits", "isdh", 12, 0)  # of the project's own matrix
NEW = Cell("digits", "greedyhash", 12, 0)  # a method without a section in params.yaml
LONG = Cell("digits", "isdh", 12, 7)
OTHERS = ("isdh", "dhn")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's files, with this process in their folder."""
    folder = copy_project(tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


def prepared(project: Path, **axes: Any) -> Path:
    content = sweep.asked(**axes)
    folder = project / sweep.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with chdir(folder):
        sweep.prepare(project, content, validate(Params, content, where="sweep"))
    return folder


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"methods": ["isdg"]}, "unknown method 'isdg', did you mean 'isdh'?"),
        (
            {"methods": []},
            'methods=[]: want a list, e.g. ["isdh", "dhn"]; left out it is that of params.yaml',
        ),
        ({"methods": "isdh"}, 'methods=\'isdh\': want a list, e.g. ["isdh", "dhn"]'),
        ({"methods": [["isdh"]]}, "methods.0=['isdh']: input should be a valid string"),
        ({"methods": ["isdh", "isdh"]}, "each may stand once"),
        ({"bits": [12, 2000]}, "bits.1=2000: input should be less than or equal to 1024"),
        ({"bits": [0]}, "bits.0=0: input should be greater than or equal to 1"),
        ({"bits": ["many"]}, "bits.0='many': input should be a valid integer"),
        ({"bits": 16}, "bits=16: want a list, e.g. [16, 64]"),
        ({"seeds": [-1]}, "seeds.0=-1: input should be greater than or equal to 0"),
        ({"datasets": ["digit"]}, "unknown dataset 'digit', did you mean 'digits'? known: digits"),
        ({"datasets": [["digits"]]}, "unknown dataset \"['digits']\""),
        ({"datasets": ["digits", "digits"]}, "each may stand once"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_before_anything_is_made(project, axes, said):
    with pytest.raises(InputError) as refused:
        sweep.asked(**axes)
    message = str(refused.value)
    assert said in message
    assert "\n" not in message
    assert not sweep.FOLDER.exists()


def test_what_is_left_out_is_that_of_params_yaml(project):
    content = sweep.asked(datasets=None, methods=None, bits=[16], seeds=None)
    assert content == {**yaml.safe_load(Path("params.yaml").read_text()), "bits": [16]}


def test_values_are_written_as_dvc_is_to_read_them(project):
    folder = prepared(project, bits=["16"], methods=["greedyhash"])
    content = yaml.safe_load((folder / "params.yaml").read_text())
    assert content["bits"] == [16]
    assert content["method"]["greedyhash"] == {}


def test_a_method_that_cannot_be_built_fails_the_sweep_at_once(project):
    write_params(project, method={"isdh": {}, "dhn": {"lamda": 1}})
    with pytest.raises(InputError, match=r"params.yaml: method\.dhn: unknown .*'lamda'"):
        asyncio.run(sweep.sweep.fn(methods=["dhn"]))
    assert not sweep.FOLDER.exists()


def test_a_dataset_beside_the_matrix_is_sought_below_raw(project):
    other = {"mirflickr": {**SMALL["dataset"]["digits"], "source": {"reader": "mirflickr"}}}
    write_params(project, dataset={**SMALL["dataset"], **other})
    assert sweep.asked(datasets=["mirflickr"])["datasets"] == {"mirflickr": "raw/mirflickr"}
    with pytest.raises(InputError, match=r"datasets\.mirflickr=raw/mirflickr: no such folder"):
        asyncio.run(sweep.sweep.fn(datasets=["mirflickr"]))
    pictures = project.parent / "pictures"
    pictures.mkdir()
    (project / "raw").mkdir(exist_ok=True)
    (project / "raw" / "mirflickr").symlink_to(pictures)
    folder = prepared(project, datasets=["mirflickr"])
    assert (folder / "raw" / "mirflickr").resolve() == pictures
    write_params(project, datasets={"digits": "../pictures"})
    content = yaml.safe_load((prepared(project) / "params.yaml").read_text())
    assert content["datasets"] == {"digits": str(pictures)}


def test_the_workspace_has_the_projects_mlflow_and_its_code_as_it_is_now(project, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = prepared(project)
    assert server.address(Workspace(folder)) == f"sqlite:///{project.resolve() / 'mlflow.db'}"
    assert (folder / "mlartifacts").resolve() == project.resolve() / "mlartifacts"
    gone = folder / "isdh" / "methods" / "gone.py"
    gone.touch()
    changed = project / "isdh" / "methods" / "dhn.py"
    changed.write_text(changed.read_text() + "\n# another\n")
    prepared(project)
    assert not gone.exists()
    assert (folder / "isdh" / "methods" / "dhn.py").read_bytes() == changed.read_bytes()


def test_its_runs_are_of_the_projects_commit(project):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["add", "."], ["commit", "-qm", "all"]):
        assert run(project, *git, *words).returncode == 0
    folder = prepared(project, bits=[16])
    clean = provenance.git_tags(project)
    assert clean["git.dirty"] == "false"
    assert provenance.git_tags(folder) == clean
    (project / "isdh" / "codes.py").write_text("changed")
    assert provenance.git_tags(prepared(project))["git.dirty"] == "true"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scheduled]:
    """The services of a project that has made its matrix, isdh at 12 bits; nothing is scheduled."""
    folder = tmp_path_factory.mktemp("sweep") / "project"
    with scheduled(folder, every=10**6, deployments=("nightly", "sweep")) as services:
        write_params(folder)
        done = run(folder, "dvc", "repro")
        assert done.returncode == 0, done.stderr
        yield services


def start(up: Scheduled, **axes: Any) -> str:
    """Start a sweep as docs/operations.md says; its run."""
    words = [f"-p{axis}={json.dumps(values)}" for axis, values in axes.items()]
    command = ["prefect", "deployment", "run", "sweep/sweep", *words]
    home = {"PREFECT_API_URL": up.api, "PREFECT_HOME": str(up.folder / ".isdh" / "prefect")}
    done = run(up.folder, *command, **home)
    assert done.returncode == 0, done.stdout + done.stderr
    return re.search(r"UUID: (\S+)", done.stdout)[1]


def ended(up: Scheduled, number: str, seconds: float = 120.0) -> dict[str, Any]:
    """A run when it has come to its end."""
    states = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
    until(lambda: up.run(number)["state"]["type"] in states, seconds)
    return up.run(number)


def trained(up: Scheduled, cell: Cell) -> int:
    """How often the server has seen a cell being trained."""
    tags = [cell.dataset, cell.method, f"{cell.bits} bits", f"seed {cell.seed}"]
    query = {"flows": {"name": {"any_": ["train"]}}, "flow_runs": {"tags": {"all_": tags}}}
    return len(ask(f"{up.api}/flow_runs/filter", query))


def tree(folder: Path) -> dict[str, str]:
    """What a sweep may not touch: all but records of servers and DVC's own."""
    free = (".isdh", ".dvc", ".git", "mlartifacts", "__pycache__")
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
        and not set(free) & set(path.relative_to(folder).parts)
        and not path.name.startswith("mlflow.db")
    }


def at_work(up: Scheduled) -> list[psutil.Process]:
    """Processes in the workspace of the sweep."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(up.folder / sweep.FOLDER):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_a_sweep_trains_what_is_missing_and_restores_the_rest(up):
    before = tree(up.folder)
    state = ended(up, start(up, methods=["isdh", "greedyhash"]))["state"]
    assert state["type"] == "COMPLETED", state["message"]
    assert (trained(up, KNOWN), trained(up, NEW)) == (0, 1)
    assert results_of(up.folder / sweep.FOLDER, KNOWN) == results_of(up.folder, KNOWN)
    assert tree(up.folder) == before


@pytest.mark.slow
def test_its_cells_stand_in_mlflow_beside_the_projects_and_no_champion_moves(up):
    [found] = runs_of(up.mlflow, NEW)
    assert found.info.status == "FINISHED"
    assert found.info.artifact_uri.startswith((up.folder / "mlartifacts" / "digits").as_uri())
    assert MlflowClient(tracking_uri=up.mlflow).search_registered_models() == []
    compared = run(up.folder, "isdh", "compare", "--all", "--json")
    assert NEW.method in compared.stdout, compared.stderr
    of_sweep = run(up.folder / sweep.FOLDER, "isdh", "compare", "--json")
    [table] = json.loads(of_sweep.stdout)
    assert set(table["methods"]) == {"isdh", "greedyhash"}


@pytest.mark.slow
def test_the_run_shows_a_table_of_scores_and_how_to_compare(up):
    artifacts = ask(f"{up.api}/artifacts/latest/filter", {})
    shown = {artifact["key"]: artifact for artifact in artifacts}
    rows = json.loads(shown["sweep"]["data"])
    workspace = Workspace(up.folder / sweep.FOLDER)
    scores = [current_scores(workspace, cell)["ndcg_at_10"] for cell in (KNOWN, NEW)]
    assert [row["12 bits"] for row in rows] == [round(score, 4) for score in scores]
    assert [(row["dataset"], row["method"]) for row in rows] == [
        ("digits", "isdh"),
        ("digits", "greedyhash"),
    ]
    assert "isdh compare --all" in shown["sweep-compare"]["data"]


@pytest.mark.slow
def test_a_sweep_repeated_makes_nothing_again(up):
    lock = (up.folder / sweep.FOLDER / "dvc.lock").read_bytes()
    number = start(up, methods=["isdh", "greedyhash"])
    assert ended(up, number)["state"]["type"] == "COMPLETED"
    assert trained(up, NEW) == 1
    assert (up.folder / sweep.FOLDER / "dvc.lock").read_bytes() == lock
    assert up.run(number)["name"] == "sweep methods isdh greedyhash"


@pytest.mark.slow
def test_the_project_restores_what_a_sweep_has_made(up):
    target = NEW.address("evaluate")
    write_params(up.folder, methods=["isdh", "greedyhash"], method={"isdh": {}, "greedyhash": {}})
    done = run(up.folder, "dvc", "repro", target)
    write_params(up.folder)
    assert done.returncode == 0, done.stderr
    assert f"'{NEW.address('train')}' is cached - skipping run" in done.stdout


@pytest.mark.slow
def test_a_wrong_value_fails_the_run_at_once_with_one_line(up):
    before = tree(up.folder / sweep.FOLDER)
    state = ended(up, start(up, methods=["isdg"]))["state"]
    assert state["type"] == "FAILED"
    assert "unknown method 'isdg', did you mean 'isdh'? known: " in state["message"]
    assert "\n" not in state["message"]
    assert tree(up.folder / sweep.FOLDER) == before
    log = (up.folder / ".isdh" / "logs" / "worker.log").read_text()
    assert "Traceback" not in log


@pytest.mark.slow
def test_a_second_sweep_waits_and_goes_on_where_the_first_was_killed(up):
    up.params()  # a training of seconds
    first = start(up, seeds=[LONG.seed])
    until(lambda: checkpoint(up.folder / sweep.FOLDER, LONG))
    second = start(up, seeds=[LONG.seed])
    until(lambda: up.run(second)["state"]["name"] == "AwaitingConcurrencySlot")
    [flow] = [each for each in at_work(up) if "prefect" in " ".join(each.cmdline())]
    killed = time.time()
    flow.kill()
    until(lambda: not at_work(up), 10)
    assert ended(up, first, 30)["state"]["type"] == "CRASHED"
    assert ended(up, second)["state"]["type"] == "COMPLETED"
    history = up.folder / sweep.FOLDER / "models" / LONG.dataset / LONG.name / "history.json"
    epochs = json.loads(history.read_text())["epochs"]
    assert epochs[0]["timestamp"] / 1000 < killed < epochs[-1]["timestamp"] / 1000


@pytest.mark.slow
def test_cancel_ends_a_sweep_within_seconds(up):
    other = Cell(LONG.dataset, LONG.method, LONG.bits, 8)
    up.params()
    number = start(up, seeds=[other.seed])
    until(lambda: checkpoint(up.folder / sweep.FOLDER, other))
    assert all(each.nice() == sweep.NICE for each in at_work(up))
    up.cancel(number)
    until(lambda: not at_work(up), 10)
    assert ended(up, number, 30)["state"]["type"] == "CANCELLED"
    assert results_of(up.folder / sweep.FOLDER, other) is None
