"""What every method must hold, over all of METHODS: a new one is tested by what stands."""

from __future__ import annotations

import pytest
import torch

from isdh.errors import InputError
from isdh.method import Batch, Method
from isdh.methods import METHODS, build, settings

BITS, CLASSES = 8, 5
everyone = pytest.mark.parametrize("name", list(METHODS))


def make(name: str) -> Method:
    torch.manual_seed(0)
    return build(name, bits=BITS, num_classes=CLASSES)


def whereabouts(count: int) -> Batch:
    return Batch(rows=torch.arange(count), step=0, steps=10, hidden=torch.zeros(count, 3))


def loss(method: Method, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return method(outputs, labels, whereabouts(len(outputs))).total


def random_labels(count: int) -> torch.Tensor:
    return torch.rand(count, CLASSES, generator=torch.Generator().manual_seed(1)) < 0.4


@everyone
@pytest.mark.parametrize("case", ["unlabelled rows", "batch of one", "identical labels", "random"])
def test_loss_and_gradient_are_finite(name, case):
    count = 1 if case == "batch of one" else 6
    labels = random_labels(count)
    if case == "unlabelled rows":
        labels[::2] = False
    if case == "identical labels":
        labels[:] = torch.tensor([True, False, True, False, False])
    outputs = torch.randn(count, BITS).requires_grad_()
    total = loss(make(name), outputs, labels)
    total.backward()
    assert total.ndim == 0
    assert torch.isfinite(total)
    assert outputs.grad is not None
    assert torch.isfinite(outputs.grad).all()


@everyone
def test_order_of_the_batch_does_not_matter(name):
    outputs = torch.randn(7, BITS, dtype=torch.float64)
    labels = random_labels(7)
    order = torch.randperm(7)
    method = make(name).double()
    rows = torch.arange(7)
    one = method(outputs, labels, Batch(rows, 0, 10)).total
    other = method(outputs[order], labels[order], Batch(rows[order], 0, 10)).total
    assert one.item() == pytest.approx(other.item(), abs=1e-12)


@everyone
def test_activation_keeps_the_sign_and_stays_within_one(name):
    outputs = torch.tensor([[-100.0, -2.0, -0.5, -1e-3, 1e-3, 0.5, 2.0, 100.0]])
    codes = make(name).activate(outputs)
    assert (codes.sign() == outputs.sign()).all()
    assert codes.abs().max() <= 1


@everyone
def test_loss_falls_on_a_small_problem(name):
    labels = random_labels(16)
    outputs = torch.nn.Parameter(torch.randn(16, BITS))
    method = make(name)
    optimizer = torch.optim.Adam([outputs, *method.parameters()], lr=0.1)
    totals = []
    for _ in range(30):
        total = loss(method, outputs, labels)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.9 * totals[0]


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


def test_listing_methods_imports_none():
    import subprocess
    import sys

    code = "import sys; from isdh.methods import METHODS; assert 'isdh' in METHODS; list(METHODS);"
    check = "sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code + check], check=True)
