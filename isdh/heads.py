"""Hash functions of fitted methods: features -> outputs whose signs are the code. Pure torch.

A head is its buffers: its arguments are its state, by the same names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Head(nn.Module):
    """A function of features; computed in float32 wherever it stands.

    A bit hangs on the sign of an output, however small, so autocast is kept out.

    Args:
        **state: float32 tensors, kept as buffers.
    """

    def __init__(self, **state: Tensor) -> None:
        super().__init__()
        for name, tensor in state.items():
            self.register_buffer(name, tensor)

    def forward(self, features: Tensor) -> Tensor:
        """(N, F) -> (N, bits)."""
        with torch.autocast(features.device.type, enabled=False):
            return self.outputs(features.float())

    def outputs(self, features: Tensor) -> Tensor:
        """float32 (N, F) -> (N, bits)."""
        raise NotImplementedError


class Linear(Head):
    """Projections: x W^T + b.

    Args:
        weight: float32 (bits, F).
        bias: float32 (bits,).
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__(weight=weight, bias=bias)

    def outputs(self, features: Tensor) -> Tensor:
        """float32 (N, F) -> (N, bits)."""
        return nn.functional.linear(features, self.weight, self.bias)


class Kernel(Head):
    """Projections of Gaussian kernels to anchors: (k(x) - centre) W^T + b.

    k_a(x) = exp(-|x - a|^2 / width). The centre takes away what all rows have in common, so that
    the sum over anchors loses no digits; the bias could stand for it in exact arithmetic.

    Args:
        anchors: float32 (A, F).
        width: float32 (), the denominator.
        centre: float32 (A,), subtracted from the kernels' values.
        weight: float32 (bits, A).
        bias: float32 (bits,).
    """

    anchors: Tensor
    width: Tensor
    centre: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(
        self, anchors: Tensor, width: Tensor, centre: Tensor, weight: Tensor, bias: Tensor
    ) -> None:
        super().__init__(anchors=anchors, width=width, centre=centre, weight=weight, bias=bias)

    def outputs(self, features: Tensor) -> Tensor:
        """float32 (N, F) -> (N, bits); (N, A) is the largest it holds."""
        values = torch.exp(-squared_distances(features, self.anchors) / self.width)
        return nn.functional.linear(values - self.centre, self.weight, self.bias)


class Eigenfunctions(Head):
    """Products of sinusoids along principal directions, of the uniform distribution on a box.

    Output k is the product over directions d of sin(omega_kd (p_d - lowest_d) + pi / 2), where p
    are the projections.

    Args:
        mean: float32 (F,), subtracted from the features.
        directions: float32 (D, F).
        lowest: float32 (D,), where the box begins.
        omega: float32 (bits, D); 0 leaves a direction out.
    """

    mean: Tensor
    directions: Tensor
    lowest: Tensor
    omega: Tensor

    def __init__(self, mean: Tensor, directions: Tensor, lowest: Tensor, omega: Tensor) -> None:
        super().__init__(mean=mean, directions=directions, lowest=lowest, omega=omega)

    def outputs(self, features: Tensor) -> Tensor:
        """float32 (N, F) -> (N, bits); (N, bits, D) is the largest it holds."""
        places = (features - self.mean) @ self.directions.T - self.lowest
        return torch.sin(places[:, None, :] * self.omega + math.pi / 2).prod(dim=2)


HEADS: dict[str, type[Head]] = {
    "linear": Linear,
    "kernel": Kernel,
    "eigenfunctions": Eigenfunctions,
}


def load(kind: str, state: Mapping[str, Tensor]) -> nn.Module:
    """Make a head from its state.

    Args:
        kind: a key of HEADS.
        state: the arguments of its class, by name.
    """
    return HEADS[kind](**{name: tensor.clone() for name, tensor in state.items()})


def squared_distances(rows: Tensor, anchors: Tensor) -> Tensor:
    """Squared Euclidean distances by one matrix product, whatever the number of rows.

    Both are moved to the anchors' mean first: an offset that all share would eat the digits.

    Args:
        rows: (N, F).
        anchors: (A, F).

    Returns:
        (N, A), not negative.
    """
    origin = anchors.mean(dim=0)
    rows, anchors = rows - origin, anchors - origin
    squares = rows.square().sum(dim=1, keepdim=True) + anchors.square().sum(dim=1)
    return squares.addmm(rows, anchors.T, alpha=-2).clamp(min=0)
