"""Rows -> the split each belongs to, drawn from a generator. Pure numpy."""

from __future__ import annotations

import numpy as np

from isdh.errors import InputError


def draw(
    labelled: np.ndarray, *, train: int, query: int, generator: np.random.Generator
) -> np.ndarray:
    """Draw training and query rows from the labelled ones; the rest is the database.

    Args:
        labelled: bool (N,), the rows to draw from.
        train: number of training rows.
        query: number of query rows.
        generator: where the randomness comes from.

    Returns:
        str objects (N,): "train", "query" or "database"; rows without a label are "database".

    Raises:
        InputError: too few labelled rows to leave a database.
    """
    rows = np.flatnonzero(labelled)
    if train + query >= len(rows):
        raise InputError(
            f"train={train}, query={query}: together they must leave a database of the "
            f"{len(rows)} labelled rows; lower one of them"
        )
    rows = generator.permutation(rows)
    split = np.full(len(labelled), "database", dtype=object)
    split[rows[:train]] = "train"
    split[rows[train : train + query]] = "query"
    return split
