"""MLflow -> results tables: whichever way it is asked, with which marks, of which cells."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.store.artifact import artifact_repository_registry

from isdh import cli, tracking
from isdh.artifacts import Cell, Workspace, read_json
from isdh.errors import InputError
from isdh.params import Params
from isdh.tracking import Selection, records, server, versions
from tests import synthetic
from tests.tracking.queries import client, run_of, runs, score_queries
from tests.tracking.servers import Server, serving

# raised by MLflow itself when mlflow.pyfunc is imported
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")

CELL = Cell("digits", "isdh", 12, 0)
RIVAL = Cell("digits", "dhn", 12, 0)


def execute(workspace: Workspace, statement: str) -> None:
    connection = sqlite3.connect(workspace.root / "mlflow.db")
    try:
        connection.execute(statement)
        connection.commit()
    finally:
        connection.close()


# ---------------------------------------------------------------- runs and their comparison


def test_runs_are_the_scored_cells_with_their_scores(workspace, settings):
    workspace.scores(CELL).unlink()
    tracking.publish_all(workspace, settings)
    table = tracking.runs(workspace, "digits")
    cells = [Cell(*row) for row in table[["dataset", "method", "bits", "seed"]].itertuples(False)]
    assert cells == sorted(set(settings.cells("digits")) - {CELL})
    for cell, score in zip(cells, table["ndcg_at_100"], strict=True):
        assert score == read_json(workspace.scores(cell))["ndcg_at_100"]


def test_comparison_holds_mean_and_deviation_over_seeds_best_and_champion(workspace, settings):
    for seed, score in ((0, 0.5), (1, 0.7)):
        synthetic.write_scores(workspace, Cell("digits", "dhn", 12, seed), ndcg_at_100=score)
        synthetic.write_scores(workspace, Cell("digits", "isdh", 12, seed), ndcg_at_100=0.4)
    workspace.scores(Cell("digits", "dhn", 24, 1)).unlink()
    tracking.publish_all(workspace, settings)
    found = tracking.compare(workspace, "digits", "ndcg_at_100")
    assert found.bits == [12, 24]
    twelve = found.methods["dhn"][12]
    assert (twelve.mean, twelve.seeds, twelve.best, twelve.champion) == (0.6, 2, True, False)
    assert twelve.std == pytest.approx(0.1 * 2**0.5)
    assert not found.methods["isdh"][12].best
    assert found.methods["dhn"][24].seeds == 1
    assert found.methods["dhn"][24].std is None
    lowest = tracking.compare(workspace, "digits", "ndcg_at_100", direction="min")
    assert lowest.methods["isdh"][12].best


LEVELS = {"dhn": 0.4, "dpsh": 0.5001, "isdh": 0.5}
QUERIES = np.random.default_rng(1).normal(0, 0.1, 200)
MEANS = {method: level + float(QUERIES.mean()) for method, level in LEVELS.items()}
MARKS = {"dhn": (False, False, -1), "dpsh": (True, False, 0), "isdh": (False, True, 0)}


@pytest.fixture
def per_query(workspace: Workspace) -> Params:
    """Three methods, two seeds, scored query by query: one clearly worse, two alike."""
    methods = {"methods": list(LEVELS), "method": {name: {} for name in LEVELS}}
    _, settings = synthetic.write_workspace(workspace.root, bits=[12], **methods)
    for cell in settings.cells("digits"):
        noise = np.random.default_rng(cell.seed).normal(0, 0.01, 200) * (cell.method == "dpsh")
        score_queries(workspace, cell, LEVELS[cell.method] + QUERIES + noise - noise.mean())
    return settings


def marks(workspace: Workspace, **how: Any) -> dict[str, tuple[bool, bool | None, int | None]]:
    methods = tracking.compare(workspace, "digits", "ndcg_at_100", **how).methods
    return {name: (of[12].best, of[12].level, of[12].against) for name, of in methods.items()}


# ---------------------------------------------------------------- what is beyond chance


def test_a_comparison_tells_what_is_level_with_the_best_and_what_is_better_or_worse(
    workspace, per_query
):
    tracking.publish_all(workspace, per_query)
    assert marks(workspace) == MARKS
    assert marks(workspace, reference="dhn") == {
        "dhn": (False, False, 0),
        "dpsh": (True, False, 1),
        "isdh": (False, True, 1),
    }
    assert marks(workspace, direction="min") == {
        "dhn": (True, False, 1),
        "dpsh": (False, False, 0),
        "isdh": (False, False, 0),
    }
    assert tracking.compare(workspace, "digits", "ndcg_at_100").reference == "isdh"


def test_the_values_come_from_the_files_here_if_they_are_those_of_the_runs(workspace, per_query):
    tracking.publish_all(workspace, per_query)
    shutil.rmtree(workspace.root / "mlartifacts")
    assert marks(workspace) == MARKS


@pytest.mark.parametrize("files", ["gone", "others"])
def test_the_values_come_from_the_runs_if_the_files_here_are_gone_or_others(
    workspace, per_query, files
):
    tracking.publish_all(workspace, per_query)
    if files == "gone":
        shutil.rmtree(workspace.root / "metrics")
    else:
        for cell in per_query.cells("digits"):
            score_queries(workspace, cell, np.full(200, 0.9 if cell.method == "dhn" else 0.1))
    assert marks(workspace) == MARKS


def test_a_run_published_without_values_has_no_marks_until_it_is_published_again(
    workspace, per_query
):
    """As earlier versions published: no such file, no tag of it, another digest."""
    tracking.publish_all(workspace, per_query)
    (run,) = [r for r in runs(workspace) if r.data.tags["isdh.cell"] == "digits/dhn-12-1"]
    mlflow, number = client(workspace), run.info.run_id
    mlflow.delete_tag(number, "isdh.sha256.scores/dhn-12-1.npz")
    mlflow.set_tag(number, "isdh.digest", "of an earlier version")
    kept = workspace.root / "mlartifacts" / "digits" / number / "artifacts/scores/dhn-12-1.npz"
    kept.unlink()
    assert marks(workspace) == {**MARKS, "dhn": (False, None, None)}
    assert tracking.publish_all(workspace, per_query).written == 1
    assert kept.exists()
    assert marks(workspace) == MARKS


def test_without_values_of_the_reference_or_the_best_only_the_other_question_is_answered(
    workspace, per_query
):
    tracking.publish_all(workspace, per_query)
    tags = {run.data.tags["isdh.cell"]: run.info.run_id for run in runs(workspace)}
    client(workspace).delete_tag(tags["digits/isdh-12-0"], "isdh.sha256.scores/isdh-12-0.npz")
    assert marks(workspace) == {
        "dhn": (False, False, None),
        "dpsh": (True, False, None),
        "isdh": (False, None, None),
    }
    assert marks(workspace, reference="dhn", direction="min")["dpsh"] == (False, False, -1)
    assert marks(workspace, cells=per_query.cells("digits")[:4])["dhn"] == (False, False, None)


def test_seeds_scored_on_different_queries_are_not_paired(workspace, per_query):
    score_queries(workspace, Cell("digits", "dhn", 12, 1), np.full(150, 0.4))
    tracking.publish_all(workspace, per_query)
    assert marks(workspace) == {**MARKS, "dhn": (False, None, None)}


def test_a_score_that_has_no_values_per_query_has_no_marks(workspace, per_query):
    tracking.publish_all(workspace, per_query)
    methods = tracking.compare(workspace, "digits", "queries_without_relevant").methods
    assert {(of[12].level, of[12].against) for of in methods.values()} == {(None, None)}


class Elsewhere:
    """A store of artifacts on another machine, which answers so many times."""

    def __init__(self, artifacts: str, answers: int, asked: list[str]) -> None:
        self.artifacts, self.answers, self.asked = Path(artifacts), answers, asked

    def download_artifacts(self, path: str, dst_path: str) -> str:
        self.asked.append(dst_path)
        if len(self.asked) > self.answers:
            raise ConnectionError("no answer")
        return shutil.copy(self.artifacts / path, dst_path)


@pytest.mark.parametrize(
    ("answers", "asked", "expected"),
    [
        (6, 6, MARKS),
        (
            4,
            5,
            {
                "dhn": (False, False, None),
                "dpsh": (True, False, None),
                "isdh": (False, None, None),
            },
        ),
    ],
)
def test_values_are_copied_from_a_store_elsewhere_which_is_given_up_once_it_fails(
    workspace, per_query, monkeypatch, answers, asked, expected
):
    tracking.publish_all(workspace, per_query)
    shutil.rmtree(workspace.root / "metrics")
    execute(workspace, "UPDATE runs SET artifact_uri = replace(artifact_uri, 'file:', 's3:')")
    copies: list[str] = []
    monkeypatch.setattr(
        artifact_repository_registry,
        "get_artifact_repository",
        lambda uri, tracking_uri: Elsewhere(uri.removeprefix("s3://"), answers, copies),
    )
    assert marks(workspace) == expected
    assert len(copies) == asked
    assert not any(Path(folder).exists() for folder in copies)


def test_a_comparison_may_be_of_some_cells_only(workspace, settings):
    tracking.publish_all(workspace, settings)
    today = [CELL, Cell("digits", "isdh", 48, 0)]  # the second was never made
    assert tracking.runs(workspace, "digits", today)[["method", "bits"]].values.tolist() == [
        ["isdh", 12]
    ]
    found = tracking.compare(workspace, "digits", "ndcg_at_100", cells=today)
    assert found.bits == [12]
    assert found.methods["isdh"][12].seeds == 1
    with pytest.raises(InputError, match=r"no scored run of dataset 'digits'.*cells asked for"):
        tracking.runs(workspace, "digits", today[1:])


def test_an_unknown_metric_names_the_nearest(workspace, small):
    tracking.publish_all(workspace, small)
    with pytest.raises(InputError, match="did you mean 'map_at_all'") as told:
        tracking.compare(workspace, "digits", "map_at_al")
    assert "loss" not in str(told.value)  # curves are no scores


def test_without_runs_the_remedy_is_told_and_no_database_is_made(workspace):
    with pytest.raises(InputError, match=r"no scored run of dataset 'digits'.*`isdh publish`"):
        tracking.runs(workspace, "digits")
    (workspace.root / "mlflow.db").unlink()
    with pytest.raises(InputError, match=r"no such database.*`isdh publish`"):
        tracking.runs(workspace, "digits")
    assert not (workspace.root / "mlflow.db").exists()


# ---------------------------------------------------------------- only what was scored on the same


def train_on(workspace: Workspace, cells: list[Cell], *, version: str) -> None:
    """Train and score cells again, to the same scores, on other pictures."""
    synthetic.write_data(workspace, version=version)
    for cell in cells:
        synthetic.write_model(workspace, cell, fingerprint=version * 64)


def of_method(settings: Params, method: str) -> list[Cell]:
    return [cell for cell in settings.cells("digits") if cell.method == method]


def publish(workspace: Workspace, settings: Params, cells: list[Cell]) -> None:
    for cell in cells:
        tracking.publish(workspace, settings, cell)


@pytest.mark.parametrize(
    ("elsewhere", "expected"),
    [
        ("dhn", {**MARKS, "dhn": (False, None, None)}),
        (  # the reference: level with the best cannot be told of it, nor better than it of others
            "isdh",
            {"dhn": (False, False, None), "dpsh": (True, False, None), "isdh": (False, None, 0)},
        ),
        (  # the best: likewise
            "dpsh",
            {"dhn": (False, None, -1), "dpsh": (True, False, None), "isdh": (False, None, 0)},
        ),
    ],
)
def test_a_method_scored_on_other_data_is_not_paired_however_many_queries_it_has(
    workspace, per_query, elsewhere, expected
):
    others = of_method(per_query, elsewhere)
    publish(workspace, per_query, [c for c in per_query.cells("digits") if c not in others])
    train_on(workspace, others, version="2")
    publish(workspace, per_query, others)
    assert marks(workspace) == expected


def test_seeds_scored_on_different_data_are_not_averaged_query_by_query(workspace, per_query):
    cells = per_query.cells("digits")
    (other,) = [cell for cell in cells if (cell.method, cell.seed) == ("dhn", 1)]
    publish(workspace, per_query, [cell for cell in cells if cell != other])
    train_on(workspace, [other], version="2")
    publish(workspace, per_query, [other])
    assert marks(workspace) == {**MARKS, "dhn": (False, None, None)}


def test_runs_that_do_not_say_what_data_they_are_of_are_not_paired(workspace, per_query):
    (workspace.data("digits") / "inputs.json").unlink()
    tracking.publish_all(workspace, per_query)
    assert set(marks(workspace).values()) == {(False, None, None), (True, None, None)}


def write_lock(workspace: Workspace, hashes: dict[Cell, str]) -> None:
    """Cells trained on manifests and labels of these hashes."""
    names = ("manifest.parquet", "labels.npy")
    stages = {
        cell.address("train"): {
            "deps": [{"path": f"data/digits/{name}", "md5": digest} for name in names],
            "outs": [],
        }
        for cell, digest in hashes.items()
    }
    (workspace.root / "dvc.lock").write_text(json.dumps({"stages": stages}) + "\n")


def test_another_split_of_the_same_pictures_is_other_data(workspace, per_query):
    cells = per_query.cells("digits")
    write_lock(workspace, {cell: "other" if cell.method == "dhn" else "same" for cell in cells})
    tracking.publish_all(workspace, per_query)
    assert marks(workspace) == {**MARKS, "dhn": (False, None, None)}


def test_other_inputs_made_of_the_same_split_are_paired(workspace, per_query):
    cells, others = per_query.cells("digits"), of_method(per_query, "dhn")
    write_lock(workspace, dict.fromkeys(cells, "same"))
    publish(workspace, per_query, [cell for cell in cells if cell not in others])
    train_on(workspace, others, version="2")
    publish(workspace, per_query, others)
    assert marks(workspace) == MARKS


# ---------------------------------------------------------------- whichever way MLflow is asked


def through_client(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let MLflow's client be asked instead of the database."""
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", server.address(workspace))


