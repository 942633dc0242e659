"""Versions, aliases and the log, in real databases: by the rule, by hand, and with bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, TEMPORARILY_UNAVAILABLE
from mlflow.types import ColSpec, Schema
from PIL import Image

from isdh import encoding, manifest, metrics, models, networks, params, tracking
from isdh.artifacts import (
    Cell,
    Workspace,
    read_array,
    read_json,
    replacing,
    sha256,
    write_array,
    write_codes,
    write_json,
)
from isdh.encoder import Encoder
from isdh.errors import InputError
from isdh.images import decode
from isdh.params import Params
from isdh.settings import Images, Network
from isdh.tracking import (
    evaluation,
    package,
    projection,
    promotions,
    registration,
    server,
    versions,
)
from tests import synthetic
from tests.tracking.queries import client, dump, score_queries

# raised by MLflow itself when mlflow.pyfunc is imported
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")

CELL = Cell("digits", "isdh", 12, 0)
RIVAL = Cell("digits", "dhn", 12, 0)
MODEL = "isdh-digits-12bit"
QUERIES = np.random.default_rng(0).normal(0, 0.05, 100)


@pytest.fixture
def root(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an empty database. Models are packaged without MLflow's frame: test_pyfunc
    loads one that has it.
    """
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.setattr(package, "package", light_package)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tmp_path


def light_package(workspace: Workspace, cell: Cell, folder: Path, model: Any) -> None:
    shutil.copytree(workspace.model(cell), folder / "artifacts" / cell.name)
    model.signature = package.SIGNATURE
    model.add_flavor("python_function", artifacts={"model": {"path": f"artifacts/{cell.name}"}})
    model.save(folder / "MLmodel")


@pytest.fixture
def workspace(root: Path) -> Workspace:
    synthetic.write_workspace(root)
    return Workspace(root)


def aliases(workspace: Workspace) -> dict[str, str]:
    found = client(workspace).get_registered_model(MODEL).aliases
    return {alias: str(number) for alias, number in found.items()}


def holder(workspace: Workspace) -> tuple[str, str]:
    """Version and cell of the champion of 12 bits."""
    version = client(workspace).get_model_version_by_alias(MODEL, "champion")
    return str(version.version), version.tags["isdh.cell"]


def log(workspace: Workspace, *actions: str) -> list[Any]:
    """The lines of the model of 12 bits; by default the moves of its champion."""
    lines = promotions.lines(workspace, MODEL)
    return [line for line in lines if line["action"] in (actions or promotions.MOVES)]


def description(workspace: Workspace, version: str) -> str:
    return str(client(workspace).get_model_version(MODEL, version).description or "")


def rescore(workspace: Workspace, **methods: float) -> None:
    """Means of the lowest seeds; the queries differ alike for all methods."""
    for method, value in methods.items():
        score_queries(workspace, Cell("digits", method, 12, 0), value + QUERIES - QUERIES.mean())


def retrain(workspace: Workspace, cell: Cell, weights: str) -> None:
    synthetic.write_model(workspace, cell, fingerprint="e" * 64, weights=weights)


# ---------------------------------------------------------------- by the rule


def test_the_first_candidate_wins_and_the_move_is_logged_with_its_numbers(workspace, small):
    rescore(workspace, isdh=0.5, dhn=0.6)
    (decision,) = tracking.promote(workspace, small)
    assert (decision.moves, decision.cell, decision.version) == (True, RIVAL, "1")
    assert holder(workspace) == ("1", str(RIVAL))
    (move,) = log(workspace, "promote", "nominate", "evaluate")
    assert move["from"] is None
    expected = {"version": "1", "seeds": 1, "metric": "ndcg_at_100", "by": "rule", "champion": None}
    assert expected.items() <= move.items()
    assert move["mean"] == pytest.approx(0.6)
    assert move["data"] == projection.data_digest(workspace, "digits")
    assert move["when"].startswith("20")
    assert "@" in move["who"]


def test_scores_are_tied_to_the_registered_model(workspace, small):
    tracking.promote(workspace, small)
    version = client(workspace).get_model_version(MODEL, "1")
    model = client(workspace).get_logged_model(version.source.removeprefix("models:/"))
    scores = read_json(workspace.scores(CELL))
    assert {metric.key: metric.value for metric in model.metrics} == scores
    run = client(workspace).get_run(tracking.publish(workspace, small, CELL))
    assert (model.name, model.source_run_id) == (CELL.name, run.info.run_id)
    assert model.params == run.data.params
    assert {metric.dataset_digest for metric in model.metrics} == {
        run.inputs.dataset_inputs[0].dataset.digest
    }
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": MODEL, "version": "1"}]


def test_the_same_again_writes_neither_line_nor_row(workspace, small):
    rescore(workspace, isdh=0.6, dhn=0.5)
    tracking.promote(workspace, small)
    noisy = 0.6 + np.random.default_rng(1).normal(0.001, 0.3, 100)
    score_queries(workspace, RIVAL, noisy - noisy.mean() + 0.601)  # better, within chance
    tracking.promote(workspace, small)
    before, lines = dump(workspace), (workspace.root / "promotions.jsonl").read_text()
    (decision,) = tracking.promote(workspace, small)
    assert (decision.moves, decision.version) == (False, "2")
    assert dump(workspace) == before
    assert (workspace.root / "promotions.jsonl").read_text() == lines


def test_a_better_method_takes_over_and_a_worse_one_does_not(workspace, small):
    rescore(workspace, isdh=0.6, dhn=0.5)
    tracking.promote(workspace, small)
    rescore(workspace, dhn=0.7)
    tracking.promote(workspace, small)
    assert holder(workspace) == ("2", str(RIVAL))
    rescore(workspace, dhn=0.65)
    tracking.promote(workspace, small)
    assert [move["version"] for move in log(workspace)] == ["1", "2"]
    assert [move["from"] for move in log(workspace)] == [None, "1"]


