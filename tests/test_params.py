from __future__ import annotations

from typing import Any

import pytest
import yaml

from isdh import params
from isdh.artifacts import Cell
from isdh.errors import InputError
from isdh.methods import build
from tests.workspaces import ROOT, SMALL


def load(tmp_path, **changes: Any) -> params.Params:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}))
    return params.load(path)


def digits(**changes: Any) -> dict[str, Any]:
    return {"digits": {**SMALL["dataset"]["digits"], **changes}}


def test_the_shipped_file_is_valid_and_its_matrix_is_the_default_one():
    shipped = params.load(ROOT / "params.yaml")
    cells = shipped.cells("digits")
    assert cells[0] == Cell("digits", "isdh", 12, 0)
    assert len(cells) == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": [0]}, "bits.0=0: input should be greater than or equal to 1"),
        ({"bits": []}, "bits=[]: "),
        ({"bits": [12, 12]}, "bits=[12, 12]: each may stand once"),
        ({"methods": ["isdg"]}, "unknown method 'isdg', did you mean 'isdh'?"),
        ({"datasets": {"mine": "raw/mine"}}, "unknown dataset 'mine'. known: digits; or add"),
        ({"epochs": 3}, "unknown key 'epochs'. known: bits"),
        ({"evaluate": {"cutoffs": []}}, "evaluate.cutoffs=[]: "),
        ({"evaluate": {"cutoff": [1]}}, "did you mean 'cutoffs'? known: cutoffs"),
        ({"champion": {"metric": "ndcg_at_7"}}, "champion.metric='ndcg_at_7': not scored; "),
        ({"champion": {"margin": -1}}, "champion.margin=-1: "),
        ({"dataset": digits(training={"epoch": 3})}, "did you mean 'epochs'? known: backbone_rate"),
        ({"dataset": digits(inputs={"kind": "image"})}, "dataset.digits.inputs"),
        (
            {"dataset": digits(inputs={"kind": "images", "backbone": "x"})},
            "known: channels, kind, size, weights",
        ),
        ({"dataset": digits(network={})}, "network.backbone=None: images need backbone"),
        ({"dataset": digits(source={"reader": "foldr"})}, "unknown reader 'foldr', did you mean"),
        ({"dataset": digits(source={})}, "dataset.digits.source: missing key 'reader'"),
        (
            {"dataset": digits(source={"reader": "folder", "tables": "x"})},
            "dataset.digits.source: unknown key 'tables', did you mean 'table'?",
        ),
        ({"generate": {"size": 33}}, "generate.size=33: "),
    ],
)
def test_a_broken_rule_is_named_with_its_value(tmp_path, changes, message):
    with pytest.raises(InputError) as refusal:
        load(tmp_path, **changes)
    assert message in str(refusal.value)


def test_every_broken_rule_is_named_at_once(tmp_path):
    with pytest.raises(InputError) as refusal:
        load(tmp_path, bits=[0], seeds=[-1])
    assert "bits.0=0" in str(refusal.value)
    assert "seeds.0=-1" in str(refusal.value)


@pytest.mark.parametrize("key", ["generate", "evaluate", "dataset", "methods"])
def test_a_missing_key_is_named(tmp_path, key):
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump({name: v for name, v in SMALL.items() if name != key}))
    with pytest.raises(InputError, match=rf"missing key '{key}'; add it"):
        params.load(path)


@pytest.mark.parametrize("text", ["a: [", "- a\n", ""])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"params\.yaml: "):
        params.load(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no such file; run from the project's root"):
        params.load(tmp_path / "params.yaml")


def test_a_dataset_s_choices_for_a_method_take_the_place_of_what_stands_elsewhere(tmp_path):
    dhn = {"quantisation_weight": 0.3, "for": {"digits": {"learning_rate": 0.5, "mixup": 0.1}}}
    isdh = {"alpha": 0.2, "gamma": 2, "for": {"digits": {"hyper": {"gamma": 3}}}}
    small = load(tmp_path, method={"isdh": isdh, "dhn": dhn})
    usual = small.section("digits").training
    assert small.training("digits", "isdh") == usual
    chosen = usual.model_copy(update={"learning_rate": 0.5, "mixup": 0.1})
    assert small.training("digits", "dhn") == chosen
    assert small.hyper("digits", "dhn") == {"quantisation_weight": 0.3}
    assert small.hyper("digits", "isdh") == {"alpha": 0.2, "gamma": 3}


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"digit": {}}, "unknown dataset in method.isdh.for 'digit', did you mean 'digits'"),
        ({"digits": {"lr": 1}}, "method.isdh.for.digits: unknown key 'lr'"),
        ({"digits": {"learning_rate": 0}}, "learning_rate=0: input should be greater than 0"),
        ({"digits": 3}, "method.isdh.for.digits: want a mapping, found 3"),
        (3, "method.isdh.for=3: want dataset -> choices"),
        ({1: {}}, "unknown dataset in method.isdh.for 1"),
        (
            {"digits": {"learning_rate": float("inf")}},
            "learning_rate=inf: input should be a finite",
        ),
    ],
)
def test_a_choice_that_breaks_a_rule_is_refused(tmp_path, choices, message):
    with pytest.raises(InputError) as refusal:
        load(tmp_path, method={"isdh": {"for": choices}})
    assert message in str(refusal.value)


def test_a_section_of_no_method_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"unknown method 'isdg', did you mean 'isdh'"):
        load(tmp_path, method={"isdh": {}, "isdg": {"gamma": 1}})


@pytest.mark.parametrize("value", ["1e-1", None, True, [1]])
def test_a_hyper_parameter_that_is_no_number_is_refused(value):
    with pytest.raises(InputError, match=r"gamma=.*want a number"):
        build("isdh", bits=4, num_classes=2, gamma=value)


def test_names_that_are_not_there_are_refused_with_the_known_ones(tmp_path):
    small = load(tmp_path)
    for ask in (small.section, small.root):
        with pytest.raises(InputError, match=r"unknown dataset 'digit', did you mean 'digits'"):
            ask("digit")
    with pytest.raises(InputError, match=r"unknown method 'isd', did you mean 'isdh'"):
        small.hyper("digits", "isd")
