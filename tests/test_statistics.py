from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from isdh import statistics
from isdh.similarity import HARD_ABOVE, HARD_BELOW, instance_similarity
from isdh.statistics import describe, pair_shares, similarity_statistics


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
    assert found["also_database"] == 1
    assert found["labels_by_split"] == {
        "train": {"dog": 2, "cat": 1},
        "query": {"dog": 0, "cat": 1},
        "database": {"dog": 2, "cat": 1},
    }
    # the query (cat) with a searched training row (dog, cat) and with the database row (dog)
    assert found["query_pairs"] == {"none": 0.5, "all": 0.0, "some": 0.5}
    assert found["duplicates"]["near"] is None


@pytest.mark.parametrize("block", [1, 50, 1 << 22])
@pytest.mark.parametrize(("rows", "others", "classes"), [(30, 50, 4), (50, 7, 20), (9, 9, 70)])
def test_shares_of_pairs_of_two_sets_equal_those_counted_a_pair_at_a_time(
    monkeypatch, block, rows, others, classes
):
    monkeypatch.setattr(statistics, "BLOCK", block)
    rng = np.random.default_rng(rows)
    a, b = (rng.random((n, classes)) < 0.4 for n in (rows, others))
    a[: rows // 4], a[-1], b[0] = b[0], False, False  # equal sets, and unlabelled rows
    b[-1] = a[1]
    common = a.astype(int) @ b.T
    none = common == 0
    every = ~none & (common == a.sum(axis=1)[:, None]) & (common == b.sum(axis=1))
    assert none.any()
    assert every.any()
    assert pair_shares(a, b) == {
        "none": none.mean(),
        "all": every.mean(),
        "some": pytest.approx(1 - none.mean() - every.mean()),
    }


def test_equal_label_sets_of_many_labels_are_told_from_nearly_equal_ones():
    """S of 100 labels and 99 of them is 0.995: between, though training calls it hard."""
    labels = np.ones((2, 100), bool)
    labels[1, 0] = False
    assert pair_shares(labels[:1], labels) == {"none": 0.0, "all": 0.5, "some": 0.5}


def test_pairs_with_no_row_have_no_shares():
    labels = np.ones((3, 2), bool)
    assert pair_shares(labels, labels[:0]) == {"none": 0.0, "all": 0.0, "some": 0.0}


def test_statistics_load_neither_torch_nor_pandas():
    code = "import sys, isdh.statistics; sys.stdout.write(' '.join(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"torch", "pandas", "PIL", "scipy", "imagehash"} & set(loaded.stdout.split())
