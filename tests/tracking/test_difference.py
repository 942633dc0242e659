"""Two runs in MLflow -> what differs between them, and whether their scores do beyond chance."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isdh import cli, tracking
from isdh.artifacts import Cell, Workspace, read_json, write_json
from isdh.errors import InputError
from isdh.params import Params
from isdh.tracking import difference, server
from isdh.tracking.records import Record
from tests import synthetic
from tests.tracking.queries import client, run_of, runs, score_queries

# raised by MLflow itself when mlflow.pyfunc is imported
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")

CELL = Cell("digits", "isdh", 12, 0)
RIVAL = Cell("digits", "dhn", 12, 0)
QUERIES = np.random.default_rng(1).normal(0.5, 0.1, 200)
NOISE = np.random.default_rng(2).normal(0, 0.01, 200)


def git(root: Path, *words: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(root), *who, *words], check=True, capture_output=True)


def write_lock(workspace: Workspace, cell: Cell, data: str, model: str) -> None:
    """DVC's hashes of what a cell was trained on, and of its model."""
    deps = [
        {"path": f"data/digits/{name}", "md5": data} for name in ("manifest.parquet", "labels.npy")
    ]
    outs = [{"path": f"models/{cell.dataset}/{cell.name}", "md5": model}]
    stages = {cell.address("train"): {"deps": deps, "outs": outs}}
    (workspace.root / "dvc.lock").write_text(json.dumps({"stages": stages}) + "\n")


def retrain(workspace: Workspace, cell: Cell, fingerprint: str, **changes: Any) -> None:
    """Another training of a cell, with other settings; its scores are those of before."""
    synthetic.write_model(workspace, cell, fingerprint=fingerprint)
    path = workspace.model(cell) / "history.json"
    history = read_json(path)
    history["training"] |= changes
    write_json(path, history)


@pytest.fixture
def two(workspace: Workspace, small: Params) -> tuple[str, str]:
    """Two trainings of one cell, the second with another setting, code, versions and scores."""
    git(workspace.root, "init", "-q")
    (workspace.root / ".gitignore").write_text("*\n!params.yaml\n")
    git(workspace.root, "add", "params.yaml")
    git(workspace.root, "commit", "-qm", "first")
    score_queries(workspace, CELL, QUERIES)
    write_lock(workspace, CELL, "d" * 32, "1" * 32)
    first = tracking.publish(workspace, small, CELL)
    git(workspace.root, "commit", "-qm", "second", "--allow-empty")
    synthetic.write_params(workspace.root, bits=[12], seeds=[0], generate={"seed": 1})
    retrain(workspace, CELL, "e" * 64, learning_rate=0.01, warmup=0.1)
    score_queries(workspace, CELL, QUERIES + NOISE + 0.01)
    write_lock(workspace, CELL, "d" * 32, "2" * 32)
    return first, tracking.publish(workspace, small, CELL)


@pytest.mark.parametrize("way", ["database", "client"])
def test_a_cell_alone_is_compared_with_its_run_before(workspace, two, monkeypatch, way):
    if way == "client":
        monkeypatch.setenv("MLFLOW_REGISTRY_URI", server.address(workspace))
    found = tracking.diff(workspace, str(CELL))
    assert (found.first.run_id, found.second.run_id) == two
    assert found.first.cell == found.second.cell == "digits/isdh-12-0"
    assert found.params == {
        "training.learning_rate": ("0.001", "0.01"),
        "training.warmup": (None, "0.1"),
    }
    assert found.data == {}
    assert found.environment == {}
    assert found.outputs["models/<cell>"] == ("1" * 32, "2" * 32)
    assert found.code["fingerprint"] == ("f" * 64, "e" * 64)
    assert found.code["dirty"] == ("false", "true")
    first, second = found.code["commit"]
    assert (found.first.commit, found.second.commit) == (first, second)
    assert first != second
    assert (found.first.dirty, found.second.dirty) == (False, True)
    assert found.unpaired == ""
    score = found.scores["ndcg_at_100"]
    assert score.difference == pytest.approx(0.01 + NOISE.mean())
    assert score.interval is not None
    assert score.interval[0] < score.difference < score.interval[1]
    assert score.verdict == 1
    others = found.scores["map_at_all"]  # no values per query
    assert (others.difference, others.interval, others.verdict) == (0.0, None, None)
    assert list(found.scores) == list(read_json(workspace.scores(CELL)))


