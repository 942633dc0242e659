"""Scores of cells -> tables of methods by code length, with the best of each column marked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isdh.report import emphasis
from isdh.report.evidence import Evidence

_DIGITS = 3  # values that are printed alike count as equal


@dataclass(frozen=True)
class Entry:
    """A method at a code length, by one metric.

    Attributes:
        mean: over seeds.
        deviation: sample standard deviation over seeds; None with one seed.
        best: nothing in its column is higher, and something is lower.
        level: not the best, and less than two standard errors below it, paired over queries.
    """

    mean: float
    deviation: float | None
    best: bool
    level: bool


@dataclass(frozen=True)
class Table:
    """One metric over the matrix.

    Attributes:
        metric: its name.
        rows: method -> an entry per code length, ordered as `emphasis.ranking` has it.
        looks: method -> its look in the plot, of those in colour.
        chance: the metric's expectation under a random ranking.
    """

    metric: str
    rows: Mapping[str, tuple[Entry, ...]]
    looks: Mapping[str, int]
    chance: float | None


def table(evidence: Evidence, metric: str) -> Table:
    """The results by one of the leading metrics."""
    methods = emphasis.ranking(evidence, metric)
    columns = [_column(evidence, metric, bits) for bits in evidence.bits]
    return Table(
        metric,
        {method: tuple(column[method] for column in columns) for method in methods},
        emphasis.looks_by(evidence, metric),
        evidence.chance.get(metric),
    )


def _column(evidence: Evidence, metric: str, bits: int) -> dict[str, Entry]:
    """The entries of all methods at one code length."""
    values, per_query = {}, {}
    for method in evidence.methods:
        cells = evidence.runs(method, bits)
        values[method] = np.array([evidence.scores[cell][metric] for cell in cells])
        per_query[method] = np.mean([evidence.arrays[cell][metric] for cell in cells], axis=0)
    means = {method: float(of_seeds.mean()) for method, of_seeds in values.items()}
    leader = max(means, key=means.__getitem__)
    printed = {method: round(mean, _DIGITS) for method, mean in means.items()}
    differ = len(set(printed.values())) > 1
    entries = {}
    for method, mean in means.items():
        best = differ and printed[method] == printed[leader]
        entries[method] = Entry(
            mean,
            float(values[method].std(ddof=1)) if len(values[method]) > 1 else None,
            best,
            differ and not best and _level(per_query[leader], per_query[method]),
        )
    return entries


def _level(leader: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Whether the mean difference over the same queries is below two of its standard errors."""
    if len(leader) < 2:
        return False
    difference = leader - other
    return bool(difference.mean() < 2 * difference.std(ddof=1) / math.sqrt(len(difference)))
