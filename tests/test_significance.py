from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from isdh.significance import intervals


def test_an_interval_is_close_to_that_of_the_paired_t_test():
    differences = np.random.default_rng(1).normal(0.01, 0.1, (3, 1000))
    for row, (low, high) in zip(differences, intervals(differences), strict=True):
        expected = stats.ttest_1samp(row, 0).confidence_interval(0.95)
        assert low == pytest.approx(expected.low, abs=6e-4)
        assert high == pytest.approx(expected.high, abs=6e-4)


def test_an_interval_covers_the_true_mean_as_often_as_it_says():
    draws = np.random.default_rng(2).exponential(1.0, (400, 100))
    low, high = intervals(draws).T
    assert 0.91 < np.mean((low <= 1) & (high >= 1)) < 0.98


def test_all_rows_see_the_same_queries_drawn():
    row = np.random.default_rng(3).normal(size=200)
    one, other = intervals(np.stack([row, 2 * row]))
    assert other == pytest.approx(2 * one)


def test_it_repeats():
    differences = np.random.default_rng(4).normal(size=(2, 50))
    assert np.array_equal(intervals(differences), intervals(differences))


def test_a_single_query_says_nothing():
    assert np.isnan(intervals([[0.5]])).all()
