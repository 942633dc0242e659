"""Hash functions of fitted methods: features -> outputs whose signs are the code. Pure torch."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """Projections: x W^T + b.

    Args:
        weight: float32 (bits, F).
        bias: float32 (bits,).
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, features: Tensor) -> Tensor:
        """(N, F) -> (N, bits)."""
        return nn.functional.linear(features, self.weight, self.bias)


class Kernel(nn.Module):
    """Projections of Gaussian kernels to anchors: (k(x) - centre) W^T.

    k_a(x) = exp(-|x - a|^2 / width).

    Args:
        anchors: float32 (A, F).
        width: float32 (), the denominator.
        centre: float32 (A,), subtracted from the kernels' values.
        weight: float32 (bits, A).
    """

    anchors: Tensor
    width: Tensor
    centre: Tensor
    weight: Tensor

    def __init__(self, anchors: Tensor, width: Tensor, centre: Tensor, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("anchors", anchors)
        self.register_buffer("width", width)
        self.register_buffer("centre", centre)
        self.register_buffer("weight", weight)

    def forward(self, features: Tensor) -> Tensor:
        """(N, F) -> (N, bits)."""
        return self.kernels(features, self.anchors, self.width).sub(self.centre) @ self.weight.T

    @staticmethod
    def kernels(features: Tensor, anchors: Tensor, width: Tensor) -> Tensor:
        """Gaussian kernels (N, A) of rows (N, F) to anchors (A, F)."""
        squares = torch.cdist(features, anchors).square()
        return torch.exp(-squares / width)


class Eigenfunctions(nn.Module):
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
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("directions", directions)
        self.register_buffer("lowest", lowest)
        self.register_buffer("omega", omega)

    def forward(self, features: Tensor) -> Tensor:
        """(N, F) -> (N, bits)."""
        projected = (features - self.mean) @ self.directions.T - self.lowest
        return torch.sin(projected[:, None, :] * self.omega + math.pi / 2).prod(dim=2)


HEADS: dict[str, type[nn.Module]] = {
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
