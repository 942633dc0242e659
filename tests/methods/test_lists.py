"""LISH and RISH against their formulas, list by list, and what their scores are to mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from isdh import codes, kernel_ridge, metrics
from isdh.errors import InputError
from isdh.kernel_ridge import leave_one_out
from isdh.listwise import (
    cosines,
    expected_relevance,
    list_cross_entropy,
    mean_of_lists,
    shared_labels,
    soft_histograms,
    soft_ranking,
)
from isdh.method import Batch
from isdh.methods import build
from tests.reference import lists

BITS, CLASSES = 12, 7


def batch(count: int = 9, seed: int = 0, kind: str = "sets") -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(count, BITS, dtype=torch.float64, generator=generator) * 2
    labels = torch.rand(count, CLASSES, generator=generator) < 0.35
    labels[0] = False  # an unlabelled row is ranked by the others and ranks none
    labels[1] = labels[2]
    if kind == "mixed":
        shares = torch.rand(count, 1, dtype=torch.float64, generator=generator)
        labels = labels * shares + labels.flip(0) * (1 - shares)
    return outputs.requires_grad_(), labels


CASES = [
    ("lish", lists.lish, {}),
    ("lish", lists.lish, {"scale": 6.0}),
    ("rish", lists.rish, {}),
    ("rish", lists.rish, {"list_weight": 0.0, "ap_weight": 0.0, "ndcg_weight": 1.0}),
    ("rish", lists.rish, {"list_weight": 0.0, "ap_weight": 1.0, "ndcg_weight": 0.0}),
    ("rish", lists.rish, {"anchor_power": 0.0, "scale": 2.0}),
]


@pytest.mark.parametrize("kind", ["sets", "mixed"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "oracle", "hyper"), CASES)
def test_loss_and_gradient_equal_the_formula(name, oracle, hyper, seed, kind):
    outputs, labels = batch(seed=seed, kind=kind)
    total = build(name, bits=BITS, num_classes=CLASSES, **hyper)(outputs, labels).total
    (gradient,) = torch.autograd.grad(total, outputs)
    expected = oracle(outputs, labels.double(), **hyper)
    (expected_gradient,) = torch.autograd.grad(expected, outputs)
    assert total.item() == pytest.approx(expected.item(), abs=1e-9, rel=0)
    assert (gradient - expected_gradient).abs().max().item() < 1e-9


@pytest.mark.parametrize("step", [0, 3, 9])
def test_the_share_of_the_sign_changes_evenly_from_start_to_end(step):
    outputs, labels = batch()
    method = build("rish", bits=BITS, num_classes=CLASSES, straight_through_start=0.2)
    total = method(outputs, labels, Batch(torch.arange(9), step=step, steps=10)).total
    (gradient,) = torch.autograd.grad(total, outputs)
    expected = lists.rish(outputs, labels.double(), share=0.2 + 0.8 * step / 10)
    (expected_gradient,) = torch.autograd.grad(expected, outputs)
    assert total.item() == pytest.approx(expected.item(), abs=1e-9, rel=0)
    assert (gradient - expected_gradient).abs().max().item() < 1e-9


@pytest.mark.parametrize(("bits", "share"), [(4, 1.0), (12, 0.5), (24, 0.25), (48, 0.125)])
def test_the_share_of_the_sign_starts_higher_the_shorter_the_code(bits, share):
    assert build("rish", bits=bits, num_classes=CLASSES).straight_through_start == share


def test_relevance_of_sets_is_sharing_a_label_and_gains_are_powers_of_two():
    _, labels = batch()
    related, gains = expected_relevance(labels, torch.float64)
    shared = shared_labels(labels, torch.float64)
    assert torch.equal(related, (shared > 0).double())
    assert torch.equal(gains, shared.exp2() - 1)


def test_the_gain_of_probabilities_is_that_of_drawn_sets_on_average():
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(3, 4, dtype=torch.float64, generator=generator)
    _, gains = expected_relevance(labels, torch.float64)
    draws = torch.rand(20000, 3, 4, generator=generator) < labels
    shared = (draws[:, 0].double() * draws[:, 1]).sum(1)
    assert (shared.exp2() - 1).mean().item() == pytest.approx(gains[0, 1].item(), abs=0.04)


def test_improbable_labels_do_not_add_up_to_a_relevant_row():
    related, _ = expected_relevance(torch.full((2, 100), 0.1), torch.float64)
    assert related[0, 1].item() == pytest.approx(1 - (1 - 1e-4) ** 100)  # 0.01; unsquared 0.63


def test_predictions_of_the_teacher_are_those_of_a_fit_without_the_row(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(9, 5, dtype=torch.float64, generator=generator)
    labels = torch.rand(9, 3, generator=generator) < 0.5
    together = leave_one_out(features, labels, ridge=0.5)
    directions = features / features.norm(dim=1, keepdim=True)
    kernel = torch.exp(-(directions[:, None] - directions).square().sum(2))
    centred = labels.double() - labels.double().mean(0)
    for i in range(9):
        rest = [j for j in range(9) if j != i]
        inner = kernel[rest][:, rest] + 0.5 * torch.eye(8)
        alone = kernel[i, rest] @ torch.linalg.solve(inner, centred[rest])
        expected = (alone + labels.double().mean(0)).clamp(0, 1)
        assert (together[i] - expected).abs().max().item() < 1e-6
    monkeypatch.setattr(kernel_ridge, "ROWS", 5)  # two parts: rows 0, 2, ... and 1, 3, ...
    parts = leave_one_out(features, labels, ridge=0.5)
    monkeypatch.undo()
    assert torch.equal(parts[1::2], leave_one_out(features[1::2], labels[1::2], ridge=0.5))


def test_labels_trained_on_are_mixed_with_the_teachers_and_without_a_share_the_same():
    features = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    labels = batch()[1]
    plain = build("rish", bits=BITS, num_classes=CLASSES, teacher_share=0.0)
    assert plain.soften(labels, features) is labels
    mixed = build("rish", bits=BITS, num_classes=CLASSES, teacher_share=0.25)
    expected = 0.75 * labels.float() + 0.25 * leave_one_out(features, labels)
    assert torch.allclose(mixed.soften(labels, features), expected)


@pytest.mark.parametrize("kind", ["sets", "mixed"])
def test_the_auxiliary_term_equals_its_formula_and_reaches_what_the_hash_layer_reads(kind):
    outputs, labels = batch(kind=kind)
    hidden = torch.randn(len(outputs), 5, dtype=torch.float64, requires_grad=True)
    method = build("rish", bits=BITS, num_classes=CLASSES, auxiliary_weight=0.3)
    rows = torch.arange(len(outputs))
    without = method(outputs, labels, Batch(rows, step=0, steps=1)).total
    method.prepare(labels > 0, width=5)
    method.double()
    place = Batch(rows, step=0, steps=1, hidden=hidden)
    extra = method(outputs, labels, place).total - without
    weight, bias = method.classifier.weight, method.classifier.bias
    expected = 0.3 * lists.auxiliary(hidden, labels.double(), weight, bias)
    assert extra.item() == pytest.approx(expected.item(), abs=1e-9)
    for leaf in (hidden, weight, bias):
        (gradient,) = torch.autograd.grad(extra, leaf, retain_graph=True)
        (expected_gradient,) = torch.autograd.grad(expected, leaf, retain_graph=True)
        assert (gradient - expected_gradient).abs().max().item() < 1e-9


def test_the_auxiliary_term_falls_away_without_hidden_and_without_weight():
    outputs, labels = batch()
    for weight in (0.0, 0.1):
        method = build("rish", bits=BITS, num_classes=CLASSES, auxiliary_weight=weight)
        method.prepare(labels, width=5)
        assert (method.classifier is None) == (weight == 0)
        hidden = None if weight else torch.ones(len(outputs), 5)
        place = Batch(torch.arange(len(outputs)), step=0, steps=1, hidden=hidden)
        assert "auxiliary" not in method(outputs, labels, place).parts


def test_the_classifier_alone_learns_at_another_rate():
    method = build("rish", bits=BITS, num_classes=CLASSES)
    method.prepare(torch.ones(3, CLASSES, dtype=torch.bool), width=5)
    assert dict(method.rates()) == {"classifier": 5.0}
    assert [name for name, _ in method.named_parameters()] == [
        "classifier.weight",
        "classifier.bias",
    ]


def test_scores_of_lists_without_ties_are_the_metrics():
    """Rows at distances 1, 2, ... of the first: its AP and NDCG are those of isdh.metrics."""
    signs = torch.ones(BITS + 1, BITS, dtype=torch.float64).triu() * 2 - 1
    generator = torch.Generator().manual_seed(3)
    labels = torch.rand(BITS + 1, CLASSES, generator=generator) < 0.3
    labels[0] = torch.arange(CLASSES) < 3
    labels[1] = ~labels[0]  # the nearest row is not related
    related, gains = expected_relevance(labels, torch.float64)
    precision, ndcg = soft_ranking(BITS * (1 - cosines(signs)) / 2, related, gains, BITS)
    packed = codes.pack((signs > 0).numpy())
    sets = labels.numpy()
    scores = metrics.evaluate(
        packed[:1], sets[:1], packed[1:], sets[1:], bits=BITS, cutoffs=(None,)
    ).as_dict()
    assert precision[0].item() == pytest.approx(scores["map_at_all"], abs=1e-9)
    assert ndcg[0].item() == pytest.approx(scores["ndcg_at_all"], abs=1e-9)
    assert 0.1 < precision[0] < 1
    assert 0.1 < ndcg[0] < 1


def test_tied_rows_stand_at_their_mean_rank():
    """A relevant and an irrelevant row at one distance, by hand: rank 1.5, 1 relevant."""
    distances = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    shared = torch.tensor([[0.0, 2.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    precision, ndcg = soft_ranking(distances, (shared > 0).float(), shared.exp2() - 1, 1)
    assert precision[0].item() == pytest.approx(1 / 1.5)
    assert ndcg[0].item() == pytest.approx((3 / np.log2(2.5)) / (3 / np.log2(2)))
    assert precision[1].item() == pytest.approx(1 / 2)  # behind one unrelated row
    assert precision[2] == ndcg[2] == 0
    assert mean_of_lists(precision, shared).item() == pytest.approx((1 / 1.5 + 1 / 2) / 2)


def test_histograms_hold_every_entry_once_and_keep_its_mean_distance():
    distances = torch.rand(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = torch.arange(48.0, dtype=torch.float64).view(2, 4, 6)
    bins = torch.arange(6, dtype=torch.float64)
    histograms = soft_histograms(5 * distances, weights, 6)
    assert (histograms.sum(2) - weights.sum(2)).abs().max() < 1e-12
    assert ((histograms * bins).sum(2) - (weights * 5 * distances).sum(2)).abs().max() < 1e-11
    assert histograms.min() >= 0


def test_a_list_settles_where_its_softmax_equals_the_shares_of_the_gains():
    gains = torch.tensor([[0.0, 1.0, 3.0], [1.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    logits = torch.tensor([[9.0, 0.0, np.log(3)], [0.0, 9.0, -50.0], [0.0, -50.0, 9.0]])
    logits.requires_grad_()
    values = list_cross_entropy(logits, gains)
    (slope,) = torch.autograd.grad(values.sum(), logits)
    assert slope.abs().max().item() < 1e-6
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert values.tolist() == pytest.approx([entropy, 0, 0], abs=1e-6)


@pytest.mark.parametrize("name", ["lish", "rish"])
def test_rows_without_a_related_partner_have_no_say(name):
    outputs, _ = batch(count=4)
    method = build(name, bits=BITS, num_classes=CLASSES)
    alone = method(outputs, torch.eye(4, CLASSES, dtype=torch.bool)).total
    (gradient,) = torch.autograd.grad(alone, outputs)
    assert alone.item() == 0
    assert gradient.abs().max() == 0


@pytest.mark.parametrize("name", ["lish", "rish"])
def test_extreme_outputs_are_finite(name):
    outputs = torch.tensor([[1e30] * BITS, [-1e30] * BITS, [0.0] * BITS], requires_grad=True)
    labels = torch.ones(3, CLASSES, dtype=torch.bool)
    total = build(name, bits=BITS, num_classes=CLASSES)(outputs, labels).total
    (gradient,) = torch.autograd.grad(total, outputs)
    assert torch.isfinite(total)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("lish", {"scale": 0.0}, "scale=0.0: must be positive"),
        ("rish", {"ap_weight": -1.0}, "ap_weight=-1.0: must not be negative"),
        ("rish", {"straight_through": 1.5}, "straight_through=1.5: a share, from 0 to 1"),
    ],
)
def test_a_value_out_of_range_is_refused(name, values, message):
    with pytest.raises(InputError, match=message):
        build(name, bits=BITS, num_classes=CLASSES, **values)
