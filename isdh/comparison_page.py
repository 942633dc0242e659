"""Comparisons -> one HTML page that asks for nothing else: tables, and plots beside them.

All of it comes from MLflow, but the milliseconds of a search, which are measured here and now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from isdh import costs, views
from isdh.report import emphasis, plots, svg
from isdh.report.rendering import render
from isdh.report.svg import Panel
from isdh.tracking import ByLabel, Comparison, Illustrated

MOST_LABELS = 40  # of a drawing
NEAREST = 100  # asked for by a query that is timed
QUERIES = 32  # timed together
SECONDS = 0.05  # of timing a code length, at least


@dataclass(frozen=True)
class Section:
    """A dataset under one metric.

    Attributes:
        comparison: the table.
        looks: the methods that its drawings have in colour.
        panels: drawings.
        by_label: another, of a row a label.
        scope: what that one is of.
        left_out: drawings that there are not, for want of what an evaluation adds.
        timed: a run tells how long its training took.
    """

    comparison: Comparison
    looks: Mapping[str, int]
    panels: Sequence[Panel]
    by_label: Panel | None
    scope: str
    left_out: Sequence[str]
    timed: bool


def build(illustrated: Sequence[Illustrated]) -> str:
    """The page."""
    looks = emphasis.distinct([_in_colour(each.comparison) for each in illustrated])
    sizes = {each.comparison.dataset: each.database for each in illustrated}
    speeds = {dataset: _speeds(illustrated, dataset, size) for dataset, size in sizes.items()}
    sections = [_section(each, looks, speeds[each.comparison.dataset]) for each in illustrated]
    grey = any(len(each.looks) < len(each.comparison.methods) for each in sections)
    context = {
        "sections": sections,
        "datasets": list(sizes),
        "sizes": {dataset: size for dataset, size in sizes.items() if size},
        "processor": _processor() if any(speeds.values()) else "",
        "nearest": NEAREST,
        "legend": [*plots.legend(looks, grey=grey), costs.ring()],
        "grey": grey,
        "own": emphasis.OWN,
        "marks": views.marks,
        "ranking": views.ranking,
    }
    return render("compare.html", context)


def _in_colour(comparison: Comparison) -> tuple[str, ...]:
    """Few methods in one order for all metrics, of more the leading ones."""
    few = len(comparison.methods) <= emphasis.FEW
    return emphasis.leading(sorted(comparison.methods) if few else views.ranking(comparison))


def _speeds(illustrated: Sequence[Illustrated], dataset: str, size: int | None) -> dict[int, float]:
    """Bits -> milliseconds a query, of all code lengths of a dataset."""
    tables = [each.comparison for each in illustrated if each.comparison.dataset == dataset]
    bits = sorted({length for table in tables for length in table.bits})
    return {length: milliseconds(length, size) for length in bits} if size else {}


def _section(
    illustrated: Illustrated, page: Mapping[str, int], speeds: Mapping[int, float]
) -> Section:
    comparison = illustrated.comparison
    looks = {method: page[method] for method in _in_colour(comparison)}
    panels = [*_by_length_and_time(illustrated, looks), *_by_cost(comparison, looks, speeds)]
    drawn = _by_label(illustrated, looks)
    scope = _scope(illustrated.by_label) if illustrated.by_label else ""
    return Section(
        comparison,
        looks,
        panels,
        drawn,
        scope,
        left_out=_left_out(illustrated, drawn),
        timed=bool(illustrated.seconds),
    )


def _key(comparison: Comparison, name: str) -> str:
    return f"{comparison.dataset}-{comparison.metric}-{name}"


def _by_length_and_time(illustrated: Illustrated, looks: Mapping[str, int]) -> list[Panel]:
    comparison = illustrated.comparison
    means = {
        method: {
            bits: (entry.mean, entry.std) for bits, entry in comparison.methods[method].items()
        }
        for method in views.ranking(comparison)
    }
    points = {
        method: {
            bits: (illustrated.seconds[method][bits], mean)
            for bits, (mean, _) in entries.items()
            if bits in illustrated.seconds.get(method, {})
        }
        for method, entries in means.items()
    }
    points = {method: of_method for method, of_method in points.items() if of_method}
    panels = [
        plots.by_code_length(
            comparison.metric,
            means,
            looks,
            key=_key(comparison, "length"),
            title="By code length",
            size=svg.TALL,
        )
    ]
    if points:
        panels.append(costs.by_time(comparison.metric, points, looks, key=_key(comparison, "time")))
    return panels


def _by_cost(
    comparison: Comparison, looks: Mapping[str, int], speeds: Mapping[int, float]
) -> list[Panel]:
    best = {
        bits: next(
            (method, entries[bits].mean)
            for method, entries in comparison.methods.items()
            if bits in entries and entries[bits].best
        )
        for bits in comparison.bits
    }
    own = emphasis.OWN
    beside = comparison.methods.get(own, {})
    other = (own, looks[own], {bits: e.mean for bits, e in beside.items()}) if beside else None
    kinds = [
        (
            "bytes",
            "By bytes",
            {bits: -(-bits // 8) for bits in best},
            "bytes an image, MB a million",
        ),
        ("search", "By search time", speeds, "milliseconds a query"),
    ]
    return [
        costs.by_cost(
            comparison.metric,
            cost,
            best,
            other,
            key=_key(comparison, name),
            title=title,
            unit=unit,
        )
        for name, title, cost, unit in kinds
        if cost
    ]


def _by_label(illustrated: Illustrated, looks: Mapping[str, int]) -> Panel | None:
    comparison, told = illustrated.comparison, illustrated.by_label
    means = told.means if told else {}
    scores = {m: means[m][:MOST_LABELS].tolist() for m in looks if m in means}
    if told is None or not scores:
        return None
    shown = list(told.queries)[:MOST_LABELS]
    key = _key(comparison, "label")
    return plots.scores_by_label(comparison.metric, scores, shown, looks, key=key)


def _scope(told: ByLabel) -> str:
    """What the drawing by label is of."""
    labels = len(told.queries)
    some = f", the {MOST_LABELS} most frequent of {labels}" if labels > MOST_LABELS else ""
    return f"{told.bits} bits; mean over the queries with a label{some}"


def _left_out(illustrated: Illustrated, drawn: Panel | None) -> list[str]:
    """Drawings that there are not, for want of what an evaluation adds."""
    return ["scores by label"] * (drawn is None) + ["search times"] * (not illustrated.database)


def milliseconds(bits: int, size: int) -> float:
    """How long exhaustive search takes for a query, here, in one thread: the best of some times.

    Args:
        bits: length of the codes.
        size: how many there are; they are random.
    """
    from threadpoolctl import threadpool_limits

    from isdh.codes import pack
    from isdh.index import HammingIndex

    codes = pack(np.random.default_rng(0).integers(0, 2, (QUERIES + size, bits)))
    index = HammingIndex(codes[QUERIES:], bits)
    took: list[float] = []
    with threadpool_limits(1):
        while len(took) < 3 or sum(took) < SECONDS:
            start = perf_counter()
            index.search(codes[:QUERIES], k=NEAREST)
            took.append(perf_counter() - start)
    return 1000 * min(took) / QUERIES


def _processor() -> str:
    from isdh.device import hardware

    return str(hardware()["processor"])
