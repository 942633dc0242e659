"""Terms that losses over classes share: relaxed codes and labels -> values. Pure torch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def cosines(codes: Tensor, classes: Tensor) -> Tensor:
    """Cosine of every code with the vector of every class; 0 with a vector of zeros.

    Args:
        codes: (N, bits).
        classes: (C, bits), proxies, prototypes or fixed codes.

    Returns:
        (N, C) in [-1, 1].
    """
    return F.normalize(codes, dim=1) @ F.normalize(classes, dim=1).T


def label_shares(labels: Tensor) -> Tensor:
    """Labels as a distribution over the classes, y / |y|; a row of zeros stays one.

    Args:
        labels: float (N, C), in [0, 1].

    Returns:
        (N, C); rows add up to 1, or to 0.

    >>> import torch
    >>> label_shares(torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0]])).tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """
    return labels / labels.sum(dim=1, keepdim=True).clamp(min=1e-12)


def softmax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy between y / |y| and the softmax over classes; unlabelled rows contribute 0.

    Args:
        logits: (N, C).
        labels: float (N, C), in [0, 1].

    Returns:
        Scalar, the mean over all rows.
    """
    return -(label_shares(labels) * logits.log_softmax(dim=1)).sum(dim=1).mean()


def label_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of every label by itself, P(label) = sigmoid(logit).

    Args:
        logits: (N, C).
        labels: float (N, C), in [0, 1].

    Returns:
        Scalar, the mean over all rows and labels.
    """
    return F.binary_cross_entropy_with_logits(logits, labels)
