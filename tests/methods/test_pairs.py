"""Methods of pairs and triplets against their formulas, one pair or triplet at a time."""

from __future__ import annotations

import math

import pytest
import torch

from isdh.errors import InputError
from isdh.method import Batch, Method
from isdh.methods import build
from isdh.pairwise import log_one_plus_exp, mean_where, with_slope
from tests.reference import pairs

BITS, CLASSES = 6, 7
CASES = [
    ("isdh_graded", {}),
    ("isdh_graded", {"gamma": 0.5, "alpha": 0.3, "beta": 2.0}),
    ("dpsh", {}),
    ("dpsh", {"eta": 0.7}),
    ("hashnet", {}),
    ("hashnet", {"class_num": 0.3, "scale": 3.0}),
    ("dsh", {}),
    ("dsh", {"margin": 0.5, "alpha": 0.2}),
    ("dtsh", {}),
    ("dtsh", {"margin": 1.0, "quantisation_weight": 0.2}),
    ("dsrh", {}),
    ("dsrh", {"margin": 0.3, "balance_weight": 4.0}),
    ("drmh", {}),
    ("drmh", {"hash_weight": 1.0, "classification_weight": 0.5, "quantisation_weight": 0.3}),
]


def random_batch(
    kind: str = "labelled", count: int = 11, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    outputs = 2 * torch.randn(count, BITS, dtype=torch.float64, generator=generator)
    labels = torch.rand(count, CLASSES, generator=generator) < 0.3
    labels[:, 0] |= ~labels.any(dim=1)
    if count > 1:
        labels[1] = labels[0]  # a pair that shares all labels
    if kind == "some unlabelled":
        labels[::3] = False
    if kind == "none alike":
        labels = torch.eye(count, CLASSES) > 0
    if kind == "all alike":
        labels[:] = labels[0].clone()
    if kind == "mixed":
        shares = torch.rand(count, 1, generator=generator, dtype=torch.float64)
        labels = shares * labels + (1 - shares) * labels.roll(2, dims=0)
    return outputs.requires_grad_(), labels


def oracle(method: Method, name: str, outputs, labels, hyper, **state) -> torch.Tensor:
    if name == "drmh":
        state["classifier"] = (method.classifier.weight, method.classifier.bias)
    return getattr(pairs, name)(outputs, labels.double(), **hyper, **state)


def assert_equal(one: torch.Tensor, other: torch.Tensor, *variables: torch.Tensor) -> None:
    """Values and gradients to 1e-9."""
    assert one.item() == pytest.approx(other.item(), abs=1e-9, rel=1e-9)
    slopes = torch.autograd.grad(one, variables)
    expected = torch.autograd.grad(other, variables)
    for slope, right in zip(slopes, expected, strict=True):
        assert torch.allclose(slope, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["labelled", "none alike", "all alike", "mixed"])
@pytest.mark.parametrize(("name", "hyper"), CASES)
def test_loss_and_gradient_equal_the_formula(name, hyper, kind):
    for seed in range(2):
        outputs, labels = random_batch(kind, count=7 if kind == "none alike" else 11, seed=seed)
        method = build(name, bits=BITS, num_classes=CLASSES, **hyper).double()
        total = method(outputs, labels).total
        expected = oracle(method, name, outputs, labels, hyper)
        assert_equal(total, expected, outputs, *method.parameters())


@pytest.mark.parametrize("kind", ["some unlabelled", "batch of one"])
@pytest.mark.parametrize("name", ["isdh_graded", "dpsh", "hashnet", "dsh", "dtsh", "dsrh", "drmh"])
def test_a_batch_that_lacks_pairs_has_the_loss_of_the_formula(name, kind):
    outputs, labels = random_batch(kind, count=1 if kind == "batch of one" else 11)
    method = build(name, bits=BITS, num_classes=CLASSES).double()
    total = method(outputs, labels).total
    assert_equal(total, oracle(method, name, outputs, labels, {}), outputs)


def test_graded_isdh_is_isdh_with_its_gamma():
    outputs, labels = random_batch()
    for gamma in (0.2, 1.0):
        totals = [
            build(name, bits=BITS, num_classes=CLASSES, gamma=gamma)(outputs, labels).total.item()
            for name in ("isdh", "isdh_graded")
        ]
        assert totals[0] == totals[1]
    assert build("isdh_graded", bits=4, num_classes=2).gamma == 1


class TestMemory:
    """DPSH remembers the codes of all training rows."""

    def start(self) -> tuple[Method, list]:
        method = build("dpsh", bits=BITS, num_classes=CLASSES).double()
        labels = random_batch(count=20)[1]
        method.prepare(labels, 3)
        return method, [(torch.zeros(BITS, dtype=torch.float64), y.double()) for y in labels]

    @pytest.mark.parametrize("kind", ["labelled", "mixed"])
    def test_batches_in_turn_equal_the_formula(self, kind):
        method, memory = self.start()
        for step in range(5):
            outputs, labels = random_batch(kind, count=6, seed=step)
            rows = torch.randperm(20, generator=torch.Generator().manual_seed(step))[:6]
            total = method(outputs, labels, Batch(rows, step, 5)).total
            expected = pairs.dpsh(outputs, labels.double(), memory=memory, rows=rows.tolist())
            assert_equal(total, expected, outputs)

    def test_a_row_not_seen_yet_pulls_nowhere(self):
        method, _ = self.start()
        outputs, labels = random_batch(count=1)
        total = method(outputs, labels, Batch(torch.tensor([3]), 0, 5)).total
        seen = build("dpsh", bits=BITS, num_classes=CLASSES)(outputs, labels)
        own = seen.parts["pairwise"] + 19 * math.log(2)
        expected = own / 20 + 0.1 * seen.parts["quantisation"]
        assert total.item() == pytest.approx(expected.item(), rel=1e-12)

    def test_no_gradient_goes_through_the_memory(self):
        method, _ = self.start()
        outputs, labels = random_batch(count=4)
        batch = Batch(torch.arange(4), 0, 5)
        first = method(outputs, labels, batch).total
        assert not method.codes.requires_grad
        method(outputs.detach() + 1, labels, batch)  # the memory moves on
        first.backward()

    def test_only_training_writes_into_it(self):
        method, _ = self.start()
        outputs, labels = random_batch(count=4)
        method.eval()(outputs, labels, Batch(torch.arange(4), 0, 5))
        assert not method.codes.any()
        method.train()(outputs, labels, Batch(torch.arange(4), 0, 5))
        assert torch.equal(method.codes[:4], outputs.detach())

    def test_it_keeps_its_own_precision(self):
        method = build("dpsh", bits=BITS, num_classes=CLASSES)
        outputs, labels = random_batch(count=4)
        method.prepare(labels, 3)
        total = method(outputs, labels, Batch(torch.arange(4), 0, 5)).total
        assert total.dtype == torch.float64
        assert method.codes.dtype == torch.float32


class TestContinuation:
    """HashNet's tanh steepens over the training."""

    def slopes(self, steps: int) -> list[float]:
        method = build("hashnet", bits=BITS, num_classes=CLASSES)
        return [method.slope(Batch(torch.arange(2), step, steps)) for step in range(steps)]

    def test_it_ends_where_the_publication_ends_however_long_the_training(self):
        for steps in (100, 930, 10_000):
            slopes = self.slopes(steps)
            assert slopes[0] == 1
            assert slopes[-1] == pytest.approx(math.sqrt(1 + 0.005 * 9_800))
            assert slopes == sorted(slopes)
            assert len(set(slopes)) == 50

    def test_at_the_published_length_it_is_refreshed_every_200_steps(self):
        slopes = self.slopes(10_000)
        assert slopes[199] == 1
        assert slopes[200] == pytest.approx(math.sqrt(2))
        assert slopes[4_321] == pytest.approx(math.sqrt(1 + 0.005 * 4_200))

    @pytest.mark.parametrize("step", [0, 1, 13, 59])
    def test_loss_and_gradient_equal_the_formula_at_each_slope(self, step):
        outputs, labels = random_batch()
        method = build("hashnet", bits=BITS, num_classes=CLASSES)
        total = method(outputs, labels, Batch(torch.arange(11), step, 60)).total
        assert_equal(total, pairs.hashnet(outputs, labels.double(), step=step, steps=60), outputs)

    def test_weights_that_even_out_the_kinds_give_the_mean_of_both_means(self):
        outputs, labels = random_batch()
        similar = labels.double() @ labels.double().T > 0
        weight = float((~similar).sum() / similar.sum())
        even = build("hashnet", bits=BITS, num_classes=CLASSES, class_num=weight)
        codes = outputs.tanh()
        theta = 10 * codes @ codes.T / BITS
        values = torch.log(1 + theta.exp()) - similar * theta
        expected = (values[similar].mean() + values[~similar].mean()) / 2
        assert even(outputs, labels).total.item() == pytest.approx(expected.item(), rel=1e-9)


def test_dsh_leaves_a_dissimilar_pair_alone_beyond_the_margin():
    labels = torch.tensor([[True, False], [False, True]])
    method = build("dsh", bits=2, num_classes=2)
    far = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], requires_grad=True)  # squared distance 8 > 4
    assert method(far, labels).total.item() == 0
    near = torch.tensor([[1.0, 1.0], [1.0, -1.0]])  # 4: at the margin
    assert method(near, labels).total.item() == 0
    alike = method(far, labels | True)
    assert alike.total.item() == 4  # half of 8