def make_champion(workspace: Workspace, cell: Cell) -> None:
    """As a promotion does."""
    mlflow, name = client(workspace), versions.model_name(cell.dataset, cell.bits)
    mlflow.create_registered_model(name)
    tags = {"isdh.method": cell.method, "isdh.cell": str(cell)}
    for number in ("1", "2"):
        mlflow.create_model_version(name, "file:///nowhere", run_of(workspace, cell), tags)
        mlflow.set_registered_model_alias(name, versions.ALIAS, number)
    mlflow.set_registered_model_alias(name, "another", "1")


def plain(record: records.Record, *prefixes: str) -> str:
    """All of a record, or of its tags those that begin so; as text, since NaN equals nothing."""
    tags = {name: value for name, value in record.tags.items() if name.startswith(prefixes)}
    values = [sorted(each.items()) for each in (tags, record.metrics, record.params)]
    return repr((record.run_id, record.started, record.artifacts, record.data, values))


def answers(workspace: Workspace) -> dict[str, Any]:
    def question(source: records.Source) -> dict[str, Any]:
        found = sorted(source.records("digits"), key=lambda record: record.run_id)
        parts = [replace(record, params={}) for record in found]
        return {
            "way": type(source).__name__,
            "datasets": source.datasets(),
            "champions": source.champions("digits", [12, 24, 36]),
            "absent": source.records("absent"),
            "whole": [plain(source.whole(record.run_id), "") for record in found],
            "records": [plain(record, "isdh.", "dvc.data/") for record in parts],
            "of a cell": sorted(each.run_id for each in source.records("digits", (), cell=RIVAL)),
        }

    return records.ask(workspace, question)


