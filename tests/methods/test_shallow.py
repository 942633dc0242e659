"""Fitted methods against slow references, and what their steps promise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import linalg

from isdh import fitting, heads
from isdh.method import FittedMethod
from isdh.methods import METHODS, build
from isdh.methods.itq_cca import canonical_directions
from isdh.methods.ksh import Residual, descend, leading, whitening
from isdh.methods.sh import frequencies
from tests.reference import discrete

CLASSES = 5
FITTED = [name for name in METHODS if METHODS[name].head]


def some_rows(count: int = 60, width: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(2)
    labels = torch.rand(count, CLASSES, generator=draw) < 0.4
    centres = torch.randn(CLASSES, width, generator=draw)
    noise = torch.randn(count, width, generator=draw)
    features = labels.float() @ centres + 0.5 * noise
    return (features - features.mean(dim=0)) / features.std(dim=0), labels


def fitted(name: str, bits: int, features: torch.Tensor, labels: torch.Tensor, **hyper):
    method = build(name, bits=bits, num_classes=CLASSES, **hyper)
    assert isinstance(method, FittedMethod)
    return method.fit(features, labels, generator=torch.Generator().manual_seed(3))


def codes(name: str, bits: int, features: torch.Tensor, labels: torch.Tensor, **hyper):
    state = fitted(name, bits, features, labels, **hyper)
    return heads.load(METHODS[name].head, state)(features) > 0


CASES = {
    "more bits than rows": lambda x, y: (x[:6], y[:6]),
    "one row": lambda x, y: (x[:1], y[:1]),
    "unlabelled rows": lambda x, y: (x, y & (torch.arange(len(y)) % 2 == 0)[:, None]),
    "one label for all": lambda x, y: (x, torch.eye(CLASSES)[0].expand(len(x), -1) > 0),
    "identical rows": lambda x, y: (x[:1].expand(len(x), -1).clone(), y),
    "a constant feature": lambda x, y: (x * (torch.arange(x.shape[1]) > 0), y),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FITTED)
def test_a_degenerate_training_set_gives_a_finite_head(name, case):
    state = fitted(name, 16, *CASES[case](*some_rows()))
    outputs = heads.load(METHODS[name].head, state)(some_rows()[0])
    assert outputs.shape == (60, 16)
    assert torch.isfinite(outputs).all()
    assert all(tensor.dtype == torch.float32 for tensor in state.values())


@pytest.mark.parametrize("name", FITTED)
def test_a_head_follows_from_the_generator_alone(name):
    one = fitted(name, 8, *some_rows())
    torch.manual_seed(99)
    other = fitted(name, 8, *some_rows())
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", [name for name in FITTED if name != "lsh"])
def test_what_all_rows_have_in_common_moves_no_bit(name):
    features, labels = some_rows()
    here, there = (codes(name, 8, features + shift, labels) for shift in (0, 16))
    assert (here == there).float().mean() > 0.98  # a bit may flip where an output is near 0


@pytest.mark.parametrize("name", ["itq_cca", "ksh", "sdh"])
def test_a_supervised_code_is_nearer_where_labels_are_shared(name):
    features, labels = some_rows(200)
    spins = codes(name, 16, features, labels).float() * 2 - 1
    products = (spins @ spins.T).numpy()
    similar = discrete.sign_matrix(labels) > 0
    assert products[similar].mean() > products[~similar].mean() + 2


# LSH


def test_lsh_differs_in_bits_by_the_angle():
    """The share of bits in which two rows differ is their angle over pi."""
    features = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])
    bits = codes("lsh", 20_000, features, torch.zeros(3, CLASSES)).float()
    assert (bits[0] - bits[1]).abs().mean().item() == pytest.approx(0.25, abs=0.01)
    assert (bits[0] - bits[2]).abs().mean().item() == 1


# ITQ


def projected_rows(count: int, dimensions: int) -> torch.Tensor:
    features, _ = some_rows(count)
    mean, directions = fitting.principal_directions(features, dimensions)
    return (features.double() - mean) @ directions.T


@pytest.mark.parametrize("bits", [4, 7])
def test_each_rotation_equals_the_reference_and_the_misfit_never_rises(bits):
    """4 directions into 4 bits, and into 7."""
    projected = projected_rows(60, 4)
    found = [
        fitting.rotation(projected, bits, n, torch.Generator().manual_seed(0)) for n in range(9)
    ]
    expected = discrete.rotations(projected.numpy(), found[0].numpy(), 8)
    misfits = []
    for mine, theirs in zip(found, expected, strict=True):
        assert np.abs(mine.numpy() - theirs).max() < 1e-9
        assert torch.allclose(mine @ mine.T, torch.eye(4).double(), atol=1e-12)
        corners = fitting.signs(projected @ mine)
        misfits.append((corners - projected @ mine).square().sum().item())
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(misfits))
    assert misfits[-1] < misfits[0]


def test_principal_directions_are_those_of_scikit_learn():
    from sklearn.decomposition import PCA

    features, _ = some_rows()
    mean, directions = fitting.principal_directions(features, 5)
    expected = PCA(5).fit(features.double().numpy())
    assert np.allclose(mean, expected.mean_)
    agreement = np.abs((directions.numpy() * expected.components_).sum(axis=1))
    assert np.allclose(agreement, 1)


def test_itq_turns_a_cube_on_its_corner():
    """Corners of a square, turned by 30 degrees: the rotation undoes that, and nothing is lost."""
    square = torch.tensor([[1.0, 1.0], [1, -1], [-1, 1], [-1, -1]]).repeat(5, 1)
    angle = math.pi / 6
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    state = fitted("itq", 2, square @ turn, torch.zeros(20, CLASSES))
    outputs = heads.load("linear", state)(square @ turn)
    assert torch.allclose(outputs.abs(), torch.ones(20, 2), atol=1e-5)


# ITQ-CCA


@pytest.mark.parametrize("regularisation", [1e-4, 0.5])
def test_canonical_directions_solve_the_generalised_eigenproblem(regularisation):
    features, labels = (rows.double().numpy() for rows in some_rows())
    centred, y = features - features.mean(axis=0), labels - labels.mean(axis=0)
    own = centred.T @ centred / 59 + regularisation * np.eye(12)
    other = y.T @ y / 59 + regularisation * np.eye(CLASSES)
    cross = centred.T @ y / 59
    values, vectors = linalg.eigh(cross @ np.linalg.solve(other, cross.T), own)
    correlations = np.sqrt(values[::-1][:CLASSES])
    found = canonical_directions(
        torch.from_numpy(centred), torch.from_numpy(labels), regularisation
    ).numpy()
    assert found.shape == (CLASSES, 12)
    for k in range(CLASSES):  # eigh scales to w' own w = 1; each is then times its correlation
        expected = vectors[:, ::-1][:, k] * correlations[k]
        assert min(np.abs(found[k] - s * expected).max() for s in (1, -1)) < 1e-9
    assert 0 < correlations[-1] <= correlations[0] <= 1


def test_without_regularisation_correlations_are_those_of_scikit_learn():
    from sklearn.cross_decomposition import CCA

    features, labels = (rows.double().numpy() for rows in some_rows())
    model = CCA(n_components=2, scale=False, max_iter=10_000, tol=1e-12).fit(features, labels)
    theirs = [
        np.corrcoef(x, y)[0, 1]
        for x, y in zip(*(rows.T for rows in model.transform(features, labels)), strict=True)
    ]
    centred = torch.from_numpy(features - features.mean(axis=0))
    directions = canonical_directions(centred, torch.from_numpy(labels), 1e-12)
    mine = (centred @ directions.T).std(dim=0)[:2]  # of unit variance, times the correlation
    assert np.allclose(mine, theirs, atol=1e-5)


# SH


@pytest.mark.parametrize(
    ("sides", "bits"), [([3.0], 4), ([3.0, 2.0, 0.7], 8), ([5.0, 4.9, 4.8, 0.1], 12), ([2, 2], 5)]
)
def test_frequencies_are_those_of_the_authors_enumeration(sides, bits):
    found = frequencies(torch.tensor(sides, dtype=torch.float64), bits)
    assert np.allclose(found, discrete.frequencies(sides, bits))
    assert ((found != 0).sum(dim=1) == 1).all()


def test_sh_s_first_bits_are_waves_along_the_longest_side():
    """On a box of 4 by 1 they have 1, 2 and 3 half-periods along it."""
    long, short = torch.meshgrid(torch.linspace(0, 4, 41), torch.linspace(0, 1, 11), indexing="ij")
    features = torch.stack([long.flatten(), short.flatten()], dim=1)
    bits = codes("sh", 3, features, torch.zeros(len(features), CLASSES))
    position = features[:, 0] / 4
    for k in range(3):
        expected = torch.cos((k + 1) * math.pi * position)
        clear = expected.abs() > 1e-3
        same = (bits[clear, k] == (expected[clear] > 0)).float().mean().item()
        assert same in {0.0, 1.0} if k % 2 == 0 else same == 1.0  # a direction has no sign


def test_sh_s_outputs_equal_loops():
    features, labels = some_rows()
    state = fitted("sh", 9, features, labels)
    arrays = {name: tensor.double().numpy() for name, tensor in state.items()}
    expected = discrete.eigenfunctions(features.double().numpy(), **arrays)
    assert np.abs(heads.load("eigenfunctions", state)(features).numpy() - expected).max() < 1e-4
    projected = (features.double().numpy() - arrays["mean"]) @ arrays["directions"].T
    sides = projected.max(axis=0) - projected.min(axis=0)
    assert np.allclose(arrays["omega"], discrete.frequencies(sides.tolist(), 9), rtol=1e-4)


# KSH


def residual_matrix(labels: torch.Tensor, taken: torch.Tensor, bits: int) -> np.ndarray:
    return bits * discrete.sign_matrix(labels) - (taken.T @ taken).numpy()


def test_the_residual_per_label_set_equals_the_matrix():
    _, labels = some_rows(30)
    residual = Residual(labels, 8)
    taken = torch.randn(3, 30).sign()
    for code in taken:
        residual.take(code)
    matrix = residual_matrix(labels, taken, 8)
    values = torch.randn(30, 4)
    assert np.abs(residual(values).numpy() - matrix @ values.numpy()).max() < 1e-3
    one = values[:, 0].numpy()
    assert residual.agreement(values[:, 0]) == pytest.approx(one @ matrix @ one, rel=1e-4)


def centred_kernels(count: int, anchors: int) -> tuple[torch.Tensor, torch.Tensor]:
    features, labels = some_rows(count)
    generator = torch.Generator().manual_seed(0)
    return fitting.anchored(features, anchors, 2.0, generator)[1], labels


def test_the_spectral_start_solves_the_generalised_eigenproblem():
    kernels, labels = centred_kernels(50, 6)
    dense = kernels.numpy()
    matrix = residual_matrix(labels, torch.empty(0, 50), 8)
    _, vectors = linalg.eigh(dense.T @ matrix @ dense, dense.T @ dense)
    expected = vectors[:, -1] * math.sqrt(50)  # of length sqrt(L) on the rows
    whiten = whitening(kernels.float())
    whitened = kernels.float() @ whiten
    between = whitened.T @ Residual(labels, 8)(whitened)
    found = (whiten @ leading(between)).numpy() * math.sqrt(50)
    ours, theirs = dense @ found, dense @ expected
    assert min(np.abs(ours - s * theirs).max() for s in (1, -1)) < 1e-2
    assert (ours**2).sum() == pytest.approx(50, rel=1e-4)


@pytest.mark.parametrize("iterations", [1, 2, 10])
def test_the_smooth_descent_equals_the_reference_and_lowers_the_cost(iterations):
    kernels, labels = centred_kernels(40, 6)
    start = 3 * torch.randn(6, generator=torch.Generator().manual_seed(5))
    matrix = residual_matrix(labels, torch.empty(0, 40), 8)
    expected, costs = discrete.ksh_smooth(
        kernels.numpy(), matrix, start.double().numpy(), iterations
    )
    found = descend(kernels.float(), Residual(labels, 8), start, iterations).numpy()
    assert np.abs(kernels.numpy() @ (found - expected)).max() < 1e-2
    y = np.tanh(kernels.numpy() @ found / 2)
    assert -y @ matrix @ y == pytest.approx(costs[-1], rel=1e-3)
    assert costs[-1] < costs[0]


@pytest.mark.parametrize("iterations", [1, 500])
def test_a_bit_of_ksh_is_no_worse_than_the_spectral_or_the_smooth_one(iterations):
    """|R - y y'|^2 = |R|^2 - 2 y'R y + L^2: a bit is to have a large y'R y."""
    features, labels = some_rows(50)
    bits, generator = 6, torch.Generator().manual_seed(3)
    method = build("ksh", bits=bits, num_classes=CLASSES, anchors=20, iterations=iterations)
    state = method.fit(features, labels, generator=generator)
    spins = fitting.signs(heads.load("kernel", state)(features)).double()
    again = torch.Generator().manual_seed(3)
    kernels = fitting.anchored(features, 20, 2.0, again)[1].numpy()
    values, vectors = np.linalg.eigh(kernels.T @ kernels)
    whitened = kernels @ (vectors / np.sqrt(values))
    left = [np.square(residual_matrix(labels, spins.T[:0], bits)).sum()]
    for k in range(bits):
        matrix = residual_matrix(labels, spins.T[:k], bits)
        direction = whitened @ np.linalg.eigh(whitened.T @ matrix @ whitened)[1][:, -1]
        spectral, own = np.sign(direction), spins[:, k].numpy()
        assert own @ matrix @ own >= spectral @ matrix @ spectral - 1e-6
        start = np.linalg.lstsq(kernels, direction * math.sqrt(50), rcond=None)[0]
        smooth, _ = discrete.ksh_smooth(kernels, matrix, start, iterations)
        smooth = np.sign(kernels @ smooth)
        reached = smooth @ matrix @ smooth
        assert own @ matrix @ own >= reached - 0.03 * abs(reached)  # single precision
        left.append(np.square(residual_matrix(labels, spins.T[: k + 1], bits)).sum())
    assert left[-1] < 0.8 * left[0]