def test_a_move_is_logged_and_described_with_the_numbers_of_both_the_test_and_the_data(
    workspace, small
):
    rescore(workspace, isdh=0.6, dhn=0.5)
    tracking.promote(workspace, small)
    rescore(workspace, dhn=0.7)
    tracking.promote(workspace, small)
    _, move = log(workspace)
    assert move["mean"] == pytest.approx(0.7)
    champion = move["champion"]
    assert (champion["version"], champion["cell"]) == ("1", str(CELL))
    assert champion["mean"] == pytest.approx(0.6)
    assert move["gain"] == pytest.approx(0.1)
    assert move["interval"] == pytest.approx([0.1, 0.1])
    assert (move["margin"], move["confidence"], move["direction"]) == (0.0, 0.95, "max")
    text = description(workspace, "2")
    assert "promote: version 2 in place of 1: ndcg_at_100 0.7000, the champion's 0.6000" in text
    assert move["when"] in text
    assert move["who"] in text
    assert str(move["data"]) in text
    assert "promote: version 1, the first" in description(workspace, "1")


def test_equal_weights_are_one_version_and_other_weights_another(workspace, small):
    rescore(workspace, isdh=0.6, dhn=0.5)
    tracking.promote(workspace, small)
    rescore(workspace, isdh=0.4)
    tracking.promote(workspace, small)
    rescore(workspace, isdh=0.6)
    tracking.promote(workspace, small)
    assert [move["version"] for move in log(workspace)] == ["1", "2", "1"]
    retrain(workspace, CELL, "retrained")
    rescore(workspace, isdh=0.8)
    tracking.promote(workspace, small)
    assert aliases(workspace) == {"champion": "1", "challenger": "3"}
    text = description(workspace, "1")
    assert text.count("promote: version 1") == 2
    assert text.index("in place of 2") < text.index("the first")  # the newest on top


def test_a_margin_not_reached_makes_the_candidate_challenger_and_leaves_the_champion(workspace):
    rule = {"metric": "ndcg_at_100", "margin": 0.25}
    settings = synthetic.write_params(workspace.root, bits=[12], seeds=[0], champion=rule)
    rescore(workspace, isdh=0.5, dhn=0.25)
    tracking.promote(workspace, settings)
    assert aliases(workspace) == {"champion": "1"}
    rescore(workspace, dhn=0.75)
    (decision,) = tracking.promote(workspace, settings)
    assert (decision.moves, decision.version, decision.champion) == (False, "2", "1")
    assert aliases(workspace) == {"champion": "1", "challenger": "2"}


def test_a_candidate_within_chance_is_nominated_with_its_numbers_until_it_wins(workspace, small):
    rescore(workspace, isdh=0.5, dhn=0.4)
    tracking.promote(workspace, small)
    noise = np.random.default_rng(1).normal(0, 0.5, 100)
    score_queries(workspace, RIVAL, 0.51 + noise - noise.mean())
    (decision,) = tracking.promote(workspace, small)
    assert not decision.moves
    assert "within chance" in decision.reason
    assert aliases(workspace) == {"champion": "1", "challenger": "2"}
    (line,) = log(workspace, "nominate")
    assert line["interval"][0] < 0 < line["interval"][1]
    assert line["champion"]["mean"] == pytest.approx(0.5)
    assert line["why"] == decision.reason
    assert decision.reason in description(workspace, "2")
    rescore(workspace, dhn=0.6)
    tracking.promote(workspace, small)
    assert aliases(workspace) == {"champion": "2"}


def test_a_challenger_goes_when_the_champion_is_the_candidate_again(workspace, small):
    rescore(workspace, isdh=0.5, dhn=0.4)
    tracking.promote(workspace, small)
    noise = np.random.default_rng(1).normal(0, 0.5, 100)
    score_queries(workspace, RIVAL, 0.51 + noise - noise.mean())
    tracking.promote(workspace, small)
    rescore(workspace, dhn=0.3)
    (decision,) = tracking.promote(workspace, small)
    assert decision.reason == "is the champion already"
    assert aliases(workspace) == {"champion": "1"}


def test_without_values_per_query_nothing_moves_unless_the_rule_asks_for_no_test(workspace, small):
    synthetic.write_scores(workspace, CELL, ndcg_at_100=0.5)
    synthetic.write_scores(workspace, RIVAL, ndcg_at_100=0.4)
    tracking.promote(workspace, small)
    synthetic.write_scores(workspace, RIVAL, ndcg_at_100=0.9)
    (decision,) = tracking.promote(workspace, small)
    assert not decision.moves
    assert "set champion.confidence: null" in decision.reason
    rule = {"metric": "ndcg_at_100", "confidence": None}
    without = synthetic.write_params(workspace.root, bits=[12], seeds=[0], champion=rule)
    assert tracking.promote(workspace, without)[0].moves


def test_seeds_are_averaged_query_by_query_before_the_test(workspace):
    """Each seed alone would be far from certain; their mean leads on every query."""
    both = synthetic.write_params(workspace.root, bits=[12])
    noise = np.random.default_rng(1).normal(0, 1.0, 100)
    for seed in (0, 1):
        score_queries(workspace, Cell("digits", "isdh", 12, seed), np.full(100, 0.5))
        score_queries(workspace, Cell("digits", "dhn", 12, seed), np.full(100, 0.4))
    tracking.promote(workspace, both)
    for seed, sign in ((0, 1), (1, -1)):
        score_queries(workspace, Cell("digits", "dhn", 12, seed), 0.51 + sign * noise)
    (decision,) = tracking.promote(workspace, both)
    assert decision.moves
    assert log(workspace)[-1]["interval"] == pytest.approx([0.01, 0.01])


def test_a_champion_with_more_seeds_than_before_is_measured_by_all_of_them(workspace, small):
    rescore(workspace, isdh=0.8, dhn=0.7)
    tracking.promote(workspace, small)
    both = synthetic.write_params(workspace.root, bits=[12])
    for method, mean in (("isdh", 0.2), ("dhn", 0.7)):
        values = mean + QUERIES - QUERIES.mean()
        score_queries(workspace, Cell("digits", method, 12, 1), values)
    (decision,) = tracking.promote(workspace, both)
    assert decision.moves
    assert "0.7000, the champion's 0.5000" in decision.reason