def test_a_database_and_our_server_tell_what_mlflow_tells(
    workspace, settings, tmp_path, monkeypatch
):
    write_lock(workspace, {CELL: "same"})
    tracking.publish_all(workspace, settings)
    synthetic.write_model(workspace, RIVAL, fingerprint="e" * 64)
    workspace.scores(RIVAL).unlink()
    tracking.publish(workspace, settings, RIVAL)
    make_champion(workspace, CELL)
    mlflow, number = client(workspace), run_of(workspace, CELL)
    mlflow.log_metric(number, "map_at_all", float("nan"), timestamp=1 << 42)
    mlflow.log_metric(number, "ndcg_at_100", float("inf"), timestamp=1 << 42)
    mlflow.delete_run(run_of(workspace, Cell("digits", "isdh", 24, 1)))
    mlflow.create_run(str(server.find_experiment(mlflow, "digits")))  # of someone else
    direct = answers(workspace)
    ours = Server("sqlite", server.address(workspace), tmp_path, "127.0.0.1", app="isdh")
    ours.start()
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", ours.wait().uri)
        with monkeypatch.context() as patch:
            patch.setattr(records, "search", None)  # is not asked
            server_s = answers(workspace)
        monkeypatch.setattr(records, "PATH", "/another")
        searched = answers(workspace)
    finally:
        ours.stop()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    through_client(workspace, monkeypatch)
    client_s = answers(workspace)
    ways = [each.pop("way") for each in (direct, server_s, searched, client_s)]
    assert ways == ["Database", "Served", "Served", "Served"]
    assert direct["champions"] == {12: "isdh"}
    assert len(direct["records"]) == 8  # a cell was published twice, another deleted
    assert len(direct["of a cell"]) == 2
    assert direct["datasets"] == ["digits"]
    assert direct == server_s == searched == client_s


