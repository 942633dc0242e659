"""KSH: Supervised Hashing with Kernels (Liu, Wang, Ji, Jiang and Chang, CVPR 2012).

Formula: docs/method.md, section 2.26.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isdh.fitting import anchored, signs
from isdh.method import FittedMethod, require_positive
from isdh.similarity import shares_label


class KSH(FittedMethod):
    """Bit after bit, so that inner products of codes come near +bits for similar pairs, else -bits.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        anchors: how many; no more than training rows.
        pairs_among: how many training rows are compared with each other.
        iterations: of the descent for each bit, at most.
    """

    head = "kernel"

    def __init__(
        self,
        *,
        bits: int,
        num_classes: int,
        anchors: int = 300,
        pairs_among: int = 2000,
        iterations: int = 500,
    ) -> None:
        super().__init__(bits=bits, num_classes=num_classes)
        require_positive(anchors=anchors, pairs_among=pairs_among, iterations=iterations)
        self.anchors = anchors
        self.pairs_among = pairs_among
        self.iterations = iterations

    def fit(
        self, features: Tensor, labels: Tensor, *, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Fit features (T, F) to which of `pairs_among` rows share a label."""
        state, kernels = anchored(features, self.anchors, SPREAD, generator)
        rows = torch.randperm(len(features), generator=generator)[: self.pairs_among]
        weight = self.weights(kernels[rows].float(), Residual(labels[rows], self.bits))
        return {**state, "weight": weight, "bias": torch.zeros(self.bits)}

    def weights(self, kernels: Tensor, residual: Residual) -> Tensor:
        """Projections, bit after bit.

        Args:
            kernels: float32 (L, A), centred.
            residual: of no code yet; at the end, of all.

        Returns:
            float32 (bits, A).
        """
        whiten = whitening(kernels)
        whitened = kernels @ whiten
        between = whitened.T @ residual(whitened)
        weights = kernels.new_zeros(self.bits, kernels.shape[1])
        for weight in weights:
            relaxed = whiten @ (leading(between) * len(kernels) ** 0.5)
            smooth = descend(kernels, residual, relaxed, self.iterations)
            best = max(relaxed, smooth, key=lambda a: residual.agreement(signs(kernels @ a)))
            code = signs(kernels @ best)
            residual.take(code)
            between -= torch.outer(whitened.T @ code, whitened.T @ code)
            weight.copy_(best)
        return weights


# The width of the kernels: a multiple of the mean squared distance to the anchors.
SPREAD = 2.0


class Residual:
    """What is left to be reached: bits S - B B^T, S = 1 for pairs that share a label, else -1.

    Rows of equal labels have equal rows of S, which is therefore held per label set.

    Args:
        labels: bool (L, C).
        bits: the code length.
    """

    def __init__(self, labels: Tensor, bits: int) -> None:
        sets, self.members = torch.unique(labels, dim=0, return_inverse=True)
        self.wanted = bits * (2 * shares_label(sets, sets).float() - 1)
        self.codes = torch.empty(0, len(labels))

    def __call__(self, values: Tensor) -> Tensor:
        """The product of the (L, L) matrix with float32 (L, ...)."""
        pooled = values.new_zeros(len(self.wanted), *values.shape[1:])
        pooled.index_add_(0, self.members, values)
        return (self.wanted @ pooled)[self.members] - self.codes.T @ (self.codes @ values)

    def agreement(self, values: Tensor) -> float:
        """The quadratic form in values (L,), which a bit is to make large."""
        return float(values @ self(values))

    def take(self, code: Tensor) -> None:
        """Take away what a bit (L,) of -1 and 1 has reached."""
        self.codes = torch.cat([self.codes, code[None]])


def whitening(kernels: Tensor) -> Tensor:
    """Combinations of anchors whose values on the rows are orthonormal.

    Args:
        kernels: float32 (L, A).

    Returns:
        float32 (A, R), R the rank of the kernels; directions lost in rounding are left out.
    """
    values, vectors = torch.linalg.eigh(kernels.T.double() @ kernels.double())
    kept = values > 1e-8 * values[-1].clamp(min=1e-12)
    combinations: Tensor = vectors[:, kept] / values[kept].sqrt()
    return combinations.float()


def leading(matrix: Tensor) -> Tensor:
    """The eigenvector of the largest eigenvalue: symmetric (R, R) -> (R,)."""
    if len(matrix) == 0:
        return matrix.new_zeros(0)
    vectors: Tensor = torch.linalg.eigh(matrix).eigenvectors
    return vectors[:, -1]


def descend(kernels: Tensor, residual: Residual, start: Tensor, iterations: int) -> Tensor:
    """Maximise the agreement of tanh(kernels a / 2), the code's smooth stand-in, from a = start.

    Accelerated gradient descent on its negative; the inverse step length doubles until the
    quadratic bound holds, and never falls again. It ends where the cost changes by less than 0.01
    a row.

    Args:
        kernels: float32 (L, A).
        residual: of the codes so far.
        start: float32 (A,).
        iterations: at most.

    Returns:
        float32 (A,).
    """
    before, here, inverse = start, start, 1.0
    momentum, next_momentum = 0.0, 1.0
    cost = -residual.agreement(torch.tanh(kernels @ start / 2))
    for _ in range(iterations):
        probe = here + (momentum - 1) / next_momentum * (here - before)
        values = torch.tanh(kernels @ probe / 2)
        products = residual(values)
        height = -float(values @ products)
        slope = -(products * (1 - values.square())) @ kernels
        steepness = float(slope @ slope)
        for _ in range(DOUBLINGS):
            step = probe - slope / inverse
            new_cost = -residual.agreement(torch.tanh(kernels @ step / 2))
            if new_cost <= height - steepness / (2 * inverse):
                break
            inverse *= 2
        else:
            break
        before, here = here, step
        momentum, next_momentum = next_momentum, (1 + (1 + 4 * next_momentum**2) ** 0.5) / 2
        change, cost = abs(new_cost - cost), new_cost
        if change <= 0.01 * len(kernels):
            break
    return here


# So often is a step halved before the descent gives up.
DOUBLINGS = 51
