"""Label sets -> instance similarity, and which pairs are hard or soft. Pure torch."""

from __future__ import annotations

import torch
from torch import Tensor

# S of equal label sets is 1 up to rounding, never exactly: the authors' thresholds leave room.
HARD_BELOW = 0.01
HARD_ABOVE = 0.99


def instance_similarity(
    labels_a: Tensor, labels_b: Tensor, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Cosine of multi-hot label rows (docs/method.md, section 1).

    An unlabelled row has similarity 0 to every row, itself included.

    Args:
        labels_a: bool or uint8 (N, C), or float in [0, 1] where rows were mixed.
        labels_b: likewise (M, C).
        dtype: of the result.

    Returns:
        (N, M) in [0, 1].

    >>> a = torch.tensor([[1, 1, 0], [0, 0, 1], [0, 0, 0]])
    >>> instance_similarity(a, a[:1]).flatten().tolist()
    [0.9999999403953552, 0.0, 0.0]
    """
    return _unit(labels_a.to(dtype)) @ _unit(labels_b.to(dtype)).T


def _unit(rows: Tensor) -> Tensor:
    """Multi-hot rows at length 1; a row of zeros stays one."""
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / lengths.clamp(min=1e-12)


def shares_label(labels_a: Tensor, labels_b: Tensor) -> Tensor:
    """Whether two rows have a label in common: the similarity of the earlier methods.

    Args:
        labels_a: bool or uint8 (N, C), or float in [0, 1] where rows were mixed.
        labels_b: likewise (M, C).

    Returns:
        bool (N, M).
    """
    return (labels_a.float() @ labels_b.float().T) > 0


def hard_pairs(similarity: Tensor) -> Tensor:
    """Pairs that share all labels or none; the others are soft (docs/method.md, section 1).

    Args:
        similarity: (N, M), instance similarity.

    Returns:
        bool (N, M).
    """
    return (similarity < HARD_BELOW) | (similarity > HARD_ABOVE)
