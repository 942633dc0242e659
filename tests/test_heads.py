"""Heads against loops over rows, and their way to disk and back."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from isdh import fitting, heads
from isdh.encoding import encode
from isdh.methods import METHODS, build
from isdh.models import load, save
from isdh.networks import build as build_network
from isdh.settings import Network, Training
from isdh.training import TrainingRows, fit
from tests.reference import discrete

FITTED = [name for name in METHODS if METHODS[name].head]


def some_state(kind: str) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = {
        "linear": {"weight": (5, 4), "bias": (5,)},
        "kernel": {"anchors": (6, 4), "centre": (6,), "weight": (5, 6), "bias": (5,)},
        "eigenfunctions": {"mean": (4,), "directions": (3, 4), "lowest": (3,), "omega": (5, 3)},
    }[kind]
    state = {name: torch.randn(*shape, generator=draw) for name, shape in shapes.items()}
    return state | ({"width": torch.tensor(7.0)} if kind == "kernel" else {})


def slow_outputs(kind: str, state: dict[str, torch.Tensor], features: torch.Tensor) -> np.ndarray:
    arrays = {name: tensor.double().numpy() for name, tensor in state.items()}
    rows = features.double().numpy()
    if kind == "eigenfunctions":
        return discrete.eigenfunctions(rows, **arrays)
    if kind == "kernel":
        rows = discrete.kernels(rows, arrays["anchors"], arrays["width"]) - arrays["centre"]
    return np.array(
        [
            [sum(x * w for x, w in zip(row, weight, strict=True)) + bias for weight, bias in pairs]
            for row in rows
            for pairs in [list(zip(arrays["weight"], arrays["bias"], strict=True))]
        ]
    )


@pytest.mark.parametrize("kind", heads.HEADS)
def test_outputs_equal_a_loop_over_rows(kind):
    state, features = (
        some_state(kind),
        torch.randn(9, 4, generator=torch.Generator().manual_seed(1)),
    )
    found = heads.load(kind, state)(features).numpy()
    assert np.abs(found - slow_outputs(kind, state, features)).max() < 1e-5


@pytest.mark.parametrize("kind", heads.HEADS)
def test_a_head_s_state_is_its_arguments_and_a_copy(kind):
    state = some_state(kind)
    head = heads.load(kind, state)
    assert set(head.state_dict()) == set(inspect.signature(heads.HEADS[kind]).parameters)
    assert not list(head.parameters())
    for name, tensor in head.state_dict().items():
        assert torch.equal(tensor, state[name])
        assert tensor.data_ptr() != state[name].data_ptr()


@pytest.mark.parametrize("kind", heads.HEADS)
def test_autocast_moves_no_output(kind):
    head = heads.load(kind, some_state(kind))
    features = torch.randn(9, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head(features)
        rounded = head(features.bfloat16())
    assert torch.equal(rounded, head(features.bfloat16().float()))
    assert found.dtype == torch.float32
    assert torch.equal(found, head(features))


def test_distances_do_not_lose_their_digits_far_from_the_origin():
    generator = torch.Generator().manual_seed(0)
    rows, anchors = (torch.randn(n, 4, generator=generator).round(decimals=1) for n in (30, 6))
    near = heads.squared_distances(rows, anchors)
    far = heads.squared_distances(rows + 4096, anchors + 4096)
    exact = (rows.double()[:, None] - anchors.double()).square().sum(dim=2)
    assert (near - exact).abs().max() < 1e-5
    assert (far - exact).abs().max() < 0.02  # 4096 + x is itself rounded to 0.0005
    assert (heads.squared_distances(anchors, anchors).diagonal() < 1e-5).all()
    assert (heads.squared_distances(anchors, anchors) >= 0).all()


def test_signs_are_those_of_bits():
    assert fitting.signs(torch.tensor([-2.0, 0.0, 1e-9])).tolist() == [-1, -1, 1]


def rows_of_a_dataset() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    labels = draw.random((80, 5)) < 0.4
    features = labels @ draw.normal(size=(5, 12)) + 0.5 * draw.normal(size=(80, 12))
    return (10 + 3 * features).astype(np.float16), labels


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("bits", [4, 20])
def test_a_fitted_model_gives_the_same_codes_from_disk(name, bits, tmp_path):
    """20 bits are more than there are features or labels."""
    inputs, labels = rows_of_a_dataset()
    network = build_network(input_shape=(12,), bits=bits)
    method = build(name, bits=bits, num_classes=5)
    data = TrainingRows(inputs, labels, np.arange(60))
    settings, cpu = Training(batch_size=32), torch.device("cpu")
    records = list(fit(network, method, data, settings, seed=1, device=cpu))
    assert len(records) == 1
    save(
        tmp_path,
        network,
        bits=bits,
        inputs={},
        settings=Network(),
        input_shape=(12,),
        labels=list("abcde"),
        head=method.head,
        backbone_sha256=None,
    )
    codes = encode(network, inputs, device=cpu)
    assert len(np.unique(codes, axis=0)) > 4
    assert np.array_equal(encode(load(tmp_path), inputs, device=cpu), codes)
