from __future__ import annotations

import os
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isdh import splits
from isdh.errors import InputError
from isdh.splits import PARTS, draw, stratify


@given(st.integers(3, 60), st.integers(0, 2**32 - 1), st.data())
def test_counts_hold_and_only_labelled_rows_are_drawn(rows, seed, data):
    train = data.draw(st.integers(1, rows - 2))
    query = data.draw(st.integers(1, rows - train - 1))
    labelled = np.zeros(2 * rows, dtype=bool)
    labelled[np.random.default_rng([seed, 1]).permutation(2 * rows)[:rows]] = True
    split = draw(labelled, train=train, query=query, generator=np.random.default_rng(seed))
    assert np.count_nonzero(split == "train") == train
    assert np.count_nonzero(split == "query") == query
    assert set(split[~labelled]) == {"database"}


def test_every_row_is_drawn_equally_often():
    generator = np.random.default_rng(0)
    drawn = sum(
        draw(np.ones(10, bool), train=3, query=2, generator=generator) == "train"
        for _ in range(3000)
    )
    assert np.abs(drawn / 3000 - 0.3).max() < 0.04  # 4.8 standard deviations


def test_a_draw_that_leaves_no_database_is_refused():
    with pytest.raises(InputError, match=r"train=6, query=4: .* of the 10 labelled rows"):
        draw(np.ones(10, bool), train=6, query=4, generator=np.random.default_rng(0))


def label_matrix(rows: int, classes: int, seed: int) -> np.ndarray:
    """Labels of two fifths of the rows down to ten of them; every row has one."""
    generator = np.random.default_rng([seed, 2])
    labels = generator.random((rows, classes)) < np.geomspace(0.4, 10 / rows, classes)
    labels[~labels.any(axis=1), 0] = True
    return labels


def chi_squared(labels: np.ndarray, part: np.ndarray, counts: np.ndarray) -> float:
    """Plain loops: squared differences to the expected numbers of labels, by the expected."""
    total = 0.0
    for i, label in product(range(len(counts)), range(labels.shape[1])):
        expected = labels[:, label].sum() * counts[i] / len(labels)
        if expected:
            total += (labels[part == i, label].sum() - expected) ** 2 / expected
    return total


def distance(labels: np.ndarray, split: np.ndarray) -> float:
    part = np.array([PARTS.index(name) for name in split])
    return chi_squared(labels, part, np.bincount(part, minlength=3))


@settings(deadline=None)  # the first call imports scikit-learn
@given(st.integers(3, 40), st.integers(1, 5), st.integers(0, 2**32 - 1), st.data())
def test_a_stratified_draw_has_exact_counts_whatever_the_labels(rows, classes, seed, data):
    train = data.draw(st.integers(1, rows - 2))
    query = data.draw(st.integers(1, rows - train - 1))
    generator = np.random.default_rng([seed, 1])
    labels = generator.random((2 * rows, classes)) < generator.random(classes)
    labels[:, 0] |= ~labels.any(axis=1)
    unlabelled = generator.permutation(2 * rows)[rows:]
    labels[unlabelled] = False
    split = stratify(labels, train=train, query=query, generator=np.random.default_rng(seed))
    assert np.count_nonzero(split == "train") == train
    assert np.count_nonzero(split == "query") == query
    assert set(split[unlabelled]) == {"database"}


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_nearer_to_their_shares_than_in_twenty_random_draws(seed):
    labels = label_matrix(2000, 20, seed)
    sizes = {"train": 1000, "query": 200}
    stratified = stratify(labels, **sizes, generator=np.random.default_rng(seed))
    generator = np.random.default_rng([seed, 3])
    anything = np.ones(len(labels), dtype=bool)
    random = [distance(labels, draw(anything, **sizes, generator=generator)) for _ in range(20)]
    assert distance(labels, stratified) < min(random) / 3


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_label_is_in_each_part_in_proportion(seed):
    labels = label_matrix(5000, 20, seed)
    labels[:, -1] = np.arange(5000) % 500 == 0
    split = stratify(labels, train=2500, query=500, generator=np.random.default_rng(seed))
    held = {name: int(labels[split == name, -1].sum()) for name in PARTS}
    assert held == {"train": 5, "query": 1, "database": 4}


@pytest.mark.parametrize("positives", [0, 1, 2])
def test_a_label_of_hardly_an_image_breaks_nothing(positives):
    labels = label_matrix(300, 4, 0)
    labels[:, -1] = np.arange(300) < positives
    split = stratify(labels, train=150, query=30, generator=np.random.default_rng(0))
    assert [np.count_nonzero(split == name) for name in PARTS] == [150, 30, 120]
    assert np.count_nonzero(split[:positives] == "query") == 0


def test_every_row_is_drawn_equally_often_by_a_stratified_draw_too():
    labels = np.repeat(np.eye(2, dtype=bool), [8, 4], axis=0)
    generator = np.random.default_rng(0)
    trained = sum(
        stratify(labels, train=6, query=3, generator=generator) == "train" for _ in range(1000)
    )
    assert np.abs(trained / 1000 - 0.5).max() < 0.08  # 5 standard deviations


def test_each_move_is_the_one_that_leaves_chi_squared_least():
    counts = np.array([20, 5, 15])
    for seed in range(20):
        generator = np.random.default_rng(seed)
        labels = label_matrix(40, 6, seed)
        part = generator.choice(3, 40, p=[0.45, 0.15, 0.4])
        expected = part.copy()
        while (surplus := np.bincount(expected, minlength=3) - counts).any():
            costs = {}
            for row in np.flatnonzero(expected == surplus.argmax()):
                moved = expected.copy()
                moved[row] = surplus.argmin()
                costs[row] = round(chi_squared(labels, moved, counts), 9)
            expected[min(costs, key=lambda row: (costs[row], row))] = surplus.argmin()
        splits._meet(part, labels, counts)
        assert part.tolist() == expected.tolist()


def test_a_stratified_draw_is_the_seeds_alone_in_every_process():
    code = """
import numpy as np
from isdh.splits import PARTS, stratify
labels = np.random.default_rng(0).random((500, 6)) < 0.3
split = stratify(labels, train=200, query=50, generator=np.random.default_rng(1))
print("".join(name[0] for name in split))
"""
    drawn = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert len(drawn) == 1
    # the same for as long as this draw is: another one changes every result made with it
    assert drawn.pop().startswith("tdqddddttddtddtdqtdtdttddtddtdqtdtdttddt")


def test_a_stratified_draw_that_leaves_no_database_is_refused():
    with pytest.raises(InputError, match=r"train=6, query=4: .* of the 10 labelled rows"):
        stratify(np.ones((10, 2), bool), train=6, query=4, generator=np.random.default_rng(0))