def test_a_champion_that_is_no_longer_the_lowest_seed_still_stands_for_its_method(workspace):
    one = synthetic.write_params(workspace.root, bits=[12], seeds=[1])
    for method, mean in (("isdh", 0.8), ("dhn", 0.7)):
        for seed in (0, 1):
            score_queries(workspace, Cell("digits", method, 12, seed), mean + QUERIES)
    tracking.promote(workspace, one)
    both = synthetic.write_params(workspace.root, bits=[12])
    (decision,) = tracking.promote(workspace, both)
    assert not decision.moves
    assert "not better by more than the margin" in decision.reason


@pytest.mark.parametrize("gone", [False, True])
def test_a_cell_whose_scores_are_of_the_model_before_is_passed_over(workspace, small, gone):
    rescore(workspace, isdh=0.9, dhn=0.5)
    if gone:  # DVC removes the model when its training starts
        shutil.rmtree(workspace.model(CELL))
    else:
        retrain(workspace, CELL, "retrained")
    (decision,) = tracking.promote(workspace, small)
    assert decision.cell == RIVAL
    assert decision.mean == pytest.approx(0.5)


def lock_of(cell: Cell, *, encoded: str = "i1", searched: str = "m1") -> dict[str, Any]:
    """dvc.lock with inputs i1 and manifest m1; what `encode` and `evaluate` read may differ."""

    def files(**hashes: str) -> list[dict[str, str]]:
        return [
            {"path": f"data/digits/{name.replace('_', '.')}", "hash": "md5", "md5": digest}
            for name, digest in hashes.items()
        ]

    codes = [{"path": f"codes/digits/{cell.name}", "md5": "c1.dir"}]
    return {
        "schema": "2.0",
        "stages": {
            "dataset@digits": {"outs": files(manifest_parquet="m1")},
            "preprocess@digits": {"outs": files(inputs_npy="i1", labels_npy="l1")},
            cell.address("encode"): {"deps": files(inputs_npy=encoded), "outs": codes},
            cell.address("evaluate"): {
                "deps": [*files(manifest_parquet=searched, labels_npy="l1"), *codes]
            },
        },
    }


@pytest.mark.parametrize(
    ("others", "stale"), [({}, False), ({"encoded": "i0"}, True), ({"searched": "m0"}, True)]
)
def test_scores_of_other_data_than_dvc_lock_has_now_are_refused(workspace, small, others, stale):
    lock = lock_of(CELL, **others)
    (workspace.root / "dvc.lock").write_text(json.dumps(lock) + "\n")
    if stale:
        with pytest.raises(
            InputError, match=r"'digits/isdh-12-0': scored on other data.*dvc repro"
        ):
            tracking.promote(workspace, small)
        assert log(workspace) == []
    else:
        assert tracking.promote(workspace, small)[0].moves


@pytest.mark.parametrize("code", [INTERNAL_ERROR, TEMPORARILY_UNAVAILABLE])
def test_a_champion_that_cannot_be_asked_for_is_not_taken_for_none(
    workspace, small, monkeypatch, code
):
    rescore(workspace, isdh=0.6, dhn=0.5)
    tracking.promote(workspace, small)
    rescore(workspace, isdh=0.4)

    def fail(*args: Any) -> None:
        raise MlflowException("timed out", code)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "get_model_version_by_alias", fail)
        with pytest.raises(InputError, match="timed out"):
            tracking.promote(workspace, small)
        with pytest.raises(InputError, match="timed out"):
            tracking.rollback(workspace, small, "digits", 12, reason="slow")
    assert holder(workspace) == ("1", str(CELL))
    assert len(log(workspace)) == 1


def test_neither_a_missing_model_nor_a_missing_alias_is_a_champion(workspace):
    mlflow = client(workspace)
    assert versions.champion_version(mlflow, MODEL) is None
    mlflow.create_registered_model(MODEL)
    assert versions.champion_version(mlflow, MODEL) is None


def test_a_dry_run_decides_alike_and_writes_nothing(workspace, small):
    tracking.prepare(workspace, small)
    before = dump(workspace)
    (dry,) = tracking.promote(workspace, small, dry_run=True)
    assert dump(workspace) == before
    assert not (workspace.root / "promotions.jsonl").exists()
    (wet,) = tracking.promote(workspace, small)
    assert (dry.moves, dry.reason, dry.cell, dry.mean) == (
        wet.moves,
        wet.reason,
        wet.cell,
        wet.mean,
    )


def test_too_few_seeds_make_no_candidate(workspace):
    rule = {"metric": "ndcg_at_100", "min_seeds": 3}
    settings = synthetic.write_params(workspace.root, bits=[12], champion=rule)
    (decision,) = tracking.promote(workspace, settings)
    assert decision.cell is None
    assert "3 scored seeds" in decision.reason


@pytest.mark.parametrize(
    ("step", "lines"),
    [
        ("create_model_version", 0),
        ("set_registered_model_alias", 1),
        ("update_model_version", 1),
    ],
)
def test_what_a_killed_promotion_left_undone_the_next_one_does_without_another_line(
    workspace, small, monkeypatch, step, lines
):
    def killed(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, step, killed)
        with pytest.raises(KeyboardInterrupt):
            tracking.promote(workspace, small)
    assert len(log(workspace)) == lines
    tracking.promote(workspace, small)
    assert holder(workspace) == ("1", str(CELL))
    (move,) = log(workspace)
    assert move["when"] in description(workspace, "1")
    found = client(workspace).search_model_versions(f"name = '{MODEL}'")
    assert [str(version.version) for version in found] == ["1"]


def test_the_champions_method_is_marked_in_the_comparison(workspace, small):
    rescore(workspace, isdh=0.5, dhn=0.6)
    tracking.publish_all(workspace, small)
    tracking.promote(workspace, small)
    methods = tracking.compare(workspace, "digits", "ndcg_at_100").methods
    assert [name for name in methods if methods[name][12].champion] == ["dhn"]


# ---------------------------------------------------------------- by hand


@pytest.fixture
def reigned(workspace: Workspace, small: Params) -> Params:
    """Version 1, of isdh, was champion before version 2, of dhn."""
    rescore(workspace, isdh=0.6, dhn=0.5)
    tracking.promote(workspace, small)
    rescore(workspace, dhn=0.7)
    tracking.promote(workspace, small)
    return small


def by_hand(workspace: Workspace, settings: Params, version: int, **how: Any) -> Any:
    reason = how.pop("reason", "looks better")
    return tracking.promote_version(
        workspace, settings, "digits", 12, version, reason=reason, **how
    )


