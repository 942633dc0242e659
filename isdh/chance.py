"""Labels of queries and database -> what a random order scores: the chance level of each metric."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from isdh import metrics

__all__ = ["chance"]


def chance(
    query_labels: ArrayLike,
    database_labels: ArrayLike,
    *,
    cutoffs: Iterable[int | None] = metrics.CUTOFFS,
) -> dict[str, float]:
    """Scores of a random ranking, exact: if all codes are equal, the whole database is one tie.

    Args:
        query_labels: bool or uint8 0/1 (Q, C).
        database_labels: bool or uint8 0/1 (D, C).
        cutoffs: ranks to score at, None the whole database.

    Returns:
        Name -> mean over queries, as `metrics.Scores.as_dict` has them.

    Raises:
        InputError: an argument has another dtype, shape or value.

    >>> round(chance(np.eye(2, dtype=bool), np.eye(2, dtype=bool), cutoffs=[1])["map_at_1"], 3)
    0.5
    """
    queries, database = np.asarray(query_labels), np.asarray(database_labels)
    codes = [np.zeros((len(rows), 1), dtype=np.uint8) for rows in (queries, database)]
    scores = metrics.evaluate(codes[0], queries, codes[1], database, bits=8, cutoffs=cutoffs)
    return scores.as_dict()
