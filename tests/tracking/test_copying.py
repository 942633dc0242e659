"""A champion copied from one MLflow to another: between databases, and between real servers."""

from __future__ import annotations

import base64
import http.client
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.models import Model
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from isdh import params, tracking
from isdh.artifacts import Cell, Workspace, read_json, sha256
from isdh.errors import InputError
from isdh.tracking import package, plots, promotions, registration, server
from tests import strangers, synthetic, test_pyfunc
from tests.tracking.queries import dump, score_queries
from tests.tracking.servers import Server, serving
from tests.tracking.test_registry import light_package

pytestmark = [  # raised by MLflow itself: when mlflow.pyfunc is imported, when it saves an example
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
]

CELL = Cell("digits", "isdh", 12, 0)
RIVAL = Cell("digits", "dhn", 12, 0)
MODEL = "isdh-digits-12bit"
QUERIES = np.random.default_rng(0).normal(0, 0.05, 100)


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots of runs take as long as all the rest of a copy; those of servers are drawn."""
    if "served" not in request.fixturenames:
        monkeypatch.setattr(plots.run_plots, "draw", lambda *args: {})


@pytest.fixture(scope="module")
def development(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Workspace:
    """Version 1, of isdh, is champion. What only copies from here shares it.

    It is packaged without MLflow's frame; the test between servers has that.
    """
    return make(tmp_path_factory.mktemp("development"), empty_database)


def make(root: Path, empty_database: Path) -> Workspace:
    shutil.copy(empty_database, root / "mlflow.db")
    workspace, settings = synthetic.write_workspace(root, bits=[12], seeds=[0])
    score(workspace, isdh=0.6, dhn=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "package", light_package)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("DVC_STAGE", raising=False)
        tracking.promote(workspace, settings)
    return workspace


@pytest.fixture
def workspace(tmp_path: Path, development: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Where the command runs: neither data nor models, and MLflow is elsewhere."""
    synthetic.write_params(tmp_path, bits=[12], seeds=[0])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{development.root}/mlflow.db")
    return Workspace(tmp_path)


