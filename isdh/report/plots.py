"""Scores, curves and histories -> the report's panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from isdh.report import svg, vocabulary
from isdh.report.evidence import Evidence
from isdh.report.svg import Panel
from isdh.report.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHARES = (-0.02, 1.02)
_LONGEST = 18  # letters of a label's name
_WIDE_RANGE = 30  # a loss that falls by more is shown on a logarithmic scale


def by_code_length(results: Table, bits: Sequence[int]) -> Panel:
    """A metric against the code length: a line per method; over seeds, error bars if coloured."""
    several_seeds = any(row[0].deviation is not None for row in results.rows.values())

    def draw(axes: Axes) -> None:
        _chance(axes, results.chance)
        for method in sorted(results.rows, key=lambda method: method in results.looks):
            rising = sorted(zip(bits, results.rows[method], strict=True), key=lambda pair: pair[0])
            bars = several_seeds and method in results.looks
            axes.errorbar(
                [length for length, _ in rising],
                [entry.mean for _, entry in rising],
                [entry.deviation or 0 for _, entry in rising] if bars else None,
                capsize=3,
                gid=svg.named(method),
                **svg.line(results.looks.get(method)),
            )
        axes.set_xticks(sorted(bits))
        axes.set_xlabel("bits")
        axes.margins(x=0.08)

    title = vocabulary.title(results.metric)
    told = "; ".join(
        f"{method} " + ", ".join(f"{e.mean:.3f}" for e in entries)
        for method, entries in results.rows.items()
    )
    lengths = ", ".join(map(str, bits))
    alt = f"{title} at {lengths} bits: {told}"
    if results.chance is not None:
        alt += f"; random ranking {results.chance:.3f}"
    size = svg.SIZE if len(results.looks) == len(results.rows) else svg.TALL
    return svg.panel(draw, key=results.metric, title=title, alt=alt, size=size)


def by_radius(evidence: Evidence, looks: Mapping[str, int]) -> list[Panel]:
    """Precision and recall of the Hamming balls of all radii at the longest code length.

    Args:
        evidence: what the stages left.
        looks: the methods that are shown, and how.
    """
    bits = max(evidence.bits)
    precision = {m: _over_seeds(evidence, m, bits, "precision_by_radius") for m in looks}
    recall = {m: _over_seeds(evidence, m, bits, "recall_by_radius") for m in looks}

    def draw_trade(axes: Axes) -> None:
        _chance(axes, evidence.chance.get("precision_within_r2"))
        for method, look in looks.items():
            axes.plot(recall[method], precision[method], **svg.line(look, markevery=0.12))
        axes.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02), ylim=_SHARES)

    def draw_curve(axes: Axes, curves: dict[str, NDArray[np.float64]], name: str) -> None:
        for method, look in looks.items():
            axes.plot(np.arange(bits + 1), curves[method], **svg.line(look, markevery=0.12))
        axes.set(xlabel="Hamming radius", ylabel=name, ylim=_SHARES)

    return [
        svg.panel(
            draw_trade,
            key="trade",
            title="Precision against recall",
            alt=f"Precision against recall at {bits} bits, a curve per method over all radii",
        ),
        svg.panel(
            lambda axes: draw_curve(axes, precision, "precision"),
            key="precision-radius",
            title="Precision by radius",
            alt=_told("Precision", bits, precision),
        ),
        svg.panel(
            lambda axes: draw_curve(axes, recall, "recall"),
            key="recall-radius",
            title="Recall by radius",
            alt=_told("Recall", bits, recall),
        ),
    ]


def losses(evidence: Evidence, looks: Mapping[str, int]) -> list[Panel]:
    """The loss by epoch at the longest code length: a panel per trained method."""
    bits = max(evidence.bits)
    panels = []
    for method in evidence.methods:
        runs = [evidence.histories[cell]["epochs"] for cell in evidence.runs(method, bits)]
        if all(len(epochs) > 1 for epochs in runs):
            panels.append(_loss(method, looks.get(method), bits, runs))
    return panels


def _loss(
    method: str, look: int | None, bits: int, runs: Sequence[Sequence[dict[str, Any]]]
) -> Panel:
    curves = [[epoch["loss"] for epoch in epochs] for epochs in runs]

    def draw(axes: Axes) -> None:
        line = svg.line(look) | {"marker": "", "linewidth": 1.4}
        for epochs, curve in zip(runs, curves, strict=True):
            axes.plot([epoch["epoch"] for epoch in epochs], curve, **line)
        everything = [value for curve in curves for value in curve]
        if min(everything) > 0 and max(everything) > _WIDE_RANGE * min(everything):
            axes.set_yscale("log")
        axes.set(xlabel="epoch", ylabel="loss")

    ends = ", ".join(f"{curve[0]:.3g} to {curve[-1]:.3g}" for curve in curves)
    alt = f"Loss of {method} at {bits} bits over {len(curves[0])} epochs: {ends}"
    return svg.panel(draw, key=f"loss-{method}", title=method, alt=alt, size=(svg.SIZE[0], 180))


def soft_similarity(similarity: dict[str, list[float]]) -> Panel:
    """The histogram of instance similarity over soft pairs."""
    edges, share = np.array(similarity["edges"]), np.array(similarity["share"])

    def draw(axes: Axes) -> None:
        axes.bar(edges[:-1], 100 * share, np.diff(edges) * 0.92, align="edge", color=svg.color(0))
        axes.set(xlabel="instance similarity S", ylabel="% of soft pairs", xlim=(0, 1))
        axes.grid(visible=False, axis="x")

    peak = int(share.argmax())
    alt = (
        f"Histogram of S over soft pairs; most, {share[peak]:.0%}, between"
        f" {edges[peak]:.2f} and {edges[peak + 1]:.2f}"
    )
    return svg.panel(draw, key="similarity", title="Soft pairs by similarity", alt=alt)


def labels_by_split(
    by_split: Mapping[str, Mapping[str, int]], rows: Mapping[str, int], shown: Sequence[str]
) -> Panel:
    """How frequent labels are in each split: a row a label, a mark a split.

    Args:
        by_split: split -> label -> rows that carry it.
        rows: split -> its rows.
        shown: the labels, from top to bottom.
    """
    shares = {
        split: [100 * counts[name] / max(rows[split], 1) for name in shown]
        for split, counts in by_split.items()
    }

    def draw(axes: Axes) -> None:
        heights = list(range(len(shown)))
        for look, values in enumerate(shares.values()):
            axes.plot(values, heights, **_mark(look))
        names = [name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…" for name in shown]
        axes.set_yticks(heights, names, parse_math=False, fontsize=10)
        axes.set(xlabel="% of the split's rows", ylim=(len(shown) - 0.4, -0.6), xlim=(0, None))

    told = "; ".join(
        f"{name} " + ", ".join(f"{values[place]:.1f}" for values in shares.values())
        for place, name in enumerate(shown[:10])
    )
    alt = f"Labels in % of the rows of {', '.join(shares)}: {told}"
    size = (svg.SIZE[0], 50 + 17 * len(shown))
    return svg.panel(draw, key="labels-by-split", title="Labels by split", alt=alt, size=size)


def splits(titles: Mapping[str, str]) -> list[Panel]:
    """A key to the marks of `labels_by_split`: split -> what people call it."""
    return [
        _swatch(f"split-{split}", title, _mark(look))
        for look, (split, title) in enumerate(titles.items())
    ]


def _mark(look: int) -> dict[str, Any]:
    """A mark that others may lie upon and still be seen."""
    return svg.line(look) | {"linestyle": "", "markersize": 5, "alpha": 0.85}


def legend(looks: Mapping[str, int], *, grey: bool) -> list[Panel]:
    """A key to the looks, for the page to lay out: a swatch per method, and one of the grey."""
    keys = [
        _swatch(method, method, svg.line(look, markevery=[1])) for method, look in looks.items()
    ]
    return [*keys, _swatch("-grey", "other methods", svg.line(None))] if grey else keys


def _swatch(key: str, title: str, style: Mapping[str, Any]) -> Panel:
    def draw(axes: Axes) -> None:
        axes.plot([0, 1, 2], [0, 0, 0], **{"markevery": [1], **style})
        axes.set_axis_off()

    return svg.panel(draw, key=f"key-{key}", title=title, alt="", size=(34, 14))


def _chance(axes: Axes, value: float | None) -> None:
    if value is not None:
        axes.axhline(value, color=svg.CHANCE, linestyle="--", linewidth=1)


def _over_seeds(evidence: Evidence, method: str, bits: int, curve: str) -> NDArray[np.float64]:
    runs = evidence.runs(method, bits)
    mean: NDArray[np.float64] = np.mean([evidence.arrays[cell][curve] for cell in runs], axis=0)
    return mean


def _told(name: str, bits: int, curves: dict[str, NDArray[np.float64]]) -> str:
    """A curve by radius in words: its value at a few radii."""
    radii = sorted({min(2, bits), bits // 4, bits // 2})
    values = "; ".join(
        f"{method} " + ", ".join(f"{curve[radius]:.3f}" for radius in radii)
        for method, curve in curves.items()
    )
    return f"{name} at {bits} bits within radius {', '.join(map(str, radii))}: {values}"
