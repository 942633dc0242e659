"""What every method must hold, over all of METHODS: a new one is tested by what stands."""

from __future__ import annotations

import pytest
import torch

from isdh import heads
from isdh.errors import InputError
from isdh.method import Batch, Method
from isdh.methods import METHODS, build, settings

BITS, CLASSES, WIDTH = 8, 5, 3
everyone = pytest.mark.parametrize("name", list(METHODS))
descended = pytest.mark.parametrize("name", [name for name in METHODS if not METHODS[name].head])
fitted = pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].head])


def make(name: str, count: int = 16) -> Method:
    """A method prepared for `count` training rows, all of them labelled."""
    torch.manual_seed(0)
    method = build(name, bits=BITS, num_classes=CLASSES)
    labels = random_labels(count)
    labels[:, 0] |= ~labels.any(dim=1)
    method.prepare(labels, WIDTH)
    return method


def whereabouts(method: Method, outputs: torch.Tensor, *, step: int = 0) -> Batch:
    rows = torch.arange(len(outputs))
    hidden = torch.linspace(0, 1, len(outputs) * WIDTH, dtype=outputs.dtype).view(-1, WIDTH)
    views = (outputs.detach().roll(1, dims=1),) * method.views
    return Batch(rows, step, steps=60, epoch=step // 2, hidden=hidden, views=views)


def loss(method: Method, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return method(outputs, labels, whereabouts(method, outputs)).total


def random_labels(count: int) -> torch.Tensor:
    return torch.rand(count, CLASSES, generator=torch.Generator().manual_seed(1)) < 0.4


@descended
@pytest.mark.parametrize(
    "case", ["unlabelled rows", "no label at all", "batch of one", "identical labels", "mixed"]
)
def test_loss_and_gradient_are_finite(name, case):
    count = 1 if case == "batch of one" else 6
    labels = random_labels(count)
    if case == "unlabelled rows":
        labels[::2] = False
    if case == "no label at all":
        labels[:] = False
    if case == "identical labels":
        labels[:] = torch.tensor([True, False, True, False, False])
    if case == "mixed":
        labels = 0.7 * labels.float() + 0.3 * labels.flip(0).float()
    outputs = torch.randn(count, BITS).requires_grad_()
    total = loss(make(name), outputs, labels)
    total.backward()
    assert total.ndim == 0
    assert torch.isfinite(total)
    assert outputs.grad is not None
    assert torch.isfinite(outputs.grad).all()


@descended
def test_a_loss_needs_no_whereabouts(name):
    """Then what rests on memories, further views or the hidden layer falls away."""
    outputs = torch.randn(6, BITS).requires_grad_()
    total = make(name)(outputs, random_labels(6)).total
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(outputs.grad).all()
    assert outputs.grad.any()


@descended
def test_order_of_the_batch_does_not_matter(name):
    outputs = torch.randn(7, BITS, dtype=torch.float64)
    labels, order = random_labels(7), torch.randperm(7)
    one, other = make(name).double(), make(name).double()
    for step in range(3):  # memories included
        batch = whereabouts(one, outputs, step=step)
        permuted = Batch(
            batch.rows[order],
            step,
            batch.steps,
            batch.epoch,
            batch.hidden[order],
            tuple(view[order] for view in batch.views),
        )
        total = one(outputs, labels, batch).total.item()
        assert other(outputs[order], labels[order], permuted).total.item() == pytest.approx(
            total, abs=1e-12, rel=1e-12
        )
        outputs = outputs.roll(1, dims=0)


@everyone
def test_activation_keeps_the_sign_and_stays_within_one(name):
    outputs = torch.tensor([[-100.0, -2.0, -0.5, -1e-3, 1e-3, 0.5, 2.0, 100.0]])
    codes = make(name).activate(outputs)
    assert (codes.sign() == outputs.sign()).all()
    assert codes.abs().max() <= 1


@descended
def test_loss_falls_on_a_small_problem(name):
    labels = random_labels(16)
    outputs = torch.nn.Parameter(torch.randn(16, BITS))
    method = make(name)
    optimizer = torch.optim.Adam([outputs, *method.parameters()], lr=0.1)
    totals = []
    for _ in range(40):  # whereabouts stay: a schedule would move the target
        total = loss(method, outputs, labels)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < totals[0] - 0.1 * abs(totals[0])


@descended
def test_state_holds_whatever_a_method_remembers(name):
    outputs, labels = torch.randn(6, BITS), random_labels(6)
    method, taken_up = make(name), make(name)
    for step in range(3):
        method(outputs, labels, whereabouts(method, outputs, step=step))
        outputs = outputs.roll(1, dims=0)
    taken_up.load_state_dict(method.state_dict())
    for step in range(3, 6):
        batch = whereabouts(method, outputs, step=step)
        one, other = method(outputs, labels, batch), taken_up(outputs, labels, batch)
        assert one.total.item() == other.total.item()


@fitted
def test_a_fitted_head_repeats_and_gives_finite_outputs_of_the_code_s_length(name):
    features, labels = small_rows()
    heads_made = []
    for _ in range(2):
        method = build(name, bits=BITS, num_classes=CLASSES)
        state = method.fit(features, labels, generator=torch.Generator().manual_seed(3))
        heads_made.append(heads.load(method.head, state))
    one, other = (head(features) for head in heads_made)
    assert one.shape == (len(features), BITS)
    assert torch.isfinite(one).all()
    assert torch.equal(one, other)
    assert (one > 0).any()
    assert (one <= 0).any()


@fitted
@pytest.mark.parametrize("case", ["unlabelled rows", "no label at all", "identical rows"])
def test_a_fitted_head_is_finite(name, case):
    features, labels = small_rows()
    if case == "unlabelled rows":
        labels[::2] = False
    if case == "no label at all":
        labels[:] = False
    if case == "identical rows":
        features[:] = features[0].clone()
    method = build(name, bits=BITS, num_classes=CLASSES)
    state = method.fit(features, labels, generator=torch.Generator().manual_seed(3))
    assert torch.isfinite(heads.load(method.head, state)(features)).all()


@fitted
def test_a_fitted_method_has_no_loss(name):
    with pytest.raises(TypeError, match="is fitted"):
        make(name)(torch.randn(2, BITS), random_labels(2))


def small_rows() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    labels = random_labels(60)
    centres = torch.randn(CLASSES, 12, generator=generator)
    noise = torch.randn(60, 12, generator=generator)
    return labels.float() @ centres + 0.5 * noise, labels


@everyone
def test_settings_name_every_hyper_parameter_in_effect(name):
    method = make(name)
    again = build(name, bits=BITS, num_classes=CLASSES, **settings(method))
    assert settings(again) == settings(method)


@everyone
def test_an_unknown_hyper_parameter_is_refused_with_the_known_ones(name):
    with pytest.raises(InputError, match=rf"unknown hyper-parameter of {name} 'gama'.*known: "):
        build(name, bits=BITS, num_classes=CLASSES, gama=1)


def test_an_unknown_method_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"unknown method 'isdg', did you mean 'isdh'\? known: "):
        build("isdg", bits=BITS, num_classes=CLASSES)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bits": 0}, "bits=0: a code has at least 1 bit"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"gamma": -1.0}, "gamma=-1.0: must not be negative"),
        ({"beta": 0.0}, "beta=0.0: must be positive"),
    ],
)
def test_a_value_out_of_range_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        build("isdh", **{"bits": 4, "num_classes": 3, **values})


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("dtsh", {"margin": 17.0}, "margin=17.0: over 16, by how much two inner products"),
        ("dsrh", {"margin": 9.0}, "margin=9.0: over 8, the largest difference of two distances"),
        ("dsh", {"margin": 5.0}, "margin=5.0: over 4, the largest squared distance, per bit"),
        ("orthohash", {"margin": 3.0}, "margin=3.0: over 2, by how much two cosines differ"),
        ("sprch", {"ramp": 1.5}, "ramp=1.5: over 1, the whole of the training"),
        ("ksh", {"anchors": 0}, "anchors=0: must be positive"),
        ("ksh", {"anchors": 2.5}, "anchors=2.5: want a whole number"),
        ("rish", {"straight_through": 2.0}, "straight_through=2.0: a share, from 0 to 1"),
    ],
)
def test_a_value_beyond_what_codes_can_do_is_refused(name, values, message):
    with pytest.raises(InputError, match=message):
        build(name, bits=8, num_classes=3, **values)


def test_listing_methods_imports_none():
    import subprocess
    import sys

    code = "import sys; from isdh.methods import METHODS; assert 'isdh' in METHODS; list(METHODS);"
    check = "sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code + check], check=True)