@pytest.fixture
def own(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Where the command runs, with cells and MLflow of its own, which a test may change."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(package, "package", light_package)
    return make(tmp_path, empty_database)


@pytest.fixture
def production(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Workspace:
    """The other MLflow: a database on its own."""
    root = tmp_path_factory.mktemp("production")
    shutil.copy(empty_database, root / "mlflow.db")
    return Workspace(root)


def score(workspace: Workspace, **methods: float) -> None:
    for method, value in methods.items():
        score_queries(workspace, Cell("digits", method, 12, 0), value + QUERIES - QUERIES.mean())


def copy(workspace: Workspace, to: Workspace | str, **how: Any) -> Any:
    uri = to if isinstance(to, str) else database(to)
    how = {"reason": "passed", **how}
    return tracking.copy_champion(workspace, settings(workspace), "digits", 12, to=uri, **how)


def database(workspace: Workspace) -> str:
    return f"sqlite:///{workspace.root}/mlflow.db"


def client(workspace: Workspace) -> MlflowClient:
    """Of its own database, whatever the environment says."""
    return MlflowClient(database(workspace), database(workspace))


def runs(workspace: Workspace) -> list[Any]:
    mlflow = client(workspace)
    number = server.find_experiment(mlflow, "digits")
    return server.search(mlflow, number) if number else []


def versions(workspace: Workspace) -> list[Any]:
    return list(client(workspace).search_model_versions(f"name = '{MODEL}'"))


def logged_models(workspace: Workspace) -> list[Any]:
    mlflow = client(workspace)
    return list(mlflow.search_logged_models([str(server.find_experiment(mlflow, "digits"))]))


def champion(workspace: Workspace) -> Any:
    return client(workspace).get_model_version_by_alias(MODEL, "champion")


def alias(workspace: Workspace) -> str | None:
    """The number of the version that is champion; the registered model may be missing."""
    found = client(workspace).search_registered_models(f"name = '{MODEL}'")
    number = found[0].aliases.get("champion") if found else None
    return str(number) if number else None


def settings(workspace: Workspace) -> params.Params:
    return params.load(workspace.root / "params.yaml")


def weights(workspace: Workspace, version: str) -> Path:
    """Where a version's weights lie."""
    uri = client(workspace).get_model_version_download_uri(MODEL, version)
    (path,) = Path(uri.removeprefix("file://")).rglob("weights.safetensors")
    return path


def log(workspace: Workspace) -> str:
    path = workspace.root / "promotions.jsonl"
    return path.read_text() if path.exists() else ""


def copies(workspace: Workspace, production: Workspace) -> list[Any]:
    return promotions.lines(workspace, MODEL, database(production))


# ---------------------------------------------------------------- what arrives


def test_the_champion_arrives_with_run_scores_files_and_where_it_comes_from(own, production):
    theirs = champion(own)
    client(own).set_tag(theirs.run_id, "mlflow.source.git.commit", "c" * 40)
    client(own).set_tag(theirs.run_id, "dvc.data/digits/manifest.parquet", "d" * 32)
    decision = copy(own, production)
    assert (decision.moves, decision.version, decision.champion) == (True, "1", None)
    ours, (run,) = champion(production), runs(production)
    original = client(own).get_run(theirs.run_id)
    assert ours.run_id == run.info.run_id != theirs.run_id
    assert run.data.params == original.data.params
    assert run.data.metrics == original.data.metrics
    assert run.info.status == "FINISHED"
    (data,), (same,) = run.inputs.dataset_inputs, original.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("digits", same.dataset.digest)
    came = {
        "isdh.source.uri": database(own),
        "isdh.source.version": "1",
        "isdh.source.run": theirs.run_id,
    }
    there = {key: original.data.tags[key] for key in original.data.tags if "since" not in key}
    assert {**there, **came}.items() <= run.data.tags.items()
    assert ours.tags == {**theirs.tags, **came}
    assert sha256(weights(production, "1")) == theirs.tags["isdh.weights_sha256"]
    assert weights(production, "1").is_relative_to(production.root)
    logged = client(production).get_logged_model(ours.source.removeprefix("models:/"))
    scores = read_json(own.scores(CELL))
    assert {metric.key: metric.value for metric in logged.metrics} == scores
    assert logged.source_run_id == run.info.run_id
    described = Model.load(weights(production, "1").parents[2])
    assert (described.run_id, described.model_id) == (run.info.run_id, logged.model_id)


def test_neither_data_nor_models_are_needed_and_nothing_is_written_to_where_it_comes_from(
    workspace, development, production
):
    before = dump(development)
    copy(workspace, production)
    assert alias(production) == "1"
    assert dump(development) == before
    assert sorted(path.name for path in workspace.root.iterdir()) == [
        ".isdh",
        "params.yaml",
        "promotions.jsonl",
    ]


def test_values_per_query_and_curves_arrive(workspace, production, monkeypatch):
    copy(workspace, production)
    (run,) = runs(production)
    curve = client(production).get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in curve] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    for name in ("scores/isdh-12-0.npz", "scores/isdh-12-0.json", "model/history.json"):
        assert sha256(folder / name) == run.data.tags[f"isdh.sha256.{name}"]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking.runs(production, "digits")["method"].tolist() == ["isdh"]


def test_a_copy_is_logged_with_both_places_and_described_there(workspace, development, production):
    copy(workspace, production)
    (line,) = copies(workspace, production)
    theirs = champion(development)
    assert (line["action"], line["by"], line["why"]) == ("copy", "hand", "passed")
    assert (line["from"], line["version"]) == (None, "1")
    assert line["source"] == {
        "uri": database(development),
        "version": "1",
        "run": theirs.run_id,
    }
    assert line["weights_sha256"] == theirs.tags["isdh.weights_sha256"]
    assert (line["cell"], line["data"]) == (str(CELL), theirs.tags["isdh.data"])
    assert line["mean"] == pytest.approx(0.6)
    who = f"{line['when']} {line['who']}"
    assert champion(production).description == (
        f"{who}: copy: version 1, the first, copied from version 1 in {database(development)}: "
        f"passed; data {line['data']}"
    )


def test_another_version_takes_over_there_and_the_one_before_may_come_back(own, production):
    copy(own, production)
    score(own, dhn=0.7)
    tracking.promote(own, settings(own))
    decision = copy(own, production)
    assert (decision.version, decision.champion) == ("2", "1")
    assert champion(production).tags["isdh.cell"] == str(RIVAL)
    back = copy(own, production, version=1)
    assert (back.moves, back.version, back.champion) == (True, "1", "2")
    assert champion(production).version == 1
    assert "version 1 in place of 2, copied from version 1" in champion(production).description
    assert len(runs(production)) == len(versions(production)) == 2


def test_a_new_training_of_the_cell_is_current_there_and_the_former_is_called_so(own, production):
    copy(own, production)
    synthetic.write_model(own, CELL, fingerprint="e" * 64, weights="retrained")
    score(own, isdh=0.7)
    tracking.promote(own, settings(own))
    copy(own, production, version=2)
    states = {
        run.data.tags["isdh.fingerprint"][0]: run.data.tags["isdh.state"]
        for run in runs(production)
    }
    assert states == {"f": "former", "e": "current"}


# ---------------------------------------------------------------- again


def test_the_same_again_writes_nothing_and_says_so(workspace, production):
    copy(workspace, production)
    before, lines = dump(production), log(workspace)
    decision = copy(workspace, production, reason="once more")
    assert (decision.moves, decision.reason) == (False, "is the champion already")
    assert dump(production) == before
    assert log(workspace) == lines


def test_only_the_alias_is_written_where_the_weights_are_there_already(workspace, production):
    copy(workspace, production)
    client(production).delete_registered_model_alias(MODEL, "champion")
    assert copy(workspace, production).moves
    assert alias(production) == "1"
    assert len(runs(production)) == len(versions(production)) == 1


@pytest.mark.parametrize(
    "step",
    [
        (MlflowClient, "create_run"),
        (MlflowClient, "create_logged_model"),
        (LocalArtifactRepository, "log_artifacts"),
        (MlflowClient, "log_outputs"),
        (MlflowClient, "create_model_version"),
        (MlflowClient, "set_registered_model_alias"),
        (MlflowClient, "update_model_version"),
    ],
    ids=lambda step: step[1],
)
def test_what_a_killed_copy_left_undone_the_next_one_does(
    workspace, development, production, monkeypatch, step
):
    whole = getattr(*step)

    def killed(*args: Any, **kwargs: Any) -> None:
        whole(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*step, killed)
        with pytest.raises(KeyboardInterrupt):
            copy(workspace, production)
    at_the_end = step[1] in ("set_registered_model_alias", "update_model_version")
    assert (alias(production) == "1") == at_the_end
    copy(workspace, production)
    (run,), (version,), (line,) = (
        runs(production),
        versions(production),
        copies(workspace, production),
    )
    assert alias(production) == str(version.version)
    assert version.run_id == run.info.run_id
    original = client(development).get_run(champion(development).run_id)
    assert run.data.metrics == original.data.metrics
    assert run.data.tags["isdh.digest"] == original.data.tags["isdh.digest"]
    assert len(run.outputs.model_outputs) == len(logged_models(production)) == 1
    assert sha256(weights(production, "1")) == version.tags["isdh.weights_sha256"]
    assert champion(production).description.count(line["when"]) == 1


def test_files_that_were_damaged_there_are_written_again(workspace, production):
    copy(workspace, production)
    path = weights(production, "1")
    wanted = sha256(path)
    path.write_bytes(b"bad block")
    decision = copy(workspace, production)
    assert decision.reason == (
        "is the champion already; version 1 was not as registered, written again"
    )
    assert sha256(path) == wanted


def test_numbers_of_a_version_that_is_there_already_are_brought_up(own, production):
    copy(own, production)
    client(own).set_model_version_tag(MODEL, "1", "isdh.means", '{"ndcg_at_100": 0.55}')
    assert not copy(own, production).moves
    assert champion(production).tags["isdh.means"] == '{"ndcg_at_100": 0.55}'


def test_a_run_that_was_deleted_there_is_written_again(workspace, production):
    copy(workspace, production)
    client(production).delete_run(champion(production).run_id)
    copy(workspace, production)
    assert len(runs(production)) == len(versions(production)) == 1


# ---------------------------------------------------------------- the log of the workspace's own


def test_a_copy_takes_no_part_in_what_the_log_says_of_the_workspaces_own_models(own, production):
    score(own, dhn=0.7)
    tracking.promote(own, settings(own))  # version 2
    tracking.rollback(own, settings(own), "digits", 12, reason="finds cats only")
    lines = promotions.lines(own, MODEL)
    copy(own, production, version=2, withdrawn=True)
    assert len(copies(own, production)) == 1
    assert promotions.lines(own, MODEL) == lines
    client(own).delete_model_version_tag(MODEL, "2", "isdh.withdrawn")  # the log says so as well
    tracking.mend(own, settings(own))
    tracking.promote(own, settings(own))
    assert alias(own) == "1"
    with pytest.raises(InputError, match="no champion before version 1"):
        tracking.rollback(own, settings(own), "digits", 12, reason="blind")


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"reason": " "}, "say why"),
        ({"version": 7}, rf"unknown version of {MODEL} '7'.*known: 1"),
        ({"to": "production"}, "--to=production: want the address of an MLflow server"),
        ({"to": "sqlite:///"}, "want the address of an MLflow server"),
        ({"to": "postgresql://me:secret@host/db"}, r"--to=postgresql://host/db: want the address"),
        ({"to": "sqlite:////nowhere/mlflow.db"}, "no such database; `mlflow server --backend"),
        ({"to": "http://127.0.0.1:9"}, r"--to=http://127.0.0.1:9: does not answer \(.*refused"),
        ({"to": "http://me:secret@127.0.0.1:9"}, r"--to=http://127.0.0.1:9: does not answer"),
    ],
)
def test_what_cannot_be_copied_is_told(workspace, production, how, told):
    with pytest.raises(InputError, match=told) as error:
        copy(workspace, **{"to": production, **how})
    assert "secret" not in str(error.value)
    assert log(workspace) == ""