def test_the_champion_is_marked_whichever_way_mlflow_is_asked(workspace, small, monkeypatch):
    tracking.publish_all(workspace, small)
    make_champion(workspace, RIVAL)
    for _ in range(2):
        found = tracking.compare(workspace, "digits", "ndcg_at_100")
        assert {m: entries[12].champion for m, entries in found.methods.items()} == {
            "dhn": True,
            "isdh": False,
        }
        through_client(workspace, monkeypatch)


def test_mlflow_is_asked_where_the_database_has_other_tables_than_are_known_here(workspace, small):
    tracking.publish_all(workspace, small)
    before = tracking.compare(workspace, "digits", "ndcg_at_100")
    execute(workspace, "ALTER TABLE registered_model_aliases RENAME TO others")
    assert answers(workspace)["way"] == "Served"
    assert tracking.compare(workspace, "digits", "ndcg_at_100") == before


def test_of_two_experiments_of_one_name_none_is_picked_by_chance(workspace, small):
    tracking.publish_all(workspace, small)
    execute(
        workspace,
        "INSERT INTO experiments (experiment_id, name, lifecycle_stage, workspace)"
        " VALUES (99, 'isdh/digits', 'active', 'other')",
    )
    with pytest.raises(InputError, match=r"MLflow at sqlite:.*Multiple rows were found"):
        tracking.compare(workspace, "digits", "ndcg_at_100")


