from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from isdh import statistics
from isdh.similarity import HARD_ABOVE, HARD_BELOW, instance_similarity
from isdh.statistics import describe, similarity_statistics


def slow(labels: np.ndarray) -> tuple[list[float], np.ndarray]:
    """Shares of pairs (none, all, some) and the histogram of soft pairs, a pair at a time."""
    counts, histogram = [0, 0, 0], np.zeros(20)
    for i, a in enumerate(labels):
        for j, b in enumerate(labels):
            if i == j:
                continue
            norm = np.sqrt(a.sum() * b.sum())
            s = (a & b).sum() / norm if norm else 0.0
            if HARD_BELOW <= s <= HARD_ABOVE:
                counts[2] += 1
                edges = np.arange(1, 20) / 20
                histogram[np.count_nonzero(edges <= s)] += 1
            else:
                counts[int(s > HARD_ABOVE)] += 1
    pairs = max(sum(counts), 1)
    return [count / pairs for count in counts], histogram / max(counts[2], 1)


@pytest.mark.parametrize("block", [1, 100, 1 << 22])
@pytest.mark.parametrize(("rows", "classes", "share"), [(60, 7, 0.4), (40, 3, 0.2), (25, 30, 0.5)])
def test_shares_equal_those_counted_a_pair_at_a_time(monkeypatch, block, rows, classes, share):
    monkeypatch.setattr(statistics, "BLOCK", block)
    labels = np.random.default_rng(rows).random((rows, classes)) < share
    found = similarity_statistics(labels)
    pairs, histogram = slow(labels)
    np.testing.assert_allclose(list(found["pairs"].values()), [pairs[0], pairs[1], pairs[2]])
    np.testing.assert_allclose(found["similarity"]["share"], histogram)


def test_similarity_agrees_with_the_one_that_methods_learn_from():
    labels = np.random.default_rng(0).random((80, 12)) < 0.3
    similarity = instance_similarity(torch.from_numpy(labels), torch.from_numpy(labels)).numpy()
    similarity = similarity[~np.eye(80, dtype=bool)]
    soft = (similarity >= HARD_BELOW) & (similarity <= HARD_ABOVE)
    assert similarity_statistics(labels)["pairs"]["some"] == pytest.approx(soft.mean())


@pytest.mark.parametrize(
    ("labels", "pairs"),
    [
        (np.ones((1, 4), bool), (0, 0, 0)),
        (np.zeros((0, 4), bool), (0, 0, 0)),
        (np.ones((5, 4), bool), (0, 1, 0)),
        (np.eye(5, dtype=bool), (1, 0, 0)),
        (np.zeros((5, 4), bool), (1, 0, 0)),
        (np.array([[1, 1], [1, 0], [1, 0]], bool), (0, 1 / 3, 2 / 3)),
    ],
    ids=["one row", "no row", "equal rows", "disjoint rows", "unlabelled rows", "three rows"],
)
def test_pairs_of_degenerate_sets(labels, pairs):
    found = similarity_statistics(labels)
    assert tuple(found["pairs"][kind] for kind in ("none", "all", "some")) == pairs
    assert sum(found["similarity"]["share"]) == pytest.approx(1.0 if pairs[2] else 0.0)


def test_a_similarity_of_one_half_stands_at_the_edge_that_opens_its_bin():
    labels = np.array([[1, 1, 0], [0, 1, 1]], bool)
    found = similarity_statistics(labels)["similarity"]
    assert found["edges"][10] == 0.5
    assert found["share"][10] == 1.0


def test_a_description_counts_rows_and_labels():
    frame = pd.DataFrame(
        {
            "image": list("abcd"),
            "path": list("abcd"),
            "split": ["train", "train", "query", "database"],
            "also_database": [True, False, False, False],
            "sha256": "",
            "dog": [True, True, False, True],
            "cat": [True, False, True, False],
        }
    )
    frame.attrs = {"unlabelled": 7}
    found = describe(frame)
    assert found["rows"] == {"train": 2, "query": 1, "database": 2}
    assert found["unlabelled"] == 7
    assert found["labels"] == {"dog": 3, "cat": 2}
    assert found["labels_per_image"] == 1.25
    assert found["pairs"] == {"none": 0.0, "all": 0.0, "some": 1.0}