def test_without_a_champion_nothing_is_copied(own, production):
    client(own).delete_registered_model_alias(MODEL, "champion")
    told = rf"'{MODEL}': has no champion in sqlite:.*run `isdh promote`, or name a --version"
    with pytest.raises(InputError, match=told):
        copy(own, production)
    assert copy(own, production, version=1).moves


def test_the_same_mlflow_is_refused_by_whatever_name(workspace, development, tmp_path_factory):
    linked = tmp_path_factory.mktemp("linked") / "other.db"
    linked.symlink_to(development.root / "mlflow.db")
    before = dump(development)
    with pytest.raises(InputError, match=r"holds run [0-9a-f]{32} itself, so it is the same"):
        copy(workspace, f"sqlite:///{linked}")
    assert dump(development) == before
    assert log(workspace) == ""


def test_the_registry_of_the_first_is_not_taken_for_that_of_the_other(
    workspace, development, production, monkeypatch
):
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", database(development))
    copy(workspace, production)
    assert (alias(development), alias(production)) == ("1", "1")
    assert len(versions(development)) == 1


def test_altered_weights_are_not_copied(own, production):
    path = weights(own, "1")
    wanted = sha256(path)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    before = dump(production)
    with pytest.raises(InputError, match=f"sha256 {sha256(path)}, registered were {wanted}"):
        copy(own, production)
    assert dump(production) == before


