"""The rule of the alias `champion`: scores of cells -> the candidate, and whether it takes over.

Pure. A method stands for itself by the mean over its seeds; among its seeds the lowest is taken,
never the best on the queries. Who is compared was scored on the same data by the same protocol.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isdh.artifacts import Cell
from isdh.errors import unknown
from isdh.params import Champion
from isdh.significance import intervals

Scored = Mapping[Cell, Mapping[str, float]]


@dataclass(frozen=True)
class Standing:
    """How a method stands at one code length of one dataset.

    Attributes:
        cell: its lowest seed's, whose model would be used.
        seeds: how many are scored.
        means: score -> mean over seeds, of the scores that every seed has.
    """

    cell: Cell
    seeds: int
    means: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Measured:
    """What a method, or a single model, scores under the rule's metric.

    Attributes:
        mean: over seeds.
        seeds: how many.
        values: the same query by query, float64 (Q,); None: not known.
    """

    mean: float
    seeds: int
    values: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether the alias moves.

    Attributes:
        moves: it does.
        reason: why, with the numbers.
        gain: by how much the candidate's mean is better; None: it was compared with none.
        interval: where that lies at the rule's confidence; None: not tested.
    """

    moves: bool
    reason: str
    gain: float | None = None
    interval: tuple[float, float] | None = None


def standings(scored: Scored) -> list[Standing]:
    """One standing per method, in the order in which the methods first come.

    Args:
        scored: cells of one dataset and code length -> their scores.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in scored:
        groups.setdefault(cell.method, []).append(cell)
    return [_standing(cells, scored) for cells in groups.values()]


def _standing(cells: list[Cell], scored: Scored) -> Standing:
    shared = [name for name in scored[cells[0]] if all(name in scored[cell] for cell in cells)]
    means = {name: statistics.fmean(scored[cell][name] for cell in cells) for name in shared}
    return Standing(min(cells, key=lambda cell: cell.seed), len(cells), means)


def ranked(found: list[Standing], rule: Champion) -> list[Standing]:
    """The methods with enough seeds, best mean first; of equal ones, the order given.

    Raises:
        InputError: the rule names a score that none of them has.
    """
    enough = [standing for standing in found if standing.seeds >= rule.min_seeds]
    for standing in enough:
        if rule.metric not in standing.means:
            raise unknown("champion.metric", rule.metric, standing.means)
    sign = -1 if rule.direction == "max" else 1
    return sorted(enough, key=lambda standing: sign * standing.means[rule.metric])


def judge(candidate: Measured, reigning: Measured, rule: Champion) -> Verdict:
    """Whether a candidate takes the alias from a champion, and why.

    Its mean has to be better by more than the margin, and, unless the rule does without a test, the
    interval of a paired bootstrap over queries has to lie on the better side of 0.

    Args:
        candidate: scored on the same data, by the same protocol, as
        reigning: the champion.
        rule: score, direction, margin and confidence.
    """
    sign = 1.0 if rule.direction == "max" else -1.0
    gain = sign * (candidate.mean - reigning.mean)
    interval = _interval(candidate, reigning, rule, sign)
    numbers = f"{rule.metric} {candidate.mean:.4f}, the champion's {reigning.mean:.4f}"
    if not gain > rule.margin:
        reason = f"{numbers}: not better by more than the margin {rule.margin:g}"
        return Verdict(False, reason, gain, interval)
    better = f"{numbers}: better by {gain:.4f}, more than the margin {rule.margin:g}"
    if rule.confidence is None:
        return Verdict(True, f"{better}; no test asked for", gain)
    if interval is None:
        return Verdict(
            False,
            f"{better}, yet there are no values of the same two queries or more to test it by; run "
            "`dvc repro`, or set champion.confidence: null",
            gain,
        )
    told = f"{rule.confidence:.4g} interval over queries {interval[0]:+.4f} to {interval[1]:+.4f}"
    if interval[0] > 0:
        return Verdict(True, f"{better}; {told}", gain, interval)
    return Verdict(False, f"{better}, but within chance: {told}", gain, interval)


def _interval(
    candidate: Measured, reigning: Measured, rule: Champion, sign: float
) -> tuple[float, float] | None:
    """Where the candidate's lead lies; None: no test is asked for, or there is nothing to pair."""
    one, other = candidate.values, reigning.values
    if rule.confidence is None or one is None or other is None or one.shape != other.shape:
        return None
    leads = sign * (one - other)
    if len(leads) < 2 or not np.isfinite(leads).all():
        return None
    ((low, high),) = intervals(leads, confidence=rule.confidence)
    return float(low), float(high)
