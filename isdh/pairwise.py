"""Terms that pairwise losses share: relaxed codes of a batch -> values per pair. Pure torch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def cross_entropy(theta: Tensor, similarity: Tensor) -> Tensor:
    """Negative log-likelihood of a pair under P(similar) = sigmoid(theta).

    log(1 + exp(theta)) - S theta, by softplus, which neither overflows nor underflows.

    Args:
        theta: (N, M), logits.
        similarity: (N, M) in [0, 1].

    Returns:
        (N, M).
    """
    return F.softplus(theta) - similarity * theta


def binarisation_gap(codes: Tensor) -> Tensor:
    """How far relaxed codes are from binary: | |D| - 1 | (docs/method.md, section 2.1).

    Args:
        codes: (N, bits), relaxed.

    Returns:
        (N, bits).
    """
    return (codes.abs() - 1).abs()


def smooth_binarisation_gap(codes: Tensor) -> Tensor:
    """A smooth surrogate of the gap: log cosh(|u| - 1) (docs/method.md, section 2.3).

    Args:
        codes: (N, bits), relaxed.

    Returns:
        (N, bits).
    """
    gap = codes.abs() - 1
    # log cosh x = softplus(2x) - x - log 2 stays finite where cosh overflows
    return F.softplus(2 * gap) - gap - LOG_2


LOG_2 = 0.6931471805599453