def test_an_altered_file_of_the_run_is_not_copied(own, production):
    run = client(own).get_run(champion(own).run_id)
    path = Path(run.info.artifact_uri.removeprefix("file://")) / "scores" / "isdh-12-0.json"
    path.write_text("{}")
    told = rf"scores/isdh-12-0.json: sha256 {sha256(path)}, published was .*run `isdh publish`"
    with pytest.raises(InputError, match=told):
        copy(own, production)
    assert alias(production) is None


def test_a_run_that_is_gone_is_told(own, production):
    client(own).delete_run(champion(own).run_id)
    with pytest.raises(InputError, match=rf"no run of {CELL} with fingerprint f+; run `isdh pub"):
        copy(own, production)
    tracking.publish_all(own, settings(own))
    assert copy(own, production).moves


@pytest.mark.parametrize("where", ["here", "there"])
def test_a_withdrawn_version_is_copied_only_if_that_is_said(own, production, where):
    copy(own, production)
    withdraws = own if where == "here" else production
    client(withdraws).set_model_version_tag(MODEL, "1", "isdh.withdrawn", "true")
    client(production).delete_registered_model_alias(MODEL, "champion")
    with pytest.raises(InputError, match="version 1 was withdrawn; --withdrawn takes it") as error:
        copy(own, production)
    assert str(error.value).startswith("sqlite:") == (where == "there")
    assert alias(production) is None
    copy(own, production, withdrawn=True)
    assert alias(production) == "1"
    assert "isdh.withdrawn" not in champion(production).tags


