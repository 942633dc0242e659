"""A manifest's rows -> what is to be known of a dataset: counts, label sets, pairs, copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from isdh import duplicates, manifest

if TYPE_CHECKING:
    import pandas as pd

EDGES = np.arange(21) / 20  # of the histogram of soft pairs' similarity
BLOCK = 1 << 22  # pairs of label sets at a time


def describe(frame: pd.DataFrame, small: NDArray[np.uint8] | None = None) -> dict[str, Any]:
    """Everything that statistics.json holds.

    Args:
        frame: a checked manifest.
        small: uint8 (N, 32, 32), the luma of each row's picture; without, near copies are not
            looked for.

    Returns:
        rows per split ("database": all that are searched) and how many of those are trained on;
        unlabelled rows, and why damaged ones were left out; rows per label, in all and by split;
        labels per image;
        `similarity_statistics` of the training rows; `pair_shares` of queries and database as
        `query_pairs`; and what `duplicates.find` finds.
    """
    labels = manifest.label_matrix(frame)
    names = manifest.labels_of(frame)
    parts = {
        "train": manifest.training_rows(frame),
        "query": manifest.query_rows(frame),
        "database": manifest.database_rows(frame),
    }

    def frequencies(rows: NDArray[np.bool_]) -> dict[str, int]:
        return dict(zip(names, rows.sum(axis=0).tolist(), strict=True))

    return {
        "rows": {part: len(rows) for part, rows in parts.items()},
        "also_database": int(frame["also_database"].sum()),
        "unlabelled": frame.attrs["unlabelled"],
        "damaged": list(frame.attrs.get("damaged", {}).values()),
        "labels": frequencies(labels),
        "labels_by_split": {part: frequencies(labels[rows]) for part, rows in parts.items()},
        "labels_per_image": float(labels.sum(axis=1).mean()) if len(labels) else 0.0,
        **similarity_statistics(labels[parts["train"]]),
        "query_pairs": pair_shares(labels[parts["query"]], labels[parts["database"]]),
        "duplicates": duplicates.find(frame, small),
    }


def similarity_statistics(labels: np.ndarray) -> dict[str, Any]:
    """Instance similarity S over all pairs of two different rows (docs/method.md, section 1).

    Exact: equal label sets are counted, not compared again and again.

    Args:
        labels: bool (N, C), of the training rows.

    Returns:
        `pairs`: shares of all pairs with S = 0 ("none" in common), S = 1 ("all"), or between
        ("some"); `similarity`: shares of the latter by S, 20 bins of which the last one is
        closed. All shares are 0 where there are no such pairs.
    """
    counts = _count(labels, labels)
    unlabelled = int((~labels.any(axis=1)).sum())  # a row beside itself is no pair
    counts = counts._replace(
        none=counts.none - unlabelled, every=counts.every - (len(labels) - unlabelled)
    )
    share = counts.histogram / max(counts.some, 1)
    return {
        "pairs": counts.shares(),
        "similarity": {"edges": EDGES.tolist(), "share": share.tolist()},
    }


def pair_shares(labels: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Shares of the pairs of one row here and one there with S = 0, S = 1 and between.

    Args:
        labels: bool (N, C).
        others: bool (M, C).

    Returns:
        `none`, `all` and `some`, as in `similarity_statistics`.
    """
    return _count(labels, others).shares()


class _Counts(NamedTuple):
    """How many pairs have S = 0, S = 1, or a value between; the latter by S, int64 (20,)."""

    none: int
    every: int
    some: int
    histogram: NDArray[np.int64]

    def shares(self) -> dict[str, float]:
        pairs = max(self.none + self.every + self.some, 1)
        return {"none": self.none / pairs, "all": self.every / pairs, "some": self.some / pairs}


def _count(labels: np.ndarray, others: np.ndarray) -> _Counts:
    """Count all N x M pairs, a block of distinct label sets at a time."""
    sets, times = _distinct(labels)
    there, times_there = _distinct(others)
    sizes, sizes_there = sets.sum(axis=1), there.sum(axis=1)  # float32: exact up to 2^24 labels
    total = len(labels) * len(others)
    none, every, histogram = 0, 0, np.zeros(len(EDGES) - 1, dtype=np.int64)
    step = max(1, BLOCK // max(len(there), 1))
    for start in range(0, len(sets), step):
        block = slice(start, start + step)
        common = sets[block] @ there.T
        pairs = np.outer(times[block], times_there)
        disjoint = common == 0
        equal = ~disjoint & (common == sizes[block, None]) & (common == sizes_there)
        none, every = none + int(pairs[disjoint].sum()), every + int(pairs[equal].sum())
        i, j = np.nonzero(~(disjoint | equal))
        similarity = common[i, j] / np.sqrt(sizes[block][i].astype(float) * sizes_there[j])
        binned, _ = np.histogram(similarity, bins=EDGES, weights=pairs[i, j])
        histogram += binned.astype(np.int64)
    return _Counts(none, every, total - none - every, histogram)


def _distinct(labels: np.ndarray) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The label sets that occur, float32 0/1 (U, C), and of how many rows each is, int64 (U,)."""
    packed = np.packbits(labels, axis=1)
    _, first, times = np.unique(packed, axis=0, return_index=True, return_counts=True)
    return labels[first].astype(np.float32), times
