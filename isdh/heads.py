"""Hash functions of fitted methods: features -> outputs whose signs are the code. Pure torch.

A head is its buffers: its arguments are its state, by the same names. Below the heads stand the
steps that several methods share in computing one.
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


def anchored(
    features: Tensor, count: int, spread: float, generator: torch.Generator
) -> tuple[dict[str, Tensor], Tensor]:
    """Anchors among the rows, and the rows' kernels to them.

    Args:
        features: float32 (T, F).
        count: of anchors; at most T are taken.
        spread: the kernels' width, as a multiple of the mean squared distance to the anchors.
        generator: which rows become anchors.

    Returns:
        The part of a kernel head's state that does not hang on bits (anchors, width, centre), and
        the kernels less their centre, float64 (T, A).
    """
    anchors = features[torch.randperm(len(features), generator=generator)[:count]]
    squares = squared_distances(features, anchors)
    mean = squares.double().mean()
    width = spread * mean.float() if mean > 0 else torch.ones(())
    values = torch.exp(-squares / width)
    centre = values.double().mean(dim=0).float()
    return {"anchors": anchors, "width": width, "centre": centre}, (values - centre).double()


def principal_directions(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The directions along which rows vary most.

    Args:
        features: (T, F).
        count: how many; at most F are there.

    Returns:
        The rows' mean, float64 (F,), and orthonormal directions, float64 (min(count, F), F), the
        one of the largest variance first.
    """
    mean = features.double().mean(dim=0)
    centred = features.double() - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    return mean, vectors.T.flip(0)[:count]


def rotation(projected: Tensor, bits: int, iterations: int, generator: torch.Generator) -> Tensor:
    """A rotation that brings rows near the corners of a cube: iterative quantisation.

    It alternates B = sign(V R) with the R of orthonormal rows that is nearest in |B - V R|, which
    therefore never rises. With fewer directions than bits, R has as many rows as directions.

    Args:
        projected: float64 (T, D), V, its columns centred; D <= bits.
        bits: the code length.
        iterations: how often to alternate.
        generator: of the rotation to begin with.

    Returns:
        float64 (D, bits), R R^T = 1.
    """
    start = torch.randn(bits, bits, generator=generator, dtype=projected.dtype)
    turned: Tensor = torch.linalg.qr(start).Q[: projected.shape[1]]
    for _ in range(iterations):
        left, _, right = torch.linalg.svd(
            projected.T @ signs(projected @ turned), full_matrices=False
        )
        turned = left @ right
    return turned


def signs(values: Tensor) -> Tensor:
    """The sign, with -1 for 0: a bit is 1 only where an output is positive."""
    return torch.where(values > 0, 1.0, -1.0).to(values.dtype)


def descend_bits(codes: Tensor, weight: Tensor, targets: Tensor, pull: Tensor) -> Tensor:
    """One round of discrete cyclic coordinate descent: each bit in turn, for all rows at once.

    A bit becomes the minimiser of |targets - B weight|^2 - 2 <B, pull> with the others held; where
    both values are equally good it stays. So the objective never rises.

    Args:
        codes: (T, bits), B, of -1 and 1.
        weight: (bits, C).
        targets: (T, C).
        pull: (T, bits), towards which signs, and how strongly.

    Returns:
        (T, bits), of -1 and 1.
    """
    wanted = (targets @ weight.T + pull).T.contiguous()
    products = weight @ weight.T
    bits = codes.T.contiguous()
    for k in range(len(bits)):
        others = products[k].clone()
        others[k] = 0
        slope = wanted[k] - others @ bits
        bits[k] = torch.where(slope == 0, bits[k], slope.sign())
    return bits.T.contiguous()


def ridge(inputs: Tensor, targets: Tensor, penalty: float) -> Tensor:
    """Ridge regression: the W that minimises |targets - inputs W|^2 + penalty |W|^2.

    Args:
        inputs: (T, D).
        targets: (T, C).
        penalty: positive.

    Returns:
        (D, C).
    """
    unit = torch.eye(inputs.shape[1], dtype=inputs.dtype, device=inputs.device)
    factor = torch.linalg.cholesky(inputs.T @ inputs + penalty * unit)
    return torch.cholesky_solve(inputs.T @ targets, factor)