def test_a_name_that_is_taken_there_is_told_and_nothing_is_written(workspace, production):
    mlflow = client(production)
    mlflow.create_registered_model(MODEL)
    mlflow.create_model_version(MODEL, (production.root / "elsewhere").as_uri())
    before = dump(production)
    told = rf"production.*'{MODEL}': version 1 was registered by someone else.*delete that version"
    with pytest.raises(InputError, match=told):
        copy(workspace, production)
    assert dump(production) == before
    mlflow.delete_model_version(MODEL, "1")
    assert copy(workspace, production).moves


def test_a_name_that_is_a_prompts_there_is_told_before_anything_is_sent(workspace, production):
    client(production).register_prompt(MODEL, "hello")
    with pytest.raises(InputError, match=r"already taken by a prompt.*delete it in MLflow's page"):
        copy(workspace, production)
    assert runs(production) == []


def test_an_alias_moved_there_meanwhile_is_left_there(workspace, production, monkeypatch):
    whole = registration.add_version

    def meanwhile(*args: Any, **kwargs: Any) -> Any:
        made, other = whole(*args, **kwargs), whole(*args, **kwargs)
        client(production).set_registered_model_alias(MODEL, "champion", other.version)
        return made

    monkeypatch.setattr(registration, "add_version", meanwhile)
    with pytest.raises(InputError, match=rf"production.*'{MODEL}': somebody else moved the cham"):
        copy(workspace, production)
    assert alias(production) == "2"
    assert log(workspace) == ""


def test_files_that_do_not_come_back_as_they_were_sent_are_no_version(
    workspace, production, monkeypatch
):
    whole = LocalArtifactRepository.log_artifacts

    def failing(store: Any, folder: str, path: str | None = None) -> None:
        whole(store, folder, path)
        (weight,) = Path(store.artifact_dir).rglob("weights.safetensors")
        weight.write_bytes(b"short")

    with monkeypatch.context() as patch:
        patch.setattr(LocalArtifactRepository, "log_artifacts", failing)
        with pytest.raises(InputError, match=r"weights.safetensors was sent with sha256 .* came"):
            copy(workspace, production)
    assert alias(production) is None
    assert versions(production) == []
    copy(workspace, production)
    assert len(logged_models(production)) == 1


def test_a_store_that_cannot_be_written_is_told_and_the_same_command_completes(
    workspace, production
):
    (production.root / "mlartifacts").write_text("no folder")
    told = r"MLflow at sqlite:.*production.*Not a directory.*see to space, .*run the same command"
    with pytest.raises(InputError, match=told):
        copy(workspace, production)
    assert alias(production) is None
    (production.root / "mlartifacts").unlink()
    copy(workspace, production)
    assert len(runs(production)) == len(versions(production)) == 1


# ---------------------------------------------------------------- the command


def test_the_command_says_what_moves_and_what_stays_and_a_dry_run_writes_nothing(
    workspace, production, isdh, capsys
):
    to, before = database(production), dump(production)
    words = ("copy", "digits", "12", "--to", to, "--reason", "passed")
    assert isdh(*words, "--dry-run") == 0
    told = f"{to}: {MODEL}: champion moves to a new version (digits/isdh-12-0): passed\n"
    assert capsys.readouterr().out == told
    assert dump(production) == before
    assert log(workspace) == ""
    assert not (production.root / "mlartifacts").exists()
    assert isdh(*words) == 0
    told = f"{to}: {MODEL}: champion moves to version 1 (digits/isdh-12-0): passed\n"
    assert capsys.readouterr().out == told
    assert isdh(*words) == 0
    assert capsys.readouterr().out.endswith("stays version 1: is the champion already\n")
    assert isdh(*words[:3], "--to", "nowhere", "--reason", "x") == 2
    assert capsys.readouterr().err.startswith("error: --to=nowhere: want the address")


