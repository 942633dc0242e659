"""DSRH: Deep Semantic Ranking Hashing (Zhao, Huang, Wang and Tan, CVPR 2015), by the authors' code.

Source: github.com/zhaofang0627/cuda-convnet-for-hashing. Formula: docs/method.md, section 2.9.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from isdh.method import Batch, LossTerms, Method, require_at_most, require_not_negative
from isdh.pairwise import different_rows, mean_where


class DSRH(Method):
    """Ranking of triplets, weighed by what a wrong order would cost in DCG.

    For each query the authors draw one row of those that share most labels, one that shares fewer
    and one that shares none; here stands the expectation of that draw over the batch.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        margin: in Hamming distance, by which the nearer row is to be ahead.
        balance_weight: of the squared mean of each bit.
    """

    def __init__(
        self, *, bits: int, num_classes: int, margin: float = 5.0, balance_weight: float = 1.0
    ) -> None:
        super().__init__(bits=bits, num_classes=num_classes)
        require_not_negative(margin=margin, balance_weight=balance_weight)
        require_at_most(bits, "the largest difference of two distances", margin=margin)
        self.margin = margin
        self.balance_weight = balance_weight

    def activate(self, outputs: Tensor) -> Tensor:
        """2 sigmoid(x) - 1."""
        return (outputs / 2).tanh()

    def forward(self, outputs: Tensor, labels: Tensor, batch: Batch | None = None) -> LossTerms:
        """The loss of one batch: outputs (N, bits), labels (N, num_classes)."""
        codes = self.activate(outputs)
        levels = labels.to(codes.dtype) @ labels.to(codes.dtype).T
        first, second = expected_draw(levels, different_rows(codes))
        ranks = sorted_hinges(codes @ codes.T / 2, (first, second), self.margin)
        drawn = (first[0].sum(dim=1) > 0) & ((first[1] + second[1]).sum(dim=1) > 0)
        ranking = mean_where(ranks, drawn)
        balance = codes.mean(dim=0).square().sum() / (2 * len(codes))
        total = ranking + self.balance_weight * balance
        return LossTerms(total, {"ranking": ranking, "balance": balance})


Weights = tuple[Tensor, Tensor]


def expected_draw(levels: Tensor, others: Tensor) -> tuple[Weights, Weights]:
    """Expected weights of pairs (nearer row, farther row) of each query, as two outer products.

    Args:
        levels: (N, N), shared labels of queries (rows) and rows.
        others: bool (N, N), false where a row meets itself.

    Returns:
        Of the rows that share most labels against the rest, and of those that share fewer against
        those that share none: weights (N, N) of nearer rows and of farther rows; their products
        are the weights of pairs.
    """
    top = levels.masked_fill(~others, 0).amax(dim=1, keepdim=True)
    related = others & (levels > 0)
    most, none = related & (levels > top - ROUNDING), others & (levels == 0)
    fewer = related & ~most
    gains, best = levels.exp2() - 1, top.exp2() - 1
    # one over the DCG of the list drawn: most, fewer, none
    inverse = torch.where(fewer, 1 / (best / LOG_2 + gains / LOG_3), 0)
    # without a row that shares fewer, the list is most, none: best / (best / log 2)
    usual = torch.where(fewer.any(dim=1, keepdim=True), best * average(inverse, fewer), LOG_2)
    each, least = share(fewer, levels.dtype), share(none, levels.dtype)
    behind_most = each * (best - gains) * inverse + least * usual
    return (share(most, levels.dtype), behind_most), (each * gains * inverse, least)


def average(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen values of each row: (N, N) -> (N, 1)."""
    return (share(chosen, values.dtype) * values).sum(dim=1, keepdim=True)


def share(chosen: Tensor, dtype: torch.dtype) -> Tensor:
    """1 / count where chosen, else 0: bool (N, N) -> (N, N), row by row."""
    return chosen / chosen.sum(dim=1, keepdim=True, dtype=dtype).clamp(min=1)


def sorted_hinges(scores: Tensor, weights: tuple[Weights, ...], margin: float) -> Tensor:
    """Sums over pairs (i, j) of a_i b_j max(0, margin + score_j - score_i), by sorting.

    Args:
        scores: (N, M), a row for each query.
        weights: pairs of (N, M) and (N, M), a and b; their sums are added.
        margin: by which i is to be ahead.

    Returns:
        (N,).
    """
    ascending, order = scores.sort(dim=1)
    place = torch.searchsorted(ascending.detach(), scores.detach() - margin, right=True)
    total = scores.new_zeros(len(scores))
    for nearer, farther in weights:
        farther = farther.gather(1, order)
        count, sums = above(farther, place), above(farther * ascending, place)
        total = total + (nearer * ((margin - scores) * count + sums)).sum(dim=1)
    return total


def above(values: Tensor, place: Tensor) -> Tensor:
    """Sums of a row's values from a place on: (N, M) and int64 (N, M), 0..M -> (N, M)."""
    sums = torch.nn.functional.pad(values.cumsum(dim=1), (1, 0))
    return sums[:, -1:] - sums.gather(1, place)


LOG_2 = math.log(2)
LOG_3 = math.log(3)
ROUNDING = 1e-6  # of the levels of mixed rows
