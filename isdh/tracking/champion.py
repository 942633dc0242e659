"""The rule of the alias `champion`: scores of cells -> the candidate, and whether it takes over.

Pure. A method stands for itself by the mean over its seeds; among its seeds the lowest is taken,
never the best on the queries.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from isdh.artifacts import Cell
from isdh.errors import unknown
from isdh.params import Champion

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


def takes_over(mean: float, reigning: float | None, rule: Champion) -> tuple[bool, str]:
    """Whether a candidate takes the alias from a champion, and why.

    Args:
        mean: the candidate's.
        reigning: the champion's mean under the same score; None if it is not on record.
        rule: direction and margin.
    """
    if reigning is None:
        return False, f"the champion has no {rule.metric} on record to compare with"
    gain = mean - reigning if rule.direction == "max" else reigning - mean
    numbers = f"{rule.metric} {mean:.4f}, the champion's {reigning:.4f}"
    if gain > rule.margin:
        return True, f"{numbers}: better by {gain:.4f}, more than the margin {rule.margin:g}"
    return False, f"{numbers}: not better by more than the margin {rule.margin:g}"
