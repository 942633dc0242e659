"""Labels of a manifest -> what preprocess reports: counts, and how similar training pairs are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from isdh import manifest
from isdh.similarity import HARD_ABOVE, HARD_BELOW

if TYPE_CHECKING:
    import pandas as pd

EDGES = np.arange(21) / 20  # of the histogram of soft pairs' similarity
BLOCK = 1 << 22  # pairs at a time


def describe(frame: pd.DataFrame) -> dict[str, Any]:
    """Everything that statistics.json holds.

    Args:
        frame: a checked manifest.

    Returns:
        rows per split, unlabelled rows, rows per label, labels per image, and
        `similarity_statistics` of the training rows.
    """
    labels = manifest.label_matrix(frame)
    train = manifest.training_rows(frame)
    return {
        "rows": {
            "train": len(train),
            "query": len(manifest.query_rows(frame)),
            "database": len(manifest.database_rows(frame)),
        },
        "unlabelled": frame.attrs["unlabelled"],
        "labels": dict(zip(manifest.labels_of(frame), labels.sum(axis=0).tolist(), strict=True)),
        "labels_per_image": float(labels.sum(axis=1).mean()),
        **similarity_statistics(labels[train]),
    }


def similarity_statistics(labels: np.ndarray) -> dict[str, Any]:
    """Instance similarity S over all pairs of two different rows (docs/method.md, section 1).

    Exact: S is a function of three counts, |a and b|, |a| and |b|, and how often each triple
    occurs is counted.

    Args:
        labels: bool (N, C), of the training rows.

    Returns:
        `pairs`: shares of all pairs that are hard with none or all labels in common, or soft
        ("some"); `similarity`: shares of the soft pairs by S, 20 bins of which the last one is
        closed. All shares are 0 where there are no such pairs.
    """
    similarity, counts = _distinct_similarities(labels)
    none, every = similarity < HARD_BELOW, similarity > HARD_ABOVE
    soft = ~(none | every)
    pairs, soft_pairs = max(counts.sum(), 1), max(counts[soft].sum(), 1)
    histogram, _ = np.histogram(similarity[soft], bins=EDGES, weights=counts[soft])
    return {
        "pairs": {
            "none": float(counts[none].sum() / pairs),
            "all": float(counts[every].sum() / pairs),
            "some": float(counts[soft].sum() / pairs),
        },
        "similarity": {"edges": EDGES.tolist(), "share": (histogram / soft_pairs).tolist()},
    }


def _distinct_similarities(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each similarity that can occur, float64 (T,), and of how many ordered pairs, int64 (T,)."""
    rows = len(labels)
    sizes = labels.sum(axis=1, dtype=np.int64)
    base = int(sizes.max(initial=0)) + 1
    multi_hot = labels.astype(np.float32)  # sums of at most 2^24 ones are exact
    triples = np.zeros(base**3, dtype=np.int64)
    step = max(1, BLOCK // max(rows, 1))
    for start in range(0, rows, step):
        block = slice(start, start + step)
        common = (multi_hot[block] @ multi_hot.T).astype(np.int64)
        keys = (common * base + sizes[block, None]) * base + sizes
        triples += np.bincount(keys.ravel(), minlength=base**3)
    np.subtract.at(triples, (sizes * base + sizes) * base + sizes, 1)  # a row with itself
    common, first, second = np.indices((base,) * 3).reshape(3, -1)
    return common / np.sqrt(np.maximum(first * second, 1)), triples
