from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from isdh.significance import Standing, intervals, standings


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


def test_intervals_are_those_that_scipy_draws_row_by_row():
    rows = np.random.default_rng(5).normal(size=(3, 60))
    for row, interval in zip(rows, intervals(rows), strict=True):
        expected = stats.bootstrap(
            (row,),
            np.mean,
            n_resamples=2000,
            batch=100,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        assert interval == pytest.approx([expected.low, expected.high], abs=1e-12)


# ---------------------------------------------------------------- standings


def scored(**values: np.ndarray) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """Methods' values, (S, Q) each, as `standings` takes them."""
    return {name: rows.mean(axis=1).tolist() for name, rows in values.items()}, values


def around(means: list[float], *, seed: int, queries: int = 400) -> np.ndarray:
    """(S, Q): the same hard and easy queries for all, and a seed's own noise."""
    hardness = np.random.default_rng(99).normal(0, 0.2, queries)
    noise = np.random.default_rng(seed).normal(0, 0.02, (len(means), queries))
    values = np.array(means)[:, None] + hardness + noise
    return values - values.mean(axis=1, keepdims=True) + np.array(means)[:, None]


def marks(found: dict[str, Standing]) -> dict[str, tuple[bool, bool | None, int | None]]:
    return {name: (of.best, of.level, of.against) for name, of in found.items()}


@pytest.fixture
def table() -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    return scored(
        worst=around([0.4, 0.5], seed=1),
        reference=around([0.6, 0.61, 0.62], seed=2),
        best=around([0.70, 0.70], seed=3),
        level=around([0.6999], seed=4),
    )


def test_means_and_deviations_are_over_the_seeds_that_a_method_has(table):
    found = standings(*table, reference="reference")
    assert list(found) == ["worst", "reference", "best", "level"]
    assert found["worst"].mean == pytest.approx(0.45)
    assert found["worst"].deviation == pytest.approx(0.1 / 2**0.5)
    assert found["reference"].mean == pytest.approx(0.61)
    assert found["reference"].deviation == pytest.approx(0.01)
    assert found["level"].mean == pytest.approx(0.6999)
    assert found["level"].deviation is None


def test_methods_stand_level_with_the_best_and_around_the_reference(table):
    assert marks(standings(*table, reference="reference")) == {
        "worst": (False, False, -1),
        "reference": (False, False, 0),
        "best": (True, False, 1),
        "level": (False, True, 1),
    }


def test_with_the_lowest_mean_as_the_best_the_marks_turn_round(table):
    scores, values = table
    turned = {name: [1 - score for score in of_seeds] for name, of_seeds in scores.items()}
    found = standings(
        turned,
        {name: 1 - rows for name, rows in values.items()},
        reference="reference",
        direction="min",
    )
    assert marks(found) == marks(standings(scores, values, reference="reference"))
    assert marks(standings(*table, reference="reference", direction="min")) == {
        "worst": (True, False, 1),
        "reference": (False, False, 0),
        "best": (False, False, -1),
        "level": (False, False, -1),
    }


def test_seeds_are_averaged_before_queries_are_drawn():
    level = around([0.5, 0.5], seed=1)
    level[0] += 0.2  # the seeds differ, their mean does not
    level[1] -= 0.2
    found = standings(*scored(level=level, best=around([0.5001], seed=2)), reference="best")
    assert marks(found)["level"] == (False, True, 0)


@pytest.mark.parametrize("seed", range(4))
def test_marks_are_those_of_the_paired_t_test_wherever_that_is_not_close(seed):
    """The oracle takes one pair of methods at a time, and no resample."""
    rng = np.random.default_rng(seed)
    values = {
        f"method{i}": around(
            rng.normal(0.5, 0.003, rng.integers(1, 4)).tolist(), seed=10 * seed + i
        )
        for i in range(8)
    }
    told = 0
    for direction in ("max", "min"):
        sign = 1 if direction == "max" else -1
        found = standings(*scored(**values), reference="method3", direction=direction)
        best = max(values, key=lambda name: sign * values[name].mean())
        assert [name for name, of in found.items() if of.best] == [best]
        for name in set(values) - {best, "method3"}:
            for other in (best, "method3"):
                lead = sign * (values[name].mean(axis=0) - values[other].mean(axis=0))
                low, high = stats.ttest_1samp(lead, 0).confidence_interval(0.95)
                if min(abs(low), abs(high)) < 0.1 * (high - low):
                    continue
                told += 1
                if other == best:
                    assert found[name].level == (high > 0), (name, low, high)
                if other == "method3":
                    expected = 1 if low > 0 else -1 if high < 0 else 0
                    assert found[name].against == expected, (name, low, high)
    assert told > 10


def test_without_the_reference_only_what_is_against_it_is_not_known(table):
    found = standings(*table, reference="another")
    assert {name: of.against for name, of in found.items()} == dict.fromkeys(found)
    assert {name: of.level for name, of in found.items()} == {
        "worst": False,
        "reference": False,
        "best": False,
        "level": True,
    }


UNKNOWN = {
    "absent": lambda rows: None,
    "of another number of queries": lambda rows: rows[:, 1:],
    "not a number": lambda rows: np.where(np.arange(rows.shape[1]) == 7, np.nan, rows),
}


@pytest.mark.parametrize("fault", UNKNOWN)
def test_a_method_without_values_to_pair_has_its_mean_and_no_marks(table, fault):
    scores, values = table
    full = standings(scores, values, reference="reference")
    changed = {**values, "worst": UNKNOWN[fault](values["worst"])}
    if changed["worst"] is None:
        del changed["worst"]
    found = standings(scores, changed, reference="reference")
    assert marks(found)["worst"] == (False, None, None)
    assert found["worst"].mean == full["worst"].mean
    assert {name: of for name, of in found.items() if name != "worst"} == {
        name: of for name, of in full.items() if name != "worst"
    }


def test_if_the_best_has_no_values_nothing_is_level_with_a_lesser_one_in_its_place(table):
    scores, values = table
    del values["best"]
    assert marks(standings(scores, values, reference="reference")) == {
        "worst": (False, None, -1),
        "reference": (False, None, 0),
        "best": (True, None, None),
        "level": (False, None, 1),
    }


def test_methods_with_the_same_mean_are_both_the_best():
    rows = around([0.5, 0.6], seed=1)
    found = standings(*scored(one=rows, same=rows.copy()), reference="one")
    assert marks(found) == {"one": (True, False, 0), "same": (True, False, 0)}


def test_a_single_query_gives_no_marks():
    found = standings({"a": [0.5], "b": [0.9]}, {"a": [[0.5]], "b": [[0.9]]}, reference="a")
    assert marks(found) == {"a": (False, None, None), "b": (True, None, None)}


def test_no_methods_have_no_standings():
    assert standings({}, {}, reference="isdh") == {}