# ---------------------------------------------------------------- servers


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> Iterator[tuple[str, str]]:
    """Two MLflow servers on loopback, each with a database and files of its own."""
    roots = [tmp_path_factory.mktemp(name) for name in ("server", "other-server")]
    for root in roots:
        shutil.copy(empty_database, root / "mlflow.db")
    with serving(*roots) as [here, there]:
        yield here, there


@pytest.mark.slow
def test_between_servers_the_champion_arrives_and_gives_a_stranger_the_encoders_codes(
    served, workspace, python, tmp_path_factory, isdh, monkeypatch
):
    here, there = served
    made = Workspace(tmp_path_factory.mktemp("made"))
    only = synthetic.write_params(made.root, methods=["isdh"], bits=[12], seeds=[0])
    test_pyfunc.write_images_model(made)
    synthetic.write_scores(made, CELL)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", here)
    MlflowClient(here).create_experiment("isdh/digits")  # whose files are the server's to keep
    tracking.promote(made, only)
    words = ("copy", "digits", "12", "--to", there, "--reason", "passed")
    assert isdh(*words) == 0
    theirs, ours = (
        MlflowClient(uri).get_model_version_by_alias(MODEL, "champion") for uri in served
    )
    assert theirs.tags.items() <= ours.tags.items()
    assert ours.tags["isdh.source.uri"] == here
    champion, pictures = f"models:/{MODEL}@champion", test_pyfunc.PICTURES
    found = strangers.ask(python, pictures, champion, workspace.root, MLFLOW_TRACKING_URI=there)
    assert found["answer"] == test_pyfunc.expected(made)
    lines = log(workspace)
    assert isdh(*words) == 0
    assert log(workspace) == lines
    assert len(MlflowClient(there).search_model_versions(f"name = '{MODEL}'")) == 1


class Gate(BaseHTTPRequestHandler):
    """Lets `me` through to a server; `reader` may read; anybody else is unknown."""

    upstream = ""
    body = b"You are not authenticated."

    def decide(self) -> None:
        name, _, password = (
            base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic "))
            .decode()
            .partition(":")
        )
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        reads = self.command == "GET" or self.path.endswith("/search")
        if self.path.endswith("/health"):
            self.answer(200, b"OK")
        elif password != "secret":
            self.answer(401, self.body)
        elif name == "reader" and not reads:
            self.answer(403, b"Permission denied")
        else:
            connection = http.client.HTTPConnection(self.upstream)
            headers = {"Content-Type": self.headers.get("Content-Type", "")}
            connection.request(self.command, self.path, content, headers)
            response = connection.getresponse()
            self.answer(response.status, response.read())
            connection.close()

    def answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        """Nothing."""


@contextmanager
def gate(
    url: str, *, decide: Callable[[Gate], None] = Gate.decide, body: bytes = Gate.body
) -> Iterator[str]:
    """Host and port of a gate before a server."""
    verbs = {f"do_{verb}": decide for verb in ("GET", "POST", "PUT", "PATCH", "DELETE")}
    kind = type("Gate", (Gate,), {"upstream": url.removeprefix("http://"), "body": body, **verbs})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{httpd.server_address[1]}"
        finally:
            httpd.shutdown()
            thread.join()


LOGIN = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"