def back(workspace: Workspace, settings: Params, **how: Any) -> Any:
    reason = how.pop("reason", "finds cats only")
    return tracking.rollback(workspace, settings, "digits", 12, reason=reason, **how)


def test_a_version_promoted_by_hand_is_logged_and_described_with_the_reason(workspace, reigned):
    decision = by_hand(workspace, reigned, 1)
    assert (decision.moves, decision.champion, decision.version) == (True, "2", "1")
    assert holder(workspace) == ("1", str(CELL))
    move = log(workspace)[-1]
    expected = {"by": "hand", "from": "2", "version": "1", "why": "looks better"}
    assert expected.items() <= move.items()
    assert move["mean"] == pytest.approx(0.6)
    assert move["data"] == projection.data_digest(workspace, "digits")
    assert "promote: version 1 in place of 2: looks better" in description(workspace, "1")


def test_the_rule_goes_on_after_a_promotion_by_hand(workspace, reigned):
    by_hand(workspace, reigned, 1)
    (decision,) = tracking.promote(workspace, reigned)
    assert (decision.moves, holder(workspace)[0]) == (True, "2")
    assert len(log(workspace)) == 4


def test_the_champion_promoted_again_writes_nothing(workspace, reigned):
    before, lines = dump(workspace), log(workspace)
    assert not by_hand(workspace, reigned, 2).moves
    assert dump(workspace) == before
    assert log(workspace) == lines


def test_an_unknown_version_is_refused_with_the_known_ones(workspace, reigned):
    with pytest.raises(InputError, match=rf"unknown version of {MODEL} '3'.*known: 1, 2"):
        by_hand(workspace, reigned, 3)


@pytest.mark.parametrize("move", [by_hand, back])
def test_a_move_by_hand_wants_a_reason(workspace, reigned, move):
    how: Any = {"version": 1} if move is by_hand else {}
    with pytest.raises(InputError, match="say why"):
        move(workspace, reigned, reason=" ", **how)


@pytest.mark.parametrize("move", [by_hand, back])
def test_a_dry_run_by_hand_decides_and_writes_nothing(workspace, reigned, move):
    before, lines = dump(workspace), log(workspace)
    how: Any = {"version": 1} if move is by_hand else {}
    dry = move(workspace, reigned, dry_run=True, **how)
    assert dump(workspace) == before
    assert log(workspace) == lines
    assert move(workspace, reigned, **how) == dry


def test_rollback_brings_the_last_champion_back_and_the_rule_leaves_it(workspace, reigned):
    decision = back(workspace, reigned)
    assert (decision.champion, decision.version) == ("2", "1")
    assert holder(workspace) == ("1", str(CELL))
    move = log(workspace)[-1]
    assert (move["why"], move["from"], move["version"]) == ("finds cats only", "2", "1")
    assert move["withdrawn"] == read_json(workspace.model(RIVAL) / "model.json")["weights_sha256"]
    for version in "1", "2":
        assert "rollback: version 1 in place of 2: finds cats only" in description(
            workspace, version
        )
    tracking.promote(workspace, reigned)
    assert holder(workspace) == ("1", str(CELL))
    with pytest.raises(InputError, match="no champion before version 1"):
        back(workspace, reigned)
    assert holder(workspace) == ("1", str(CELL))
    assert len(log(workspace)) == 3


def test_a_withdrawn_version_is_taken_by_hand_only_if_that_is_said_and_then_by_the_rule_too(
    workspace, reigned
):
    back(workspace, reigned)
    with pytest.raises(InputError, match="version 2 was withdrawn; --withdrawn takes it"):
        by_hand(workspace, reigned, 2)
    assert holder(workspace)[0] == "1"
    by_hand(workspace, reigned, 2, withdrawn=True, reason="cats are all we have")
    assert holder(workspace)[0] == "2"
    by_hand(workspace, reigned, 1)
    (decision,) = tracking.promote(workspace, reigned)
    assert (decision.moves, decision.version) == (True, "2")


def test_a_withdrawal_outlives_the_database(workspace, reigned, empty_database):
    back(workspace, reigned)
    shutil.rmtree(workspace.root / "mlartifacts")
    shutil.copy(empty_database, workspace.root / "mlflow.db")
    tracking.publish_all(workspace, reigned)
    (decision,) = tracking.promote(workspace, reigned)
    assert (decision.moves, decision.cell) == (True, CELL)
    tracking.promote(workspace, reigned)
    assert holder(workspace)[1] == str(CELL)


def test_rollback_without_a_champion_is_refused(workspace, small):
    with pytest.raises(InputError, match=f"'{MODEL}': has no champion"):
        back(workspace, small)


@pytest.mark.parametrize("step", ["set_model_version_tag", "set_registered_model_alias"])
@pytest.mark.parametrize("again", [back, None])
def test_a_rollback_that_was_killed_is_finished_by_the_next_one_or_by_the_rule(
    workspace, reigned, monkeypatch, step, again
):
    def killed(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, step, killed)
        with pytest.raises(KeyboardInterrupt):
            back(workspace, reigned)
    assert holder(workspace)[0] == "2"
    if again:
        again(workspace, reigned)
    else:
        tracking.promote(workspace, reigned)
    assert holder(workspace)[0] == "1"
    assert [line["action"] for line in log(workspace)] == ["promote", "promote", "rollback"]
    assert "isdh.withdrawn" in client(workspace).get_model_version(MODEL, "2").tags


def test_the_commands_say_what_moves_and_why(workspace, reigned, isdh, capsys):
    of = ("--dataset", "digits", "--bits", "12")
    assert isdh("promote", "--version", "1", *of, "--reason", "quicker", "--dry-run") == 0
    told = f"{MODEL}: champion moves to version 1 (digits/isdh-12-0): quicker\n"
    assert capsys.readouterr().out == told
    assert holder(workspace)[0] == "2"
    assert isdh("promote", "--version", "1", *of, "--reason", "quicker") == 0
    assert holder(workspace)[0] == "1"
    assert isdh("rollback", "digits", "12", "--reason", "blind", "--dry-run") == 0
    assert holder(workspace)[0] == "1"
    assert isdh("rollback", "digits", "12", "--reason", "blind") == 0
    assert "champion moves to version 2 (digits/dhn-12-0): blind" in capsys.readouterr().out
    assert holder(workspace)[0] == "2"
    assert isdh("promote", "--version", "1", *of, "--reason", "no", "--withdrawn") == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--version", "1"], "--version=1: of which model, and why?"),
        (["--reason", "x"], "go with --version"),
        (["--withdrawn"], "go with --version"),
    ],
)
def test_half_a_promotion_by_hand_is_refused(reigned, isdh, capsys, words, told):
    assert isdh("promote", *words) == 2
    assert told in capsys.readouterr().err


