"""Whether one mean over queries is better than another: paired bootstrap. NumPy and SciPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95


def intervals(differences: ArrayLike) -> NDArray[np.float64]:
    """Where the mean of each row of differences lies (docs/method.md, section 4.6).

    Queries are drawn anew with replacement, the same ones for all rows; percentiles of the means.
    Repeats exactly: the draws have a fixed seed.

    Args:
        differences: float (M, Q), per method and query, of scores on the same queries.

    Returns:
        float64 (M, 2), the 95 % interval of each mean; NaN with fewer than two queries.
    """
    from scipy.stats import bootstrap

    rows = np.atleast_2d(np.asarray(differences, dtype=np.float64))
    if rows.shape[1] < 2:
        return np.full((len(rows), 2), np.nan)
    interval = bootstrap(
        (rows,),
        np.mean,
        axis=1,
        n_resamples=RESAMPLES,
        batch=100,  # bounds the memory: rows x queries x 100
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return np.stack([interval.low, interval.high], axis=1)
