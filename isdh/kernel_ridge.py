"""Kernel ridge regression of labels on features, every row predicted without itself."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ROWS = 4000  # at most, regressed together: their kernel matrix takes 64 MB


def leave_one_out(features: Tensor, labels: Tensor, *, ridge: float = 0.2) -> Tensor:
    """Probabilities of labels, of each row from all the others.

    The kernel is exp(-|a - b|^2) of rows at length 1. A row's prediction without itself follows
    from the fit to all rows, y_i - (A^-1 y)_i / (A^-1)_ii with A = K + ridge I: one factorisation.
    More than `ROWS` rows are dealt out to equal parts, each regressed by itself.

    Args:
        features: float (T, F), standardised.
        labels: bool (T, C).
        ridge: added to the kernel matrix's diagonal.

    Returns:
        float32 (T, C) in [0, 1].
    """
    parts = -(-len(features) // ROWS)
    predicted = torch.empty(labels.shape, dtype=torch.float32)
    for part in range(parts):
        rows = slice(part, None, parts)
        predicted[rows] = _leave_one_out(features[rows], labels[rows].to(features.dtype), ridge)
    return predicted


def _leave_one_out(features: Tensor, labels: Tensor, ridge: float) -> Tensor:
    directions = F.normalize(features, dim=1)
    kernel = torch.exp(2 * (directions @ directions.T - 1))
    kernel.diagonal().add_(ridge)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(kernel))
    weights = inverse @ (labels - labels.mean(dim=0))
    return (labels - weights / inverse.diagonal()[:, None]).clamp(0, 1).float()
