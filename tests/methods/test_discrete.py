"""CNNH and DSDH: codes found by discrete steps, against loops over the objective itself."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from isdh.fitting import descend_bits, ridge
from isdh.method import Batch
from isdh.methods import build
from isdh.methods.cnnh import ROWS, descend, factorise
from tests.reference import discrete

BITS, CLASSES = 6, 5


@pytest.fixture(autouse=True)
def same_draws():
    torch.manual_seed(0)


def some_labels(count: int, seed: int = 0) -> torch.Tensor:
    labels = torch.rand(count, CLASSES, generator=torch.Generator().manual_seed(seed)) < 0.3
    labels[1] = labels[0]
    return labels


def whereabouts(rows: torch.Tensor, step: int = 0, epoch: int = 0) -> Batch:
    return Batch(rows, step, steps=20, epoch=epoch)


# CNNH


@pytest.mark.parametrize("count", [1, 2, 9, 20])
@pytest.mark.parametrize("seed", range(3))
def test_cnnh_s_codes_equal_those_of_the_whole_matrix(count, seed):
    labels = some_labels(max(count, 2), seed)[:count]
    start = 2 * torch.rand(count, BITS, dtype=torch.float64) - 1
    torch.manual_seed(seed)
    found = factorise(start, labels, 4)
    torch.manual_seed(seed)
    orders = [torch.randperm(count).tolist() for _ in range(4)]
    expected = discrete.cnnh_codes(start.numpy(), labels, orders)
    assert np.abs(found.numpy() - expected).max() < 1e-8  # where the objective is flat


def test_cnnh_takes_no_step_that_would_raise_the_objective():
    """With few rows the fourth power outweighs the second, and Newton's step overshoots."""
    draw = np.random.default_rng(0)
    for _ in range(300):
        labels = torch.from_numpy(draw.random((4, 3)) < 0.5)
        similar = discrete.sign_matrix(labels) > 0
        h = draw.uniform(-1, 1, (4, 1))
        for row in range(4):
            before = discrete.cnnh_objective(h, labels)
            descend(h, h.T @ h, np.array([row]), similar[row : row + 1])
            assert discrete.cnnh_objective(h, labels) <= before + 1e-9


def test_cnnh_s_codes_do_not_hang_on_the_size_of_blocks(monkeypatch):
    labels = some_labels(50)
    start = 2 * torch.rand(50, BITS, dtype=torch.float64) - 1
    found = []
    for rows in (ROWS, 7):
        monkeypatch.setattr("isdh.methods.cnnh.ROWS", rows)
        torch.manual_seed(0)
        found.append(factorise(start, labels, 3))
    assert (found[0] - found[1]).abs().max() < 1e-12


def test_cnnh_s_objective_never_rises_from_sweep_to_sweep():
    labels = some_labels(40)
    h = 2 * torch.rand(40, BITS, dtype=torch.float64) - 1
    values = [discrete.cnnh_objective(h.numpy(), labels)]
    for _ in range(6):
        h = factorise(h, labels, 1)
        values.append(discrete.cnnh_objective(h.numpy(), labels))
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(values))
    assert values[-1] < 0.8 * values[0]


def test_cnnh_gives_two_groups_that_share_nothing_opposite_codes():
    """S of two blocks is of rank one: h = 1 in one block and -1 in the other reaches 0."""
    labels = torch.zeros(10, CLASSES, dtype=torch.bool)
    labels[:4, 0] = True
    labels[4:, 3] = True
    method = build("cnnh", bits=BITS, num_classes=CLASSES)
    method.prepare(labels, 0)
    assert (method.codes[:4] == method.codes[0]).all()
    assert (method.codes[4:] == -method.codes[0]).all()
    total = method(method.codes.float(), labels, whereabouts(torch.arange(10))).total
    assert total.item() == 0


def test_cnnh_regresses_to_the_codes_of_its_rows():
    method = build("cnnh", bits=BITS, num_classes=CLASSES)
    labels = some_labels(12)
    method.prepare(labels, 0)
    assert method.codes.dtype == torch.int8
    rows = torch.tensor([7, 2, 11])
    outputs = torch.randn(3, BITS, dtype=torch.float64, requires_grad=True)
    total = method(outputs, labels[rows], whereabouts(rows)).total
    (gradient,) = torch.autograd.grad(total, outputs)
    gap = outputs.detach().numpy() - method.codes[rows].numpy()
    assert total.item() == pytest.approx((gap**2).sum() / (3 * BITS), abs=1e-12)
    assert np.abs(gradient.numpy() - 2 * gap / (3 * BITS)).max() < 1e-12


def test_cnnh_without_a_batch_takes_stage_1_s_objective():
    labels = some_labels(7)
    outputs = torch.randn(7, BITS, dtype=torch.float64)
    total = build("cnnh", bits=BITS, num_classes=CLASSES)(outputs, labels).total
    expected = discrete.cnnh_objective(outputs.numpy(), labels) / (7 * BITS) ** 2
    assert total.item() == pytest.approx(expected, abs=1e-9)


# DSDH