def test_the_command_names_the_challenger(workspace, reigned, isdh, capsys):
    noise = np.random.default_rng(1).normal(0, 0.5, 100)
    score_queries(workspace, CELL, 0.71 + noise - noise.mean())
    assert isdh("promote") == 0
    told = capsys.readouterr().out
    assert "champion stays version 2, challenger is version 1 (digits/isdh-12-0): ndcg" in told


# ---------------------------------------------------------------- bad input


def loaded(workspace: Workspace, version: str) -> Path:
    """Where the weights of a version lie in the artifact store."""
    mlflow = client(workspace)
    uri = mlflow.get_model_version_download_uri(MODEL, version)
    (weights,) = Path(uri.removeprefix("file://")).rglob("weights.safetensors")
    return weights


def flip(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    return sha256(path)


def test_altered_weights_are_written_again_where_the_model_is_here_and_that_is_logged(
    workspace, reigned
):
    found = flip(loaded(workspace, "2"))
    (decision,) = tracking.promote(workspace, reigned)
    assert "version 2 was not as registered, written again" in decision.reason
    wanted = read_json(workspace.model(RIVAL) / "model.json")["weights_sha256"]
    assert sha256(loaded(workspace, "2")) == wanted
    (line,) = log(workspace, "mend")
    assert line["version"] == "2"
    assert found in line["why"]
    assert wanted in line["why"]
    assert line["why"] in description(workspace, "2")
    tracking.promote(workspace, reigned)
    assert len(log(workspace, "mend")) == 1


def test_publishing_mends_champion_and_challenger_whose_models_are_here(workspace):
    settings = synthetic.write_params(workspace.root, bits=[12], seeds=[0])
    rescore(workspace, isdh=0.5, dhn=0.5 + 1e-6)
    tracking.promote(workspace, settings)
    rescore(workspace, isdh=0.5 + 2e-6, dhn=0.5)
    rule = settings.champion.model_copy(update={"margin": 0.1})
    tracking.promote(workspace, settings.model_copy(update={"champion": rule}))
    assert aliases(workspace) == {"champion": "1", "challenger": "2"}
    for number in ("1", "2"):
        flip(loaded(workspace, number))
    told: list[str] = []
    tracking.mend(workspace, settings, tell=told.append)
    assert [note.split(" was ")[0] for note in told] == [f"{MODEL}: version {n}" for n in (1, 2)]
    for number, cell in (("1", RIVAL), ("2", CELL)):
        wanted = read_json(workspace.model(cell) / "model.json")["weights_sha256"]
        assert sha256(loaded(workspace, number)) == wanted
    tracking.mend(workspace, settings, tell=told.append)
    assert len(told) == len(log(workspace, "mend")) == 2


@pytest.mark.parametrize("damage", ["altered", "lost"])
def test_altered_or_lost_weights_whose_model_is_gone_are_told_and_nothing_is_written(
    workspace, reigned, damage
):
    retrain(workspace, CELL, "retrained")  # the model of version 1 is gone
    rescore(workspace, isdh=0.65)
    weights = loaded(workspace, "1")
    wanted = sha256(weights)
    found = flip(weights) if damage == "altered" else ""
    if damage == "lost":
        shutil.rmtree(weights.parents[2])
    before, lines = dump(workspace), log(workspace)
    told = f"'{MODEL}', version 1: not as registered.*delete version 1 in MLflow's page"
    for move in (lambda: by_hand(workspace, reigned, 1), lambda: back(workspace, reigned)):
        with pytest.raises(InputError, match=told) as error:
            move()
        if damage == "altered":
            assert f"sha256 {found}, registered were {wanted}" in str(error.value)
    assert dump(workspace) == before
    assert log(workspace) == lines


def test_an_altered_champion_stops_its_own_model_and_no_other(workspace):
    settings = synthetic.write_params(workspace.root, seeds=[0])
    tracking.promote(workspace, settings)
    retrain(workspace, CELL, "retrained")
    rescore(workspace, isdh=0.9)
    flip(loaded(workspace, "1"))
    other = Cell("digits", "dhn", 24, 0)
    for cell, mean in ((other, 0.9), (Cell("digits", "isdh", 24, 0), 0.5)):
        score_queries(workspace, cell, mean + QUERIES - QUERIES.mean())
    told: list[Any] = []
    with pytest.raises(InputError, match=f"'{MODEL}', version 1: not as registered"):
        tracking.promote(workspace, settings, tell=told.append)
    assert [(decision.model, decision.moves) for decision in told] == [("isdh-digits-24bit", True)]
    assert aliases(workspace) == {"champion": "1"}
    mlflow = client(workspace)
    mlflow.delete_model_version(MODEL, "1")  # as the message says
    tracking.promote(workspace, settings)
    assert holder(workspace) == ("2", str(CELL))


@pytest.mark.parametrize(
    "tags", [{}, {"isdh.cell": "holiday/isdh-12-0", "isdh.weights_sha256": "0" * 64}]
)
def test_a_name_taken_by_another_model_is_told_and_nothing_is_written(workspace, small, tags):
    tracking.publish_all(workspace, small)
    mlflow = client(workspace)
    mlflow.create_registered_model(MODEL)
    mlflow.create_model_version(MODEL, (workspace.root / "elsewhere").as_uri(), tags=tags)
    mlflow.set_registered_model_alias(MODEL, "champion", "1")
    before = dump(workspace)
    for move in (
        lambda: tracking.promote(workspace, small),
        lambda: by_hand(workspace, small, 1),
        lambda: back(workspace, small),
    ):
        with pytest.raises(InputError, match=f"'{MODEL}': version 1 was registered by someone"):
            move()
    assert dump(workspace) == before
    assert not (workspace.root / "promotions.jsonl").exists()
    mlflow.delete_model_version(MODEL, "1")
    assert tracking.promote(workspace, small)[0].moves


def test_a_name_taken_by_a_prompt_is_told_and_no_model_is_logged(workspace, small):
    tracking.publish_all(workspace, small)
    client(workspace).register_prompt(MODEL, "hello")
    with pytest.raises(InputError, match=r"already taken by a prompt.*delete it in MLflow's page"):
        tracking.promote(workspace, small)
    number = str(server.find_experiment(client(workspace), "digits"))
    assert client(workspace).search_logged_models([number]) == []


def test_a_champion_of_another_signature_is_told(workspace, reigned):
    from mlflow.models import Model

    folder = loaded(workspace, "2").parents[2]
    model = Model.load(folder)
    model.signature = ModelSignature(Schema([ColSpec("double", "price")]))
    model.save(folder / "MLmodel")
    retrain(workspace, RIVAL, "retrained")
    with pytest.raises(InputError, match=r"version 2: not as registered.*other columns than image"):
        tracking.promote(workspace, reigned)


@pytest.mark.parametrize("first", [False, True])
def test_an_alias_moved_by_someone_else_meanwhile_is_left_there(
    workspace, small, monkeypatch, first
):
    rescore(workspace, isdh=0.6, dhn=0.5)
    if not first:
        tracking.promote(workspace, small)
        rescore(workspace, dhn=0.7)
    whole = registration.register

    def meanwhile(*args: Any, **kwargs: Any) -> Any:
        made = whole(*args, **kwargs)
        other = whole(*args, **kwargs)
        client(workspace).set_registered_model_alias(MODEL, "champion", other.version)
        return made

    lines = log(workspace)
    with monkeypatch.context() as patch:
        patch.setattr(registration, "register", meanwhile)
        with pytest.raises(InputError, match=rf"'{MODEL}': somebody else moved the champion from"):
            tracking.promote(workspace, small)
    assert aliases(workspace)["champion"] == ("2" if first else "3")
    assert log(workspace) == lines


def test_a_move_undone_by_someone_else_is_made_and_logged_once_more(workspace, reigned):
    client(workspace).set_registered_model_alias(MODEL, "champion", "1")
    tracking.promote(workspace, reigned)
    assert [(line["from"], line["version"]) for line in log(workspace)] == [
        (None, "1"),
        ("1", "2"),
        ("1", "2"),
    ]
    assert aliases(workspace) == {"champion": "2"}


@pytest.mark.parametrize("since", [False, True])
def test_a_withdrawn_version_that_someone_else_made_champion_is_replaced(workspace, reigned, since):
    """By the one that took its place; if the champion moved since, by the candidate."""
    back(workspace, reigned)
    if since:
        retrain(workspace, CELL, "retrained")
        rescore(workspace, isdh=0.65)
        tracking.promote(workspace, reigned)  # version 3 is challenger
        by_hand(workspace, reigned, 3)
    client(workspace).set_registered_model_alias(MODEL, "champion", "2")
    (decision,) = tracking.promote(workspace, reigned)
    assert holder(workspace)[0] == ("3" if since else "1")
    assert ("was withdrawn" in decision.reason) is since


def test_equal_versions_of_two_machines_are_one(workspace, small):
    tracking.promote(workspace, small)
    first = client(workspace).get_model_version(MODEL, "1")
    with server.as_default(server.address(workspace)):
        second = client(workspace).create_model_version(
            MODEL, first.source, first.run_id, first.tags
        )
    client(workspace).set_registered_model_alias(MODEL, "champion", second.version)
    (decision,) = tracking.promote(workspace, small)
    assert decision.reason == "is the champion already"
    assert aliases(workspace) == {"champion": "2"}


def test_a_run_deleted_in_mlflow_is_published_again_and_promotion_goes_on(workspace, reigned):
    mlflow = client(workspace)
    for version in ("1", "2"):
        mlflow.delete_run(mlflow.get_model_version(MODEL, version).run_id)
    assert not tracking.promote(workspace, reigned)[0].moves
    assert tracking.publish_all(workspace, reigned).written == 2
    rescore(workspace, isdh=0.8)
    tracking.promote(workspace, reigned)
    assert holder(workspace) == ("1", str(CELL))
    assert [method for method in tracking.runs(workspace, "digits")["method"]] == ["dhn", "isdh"]


def test_a_version_deleted_in_mlflow_is_registered_anew(workspace, reigned):
    client(workspace).delete_model_version(MODEL, "2")
    (decision,) = tracking.promote(workspace, reigned)
    assert "no champion yet" in decision.reason
    assert holder(workspace) == ("3", str(RIVAL))


def test_a_note_of_ones_own_in_the_description_stays(workspace, reigned):
    client(workspace).update_model_version(MODEL, "1", "ours, by the window")
    by_hand(workspace, reigned, 1)
    tracking.promote(workspace, reigned)
    text = description(workspace, "1")
    assert text.endswith("\n\nours, by the window")
    assert text.count("looks better") == 1


# ---------------------------------------------------------------- other data


SIZE = 32
WORLD = {
    "methods": ["isdh", "dhn"],
    "bits": [12],
    "seeds": [0],
    "evaluate": {"cutoffs": [10, None]},
    "champion": {"metric": "ndcg_at_10"},
}


def write_world(root: Path, seed: int, *, size: int = SIZE) -> tuple[Workspace, Params]:
    """Data as the stages leave it, of dark and bright pictures; another seed makes other ones."""
    workspace = Workspace(root)
    settings = synthetic.write_params(root, **WORLD)
    generator = np.random.default_rng(seed)
    (root / "raw" / "digits").mkdir(parents=True, exist_ok=True)
    bright = generator.random(60) < 0.5
    paths = [f"{seed}-{row}.png" for row in range(60)]
    for path, light in zip(paths, bright, strict=True):
        level = generator.normal(100 + 50 * light, 25)  # that some dark ones are brighter
        pixels = generator.normal(level, 20, (24, 24)).clip(0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(root / "raw" / "digits" / path)
    files = [root / "raw" / "digits" / path for path in paths]
    folder = workspace.data("digits")
    folder.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(
        {
            "image": paths,
            "path": paths,
            "split": ["train"] * 10 + ["query"] * 15 + ["database"] * 35,
            "also_database": False,
            "sha256": [sha256(path) for path in files],
            "dark": ~bright,
            "bright": bright,
        }
    )
    manifest.write(frame, workspace.manifest("digits"))
    inputs = [decode(path.read_bytes(), size=size, channels=1) for path in files]
    write_array(folder / "inputs.npy", np.stack(inputs))
    write_array(folder / "mirrored.npy", np.empty((0, size, size, 1), dtype=np.uint8))
    write_array(folder / "labels.npy", manifest.label_matrix(frame))
    card = {
        "inputs": Images(kind="images", size=size, channels=1).model_dump(),
        "shape": [size, size, 1],
        "rows": 60,
        "labels": ["dark", "bright"],
        "sha256": {
            name: sha256(folder / name) for name in ("inputs.npy", "mirrored.npy", "labels.npy")
        },
        "backbone_sha256": None,
    }
    write_json(folder / "inputs.json", card)
    return workspace, settings


def train(workspace: Workspace, settings: Params, cell: Cell, *, sees: bool, seed: int = 0) -> None:
    """A model, its codes and scores; one that does not see gives every picture the same code."""
    torch.manual_seed(seed)
    folder = workspace.data("digits")
    inputs = read_array(folder / "inputs.npy", dtype=np.uint8)
    size = inputs.shape[1]
    section = Network(backbone="convnet")
    network = networks.build(input_shape=(size, size, 1), bits=12, **section.model_dump()).eval()
    with torch.inference_mode():  # outputs around 0, that they differ
        network.head[-1].bias -= network(torch.from_numpy(np.array(inputs))).mean(dim=0)
        if not sees:
            network.head[-1].weight.zero_()
    models.save(
        workspace.model(cell),
        network,
        bits=12,
        inputs=Images(kind="images", size=size, channels=1).model_dump(),
        settings=section,
        input_shape=(size, size, 1),
        labels=["dark", "bright"],
        head=None,
        backbone_sha256=None,
    )
    write_json(workspace.model(cell) / "history.json", synthetic.history(cell))
    packed = encoding.encode(network, inputs, device=torch.device("cpu"))
    weights = read_json(workspace.model(cell) / "model.json")["weights_sha256"]
    write_codes(workspace.codes(cell), packed, bits=12, weights_sha256=weights)
    scores = scores_of(workspace, settings, packed)
    write_json(workspace.scores(cell), scores.as_dict())
    with replacing(workspace.scores(cell).with_suffix(".npz")) as stream:
        np.savez(stream, weights_sha256=weights, **scores.per_query)


def scores_of(workspace: Workspace, settings: Params, packed: np.ndarray) -> metrics.Scores:
    """Queries and database stand in one piece each."""
    labels = np.load(workspace.data("digits") / "labels.npy")
    return metrics.evaluate(
        packed[10:25],
        labels[10:25],
        packed[25:],
        labels[25:],
        bits=12,
        cutoffs=settings.evaluate.cutoffs,
    )


def digest(workspace: Workspace, settings: Params) -> str:
    return str(evaluation.protocol(workspace, settings, "digits"))


@pytest.fixture
def sighted(root: Path) -> tuple[Workspace, Params]:
    """A champion that sees, isdh, and one that does not, dhn, on the pictures of seed 1."""
    workspace, settings = write_world(root, 1)
    train(workspace, settings, CELL, sees=True)
    train(workspace, settings, RIVAL, sees=False)
    tracking.promote(workspace, settings)
    assert holder(workspace) == ("1", str(CELL))
    return workspace, settings


def old_scores(workspace: Workspace, settings: Params) -> metrics.Scores:
    """The champion's, version 1, on the pictures of today, by the way from their bytes."""
    encoder = Encoder.load(loaded(workspace, "1").parent)
    frame = manifest.read(workspace.manifest("digits"))
    raw = workspace.root / "raw" / "digits"
    packed = encoder.encode([(raw / path).read_bytes() for path in frame["path"]])
    return scores_of(workspace, settings, packed)


def test_on_other_data_the_champion_is_evaluated_again_from_its_registered_weights(sighted):
    workspace, settings = sighted
    first, then = read_json(workspace.scores(CELL))["ndcg_at_10"], digest(*sighted)
    write_world(workspace.root, 2)
    for cell in CELL, RIVAL:
        train(workspace, settings, cell, sees=False, seed=cell == CELL)
    (decision,) = tracking.promote(workspace, settings)
    now = old_scores(workspace, settings).as_dict()
    assert now["ndcg_at_10"] != first  # or the test would not tell old from new
    assert not decision.moves
    assert f"the champion's {now['ndcg_at_10']:.4f}" in decision.reason
    assert f"evaluated again; on the data of then {first:.4f}, seeds: 1" in decision.reason
    assert aliases(workspace) == {"champion": "1", "challenger": "2"}
    (line,) = log(workspace, "evaluate")
    assert (line["version"], line["mean"], line["seeds"]) == ("1", now["ndcg_at_10"], 1)
    assert (line["before"]["mean"], line["before"]["protocol"]) == (first, then)
    assert line["protocol"] == digest(workspace, settings) != then
    assert line["data"] == projection.data_digest(workspace, "digits") != line["before"]["data"]
    assert line["interval"][1] < 0
    assert line["candidate"]["mean"] == decision.mean
    version = client(workspace).get_model_version(MODEL, "1")
    assert json.loads(version.tags["isdh.means"]) == now
    assert version.tags["isdh.protocol"] == line["protocol"]
    assert "evaluate: version 1: ndcg_at_10" in description(workspace, "1")
    tracking.promote(workspace, settings)
    assert len(log(workspace, "evaluate")) == 1


def test_a_candidate_that_beats_the_champion_on_the_new_data_takes_over(root):
    workspace, settings = write_world(root, 1)
    for cell in CELL, RIVAL:
        train(workspace, settings, cell, sees=False, seed=cell == CELL)
    tracking.promote(workspace, settings)
    write_world(root, 2)
    train(workspace, settings, CELL, sees=True, seed=5)
    train(workspace, settings, RIVAL, sees=False, seed=6)
    (decision,) = tracking.promote(workspace, settings)
    assert decision.moves
    assert holder(workspace)[1] == str(CELL)
    assert [line["action"] for line in promotions.lines(workspace, MODEL)] == [
        "promote",
        "evaluate",
        "promote",
    ]
    move = log(workspace)[-1]
    old = old_scores(workspace, settings)
    assert move["champion"]["mean"] == old.as_dict()["ndcg_at_10"]
    with np.load(workspace.scores(CELL).with_suffix(".npz")) as arrays:
        lead = arrays["ndcg_at_10"] - old.per_query["ndcg_at_10"]
    assert move["gain"] == pytest.approx(lead.mean())
    assert 0 < move["interval"][0] < move["gain"] < move["interval"][1]
    assert move["protocol"] == digest(workspace, settings)


def test_a_dry_run_on_other_data_decides_alike_and_writes_nothing(sighted):
    workspace, settings = sighted
    write_world(workspace.root, 2)
    train(workspace, settings, CELL, sees=False, seed=1)
    train(workspace, settings, RIVAL, sees=False, seed=2)
    before, lines = dump(workspace), promotions.lines(workspace, MODEL)
    (dry,) = tracking.promote(workspace, settings, dry_run=True)
    assert dump(workspace) == before
    assert promotions.lines(workspace, MODEL) == lines
    assert tracking.promote(workspace, settings)[0].reason == dry.reason


def test_a_champion_for_pictures_of_another_size_is_evaluated_on_the_pictures_themselves(sighted):
    workspace, settings = sighted
    write_world(workspace.root, 2, size=48)
    for cell in CELL, RIVAL:
        train(workspace, settings, cell, sees=False, seed=cell == CELL)
    (decision,) = tracking.promote(workspace, settings)
    now = old_scores(workspace, settings).as_dict()["ndcg_at_10"]
    assert log(workspace, "evaluate")[0]["mean"] == now
    assert not decision.moves


def test_a_champion_that_cannot_be_evaluated_keeps_the_alias_and_that_is_told(sighted):
    workspace, settings = sighted
    write_world(workspace.root, 2, size=48)
    for cell in CELL, RIVAL:
        train(workspace, settings, cell, sees=True, seed=cell == CELL)
    shutil.rmtree(workspace.root / "raw")
    (decision,) = tracking.promote(workspace, settings)
    assert not decision.moves
    assert "the champion cannot be evaluated on today's data: 2-" in decision.reason
    assert "`isdh promote --version` decides by hand" in decision.reason
    assert aliases(workspace) == {"champion": "1", "challenger": "2"}
    assert by_hand(workspace, settings, 2).moves


def test_a_champion_no_longer_in_the_matrix_is_evaluated_again_on_the_same_data(sighted):
    workspace, _ = sighted
    only = synthetic.write_params(workspace.root, **{**WORLD, "methods": ["dhn"]})
    shutil.rmtree(workspace.root / "raw")  # inputs that its network reads are here
    (decision,) = tracking.promote(workspace, only)
    mean = read_json(workspace.scores(CELL))["ndcg_at_10"]
    assert f"the champion's {mean:.4f}" in decision.reason
    assert "data of then" not in decision.reason
    assert log(workspace, "evaluate") == []


def change_split(workspace: Workspace) -> None:
    frame = manifest.read(workspace.manifest("digits"))
    frame.loc[0, "also_database"] = True
    manifest.write(frame, workspace.manifest("digits"))


def change_cutoffs(workspace: Workspace) -> None:
    synthetic.write_params(workspace.root, **{**WORLD, "evaluate": {"cutoffs": [10, 20]}})


def change_labels(workspace: Workspace) -> None:
    card = read_json(workspace.data("digits") / "inputs.json")
    digests = {**card["sha256"], "labels.npy": "0" * 64}
    write_json(workspace.data("digits") / "inputs.json", {**card, "sha256": digests})


def mirror(workspace: Workspace) -> None:
    card = read_json(workspace.data("digits") / "inputs.json")
    digests = {**card["sha256"], "mirrored.npy": "0" * 64}
    write_json(workspace.data("digits") / "inputs.json", {**card, "sha256": digests})


@pytest.mark.parametrize(
    ("change", "same"),
    [(change_split, False), (change_cutoffs, False), (change_labels, False), (mirror, True)],
)
def test_the_protocol_is_all_that_scores_depend_on_beside_the_model(root, change, same):
    workspace, settings = write_world(root, 1)
    before = digest(workspace, settings)
    change(workspace)
    now = digest(workspace, params.load(root / "params.yaml"))
    assert (now == before) is same


def test_the_code_of_the_metrics_is_part_of_the_protocol(root, monkeypatch):
    workspace, settings = write_world(root, 1)
    before = digest(workspace, settings)
    monkeypatch.setattr(evaluation, "sources", lambda *names: dict.fromkeys(names, "edited"))
    assert digest(workspace, settings) != before


def test_without_data_there_is_no_protocol(tmp_path):
    settings = synthetic.write_params(tmp_path)
    assert evaluation.protocol(Workspace(tmp_path), settings, "digits") is None


# ---------------------------------------------------------------- the log


def test_the_promotion_log_only_grows_and_survives_an_unfinished_line(tmp_path):
    workspace = Workspace(tmp_path)
    path = tmp_path / "promotions.jsonl"
    promotions.append(workspace, {"model": "a", "version": "1"})
    with path.open("a") as stream:
        stream.write('{"model": "a", "vers')  # a process died here
    before = path.read_bytes()
    promotions.append(workspace, {"model": "a", "version": "2"})
    promotions.append(workspace, {"model": "b", "version": "1"})
    assert path.read_bytes().startswith(before)
    assert [line["version"] for line in promotions.lines(workspace, "a")] == ["1", "2"]


def test_what_is_withdrawn_is_what_was_not_promoted_since():
    def line(action: str, weights: str, **more: str) -> dict[str, str]:
        return {"action": action, "weights_sha256": weights, **more}

    log = [line("promote", "a"), line("promote", "b"), line("rollback", "a", withdrawn="b")]
    assert promotions.withdrawn(log) == {"b"}
    assert promotions.withdrawn([*log, line("nominate", "b")]) == {"b"}
    assert promotions.withdrawn([*log, line("promote", "b")]) == set()