def test_dtsh_counts_a_triplet_as_a_likelihood():
    """Anchors 0 and 1 share a label, 2 is alone; unit codes, margin 0."""
    labels = torch.tensor([[True, False], [True, False], [False, True]])
    outputs = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)
    method = build("dtsh", bits=2, num_classes=2, margin=0.0)
    # inner products: 2 with oneself and the like, 0 with the other
    expected = math.log(1 + math.exp(-2))
    assert method(outputs, labels).total.item() == pytest.approx(expected, rel=1e-12)


def test_dtsh_compares_more_anchors_than_stand_in_a_block():
    outputs, labels = random_batch(count=29)
    method = build("dtsh", bits=BITS, num_classes=CLASSES)
    assert_equal(method(outputs, labels).total, pairs.dtsh(outputs, labels.double()), outputs)


def test_dtsh_is_finite_where_the_logits_are_extreme():
    labels = torch.eye(3, CLASSES, dtype=torch.bool)
    labels[1] = labels[0]
    outputs = torch.tensor([[1e4] * BITS, [-1e4] * BITS, [1e4] * BITS], requires_grad=True)
    total = build("dtsh", bits=BITS, num_classes=CLASSES)(outputs, labels).total
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(outputs.grad).all()


class TestDSRH:
    """A query's list: most labels shared, fewer, none."""

    LABELS = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1]]).bool()

    def ranking(self, outputs: torch.Tensor, labels: torch.Tensor) -> float:
        method = build("dsrh", bits=outputs.shape[1], num_classes=3)
        return method(outputs, labels).parts["ranking"].item()

    def test_a_triplet_costs_what_its_wrong_order_would_cost_in_dcg(self):
        """Equal codes: each hinge is the margin, 5."""
        outputs = torch.zeros(4, 8, dtype=torch.float64)
        ideal = 3 / math.log(2) + 1 / math.log(3)
        first = (2 + 3 + 1) / ideal  # queries 0 and 1: 2 labels, then 1, then none
        third = math.log(2)  # query 2 shares one label with 0 and 1, none with 3
        expected = 5 * (2 * first + third) / 3  # query 3 shares nothing: left out
        assert self.ranking(outputs, self.LABELS) == pytest.approx(expected, rel=1e-12)

    def test_a_right_order_with_room_costs_nothing(self):
        codes = torch.zeros(4, 60, dtype=torch.float64)
        codes[:, :20] = torch.tensor([1.0, 1.0, 1.0, -1.0])[:, None]
        codes[:, 20:40] = torch.tensor([1.0, 1.0, -1.0, -1.0])[:, None]
        codes[:, 40:] = torch.tensor([1.0, 1.0, 1.0, -1.0])[:, None]
        assert self.ranking(50 * codes, self.LABELS) == 0
        assert self.ranking(-50 * codes, self.LABELS) == 0
        assert self.ranking(50 * codes.flip(0), self.LABELS) > 0

    def test_an_even_split_of_every_bit_has_no_balance_term(self):
        outputs = torch.tensor([[1.0, -2.0], [-1.0, 2.0]])
        method = build("dsrh", bits=2, num_classes=3, margin=1.0)
        assert method(outputs, self.LABELS[:2]).parts["balance"].item() == 0
        assert method(outputs.abs(), self.LABELS[:2]).parts["balance"].item() > 0


