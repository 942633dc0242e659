"""Steps that several methods share in computing codes and hash functions at once. Pure torch."""

from __future__ import annotations

import torch
from torch import Tensor

from isdh.heads import squared_distances


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
