"""The rule of the champion: who is the candidate, and whether it takes over."""

from __future__ import annotations

import numpy as np
import pytest

from isdh.artifacts import Cell
from isdh.errors import InputError
from isdh.params import Champion
from isdh.significance import intervals
from isdh.tracking import champion
from isdh.tracking.champion import Measured, judge

QUERIES = np.random.default_rng(0).normal(0.5, 0.1, 200)


def scored(**methods: list[float]) -> dict[Cell, dict[str, float]]:
    return {
        Cell("digits", method, 12, seed): {"ndcg_at_100": value}
        for method, values in methods.items()
        for seed, value in enumerate(values)
    }


def measured(values: np.ndarray) -> Measured:
    return Measured(float(values.mean()), 1, values)


@pytest.mark.parametrize(
    ("scores", "rule", "order"),
    [
        (scored(isdh=[0.5], dhn=[0.6]), {}, ["dhn", "isdh"]),
        (scored(isdh=[0.5], dhn=[0.6]), {"direction": "min"}, ["isdh", "dhn"]),
        (scored(isdh=[0.5], dhn=[0.5]), {}, ["isdh", "dhn"]),  # equal: the order of params.yaml
        (scored(isdh=[0.9, 0.1], dhn=[0.6, 0.6]), {}, ["dhn", "isdh"]),  # the mean, not the best
        (scored(isdh=[0.5, 0.5], dhn=[0.6]), {"min_seeds": 2}, ["isdh"]),
        (scored(isdh=[0.5]), {"min_seeds": 2}, []),
    ],
)
def test_methods_are_ranked_by_their_mean_over_enough_seeds(scores, rule, order):
    ranked = champion.ranked(champion.standings(scores), Champion(**rule))
    assert [standing.cell.method for standing in ranked] == order


def test_a_method_stands_for_itself_with_its_lowest_seed_not_its_best():
    (standing,) = champion.standings(dict(reversed(scored(isdh=[0.1, 0.9]).items())))
    assert standing.cell.seed == 0
    assert standing.means == {"ndcg_at_100": 0.5}


def test_a_rule_on_an_unknown_score_names_the_nearest():
    standings = champion.standings(scored(isdh=[0.5]))
    with pytest.raises(InputError, match=r"unknown champion\.metric 'ndcg_at_10', did you mean"):
        champion.ranked(standings, Champion(metric="ndcg_at_10"))


@pytest.mark.parametrize(
    ("mean", "reigning", "rule", "moves"),
    [
        (0.6, 0.5, {}, True),
        (0.5, 0.5, {}, False),
        (0.4, 0.5, {}, False),
        (0.4, 0.5, {"direction": "min"}, True),
        (0.6, 0.5, {"direction": "min"}, False),
        (0.625, 0.5, {"margin": 0.125}, False),  # exactly the margin is not more than it
        (0.75, 0.5, {"margin": 0.125}, True),
        (0.375, 0.5, {"margin": 0.125, "direction": "min"}, False),
        (0.25, 0.5, {"margin": 0.125, "direction": "min"}, True),
    ],
)
@pytest.mark.parametrize("confidence", [None, 0.95])
def test_a_candidate_takes_over_only_by_more_than_the_margin(
    mean, reigning, rule, moves, confidence
):
    """The same for every query, so that the test has no say."""
    one, other = Measured(mean, 1, np.full(9, mean)), Measured(reigning, 1, np.full(9, reigning))
    verdict = judge(one, other, Champion(**rule, confidence=confidence))
    assert verdict.moves is moves
    sign = -1 if rule.get("direction") == "min" else 1
    assert verdict.gain == pytest.approx(sign * (mean - reigning))
    assert f"{mean:.4f}, the champion's {reigning:.4f}" in verdict.reason


@pytest.mark.parametrize("direction", ["max", "min"])
def test_a_better_mean_that_is_within_chance_over_queries_is_not_enough(direction):
    noise = np.random.default_rng(1).normal(0, 0.2, 200)
    lead = (noise - noise.mean() + 0.01) * (1 if direction == "max" else -1)
    rule = Champion(direction=direction)
    verdict = judge(measured(QUERIES + lead), measured(QUERIES), rule)
    assert not verdict.moves
    assert verdict.gain == pytest.approx(0.01)
    assert verdict.interval is not None
    assert verdict.interval[0] < 0 < verdict.interval[1]
    assert "within chance: 0.95 interval" in verdict.reason
    assert judge(
        measured(QUERIES + lead), measured(QUERIES), Champion(direction=direction, confidence=None)
    ).moves


def test_the_test_is_paired_by_query_and_as_sure_as_the_rule_says():
    """A small lead on each query is told apart though queries differ far more."""
    lead = np.random.default_rng(2).normal(0.002, 0.01, 200)
    assert lead.mean() > 0
    sure, surer = (
        judge(measured(QUERIES + lead), measured(QUERIES), Champion(confidence=confidence))
        for confidence in (0.9, 0.999)
    )
    ((low, high),) = intervals(lead, confidence=0.9)
    assert sure.interval == (pytest.approx(low), pytest.approx(high))
    assert sure.moves
    assert surer.interval is not None
    assert not surer.moves
    assert surer.interval[0] < 0 < sure.interval[0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (None, QUERIES),
        (QUERIES, None),
        (QUERIES, QUERIES[:-1]),
        (QUERIES[:1], QUERIES[:1]),
        (np.append(QUERIES[1:], np.nan), QUERIES),
    ],
)
def test_without_values_of_the_same_queries_nothing_moves_unless_no_test_is_asked_for(one, other):
    candidate, reigning = Measured(0.6, 1, one), Measured(0.5, 1, other)
    verdict = judge(candidate, reigning, Champion())
    assert (verdict.moves, verdict.interval) == (False, None)
    assert "set champion.confidence: null" in verdict.reason
    assert judge(candidate, reigning, Champion(confidence=None)).moves


def test_a_score_that_is_no_number_takes_nothing_over():
    assert not judge(Measured(float("nan"), 1), Measured(0.5, 1), Champion(confidence=None)).moves