@pytest.mark.parametrize(("share", "similarity"), [(1, 1 / 3), (2, 2 / 3)])
def test_drmh_wants_a_share_of_equal_bits_that_equals_the_similarity(share, similarity):
    """Both factors vanish at <u, v> / bits = cos = 2 S - 1 for codes at +-1."""
    labels = torch.zeros(2, 6, dtype=torch.bool)
    labels[0, :3] = True
    labels[1, 3 - share : 6 - share] = True
    equal = round(similarity * 6)
    outputs = torch.full((2, 6), 30.0, dtype=torch.float64)
    outputs[1, equal:] *= -1
    at = build("drmh", bits=6, num_classes=6).double()
    assert at(outputs, labels).parts["pairwise"].item() == pytest.approx(0, abs=1e-9)
    for other in (equal - 1, equal + 1):
        outputs[1] = 30.0
        outputs[1, other:] *= -1
        assert at(outputs, labels).parts["pairwise"].item() > 0.1


def test_drmh_does_not_descend_on_its_weights():
    """They say how wrong a pair is, no more: the gradient is that with the weights held."""
    outputs, labels = random_batch(count=2)
    method = build("drmh", bits=BITS, num_classes=CLASSES, classification_weight=0.0).double()
    (slope,) = torch.autograd.grad(method(outputs, labels).parts["pairwise"], outputs)
    codes = outputs.tanh()
    cosine = torch.nn.functional.cosine_similarity(codes[:1], codes[1:]).item()
    inner = (codes[0] * codes[1]).sum()
    held = abs(1 - (1 + cosine) / 2) * ((inner + BITS) / 2 - BITS).square()  # S = 1
    assert torch.allclose(slope, torch.autograd.grad(held, outputs)[0], rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("isdh_graded", "gamma"),
        ("isdh_graded", "beta"),
        ("dpsh", "eta"),
        ("hashnet", "class_num"),
        ("hashnet", "scale"),
        ("hashnet", "growth"),
        ("dsh", "margin"),
        ("dsh", "alpha"),
        ("dtsh", "margin"),
        ("dtsh", "quantisation_weight"),
        ("dsrh", "margin"),
        ("dsrh", "balance_weight"),
        ("drmh", "hash_weight"),
        ("drmh", "classification_weight"),
        ("drmh", "quantisation_weight"),
    ],
)
def test_a_negative_hyper_parameter_is_refused(name, key):
    with pytest.raises(InputError, match=rf"{key}=-1.0: must"):
        build(name, bits=4, num_classes=3, **{key: -1.0})