@pytest.mark.parametrize("hyper", [{}, {"mu": 0.5, "nu": 2.0, "eta": 3.0, "rounds": 2}])
def test_dsdh_s_loss_and_gradient_equal_loops_through_memory_and_epochs(hyper):
    labels = some_labels(14)
    labels[5] = False
    method = build("dsdh", bits=BITS, num_classes=CLASSES, **hyper)
    method.prepare(labels, 0)
    method.double()
    slow = discrete.DSDH(labels, method.codes, **hyper)
    for step in range(9):
        rows = torch.randperm(14)[:5]
        outputs = (2 * torch.randn(5, BITS, dtype=torch.float64)).requires_grad_()
        given = labels[rows]
        if step == 4:  # mixed rows
            given = 0.7 * given.double() + 0.3 * given.flip(0).double()
        total = method(outputs, given, whereabouts(rows, step, step // 3)).total
        (gradient,) = torch.autograd.grad(total, outputs)
        expected = slow.loss(outputs, given.double(), rows.tolist(), step // 3)
        (expected_gradient,) = torch.autograd.grad(expected, outputs)
        assert total.item() == pytest.approx(expected.item(), rel=1e-9)
        assert (gradient - expected_gradient).abs().max() < 1e-9
        assert np.array_equal(method.codes.numpy(), slow.codes)


def test_dsdh_keeps_its_codes_within_an_epoch_and_its_memory_in_evaluation():
    method = build("dsdh", bits=BITS, num_classes=CLASSES)
    labels = some_labels(8)
    method.prepare(labels, 0)
    rows = torch.arange(8)
    method(torch.randn(8, BITS), labels, whereabouts(rows, 0, 0))
    codes, outputs = method.codes.clone(), method.outputs.clone()
    method.eval()(torch.randn(8, BITS), labels, whereabouts(rows, 1, 1))
    assert torch.equal(method.outputs, outputs)
    assert torch.equal(method.codes, codes)
    method.train()(torch.randn(8, BITS), labels, whereabouts(rows, 1, 0))
    assert not torch.equal(method.outputs, outputs)
    assert torch.equal(method.codes, codes)


def test_dsdh_s_codes_follow_outputs_that_are_far_out():
    """A large pull decides every bit, whatever the labels want."""
    method = build("dsdh", bits=BITS, num_classes=CLASSES)
    labels = some_labels(8)
    method.prepare(labels, 0)
    outputs = 1000 * torch.randn(8, BITS)
    method(outputs, labels, whereabouts(torch.arange(8), 0, 0))
    method(outputs, labels, whereabouts(torch.arange(8), 1, 1))
    assert torch.equal(method.codes, outputs.sign())


# The discrete step itself


def objective(codes, weight, targets, pull):
    return ((targets - codes @ weight) ** 2).sum() - 2 * (codes * pull).sum()


@pytest.mark.parametrize("seed", range(5))
def test_a_round_of_bits_equals_comparing_both_values_of_each_and_never_raises(seed):
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    codes = torch.randn(10, 4, **draw).sign()
    weight, targets = torch.randn(4, 3, **draw), torch.randn(10, 3, **draw)
    pull = torch.randn(10, 4, **draw)
    for _ in range(5):
        new = descend_bits(codes, weight, targets, pull)
        expected = discrete.flip_bits(*(x.numpy() for x in (codes, weight, targets, pull)))
        assert np.array_equal(new.numpy(), expected)
        assert objective(new, weight, targets, pull) <= objective(codes, weight, targets, pull)
        codes = new
    assert torch.equal(descend_bits(codes, weight, targets, pull), codes)


def test_one_bit_reaches_the_best_of_all_codes():
    weight, targets = torch.randn(1, 3).double(), torch.randn(6, 3).double()
    pull = torch.randn(6, 1).double()
    found = descend_bits(torch.ones(6, 1).double(), weight, targets, pull)
    best = min(
        objective(torch.tensor(bits).double()[:, None], weight, targets, pull)
        for bits in itertools.product((-1, 1), repeat=6)
    )
    assert objective(found, weight, targets, pull).item() == pytest.approx(best.item())


def test_orthogonal_weights_reach_the_best_of_all_codes_in_one_round():
    """Then bits do not hang on each other."""
    weight = torch.linalg.qr(torch.randn(5, 5).double()).Q[:4]
    targets, pull = torch.randn(3, 5).double(), torch.randn(3, 4).double()
    found = descend_bits(torch.ones(3, 4).double(), weight, targets, pull)
    for i in range(3):
        values = [
            objective(torch.tensor([bits]).double(), weight, targets[i : i + 1], pull[i : i + 1])
            for bits in itertools.product((-1, 1), repeat=4)
        ]
        own = objective(found[i : i + 1], weight, targets[i : i + 1], pull[i : i + 1])
        assert own.item() == pytest.approx(min(values).item())


def test_a_bit_that_makes_no_difference_stays():
    codes = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    zero = torch.zeros(2, 2)
    assert torch.equal(descend_bits(codes, zero, zero, zero), codes)


def test_ridge_equals_least_squares_with_further_rows():
    inputs, targets = torch.randn(9, 4).double(), torch.randn(9, 3).double()
    found = ridge(inputs, targets, 0.7)
    assert np.allclose(found.numpy(), discrete.ridge(inputs.numpy(), targets.numpy(), 0.7))