def test_a_deleted_experiment_is_told_whichever_way_mlflow_is_asked(workspace, small, monkeypatch):
    tracking.publish_all(workspace, small)
    mlflow = client(workspace)
    mlflow.delete_experiment(str(server.find_experiment(mlflow, "digits")))
    for _ in range(2):
        with pytest.raises(InputError, match=r"deleted.*mlflow experiments restore"):
            tracking.compare(workspace, "digits", "ndcg_at_100")
        through_client(workspace, monkeypatch)


def test_a_database_without_mlflows_tables_is_told(workspace):
    (workspace.root / "mlflow.db").write_bytes(b"no database" * 1000)
    with pytest.raises(InputError, match="file is not a database"):
        tracking.compare(workspace, "digits", "ndcg_at_100")


def test_comparing_changes_nothing_in_the_database(workspace, small):
    tracking.publish_all(workspace, small)
    before = (workspace.root / "mlflow.db").read_bytes()
    tracking.compare(workspace, "digits", "ndcg_at_100")
    assert (workspace.root / "mlflow.db").read_bytes() == before


@pytest.mark.slow
def test_a_server_is_asked_for_runs_and_for_their_files(workspace, per_query, monkeypatch):
    with serving(workspace.root) as [url]:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        client(workspace).create_experiment("isdh/digits")  # whose files are the server's to keep
        tracking.publish_all(workspace, per_query)
        assert not (workspace.root / "mlartifacts").exists()
        shutil.rmtree(workspace.root / "metrics")
        assert marks(workspace) == MARKS
        found = tracking.diff(workspace, str(RIVAL), str(CELL))
        assert found.scores["ndcg_at_100"].verdict == 1