def test_runs_are_named_by_cell_or_by_the_beginning_of_their_id(workspace, small, two):
    rival = tracking.publish(workspace, small, RIVAL)
    ids = [*two, rival]
    short = [
        next(i[:n] for n in range(1, 33) if sum(o.startswith(i[:n]) for o in ids) == 1) for i in ids
    ]
    for words, expected in (
        ((two[0], two[1]), two),
        ((short[1], short[0]), two[::-1]),
        ((short[1],), two),
        (("digits-dhn-12-0", short[0]), (rival, two[0])),
        ((str(RIVAL), str(CELL)), (rival, two[1])),
    ):
        found = tracking.diff(workspace, *words)
        assert (found.first.run_id, found.second.run_id) == expected


def test_a_restored_training_is_the_current_one_and_comes_after_the_other(workspace, small, two):
    retrain(workspace, CELL, "f" * 64)
    score_queries(workspace, CELL, QUERIES)
    assert tracking.publish(workspace, small, CELL) == two[0]
    found = tracking.diff(workspace, str(CELL))
    assert (found.first.run_id, found.second.run_id) == two[::-1]
    assert found.scores["ndcg_at_100"].verdict == -1


def test_what_is_meant_by_nothing_or_by_several_is_told(workspace, small):
    ids = [tracking.publish(workspace, small, cell) for cell in (CELL, RIVAL)]
    for words, told in (
        (["digits/isdg-12-0"], "no run in MLflow; did you mean 'digits/isdh-12-0'?"),
        (["digit/isdh-12-0"], "unknown dataset 'digit', did you mean 'digits'?"),
        (["digits/isdh"], "want <dataset>/<method>-<bits>-<seed>"),
        (["xyz"], "no run of a cell in MLflow has an id that begins so"),
        ([""], "2 ids begin so"),
        ([str(CELL)], "no run of this cell before it"),
        ([ids[0]], "no run of this cell before it"),
    ):
        with pytest.raises(InputError) as error:
            tracking.diff(workspace, *words)
        assert told in str(error.value)


def test_a_deleted_run_is_not_found(workspace, small, two):
    client(workspace).delete_run(two[0])
    with pytest.raises(InputError, match="begins so"):
        tracking.diff(workspace, two[0], two[1])
    with pytest.raises(InputError, match="no run of this cell before it"):
        tracking.diff(workspace, str(CELL))


def test_scores_on_other_data_are_shown_and_not_tested(workspace, small):
    score_queries(workspace, CELL, QUERIES)
    tracking.publish(workspace, small, CELL)
    synthetic.write_data(workspace, version="2")
    retrain(workspace, CELL, "e" * 64)
    score_queries(workspace, CELL, QUERIES + 0.1)
    tracking.publish(workspace, small, CELL)
    found = tracking.diff(workspace, str(CELL))
    assert list(found.data) == ["digest"]
    assert found.unpaired == "they were scored on other data"
    score = found.scores["ndcg_at_100"]
    assert score.difference == pytest.approx(0.1)
    assert (score.interval, score.verdict) == (None, None)


def test_scores_without_values_per_query_or_of_other_queries_are_not_tested(workspace, small):
    score_queries(workspace, CELL, QUERIES)
    score_queries(workspace, RIVAL, QUERIES[:150])
    for cell in (CELL, RIVAL):
        tracking.publish(workspace, small, cell)
    assert (
        "no values of the same queries" in tracking.diff(workspace, str(CELL), str(RIVAL)).unpaired
    )
    client(workspace).delete_tag(run_of(workspace, CELL), f"isdh.sha256.scores/{CELL.name}.npz")
    assert (
        "no values of the same queries" in tracking.diff(workspace, str(CELL), str(RIVAL)).unpaired
    )


