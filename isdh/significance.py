"""Whether one mean over queries is better than another: paired bootstrap. NumPy and SciPy."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95

Direction = Literal["max", "min"]


@dataclass(frozen=True)
class Standing:
    """How a method stands among others that were scored on the same queries.

    Attributes:
        mean: over seeds.
        deviation: of the sample of seeds; None for a single seed.
        best: no other method has a better mean.
        level: not the best, but the interval of its difference from the best holds 0; None: not
            known.
        against: 1, 0 or -1: better than the reference, level with it, worse, where the interval
            of their difference lies above 0, holds it, or lies below; None: not known.
    """

    mean: float
    deviation: float | None
    best: bool
    level: bool | None
    against: int | None


def standings(
    scores: Mapping[str, Sequence[float]],
    values: Mapping[str, NDArray[np.float64]],
    *,
    reference: str,
    direction: Direction = "max",
) -> dict[str, Standing]:
    """Every method against the best and against a reference (docs/method.md, section 4.6).

    Each method is averaged over its own seeds, query by query, and then compared. Where a
    difference cannot be taken it is not known: for a method without values, with values that are
    not finite, or of another number of queries; for all, if the best (for `level`) or the
    reference (for `against`) is such a method.

    Args:
        scores: method -> a mean over queries for each of its seeds, at least one; not NaN.
        values: method -> float (S, Q), the same query by query, query q being the same one for
            all; methods may be lacking.
        reference: a method.
        direction: which scores are better.

    Returns:
        A standing for each method of `scores`, in that order.
    """
    sign = 1.0 if direction == "max" else -1.0
    means = {name: statistics.fmean(of_seeds) for name, of_seeds in scores.items()}
    leader = max(means, key=lambda name: sign * means[name], default="")
    rows = {name: sign * np.mean(values[name], axis=0) for name in scores if name in values}
    over_best, over_reference = _leads(rows, leader), _leads(rows, reference)
    answer = {}
    for name, of_seeds in scores.items():
        best = means[name] == means[leader]
        behind, beside = over_best.get(name), over_reference.get(name)
        answer[name] = Standing(
            mean=means[name],
            deviation=statistics.stdev(of_seeds) if len(of_seeds) > 1 else None,
            best=best,
            level=None if behind is None else not best and behind[1] >= 0,
            against=None if beside is None else int(beside[0] > 0) - int(beside[1] < 0),
        )
    return answer


def _leads(rows: Mapping[str, NDArray[np.float64]], other: str) -> dict[str, tuple[float, float]]:
    """How far methods lead another one, as intervals; those that cannot be told are left out."""
    finite = {name: row for name, row in rows.items() if np.isfinite(row).all()}
    if other not in finite or len(finite[other]) < 2:
        return {}
    leads = {
        name: row - finite[other] for name, row in finite.items() if len(row) == len(finite[other])
    }
    found = intervals(np.stack(list(leads.values())))
    return {name: (float(low), float(high)) for name, (low, high) in zip(leads, found, strict=True)}


def intervals(differences: ArrayLike, *, confidence: float = CONFIDENCE) -> NDArray[np.float64]:
    """Where the mean of each row of differences lies (docs/method.md, section 4.6).

    Queries are drawn anew with replacement, the same ones for all rows; percentiles of the means.
    Repeats exactly: the draws have a fixed seed.

    Args:
        differences: float (M, Q), per method and query, of scores on the same queries.
        confidence: how often such an interval holds the mean over all queries.

    Returns:
        float64 (M, 2), the interval of each mean; NaN with fewer than two queries.
    """
    from scipy.stats import bootstrap

    rows = np.atleast_2d(np.asarray(differences, dtype=np.float64))
    queries = rows.shape[1]
    if queries < 2:
        return np.full((len(rows), 2), np.nan)

    def means(drawn: NDArray[np.int64], axis: int) -> NDArray[np.float64]:
        """Of each row over each draw of queries, (M, batch), from how often a query was drawn."""
        times = np.stack([np.bincount(draw, minlength=queries) for draw in drawn])
        of_draws: NDArray[np.float64] = rows @ times.T / queries
        return of_draws

    interval = bootstrap(
        (np.arange(queries),),
        means,
        n_resamples=RESAMPLES,
        batch=100,  # bounds the memory: queries x 100
        vectorized=True,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return np.stack([interval.low, interval.high], axis=1)
