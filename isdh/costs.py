"""Scores and what they cost in time and memory -> panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from isdh.report import svg, vocabulary
from isdh.report.plots import WIDE_RANGE, swatch
from isdh.report.svg import Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = Mapping[int, tuple[float, float]]  # bits -> cost, mean

# A mark that is still to be seen around another one.
_RING: dict[str, Any] = {
    "color": svg.INK, "marker": "o", "markerfacecolor": "none", "markersize": 8
}  # fmt: skip


def by_time(
    metric: str,
    points: Mapping[str, Points],
    looks: Mapping[str, int],
    *,
    key: str,
) -> Panel:
    """A metric against the seconds of training: a point per method and code length.

    Args:
        metric: its name.
        points: method -> bits -> seconds and mean.
        looks: the methods in colour, and how.
        key: of the panel.
    """

    def draw(axes: Axes) -> None:
        for method in sorted(points, key=lambda method: method in looks):
            names = {bits: f"{method}, {bits} bits" for bits in points[method]}
            style = svg.line(looks.get(method))
            if method not in looks:
                style |= {"marker": "o", "markersize": 2.5}
            _trail(axes, points[method], names, style, joined=method in looks)
        _scale(axes, [seconds for of in points.values() for seconds, _ in of.values()])
        axes.set(xlabel="seconds of training", ylabel=vocabulary.title(metric))

    told = "; ".join(
        f"{method} "
        + ", ".join(f"{mean:.3f} in {seconds:.3g} s" for seconds, mean in of_method.values())
        for method, of_method in points.items()
    )
    alt = f"{vocabulary.title(metric)} by seconds of training, a value per code length: {told}"
    return svg.panel(draw, key=key, title="By training time", alt=alt, size=svg.TALL)


def by_cost(
    metric: str,
    costs: Mapping[int, float],
    best: Mapping[int, tuple[str, float]],
    own: tuple[str, int, Mapping[int, float]] | None,
    *,
    key: str,
    title: str,
    unit: str,
) -> Panel:
    """A metric against what codes of each length cost: the best method there, and one other.

    Args:
        metric: its name.
        costs: bits -> cost.
        best: bits -> the best method and its mean.
        own: the other: its name, its look, and bits -> mean.
        key: of the panel.
        title: likewise.
        unit: of the cost.
    """
    name, look, means = own or ("", 0, {})

    def draw(axes: Axes) -> None:
        names = {bits: f"best: {method}, {bits} bits" for bits, (method, _) in best.items()}
        points = {bits: (costs[bits], mean) for bits, (_, mean) in best.items()}
        _trail(axes, points, names, _RING, joined=True)
        if means:
            names = {bits: f"{name}, {bits} bits" for bits in means}
            points = {bits: (costs[bits], mean) for bits, mean in means.items()}
            _trail(axes, points, names, svg.line(look), joined=True)
        axes.set(xlabel=unit, ylabel=vocabulary.title(metric))
        axes.set_xlim(0, 1.08 * max(costs[bits] for bits in best))

    told = "; ".join(
        f"{bits} bits {costs[bits]:.3g}: {method} {mean:.3f}"
        + (f", {name} {means[bits]:.3f}" if bits in means else "")
        for bits, (method, mean) in best.items()
    )
    alt = f"{vocabulary.title(metric)} by {unit}: {told}"
    return svg.panel(draw, key=key, title=title, alt=alt, size=svg.TALL)


def ring() -> Panel:
    """A key to the best method in drawings by cost."""
    return swatch("-best", "the best of each code length", {**_RING, "linewidth": 1})


def _trail(
    axes: Axes, points: Points, names: Mapping[int, str], style: Mapping[str, Any], *, joined: bool
) -> None:
    """A named point per code length, larger for longer codes, joined by a thin line or not."""
    rising = sorted(points)
    if joined:
        thin = {"color": style["color"], "linewidth": 1, "alpha": 0.6}
        axes.plot(*zip(*[points[bits] for bits in rising], strict=True), **thin)
    for place, bits in enumerate(rising):
        size = style.get("markersize", 4) + 3.5 * place / max(len(rising) - 1, 1)
        look = {**style, "linestyle": "", "markersize": size, "alpha": 0.85}
        axes.plot(*[[value] for value in points[bits]], gid=svg.named(names[bits]), **look)


def _scale(axes: Axes, seconds: Sequence[float]) -> None:
    """Logarithmic if the range is wide, in plain numbers."""
    if min(seconds) > 0 and max(seconds) > WIDE_RANGE * min(seconds):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