def test_a_run_that_is_not_scored_has_parameters_to_compare(workspace, small):
    tracking.publish(workspace, small, RIVAL)
    workspace.scores(CELL).unlink()
    tracking.publish(workspace, small, CELL)
    found = tracking.diff(workspace, str(RIVAL), str(CELL))
    assert found.params == {"method": ("dhn", "isdh")}
    assert found.unpaired == "not both runs are scored"
    assert (found.scores["map_at_all"].first, found.scores["map_at_all"].second) == (0.512, None)
    assert found.scores["map_at_all"].difference is None
    assert found.outputs == {}


def record(**tags: str) -> Record:
    told = {"isdh.cell": "digits/isdh-12-0", "isdh.fingerprint": "f" * 64, "isdh.scores": "a b c"}
    return Record("0" * 32, 0, "", told | tags, "data", {"a": 1.0, "b": 1.0, "c": 1.0}, {})


def test_a_difference_is_told_by_where_its_interval_lies():
    shift = {"a": 0.01, "b": -0.01, "c": 0.0}
    one = dict.fromkeys(shift, QUERIES)
    two = {name: QUERIES + NOISE - NOISE.mean() + by for name, by in shift.items()}
    found = difference.between(record(), record(), one, two)
    assert [score.verdict for score in found.scores.values()] == [1, -1, 0]
    back = difference.between(record(), record(), two, one)
    assert [score.verdict for score in back.scores.values()] == [-1, 1, 0]


def test_values_that_are_no_numbers_are_not_tested():
    broken = np.where(np.arange(200) == 7, np.nan, QUERIES)
    found = difference.between(
        record(), record(), {"a": QUERIES, "b": broken}, {"a": QUERIES, "b": QUERIES}
    )
    assert [score.verdict for score in found.scores.values()] == [0, None, None]


# ---------------------------------------------------------------- the command


def isdh(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run the command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["isdh", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_the_command_shows_both_sides_and_what_is_beyond_chance(
    workspace, two, monkeypatch, capsys
):
    monkeypatch.chdir(workspace.root)
    assert isdh(monkeypatch, "diff", str(CELL)) == 0
    shown = capsys.readouterr().out
    rows = [re.sub("[│┃]", " ", line).split() for line in shown.splitlines()]
    assert ["training.learning_rate", "0.001", "0.01"] in rows
    assert ["training.warmup", "-", "0.1"] in rows
    assert ["data", "the", "same", "the", "same"] in rows
    assert ["models/<cell>", "1" * 12, "2" * 12] in rows
    assert [two[0][:8], two[1][:8]] in rows
    (scores,) = [row for row in rows if row and row[0] == "ndcg_at_100"]
    assert scores[3:5] == [f"{0.01 + NOISE.mean():+.4f}", "▴"]
    assert scores[6] == "to"
    tags = {run.info.run_id: run.data.tags for run in runs(workspace)}
    commits = [tags[run]["mlflow.source.git.commit"][:12] for run in two]
    assert f"git diff {commits[0]} {commits[1]}" in shown
    assert isdh(monkeypatch, "diff", str(CELL), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["params"]["training.warmup"] == [None, "0.1"]
    assert told["scores"]["ndcg_at_100"]["verdict"] == 1


def test_the_command_says_why_nothing_is_told_of_chance(workspace, small, monkeypatch, capsys):
    for cell in (CELL, RIVAL):
        tracking.publish(workspace, small, cell)
    monkeypatch.chdir(workspace.root)
    assert isdh(monkeypatch, "diff", str(CELL), str(RIVAL)) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "whether they differ by more than chance is not told: there are no values" in shown
    assert isdh(monkeypatch, "diff", str(CELL)) == 2
    assert "no run of this cell before it; name two runs or cells" in capsys.readouterr().err