# ---------------------------------------------------------------- the command


@pytest.fixture
def published(
    workspace: Workspace, per_query: Params, monkeypatch: pytest.MonkeyPatch
) -> Workspace:
    """Three methods, two seeds, one code length, in MLflow; the working directory."""
    tracking.publish_all(workspace, per_query)
    monkeypatch.chdir(workspace.root)
    return workspace


def isdh(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run the command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["isdh", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_a_selection_holds_the_cells_that_are_on_all_of_its_axes():
    cells = [Cell("digits", m, b, s) for m in ("a", "b", "c") for b in (12, 24) for s in (0, 1)]
    assert Selection().of(cells) == cells
    found = Selection(methods=("c", "a"), bits=(24,), seeds=(1, 0)).of(cells)
    assert [cell.name for cell in found] == ["a-24-0", "a-24-1", "c-24-0", "c-24-1"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--method", "dpsj"],
            "unknown method 'dpsj', did you mean 'dpsh'? known: dhn, dpsh, isdh",
        ),
        (["--bits", "24"], "unknown bits '24'. known: 12"),
        (["--seed", "0", "--seed", "7"], "unknown seed '7'. known: 0, 1"),
        (["--metric", "map_at_all", "--metric", "map_at_al"], "did you mean 'map_at_all'?"),
        (["--json", "--csv"], "one of them at a time"),
        (["--html", "nowhere/page.html"], "nowhere/page.html: No such file or directory"),
    ],
)
@pytest.mark.parametrize("everything", [(), ("--all",)])
def test_what_is_not_known_is_told_with_the_nearest_and_exit_code_2(
    published, monkeypatch, capsys, words, told, everything
):
    assert isdh(monkeypatch, "compare", *words, *everything) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert told in output.err


def test_methods_code_lengths_and_seeds_can_be_chosen(published, monkeypatch, capsys):
    chosen = ["--method", "dhn", "--method", "isdh", "--bits", "12", "--seed", "1"]
    assert isdh(monkeypatch, "compare", "--json", *chosen) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert {name: entries["12"]["seeds"] for name, entries in found["methods"].items()} == {
        "dhn": 1,
        "isdh": 1,
    }
    assert found["methods"]["isdh"]["12"]["best"]  # of those that were chosen


