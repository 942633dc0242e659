"""Scores, curves and histories -> the panels of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from isdh.report import svg, vocabulary
from isdh.report.svg import Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Means = Mapping[str, Mapping[int, tuple[float, float | None]]]  # method -> bits -> mean, deviation
Curves = Mapping[str, NDArray[np.float64]]  # method -> value within each radius, (bits + 1,)
Epochs = Sequence[Mapping[str, Any]]  # of one training: epoch, loss

WIDE_RANGE = 30  # what varies by more is shown on a logarithmic scale

_SHARES = (-0.02, 1.02)
_LONGEST = 18  # letters of a label's name
_TOLD = 10  # labels whose values are told in words


def by_code_length(
    metric: str,
    means: Means,
    looks: Mapping[str, int],
    *,
    chance: float | None = None,
    key: str | None = None,
    title: str | None = None,
    size: tuple[int, int] | None = None,
) -> Panel:
    """A metric against the code length: a line per method; over seeds, error bars if coloured.

    Args:
        metric: its name.
        means: method -> bits -> mean and deviation over seeds; code lengths may be lacking.
        looks: the methods in colour, and how.
        chance: what a random ranking scores.
        key: of the panel; by default the metric.
        title: likewise; by default the metric as people write it.
        size: likewise, in points; by default higher where lines are many.
    """
    entries = [entry for of_method in means.values() for entry in of_method.values()]
    several_seeds = any(deviation is not None for _, deviation in entries)
    bits = list(dict.fromkeys(length for of_method in means.values() for length in of_method))

    def draw(axes: Axes) -> None:
        _chance(axes, chance)
        for method in sorted(means, key=lambda method: method in looks):
            rising = sorted(means[method].items())
            bars = several_seeds and method in looks
            axes.errorbar(
                [length for length, _ in rising],
                [mean for _, (mean, _) in rising],
                [deviation or 0 for _, (_, deviation) in rising] if bars else None,
                capsize=3,
                gid=svg.named(method),
                **svg.line(looks.get(method)),
            )
        axes.set_xticks(sorted(bits))
        axes.set_xlabel("bits")
        axes.margins(x=0.08)

    told = "; ".join(
        f"{method} "
        + ", ".join(f"{of_method[b][0]:.3f}" if b in of_method else "none" for b in bits)
        for method, of_method in means.items()
    )
    written = vocabulary.title(metric)
    alt = f"{written} at {', '.join(map(str, bits))} bits: {told}"
    if chance is not None:
        alt += f"; random ranking {chance:.3f}"
    size = size or (svg.SIZE if len(looks) == len(means) else svg.TALL)
    return svg.panel(draw, key=key or metric, title=title or written, alt=alt, size=size)


def by_radius(
    precision: Curves,
    recall: Curves,
    looks: Mapping[str, int],
    *,
    chance: float | None = None,
) -> list[Panel]:
    """Precision and recall of the Hamming balls of all radii.

    Args:
        precision: method -> value within each radius.
        recall: likewise.
        looks: the methods that are shown, and how.
        chance: the precision of a random ranking.
    """
    bits = len(next(iter(precision.values()))) - 1
    return [
        svg.panel(
            lambda axes: _draw_trade(axes, precision, recall, looks, chance),
            key="trade",
            title="Precision against recall",
            alt=f"Precision against recall at {bits} bits, a curve per method over all radii",
        ),
        svg.panel(
            lambda axes: _draw_radii(axes, precision, looks, "precision"),
            key="precision-radius",
            title="Precision by radius",
            alt=told_by_radius("Precision", bits, precision),
        ),
        svg.panel(
            lambda axes: _draw_radii(axes, recall, looks, "recall"),
            key="recall-radius",
            title="Recall by radius",
            alt=told_by_radius("Recall", bits, recall),
        ),
    ]


def _draw_trade(
    axes: Axes, precision: Curves, recall: Curves, looks: Mapping[str, int], chance: float | None
) -> None:
    _chance(axes, chance)
    for method, look in looks.items():
        axes.plot(recall[method], precision[method], **svg.line(look, markevery=0.12))
    axes.set(xlabel="recall", ylabel="precision", xlim=_SHARES, ylim=_SHARES)


def _draw_radii(axes: Axes, curves: Curves, looks: Mapping[str, int], ylabel: str) -> None:
    for method, look in looks.items():
        radii = np.arange(len(curves[method]))
        axes.plot(radii, curves[method], **svg.line(look, markevery=0.12))
    axes.set(xlabel="Hamming radius", ylabel=ylabel, ylim=_SHARES)


def losses(
    runs: Mapping[str, Sequence[Epochs]], looks: Mapping[str, int], bits: int
) -> list[Panel]:
    """The loss by epoch: a panel per trained method.

    Args:
        runs: method -> the epochs of each seed.
        looks: the methods in colour, and how.
        bits: the code length.
    """
    return [
        _loss(method, looks.get(method), bits, of_seeds)
        for method, of_seeds in runs.items()
        if all(len(epochs) > 1 for epochs in of_seeds)
    ]


def _loss(method: str, look: int | None, bits: int, runs: Sequence[Epochs]) -> Panel:
    ends = ", ".join(f"{epochs[0]['loss']:.3g} to {epochs[-1]['loss']:.3g}" for epochs in runs)
    alt = f"Loss of {method} at {bits} bits over {len(runs[0])} epochs: {ends}"
    return svg.panel(
        lambda axes: _draw_loss(axes, runs, look),
        key=f"loss-{method}",
        title=method,
        alt=alt,
        size=(svg.SIZE[0], 180),
    )


def _draw_loss(axes: Axes, runs: Sequence[Epochs], look: int | None) -> None:
    line = svg.line(look) | {"marker": "", "linewidth": 1.4}
    curves = [[epoch["loss"] for epoch in epochs] for epochs in runs]
    for epochs, curve in zip(runs, curves, strict=True):
        axes.plot([epoch["epoch"] for epoch in epochs], curve, **line)
    everything = [value for curve in curves for value in curve]
    if min(everything) > 0 and max(everything) > WIDE_RANGE * min(everything):
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel="loss")


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
        for look, values in enumerate(shares.values()):
            axes.plot(values, range(len(shown)), **_mark(look))
        axes.set(xlabel="% of the split's rows", xlim=(0, None))
        _rows(axes, shown)

    told = _told_by_label(shares, shown, ".1f")
    alt = f"Labels in % of the rows of {', '.join(shares)}: {told}"
    return svg.panel(
        draw, key="labels-by-split", title="Labels by split", alt=alt, size=_of_rows(shown)
    )


def scores_by_label(
    metric: str,
    scores: Mapping[str, Sequence[float]],
    shown: Sequence[str],
    looks: Mapping[str, int],
    *,
    key: str,
) -> Panel:
    """A metric over the queries that carry a label: a row a label, a mark a method.

    Args:
        metric: its name.
        scores: method -> mean of each label shown.
        shown: the labels, from top to bottom.
        looks: the methods, and how they look.
        key: of the panel.
    """
    title = vocabulary.title(metric)

    def draw(axes: Axes) -> None:
        for method, values in scores.items():
            axes.plot(values, range(len(shown)), gid=svg.named(method), **_mark(looks[method]))
        axes.set_xlabel(title)
        _rows(axes, shown)

    alt = f"{title} by label, of {', '.join(scores)}: {_told_by_label(scores, shown, '.3f')}"
    return svg.panel(draw, key=key, title="By label", alt=alt, size=_of_rows(shown))


def _rows(axes: Axes, shown: Sequence[str]) -> None:
    """A row a label, named at the left, from top to bottom."""
    names = [name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…" for name in shown]
    axes.set_yticks(range(len(shown)), names, parse_math=False, fontsize=10)
    axes.set_ylim(len(shown) - 0.4, -0.6)


def _of_rows(shown: Sequence[str]) -> tuple[int, int]:
    """The size of a panel with a row a label."""
    return svg.SIZE[0], 50 + 17 * len(shown)


def _told_by_label(values: Mapping[str, Sequence[float]], shown: Sequence[str], form: str) -> str:
    return "; ".join(
        f"{name} " + ", ".join(format(of[place], form) for of in values.values())
        for place, name in enumerate(shown[:_TOLD])
    )


def splits(titles: Mapping[str, str]) -> list[Panel]:
    """A key to the marks of `labels_by_split`: split -> what people call it."""
    return [
        swatch(f"split-{split}", title, _mark(look))
        for look, (split, title) in enumerate(titles.items())
    ]


def _mark(look: int) -> dict[str, Any]:
    """A mark that others may lie upon and still be seen."""
    return svg.line(look) | {"linestyle": "", "markersize": 5, "alpha": 0.85}


def legend(looks: Mapping[str, int], *, grey: bool) -> list[Panel]:
    """A key to the looks, for the page to lay out: a swatch per method, and one of the grey."""
    keys = [swatch(method, method, svg.line(look, markevery=[1])) for method, look in looks.items()]
    return [*keys, swatch("-grey", "other methods", svg.line(None))] if grey else keys


def swatch(key: str, title: str, style: Mapping[str, Any]) -> Panel:
    """A line with a mark on it, as drawings have it."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1, 2], [0, 0, 0], **{"markevery": [1], **style})
        axes.set_axis_off()

    return svg.panel(draw, key=f"key-{key}", title=title, alt="", size=(34, 14))


def _chance(axes: Axes, value: float | None) -> None:
    if value is not None:
        axes.axhline(value, color=svg.CHANCE, linestyle="--", linewidth=1)


def told_by_radius(name: str, bits: int, curves: Curves) -> str:
    """A curve by radius in words: its value at a few radii."""
    radii = sorted({min(2, bits), bits // 4, bits // 2})
    values = "; ".join(
        f"{method} " + ", ".join(f"{curve[radius]:.3f}" for radius in radii)
        for method, curve in curves.items()
    )
    return f"{name} at {bits} bits within radius {', '.join(map(str, radii))}: {values}"
