"""Rows -> the split each belongs to, drawn from a generator: any rows, or stratified by labels."""

from __future__ import annotations

import numpy as np

from isdh.errors import InputError

PARTS = ("train", "query", "database")
FINE = 1 << 32  # steps in which costs are counted


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
    _counts(len(rows), train, query)
    rows = generator.permutation(rows)
    split = np.full(len(labelled), "database", dtype=object)
    split[rows[:train]] = "train"
    split[rows[train : train + query]] = "query"
    return split


def stratify(
    labels: np.ndarray, *, train: int, query: int, generator: np.random.Generator
) -> np.ndarray:
    """Like `draw`, with every label in every part as often as the part's size has it.

    K. Sechidis, G. Tsoumakas, I. Vlahavas: On the Stratification of Multi-Label Data. ECML PKDD
    2011; as the package iterative-stratification has it. It meets the counts nearly; rows are then
    moved until they are exact.

    Args:
        labels: bool (N, C); rows without any are not drawn.
        train: number of training rows.
        query: number of query rows.
        generator: where the randomness comes from.

    Returns:
        str objects (N,): "train", "query" or "database"; rows without a label are "database".

    Raises:
        InputError: too few labelled rows to leave a database.
    """
    from iterstrat.ml_stratifiers import IterativeStratification  # a second, most of it sklearn

    rows = np.flatnonzero(labels.any(axis=1))
    counts = _counts(len(rows), train, query)
    random = np.random.RandomState(generator.bit_generator)
    rows = random.permutation(rows)  # it deals rows out in order: the first would be trained on
    drawn = labels[rows]
    part = IterativeStratification(drawn, counts / len(rows), random)
    _meet(part, drawn, counts)
    split = np.full(len(labels), "database", dtype=object)
    split[rows] = np.array(PARTS, dtype=object)[part]
    return split


def _counts(labelled: int, train: int, query: int) -> np.ndarray:
    """Rows of each part: int64 (3,), none of them 0."""
    if train + query >= labelled:
        raise InputError(
            f"train={train}, query={query}: together they must leave a database of the "
            f"{labelled} labelled rows; lower one of them"
        )
    return np.array([train, query, labelled - train - query])


def _meet(part: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> None:
    """Move rows between parts until each has its count.

    From the part with most too many to the one with most too few goes the row after which chi^2,
    the sum of squared differences to the expected numbers of labels, each divided by the expected
    number, is least.

    Args:
        part: int (N,), changed in place.
        labels: bool (N, C).
        counts: int64 (3,), rows of each part; sum N.
    """
    positives = labels.sum(axis=0)
    excess = np.array([labels[part == i].sum(axis=0) for i in range(len(counts))])
    excess = excess - np.outer(counts / len(part), positives)
    while (surplus := np.bincount(part, minlength=len(counts)) - counts).any():
        giver, taker = surplus.argmax(), surplus.argmin()
        cost = (2 * excess[taker] + 1) / counts[taker] - (2 * excess[giver] - 1) / counts[giver]
        # integers: the order in which a processor adds must not decide between two rows
        cost = np.rint(cost / np.maximum(positives, 1) * FINE).astype(np.int64)
        rows = np.flatnonzero(part == giver)
        row = rows[(labels[rows] @ cost).argmin()]
        part[row] = taker
        excess[giver] -= labels[row]
        excess[taker] += labels[row]
