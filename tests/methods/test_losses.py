"""The three methods against the authors' formulas, pair by pair."""

from __future__ import annotations

import pytest
import torch

from isdh.methods import build
from tests.reference import losses

BITS, CLASSES = 12, 7


def batch(count: int = 9, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(count, BITS, dtype=torch.float64, generator=generator) * 2
    labels = torch.rand(count, CLASSES, generator=generator) < 0.35
    labels[labels.sum(1) == 0, 0] = True
    labels[1] = labels[0]  # a pair that shares all labels
    return outputs.requires_grad_(), labels


CASES = [
    ("isdh", losses.isdh, {}),
    ("isdh", losses.isdh, {"gamma": 1.0, "alpha": 0.3, "beta": 2.0}),
    ("idhn", losses.idhn, {}),
    ("idhn", losses.idhn, {"gamma": 0.7, "alpha": 0.0, "beta": 3.0}),
    ("dhn", losses.dhn, {}),
    ("dhn", losses.dhn, {"quantisation_weight": 1.0}),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "oracle", "hyper"), CASES)
def test_loss_and_gradient_equal_the_authors_formula(name, oracle, hyper, seed):
    outputs, labels = batch(seed=seed)
    method = build(name, bits=BITS, num_classes=CLASSES, **hyper)
    total = method(outputs, labels).total
    (gradient,) = torch.autograd.grad(total, outputs)
    expected = oracle(outputs, labels.double(), **hyper)
    (expected_gradient,) = torch.autograd.grad(expected, outputs)
    assert total.item() == pytest.approx(expected.item(), abs=1e-9, rel=0)
    assert (gradient - expected_gradient).abs().max().item() < 1e-9


@pytest.mark.parametrize(
    ("share", "similarity", "place"),
    [(1, 1 / 3, "isdh"), (2, 2 / 3, "isdh"), (1, 1 / 3, "idhn"), (2, 2 / 3, "idhn")],
)
def test_a_soft_pair_settles_at_its_stated_optimum(share, similarity, place):
    """docs/method.md, 2.4: p / bits = logit(S) / 5 for ISDH, 2 S - 1 for IDHN."""
    labels = torch.zeros(2, 6, dtype=torch.bool)
    labels[0, :3] = True
    labels[1, 3 - share : 6 - share] = True
    inner = torch.linspace(-1, 1, 20001, dtype=torch.float64)
    theta = 5 * inner
    if place == "isdh":
        best = inner[(similarity - theta.sigmoid()).square().argmin()]
        expected = torch.logit(torch.tensor(similarity, dtype=torch.float64)) / 5
    else:
        best = inner[((inner + 1) / 2 - similarity).square().argmin()]
        expected = torch.tensor(2 * similarity - 1, dtype=torch.float64)
    assert best.item() == pytest.approx(expected.item(), abs=2e-4)
    # and the method's own loss has no slope there: codes of one bit with that inner product
    relaxed = best.abs().sqrt()
    outputs = (relaxed / (1 - relaxed)).repeat(2, 1)
    outputs[1] *= best.sign()
    outputs.requires_grad_()
    method = build(place, bits=1, num_classes=6, alpha=0.0)
    total = method(outputs, labels).total
    diagonal = method(outputs[:1], labels[:1]).total + method(outputs[1:], labels[1:]).total
    (slope,) = torch.autograd.grad(4 * total - diagonal, outputs)
    assert slope.abs().max().item() < 1e-3


def test_isdh_without_unlabelled_rows_is_finite_where_the_logits_are_extreme():
    outputs = torch.tensor([[1e30] * BITS, [-1e30] * BITS], requires_grad=True)
    labels = torch.eye(2, CLASSES, dtype=torch.bool)
    for name in ("isdh", "idhn", "dhn"):
        total = build(name, bits=BITS, num_classes=CLASSES)(outputs, labels).total
        assert torch.isfinite(total)
