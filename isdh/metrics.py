"""Codes and labels, or their joint histogram -> Scores, exact under ties.

Hamming ranking is mostly ties. Every value here is the expectation over uniformly random order
inside each tie, in closed form, a cut-off inside a tie included (docs/method.md, 4.3).

The letters of the formulas: at a distance stand n items, m of them relevant; before it C items,
R relevant, G shared labels; T of its places are inside the cut-off k.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isdh import _kernels, _ranks, codes
from isdh.errors import InputError

__all__ = ["CUTOFFS", "Scores", "evaluate", "score"]

CUTOFFS: tuple[int | None, ...] = (100, 1000, 5000, None)
_RADIUS = 2
_MOST_LABELS = 1000  # gains relative to the largest stay within float64
_METRICS = ("map", "wap", "acg", "ndcg", "precision", "recall")

_Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scores:
    """What a ranking is worth, per query and in the mean.

    Attributes:
        per_query: name -> float64 (Q,): `map_at_5000`, ..., `recall_within_r2`.
        precision_by_radius, recall_by_radius: float64 (bits + 1,), means over queries of the
            Hamming ball of each radius; an empty ball counts 0.
        queries_without_relevant: how many queries share no label with any database row; they
            count 0 in every mean.
    """

    per_query: Mapping[str, _Floats]
    precision_by_radius: _Floats
    recall_by_radius: _Floats
    queries_without_relevant: int

    def as_dict(self) -> dict[str, float]:
        """Means over queries by name, always in the same order, and the count of empty queries."""
        means: dict[str, float] = {name: float(v.mean()) for name, v in self.per_query.items()}
        return means | {"queries_without_relevant": self.queries_without_relevant}


def evaluate(
    query_codes: ArrayLike,
    query_labels: ArrayLike,
    database_codes: ArrayLike,
    database_labels: ArrayLike,
    *,
    bits: int,
    cutoffs: Iterable[int | None] = CUTOFFS,
) -> Scores:
    """The scores of ranking the database by Hamming distance to each query.

    Args:
        query_codes: uint8 (Q, ceil(bits / 8)).
        query_labels: bool or uint8 0/1 (Q, C).
        database_codes: uint8 (D, ceil(bits / 8)).
        database_labels: bool or uint8 0/1 (D, C).
        bits: the length of a code.
        cutoffs: ranks to score at, None the whole database; one beyond it means the whole.

    Raises:
        InputError: an argument has another dtype, shape or value.

    >>> labels = np.eye(2, dtype=bool)
    >>> database = codes.pack([[1, 1, 1], [1, 1, 1]])  # a tie: both orders are as likely
    >>> scores = evaluate(database[:1], labels[:1], database, labels, bits=3, cutoffs=(1, None))
    >>> scores.as_dict()["map_at_1"], scores.as_dict()["map_at_all"]
    (0.5, 0.75)
    """
    cutoffs = _check_cutoffs(cutoffs)
    histogram = codes.joint_histogram(
        query_codes, query_labels, database_codes, database_labels, bits=bits
    )
    return score(histogram, cutoffs=cutoffs)


def score(histogram: ArrayLike, *, cutoffs: Iterable[int | None] = CUTOFFS) -> Scores:
    """The scores of a joint histogram, or of the sum of those of a database's shards.

    Args:
        histogram: integers (Q, bits + 1, S + 1), as `codes.joint_histogram` gives.
        cutoffs: as in `evaluate`.

    Raises:
        InputError: no such histogram, or a cut-off below 1.
    """
    cutoffs = _check_cutoffs(cutoffs)
    counts = codes.check_histogram(histogram)
    if counts.shape[2] > _MOST_LABELS + 1:
        raise InputError(
            f"a query of {counts.shape[2] - 1} labels: NDCG's gain 2^s - 1 is kept up to"
            f" {_MOST_LABELS}; drop or merge label columns"
        )
    ties = _Ties.of(counts)
    inside, found = ties.items_before + ties.items, ties.relevant_before + ties.relevant
    size, relevant = float(inside[0, -1]), found[:, -1]
    precision, recall = _ratio(found, inside), _ratio(found, relevant[:, None])
    radius = min(_RADIUS, precision.shape[1] - 1)

    above = _whole_ties(ties)
    by_shared = counts.sum(axis=1).astype(np.float64)
    at = {}
    for cutoff in cutoffs:
        k = size if cutoff is None else min(float(cutoff), size)
        distance = (inside < k).sum(axis=1)  # of the item at rank k
        values = _metrics_at(k, ties.at(distance), above.at(distance))
        values["ndcg"] = _ratio(values["ndcg"], _ideal_gain(by_shared, k))
        values["recall"] = _ratio(values["recall"], relevant)
        at["all" if cutoff is None else str(cutoff)] = values
    per_query = {f"{metric}_at_{k}": at[k][metric] for metric in _METRICS for k in at}
    per_query["precision_within_r2"] = precision[:, radius].copy()
    per_query["recall_within_r2"] = recall[:, radius].copy()
    return Scores(
        per_query=per_query,
        precision_by_radius=precision.mean(axis=0),
        recall_by_radius=recall.mean(axis=0),
        queries_without_relevant=int((relevant == 0).sum()),
    )


class _Ties(NamedTuple):
    """The items at each distance, float64 (Q, bits + 1), or at one distance per query, (Q,)."""

    items: _Floats  # n
    relevant: _Floats  # m
    shared: _Floats  # s1, the labels they share with the query
    gain: _Floats  # g
    items_before: _Floats  # C
    relevant_before: _Floats  # R
    shared_before: _Floats  # G

    @classmethod
    def of(cls, histogram: NDArray[np.int64]) -> _Ties:
        shared = np.arange(histogram.shape[2])
        weights = [shared >= 0, shared > 0, shared, _gains(len(shared))]
        sums = np.stack(weights) @ histogram.astype(np.float64).swapaxes(1, 2)
        n, m, s1, g = np.ascontiguousarray(sums.swapaxes(0, 1))
        return cls(n, m, s1, g, _before(n), _before(m), _before(s1))

    def at(self, distance: NDArray[np.intp]) -> _Ties:
        return _Ties(*(_pick(values, distance) for values in self))


class _Above(NamedTuple):
    """What the ties before each distance add to the sums, all of their places inside."""

    precision: _Floats  # A, the numerator of AP
    weighted: _Floats  # W, the numerator of WAP
    gain: _Floats  # the numerator of NDCG

    def at(self, distance: NDArray[np.intp]) -> _Above:
        return _Above(*(_pick(values, distance) for values in self))


def _whole_ties(ties: _Ties) -> _Above:
    n, m = ties.items, ties.relevant
    share = _ratio(m, n)
    pair = share * _ratio(m - 1, n - 1)
    precision, weighted = (share * one + pair * two for one, two in _numerators(ties, n))
    gain = _ratio(ties.gain, n) * _ranks.sum_inverse_log(ties.items_before, n)
    return _Above(_before(precision), _before(weighted), _before(gain))


def _numerators(ties: _Ties, places: _Floats) -> tuple[tuple[_Floats, _Floats], ...]:
    """What T places of a tie add to the numerators of AP and of WAP: (one, two) for each.

    `one` times the chance that a place holds a relevant item, plus `two` times the chance that
    two places both do.
    """
    c, r, g = ties.items_before, ties.relevant_before, ties.shared_before
    mu = _ratio(ties.shared, ties.relevant)
    h1 = _ranks.sum_inverse(c, places)
    h2 = places - (c + 1) * h1
    return ((r + 1) * h1, h2), ((g + mu) * h1, mu * h2)


def _metrics_at(k: float, tie: _Ties, above: _Above) -> dict[str, _Floats]:
    """The metrics at k, (Q,), from the tie that holds rank k; NDCG and recall as numerators."""
    n, m, c = tie.items, tie.relevant, tie.items_before
    places = k - c  # T, from 1 to n
    none, one, two = _kernels.cut_moments(n, m, places, tie.relevant_before).T
    share, pair = one / places, _ratio(two, places * (places - 1))
    (ap_one, ap_two), (wap_one, wap_two) = _numerators(tie, places)
    relevant = tie.relevant_before + m / n * places
    return {
        "map": none * above.precision + share * ap_one + pair * ap_two,
        "wap": none * above.weighted + share * wap_one + pair * wap_two,
        "acg": (tie.shared_before + tie.shared / n * places) / k,
        "ndcg": above.gain + tie.gain / n * _ranks.sum_inverse_log(c, places),
        "precision": relevant / k,
        "recall": relevant,
    }


def _ideal_gain(by_shared: _Floats, k: float) -> _Floats:
    """The numerator of NDCG of the best k: the whole database by shared labels, most first."""
    items = by_shared[:, ::-1]
    before = np.minimum(_before(items), k)
    places = np.minimum(items, k - before)
    return _ranks.sum_inverse_log(before, places) @ _gains(items.shape[1])[::-1]


def _gains(width: int) -> _Floats:
    """2^s - 1 for s = 0..S, over 2^S: NDCG is a ratio, and this never overflows."""
    most = width - 1
    gains: _Floats = np.exp2(np.arange(width) - float(most)) - np.exp2(-float(most))
    return gains


def _before(values: _Floats) -> _Floats:
    """The sum over the columns to the left of each."""
    sums = np.zeros_like(values)
    np.cumsum(values[:, :-1], axis=1, out=sums[:, 1:])
    return sums


def _pick(values: _Floats, column: NDArray[np.intp]) -> _Floats:
    """One column per row."""
    return np.take_along_axis(values, column[:, None], axis=1)[:, 0]


def _ratio(part: _Floats, whole: _Floats) -> _Floats:
    """The quotient, 0 where there is nothing to divide by."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)


def _check_cutoffs(cutoffs: Iterable[int | None]) -> tuple[int | None, ...]:
    cutoffs = tuple(cutoffs)
    for cutoff in cutoffs:
        if cutoff is not None and (not isinstance(cutoff, int | np.integer) or cutoff < 1):
            raise InputError(
                f"cutoff={cutoff!r}: a rank from 1, or None for the whole database; name one"
            )
    return cutoffs