def test_the_logistic_loss_is_that_of_torch_and_takes_infinities():
    values = torch.linspace(-60, 60, 2401, dtype=torch.float64)
    expected = torch.nn.functional.softplus(values, threshold=1000)
    assert torch.allclose(log_one_plus_exp(values), expected, rtol=0, atol=1e-14)
    ends = log_one_plus_exp(torch.tensor([-torch.inf, torch.inf]))
    assert ends.tolist() == [0, torch.inf]


def test_a_known_slope_is_the_gradient_and_leaves_the_value():
    variable = torch.tensor([3.0, -2.0], requires_grad=True)
    slope = torch.tensor([0.5, 7.0])
    value = with_slope(torch.tensor(11.0), slope, variable * 2)
    assert value.item() == 11
    assert torch.autograd.grad(value, variable)[0].tolist() == [1, 14]


def test_a_mean_over_nothing_is_zero_and_keeps_the_graph():
    values = torch.ones(3, requires_grad=True)
    nothing = mean_where(values, torch.zeros(3, dtype=torch.bool))
    nothing.backward()
    assert nothing.item() == 0
    assert values.grad.tolist() == [0, 0, 0]
    assert mean_where(torch.tensor([1.0, 5.0, 9.0]), torch.tensor([True, False, True])).item() == 5