def test_each_metric_has_a_table_and_the_champions_has_its_direction(
    published, monkeypatch, capsys
):
    synthetic.write_params(
        published.root,
        bits=[12],
        methods=list(LEVELS),
        method={name: {} for name in LEVELS},
        champion={"metric": "ndcg_at_100", "direction": "min"},
    )
    metrics = ["--metric", "map_at_all", "--metric", "ndcg_at_100"]
    assert isdh(monkeypatch, "compare", "--json", *metrics) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["metric"] for each in found] == ["map_at_all", "ndcg_at_100"]
    best = [[m for m, e in each["methods"].items() if e["12"]["best"]] for each in found]
    assert best == [["dhn", "dpsh", "isdh"], ["dhn"]]
    assert isdh(monkeypatch, "compare", *metrics) == 0
    shown = capsys.readouterr().out
    assert "digits: map_at_all" in shown
    assert "digits: ndcg_at_100" in shown


def test_csv_has_a_row_an_entry_and_nothing_for_what_is_not_known(published, monkeypatch, capsys):
    metrics = ["--metric", "ndcg_at_100", "--metric", "map_at_all"]
    assert isdh(monkeypatch, "compare", "--csv", *metrics) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0] == (
        "dataset,metric,method,bits,seeds,mean,std,best,level,against,champion"
    )
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["metric"], row["method"]) for row in rows] == [
        (metric, method) for metric in metrics[1::2] for method in sorted(LEVELS)
    ]
    dpsh = rows[1]
    assert float(dpsh["mean"]) == pytest.approx(MEANS["dpsh"])
    assert float(dpsh["std"]) == pytest.approx(0, abs=0.01)
    assert (dpsh["best"], dpsh["level"], dpsh["against"]) == ("true", "false", "0")
    assert rows[0]["against"] == "-1"
    assert (rows[3]["level"], rows[3]["against"]) == ("", "")  # map_at_all has no values here


class Page(HTMLParser):
    """Texts of cells by row, classes, and everything that a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.best: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        links = [found.get(name) or "" for name in ("src", "href", "srcset", "action", "data")]
        self.fetched += [link for link in links if link and not link.startswith(("#", "data:"))]
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
        if tag in {"table", "tr", "td", "th"}:
            self.open.append(tag)
        if tag == "td" and found.get("class") == "best":
            self.best.append(self.rows[-1][0])

    def handle_endtag(self, tag: str) -> None:
        if tag in {"table", "tr", "td", "th"}:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in {"td", "th"}:
            self.rows[-1][-1] = " ".join([self.rows[-1][-1], *data.split()]).strip()


def test_the_page_has_the_table_with_its_marks_and_asks_for_nothing(published, monkeypatch, capsys):
    make_champion(published, Cell("digits", "isdh", 12, 0))
    assert isdh(monkeypatch, "compare", "--html", "page.html") == 0
    assert "▾" in Page((published.root / "page.html").read_text()).rows[-1][1]
    client(published).delete_tag(run_of(published, RIVAL), "isdh.sha256.scores/dhn-12-0.npz")
    capsys.readouterr()
    assert isdh(monkeypatch, "compare", "--json", "--html", "page.html") == 0
    output = capsys.readouterr()
    assert len(json.loads(output.out)) == 1
    assert output.err == "page.html: written\n"
    text = (published.root / "page.html").read_text()
    page = Page(text)
    assert page.open == []
    assert page.fetched == []
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert "NDCG@100" in text
    rows = {row[0]: row[1].split() for row in page.rows[1:]}
    assert list(rows) == ["dpsh", "isdh", "dhn"]  # the best first
    assert page.best == ["dpsh"]
    assert {name: words[0] for name, words in rows.items()} == {
        name: f"{mean:.4f}" for name, mean in MEANS.items()
    }
    assert [words[2:] for words in rows.values()] == [[], ["=", "*"], ["?"]]


def test_comparing_imports_no_mlflow_where_the_database_is_at_hand(published):
    code = (
        "import sys; sys.argv = ['isdh', 'compare']\n"
        "from isdh.cli import main\n"
        "try: main()\n"
        "finally: sys.stderr.write(' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"{MEANS['dpsh']:.4f}" in done.stdout
    assert not {"mlflow", "pandas", "torch", "matplotlib"} & set(done.stderr.split())