@pytest.mark.slow
@pytest.mark.parametrize("body", [b"You are not authenticated.", b'{"message": "Unauthorized"}'])
def test_wrong_credentials_are_told_with_where_they_are_set_and_no_password_is_printed(
    served, own, isdh, capsys, monkeypatch, body
):
    with gate(served[1], body=body) as host:
        uri = f"http://me:guess@{host}"
        copies = ("copy", "digits", "12", "--to", uri, "--reason", "x")
        reads = ("publish",), ("promote",), ("compare",), ("diff", str(CELL)), copies
        for words in reads:
            if words is not copies:
                monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
            else:
                monkeypatch.delenv("MLFLOW_TRACKING_URI")
            assert isdh(*words) == 2
            told = capsys.readouterr()
            assert f"MLflow at http://{host}: " in told.err
            assert LOGIN in told.err
            assert "guess" not in told.out + told.err


@pytest.mark.slow
def test_mlflow_s_own_passwords_are_asked_for_and_taken(own, isdh, capsys, monkeypatch, tmp_path):
    pytest.importorskip("flask_wtf", reason="MLflow asks for passwords with `mlflow[auth]` only")
    keys = {"MLFLOW_AUTH_ADMIN_PASSWORD": "a-long-secret", "MLFLOW_FLASK_SERVER_SECRET_KEY": "key"}
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    server = Server("sqlite", store, tmp_path, "127.0.0.1", app="basic-auth", variables=keys)
    server.start()
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.wait().uri)
        for words in ("publish",), ("compare",), ("doctor",):
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "guess")
            assert isdh(*words) == (1 if words == ("doctor",) else 2)
            told = " ".join("".join(capsys.readouterr()).split())  # doctor folds its lines
            assert LOGIN in told
            assert "guess" not in told
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", keys["MLFLOW_AUTH_ADMIN_PASSWORD"])
            isdh(*words)
            assert LOGIN not in " ".join("".join(capsys.readouterr()).split())
    finally:
        server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("in_address", [True, False])
def test_who_may_write_copies_and_who_may_only_read_is_told(
    served, workspace, isdh, capsys, monkeypatch, in_address
):
    forget(served[1])
    with gate(served[1]) as host:

        def copied(name: str) -> int:
            login = f"{name}:secret@" if in_address else ""
            # an address goes before the environment
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "else" if in_address else name)
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "other" if in_address else "secret")
            to = f"http://{login}{host}"
            return isdh("copy", "digits", "12", "--to", to, "--reason", "x")

        assert copied("reader") == 2
        told = capsys.readouterr().err
        assert "403" in told
        assert LOGIN in told
        assert copied("me") == 0
        told += capsys.readouterr().out
        assert f"http://{host}: {MODEL}: champion moves to version" in told
    mlflow = MlflowClient(served[1], served[1])
    version = mlflow.get_model_version_by_alias(MODEL, "champion")
    place = mlflow.get_model_version_download_uri(MODEL, version.version)
    store = get_artifact_repository(place, tracking_uri=served[1])
    store.download_artifacts("MLmodel", str(workspace.root))
    described = (workspace.root / "MLmodel").read_text()
    for text in (told, log(workspace), str(version.tags), version.description, described):
        assert "secret" not in text


def blind(self: Gate) -> None:
    if self.path.endswith("/artifacts/directories"):
        self.answer(200, b"{}")
    else:
        self.decide()


@pytest.mark.slow
def test_files_in_a_folder_that_the_server_does_not_see_are_no_version(served, workspace, tmp_path):
    """As through a tunnel, where the experiment's folder is one of the server's machine."""
    mlflow = forget(served[1])
    if number := server.find_experiment(mlflow, "digits"):
        mlflow.rename_experiment(number, "former")
    mlflow.create_experiment("isdh/digits", (tmp_path / "folder").as_uri())
    with gate(served[1], decide=blind) as host:
        told = f"http://{host}: file:.*/folder/.*: a folder of this machine, which the server does"
        with pytest.raises(InputError, match=told):
            copy(workspace, f"http://me:secret@{host}")
    assert mlflow.search_model_versions(f"name = '{MODEL}'") == []
    assert copy(workspace, served[1]).moves


def forget(url: str) -> MlflowClient:
    """Take away what other tests registered."""
    mlflow = MlflowClient(url)
    for model in mlflow.search_registered_models(f"name = '{MODEL}'"):
        for name in model.aliases:
            mlflow.delete_registered_model_alias(MODEL, name)
        mlflow.delete_registered_model(MODEL)
    return mlflow
