"""Methods that compare codes with classes, against their formulas entry by entry."""

from __future__ import annotations

import math

import pytest
import torch

from isdh.method import Batch, Method
from isdh.methods import build
from isdh.methods.csq import balanced_codes, class_centres
from isdh.methods.hyp2 import best_distance, dimension
from tests.reference import proxies as oracles

BITS, CLASSES, COUNT = 11, 7, 9
NAMES = ["dlbhc", "greedyhash", "csq", "orthohash", "hyp2", "sprch", "dhd"]
STEPS = 30


def make(name: str, **hyper) -> Method:
    torch.manual_seed(3)
    return build(name, bits=BITS, num_classes=CLASSES, **hyper).double()


def rows(seed: int, kind: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Outputs, labels and the outputs of a second view; `kind` says what the labels are like."""
    generator = torch.Generator().manual_seed(seed)
    outputs, view = torch.randn(2, COUNT, BITS, dtype=torch.float64, generator=generator) * 2
    labels = torch.rand(COUNT, CLASSES, generator=generator) < 0.3
    labels[0] = False
    labels[1] = True
    labels[2:4] = torch.eye(CLASSES, dtype=torch.bool)[:2]
    if kind == "mixed":
        shares = torch.rand(COUNT, 1, generator=generator)
        labels = shares * labels.float() + (1 - shares) * labels.flip(0).float()
    if kind == "identical":
        labels[:] = labels[-1] | labels[3]
    if kind == "none":
        labels[:] = False
    return outputs.requires_grad_(), labels, view.requires_grad_()


def expected(name: str, method: Method, outputs, labels, view, step: int, hyper):
    labels = labels.double()
    p = dict(method.named_parameters()) | dict(method.named_buffers())
    match name:
        case "dlbhc":
            weight, bias = p["classifier.weight"], p["classifier.bias"]
            return oracles.dlbhc(outputs, labels, weight=weight, bias=bias)
        case "csq":
            own = {"centres": p["centres"], "tie_break": p["tie_break"]}
            return oracles.csq(outputs, labels, **own, **hyper)
        case "orthohash":
            return oracles.orthohash(outputs, labels, class_codes=p["class_codes"], **hyper)
        case "hyp2":
            zeta = 1 - 2 * 6 / 11  # the best code of 11 bits and 8 words has distance 6
            return oracles.hyp2(outputs, labels, proxies=p["proxies"], zeta=zeta, **hyper)
        case "sprch":
            own = {"weight": p["prototypes.weight"], "bias": p["prototypes.bias"]}
            pace = min(1.0, step / 10)  # 30 steps: the first third are 10
            return oracles.sprch(outputs, labels, **own, pace=pace, **hyper)
        case _:
            return oracles.dhd(outputs, labels, view, proxies=p["proxies"], **hyper)


HYPER = {
    "dlbhc": {},
    "csq": {"quantisation_weight": 0.7},
    "orthohash": {"scale": 3.0, "margin": 0.5},
    "hyp2": {"pair_weight": 1.5},
    "sprch": {"temperature": 0.7},
    "dhd": {
        "temperature": 0.5,
        "distillation_weight": 0.9,
        "quantisation_weight": 0.8,
        "deviation": 0.8,
    },
}


@pytest.mark.parametrize("tuned", [False, True])
@pytest.mark.parametrize("kind", ["random", "mixed", "identical", "none"])
@pytest.mark.parametrize("name", list(HYPER))
def test_loss_and_gradients_equal_the_formula(name, kind, tuned):
    hyper = HYPER[name] if tuned else {}
    method = make(name, **hyper)
    for seed, step in enumerate((0, 4, 9, 25)):
        outputs, labels, view = rows(seed, kind)
        batch = Batch(torch.arange(COUNT), step, STEPS, views=(view,) * method.views)
        total = method(outputs, labels, batch).total
        reference = expected(name, method, outputs, labels, view, step, hyper)
        assert total.item() == pytest.approx(reference.item(), abs=1e-9, rel=1e-9)
        leaves = [outputs, view, *method.parameters()]
        ours = gradients(total, leaves)
        theirs = gradients(reference, leaves)
        for a, b in zip(ours, theirs, strict=True):
            assert (a - b).abs().max().item() < 1e-9


def gradients(total: torch.Tensor, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
    if not total.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    return [
        torch.zeros_like(leaf) if gradient is None else gradient
        for leaf, gradient in zip(leaves, found, strict=True)
    ]


@pytest.mark.parametrize("penalty_weight", [0.1, 2.0])
def test_greedyhash_equals_the_formula_with_a_sign_that_lets_gradients_through(penalty_weight):
    method = make("greedyhash", penalty_weight=penalty_weight)
    outputs, labels, _ = rows(0, "random")
    total = method(outputs, labels).total
    weight = method.classifier.weight
    reference, gradient = oracles.greedyhash(
        outputs, labels.double(), weight=weight, penalty_weight=penalty_weight
    )
    assert total.item() == pytest.approx(reference.item(), abs=1e-9)
    ours = torch.autograd.grad(total, [outputs, weight], retain_graph=True)
    assert (ours[0] - gradient).abs().max().item() < 1e-9
    assert (ours[1] - torch.autograd.grad(reference, weight)[0]).abs().max().item() < 1e-9


def test_the_sign_that_greedyhash_classifies_is_exact_for_large_outputs():
    outputs = torch.tensor([[1e9, -1e9, 3.0]])
    codes = build("greedyhash", bits=3, num_classes=2).activate(outputs)
    assert codes.tolist() == [[1, -1, 1]]


@pytest.mark.parametrize("name", ["csq", "orthohash"])
def test_an_unlabelled_row_has_no_gradient(name):
    outputs, labels, _ = rows(0, "random")
    gradient = torch.autograd.grad(make(name)(outputs, labels).total, outputs)[0]
    assert torch.equal(gradient.abs().sum(1) > 0, labels.any(1))
    assert not labels.any(1).all()


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_finite_where_outputs_are_extreme(name):
    for scale in (0.0, 1e-30, 1e8):
        outputs = (torch.tensor([[1.0], [-1.0]]) * scale).repeat(1, BITS).requires_grad_()
        method = build(name, bits=BITS, num_classes=CLASSES)
        total = method(outputs, torch.eye(2, CLASSES, dtype=torch.bool)).total
        (gradient,) = torch.autograd.grad(total, outputs)
        assert torch.isfinite(total)
        assert torch.isfinite(gradient).all()


def test_sprch_is_finite_at_a_low_temperature():
    method = build("sprch", bits=BITS, num_classes=CLASSES, temperature=0.003)
    total = method(torch.randn(COUNT, BITS), torch.eye(COUNT, CLASSES, dtype=torch.bool)).total
    assert torch.isfinite(total)


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("dlbhc", {"classifier": 10.0}),
        ("greedyhash", {}),
        ("csq", {}),
        ("orthohash", {}),
        ("hyp2", {"proxies": 2.0}),
        ("sprch", {"prototypes": 10.0}),
        ("dhd", {}),
    ],
)
def test_rates_are_the_published_ones_and_name_parameters(name, rates):
    method = make(name)
    assert method.rates() == rates
    names = [parameter for parameter, _ in method.named_parameters()]
    assert all(any(f"{n}.".startswith(f"{key}.") for n in names) for key in rates)


class TestHyP2:
    @pytest.mark.parametrize(
        ("classes", "zetas"),
        [
            (38, {12: 0.333, 16: 0.25, 24: 0.167, 32: 0, 36: 0.111, 48: 0, 64: 0}),
            (21, {12: 0.333, 36: 0.056, 16: 0, 24: 0, 32: 0, 48: 0, 64: 0}),
            (20, {12: 0.333, 36: 0.056, 16: 0, 24: 0, 32: 0, 48: 0, 64: 0}),
            (80, {12: 0.333, 16: 0.25, 24: 0.167, 32: 0.125, 36: 0.111, 48: 0.083, 64: 0}),
        ],
    )
    def test_zeta_is_that_of_the_authors_table(self, classes, zetas):
        for bits, zeta in zetas.items():
            assert build("hyp2", bits=bits, num_classes=classes).zeta == pytest.approx(
                zeta, abs=6e-4
            )

    def test_distances_of_small_codes_equal_those_of_a_search_over_all_codes(self):
        for k, longest in ((1, 9), (2, 9), (3, 8)):
            for bits in range(k, longest + 1):
                assert best_distance(bits, k) == searched_distance(bits, k)

    @pytest.mark.parametrize(
        ("bits", "k", "distance"),
        [
            (7, 4, 3),  # Hamming
            (8, 4, 4),
            (15, 4, 8),  # simplex
            (15, 5, 7),  # BCH
            (16, 5, 8),  # Reed-Muller, first order
            (32, 6, 16),
            (64, 7, 32),
            (18, 6, 8),  # shortened extended Golay
            (19, 7, 8),
            # where a proof that no better code exists is a paper's: guava, tbl/upperbd2.g
            (12, 5, 4),
            (28, 6, 12),
            (40, 6, 18),
            (31, 7, 13),
            (34, 7, 15),
            (55, 7, 25),
            (58, 7, 27),
            (60, 7, 28),
            (73, 7, 34),
            (85, 7, 40),
            (88, 7, 42),
        ],
    )
    def test_distances_of_known_codes(self, bits, k, distance):
        assert best_distance(bits, k) == distance

    def test_a_longer_code_is_never_worse_and_a_larger_one_never_better(self):
        for bits in range(9, 129):
            for k in range(1, 9):
                here = best_distance(bits, k)
                assert here <= best_distance(bits + 1, k) <= here + 1
                assert best_distance(bits, k + 1) <= here
                assert here % 2 == 0 or best_distance(bits + 1, k) == here + 1

    def test_one_class_and_codes_too_short_for_their_classes_have_a_zeta(self):
        assert dimension(1) == 1
        assert build("hyp2", bits=3, num_classes=1).zeta == -1
        assert build("hyp2", bits=2, num_classes=100).zeta == 0

    def test_pairs_that_count_share_nothing_and_have_two_labels_each(self):
        labels = torch.zeros(3, 4, dtype=torch.bool)
        labels[0, :2], labels[1, 2:], labels[2, 2] = True, True, True
        outputs = torch.tensor([[3.0, 4.0], [4.0, 3.0], [3.0, 4.0]], dtype=torch.float64)
        method = build("hyp2", bits=2, num_classes=4).double()  # [2, 2]: d = 1, zeta = 0
        pairs = method(outputs, labels).parts["pairs"]
        assert pairs.item() == pytest.approx(24 / 25)  # rows 0 and 1, in both orders


def searched_distance(bits: int, k: int) -> int:
    """The best over all codes: how often each of the columns that are not zero stands there."""
    columns = range(1, 2**k)
    words = [[bin(w & c).count("1") % 2 for c in columns] for w in range(1, 2**k)]

    def best(column: int, left: int, weights: list[int]) -> int:
        if column == len(columns):
            return min(weights) if left == 0 else 0
        tries = range(left + 1) if column < len(columns) - 1 else [left]
        return max(
            best(
                column + 1,
                left - count,
                [w + count * word[column] for w, word in zip(weights, words, strict=True)],
            )
            for count in tries
        )

    return best(0, bits, [0] * len(words))


class TestCSQ:
    def test_centres_of_a_power_of_two_differ_in_half_the_bits(self):
        centres = class_centres(16, 16)
        assert torch.equal(centres @ centres.T, 16 * torch.eye(16))
        assert class_centres(4, 4).tolist() == [
            [1, 1, 1, 1],
            [1, -1, 1, -1],
            [1, 1, -1, -1],
            [1, -1, -1, 1],
        ]

    def test_more_classes_than_bits_take_the_negated_rows_too(self):
        centres = class_centres(24, 16)
        assert torch.equal(centres[16:], -centres[:8])

    @pytest.mark.parametrize(("classes", "bits"), [(38, 48), (38, 12), (33, 16), (5, 7), (3, 1)])
    def test_other_centres_are_random_with_half_the_bits_minus_one(self, classes, bits):
        torch.manual_seed(0)
        centres = class_centres(classes, bits)
        assert centres.shape == (classes, bits)
        assert ((centres == -1).sum(1) == round(bits / 2)).all()
        assert (centres.abs() == 1).all()

    def test_of_many_draws_the_one_with_the_widest_gap_is_kept(self):
        def closest(codes):
            return ((48 - codes @ codes.T) / 2).fill_diagonal_(99).min().item()

        torch.manual_seed(0)
        kept = closest(class_centres(38, 48))
        torch.manual_seed(0)
        method = build("csq", bits=48, num_classes=38)
        assert closest(method.centres) == kept
        drawn = [closest(balanced_codes(38, 48)) for _ in range(30)]
        assert kept > sum(drawn) / len(drawn)

    def test_a_majority_of_labels_decides_and_a_tie_is_broken_alike_for_all_rows(self):
        method = build("csq", bits=4, num_classes=4).double()
        labels = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0]], dtype=torch.float64)
        got = method.row_centres(labels).tolist()
        assert got[0] == [1, 1, 1, -1]
        tie = method.tie_break.tolist()
        assert got[1] == got[2] == [1, tie[1], 1, tie[3]]

    def test_votes_of_mixed_rows_that_cancel_up_to_rounding_are_a_tie(self):
        method = build("csq", bits=8, num_classes=8)
        method.tie_break.fill_(-1)
        # bit 4 of the first four centres is 1, of the others -1: three votes against three
        shares = torch.arange(0.01, 1, 0.01)[:, None]
        labels = shares * torch.tensor([1, 1, 1, 0, 1, 1, 1, 0])
        votes = labels @ method.centres
        assert (votes[:, 4] != 0).any()
        assert (method.row_centres(labels)[:, 4] == -1).all()

    def test_loss_is_least_at_the_centres(self):
        method = build("csq", bits=8, num_classes=4)
        labels = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0]], dtype=torch.bool)
        centres = method.row_centres(labels.float())
        assert method(centres * 20, labels).total.item() < 1e-6
        assert method(centres * 20 * torch.tensor([[1.0], [-1.0]]), labels).total.item() > 1


class TestSPRCH:
    def test_pace_rises_over_the_first_third_and_stays(self):
        method = build("sprch", bits=4, num_classes=2)
        paces = [method.pace(Batch(torch.arange(1), step, 30)) for step in (0, 5, 10, 29)]
        assert paces == [0, 0.5, 1, 1]
        assert method.pace(None) == 1

    def test_loss_is_zero_where_nothing_is_to_be_pushed_away(self):
        labels = torch.ones(5, 3, dtype=torch.bool)
        total = build("sprch", bits=4, num_classes=3)(torch.randn(5, 4), labels).total
        assert total.item() == pytest.approx(0, abs=1e-7)


class TestDHD:
    def test_the_first_view_teaches_and_is_not_taught(self):
        outputs, labels, view = rows(0, "random")
        method = make("dhd", distillation_weight=1.0)
        batch = Batch(torch.arange(COUNT), 0, STEPS, views=(view,))
        distillation = method(outputs, labels, batch).parts["distillation"]
        taught, teacher = torch.autograd.grad(distillation, [view, outputs], allow_unused=True)
        assert taught.abs().max() > 0
        assert teacher is None

    def test_quantisation_of_one_bit_by_hand(self):
        method = build("dhd", bits=1, num_classes=1).double()
        outputs = torch.tensor([[math.atanh(0.5)]], dtype=torch.float64)
        quantisation = method(outputs, torch.zeros(1, 1)).parts["quantisation"]
        # Gaussians of deviation 1/2: exp(-1/2) at 0.5 around 1, exp(-9/2) around -1
        assert quantisation.item() == pytest.approx(0.5 - math.log(1 - math.exp(-4.5)), abs=1e-12)


def test_orthohash_settles_where_all_labels_have_equal_logits():
    """The margin comes off every label of the image: with all labels it cancels, log C remains."""
    method = build("orthohash", bits=4, num_classes=4, margin=0.7).double()
    method.class_codes.copy_(class_centres(4, 4))
    codes = method.class_codes
    even = codes.sum(0, keepdim=True)  # the same cosine with each of four orthogonal codes
    total = method(even, torch.ones(1, 4)).total
    assert total.item() == pytest.approx(math.log(4), abs=1e-12)


def test_orthohash_margin_by_hand():
    method = build("orthohash", bits=2, num_classes=2, scale=2.0, margin=0.5).double()
    method.class_codes.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    total = method(torch.ones(1, 2, dtype=torch.float64), torch.tensor([[1, 0]])).total
    # cosines 1 and 0; logits 2 (1 - 0.5) = 1 and 0
    assert total.item() == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-12)