# SDH


def test_sdh_equals_loops_over_all_its_steps():
    features, labels = some_rows(40)
    hyper = {"label_penalty": 1.0, "nu": 0.01, "kernel_penalty": 1e-2, "iterations": 3}
    state = fitted("sdh", 6, features, labels, anchors=15, rounds=4, **hyper)
    draws = torch.Generator().manual_seed(3)
    anchors = features[torch.randperm(40, generator=draws)[:15]]
    start = torch.randn(40, 6, generator=draws).sign().double().numpy()
    rows, points = features.double().numpy(), anchors.double().numpy()
    squares = ((rows[:, None] - points) ** 2).sum(axis=2)
    kernels = discrete.kernels(rows, points, 2 * squares.mean())
    inputs = np.hstack([kernels - kernels.mean(axis=0), np.ones((40, 1))])
    targets = labels.double().numpy()
    expected, projection = discrete.sdh(inputs, targets, start, rounds=4, **hyper)
    outputs = heads.load("kernel", state)(features).numpy()
    assert np.abs(outputs - inputs @ projection).max() < 1e-3
    assert torch.equal(state["anchors"], anchors)
    assert state["width"].item() == pytest.approx(2 * squares.mean(), rel=1e-5)
    misfit = np.square(targets - expected @ discrete.ridge(expected, targets, 1.0)).sum()
    first = np.square(targets - start @ discrete.ridge(start, targets, 1.0)).sum()
    assert misfit < 0.5 * first


def test_no_more_anchors_than_rows_are_taken():
    features, labels = some_rows(9)
    assert len(fitted("sdh", 4, features, labels)["anchors"]) == 9
    assert len(fitted("ksh", 4, features, labels)["anchors"]) == 9
