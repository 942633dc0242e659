"""Losses over ranked lists: every row of a batch ranks the others. Pure torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cosines(codes: Tensor) -> Tensor:
    """Cosine of every pair of relaxed codes.

    Args:
        codes: (N, bits).

    Returns:
        (N, N) in [-1, 1], up to rounding.
    """
    directions = F.normalize(codes, dim=1)
    return directions @ directions.T


def shared_labels(labels: Tensor, dtype: torch.dtype) -> Tensor:
    """How many labels two rows share; 0 of a row with itself, which no row ranks.

    Args:
        labels: bool or uint8 (N, C), or float in [0, 1] where rows were mixed.
        dtype: of the result.

    Returns:
        (N, N), the sum of products.
    """
    values = labels.to(dtype)
    return (values @ values.T).fill_diagonal_(0)


def expected_relevance(labels: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Whether two rows share a label, and 2^shared - 1, where labels are probabilities.

    The second is the expectation, labels being independent. In the first, 1 - product of
    (1 - p^2), p the probability that both have a label: squared, so that many improbable labels
    do not add up to a probable one. Where labels are 0 or 1 both are what they are of sets.

    Args:
        labels: bool or uint8 (N, C), or float in [0, 1].
        dtype: of the results.

    Returns:
        Both (N, N); 0 on the diagonal.
    """
    columns = labels.to(dtype).T
    none = columns.new_ones(len(labels), len(labels))
    power = none.clone()
    for column in columns:  # in place: a product of (N, N, C) is ten times as slow
        both = column[:, None] * column
        power.addcmul_(power, both)
        none.addcmul_(none, both.square_(), value=-1)
    return (1 - none).fill_diagonal_(0), (power - 1).fill_diagonal_(0)


def mean_of_lists(values: Tensor, shared: Tensor, power: float = 0.0) -> Tensor:
    """Mean over the rows that share a label with some other row; 0 if there is none.

    Args:
        values: (N,), one per row.
        shared: (N, N), of `shared_labels`.
        power: a row's weight is the number of labels it shares with all others, to this power.
    """
    numbers = shared.sum(dim=1)
    weights = torch.where(numbers > 0, numbers.clamp(min=1e-30) ** power, 0)
    return (values * weights).sum() / _positive(weights.sum())


def list_cross_entropy(logits: Tensor, gains: Tensor) -> Tensor:
    """Cross-entropy of a softmax over the other rows, with targets proportional to gains.

    Args:
        logits: (N, N), how near row j is to row i.
        gains: (N, N), not negative, 0 on the diagonal.

    Returns:
        (N,), finite; without meaning for a row of no gain.
    """
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    others = logits.masked_fill(own, torch.finfo(logits.dtype).min)
    targets = gains / _positive(gains.sum(dim=1, keepdim=True))
    return others.logsumexp(dim=1) - (targets * logits).sum(dim=1)


def soft_histograms(distances: Tensor, weights: Tensor, bins: int) -> Tensor:
    """Histograms per row by a triangular kernel: differentiable in the distances.

    A distance of 3.25 counts 0.75 at 3 and 0.25 at 4.

    Args:
        distances: (N, M) in [0, bins - 1], up to rounding.
        weights: (K, N, M), what the entries of each of K histograms count.
        bins: at least 2, at distances 0, 1, ..., bins - 1.

    Returns:
        (K, N, bins).

    >>> soft_histograms(torch.tensor([[3.25, 0.0]]), torch.ones(1, 1, 2), 5)
    tensor([[[1.0000, 0.0000, 0.0000, 0.7500, 0.2500]]])
    """
    below = distances.detach().floor().clamp(0, bins - 2)
    index = below.long().expand(len(weights), -1, -1)
    empty = weights.new_zeros(*weights.shape[:2], bins)
    # The bin below takes 1 - x of an entry and the bin above x: two sums that share an index.
    whole = empty.scatter_add(2, index, weights)
    above = empty.scatter_add(2, index, weights * (distances - below))
    return whole - above + F.pad(above[..., :-1], (1, 0))


def soft_ranking(
    distances: Tensor, relevance: Tensor, gains: Tensor, bits: int
) -> tuple[Tensor, Tensor]:
    """Average precision and NDCG of each row's list, with ties at each whole distance.

    Args:
        distances: (N, N), relaxed Hamming distances in [0, bits].
        relevance: (N, N) in [0, 1], 0 on the diagonal.
        gains: (N, N), not negative, 0 on the diagonal.
        bits: the code length.

    Returns:
        Both (N,); 0 for a row that shares no label with another.
    """
    others = torch.ones_like(relevance).fill_diagonal_(0)
    weights = torch.stack([others, relevance, gains])
    counts, relevant, gained = soft_histograms(distances, weights, bits + 1)
    place = _middle(counts).clamp(min=0.5)  # a distance without a row: whatever is finite
    precision = relevant * _middle(relevant) / place
    discounted = gained / torch.log2(1 + place)
    return (
        precision.sum(dim=1) / _positive(relevant.sum(dim=1)),
        discounted.sum(dim=1) / _positive(_ideal(gains)),
    )


def _middle(histograms: Tensor) -> Tensor:
    """Mean rank, from 1, of what stands at each distance, ties in random order: (N, bins)."""
    return histograms.cumsum(dim=1) - histograms + (histograms + 1) / 2


def _ideal(gains: Tensor) -> Tensor:
    """DCG of the best order of each row's list: (N, N) -> (N,)."""
    best = gains.sort(dim=1, descending=True).values
    ranks = torch.arange(1, gains.shape[1] + 1, dtype=gains.dtype, device=gains.device)
    return (best / torch.log2(1 + ranks)).sum(dim=1)


def _positive(sums: Tensor) -> Tensor:
    """Sums of what is not negative, 1 in the place of 0."""
    return torch.where(sums > 0, sums, 1.0)
