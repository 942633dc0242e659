"""One run's history and curves -> its plots, each an SVG file of its own."""

from __future__ import annotations

from isdh.report.plots import WIDE_RANGE, Curves, Epochs, told_by_radius
from isdh.tracking.line_chart import Axis, chart

VERSION = 1  # those that were published under another are drawn again

_MARGIN = 0.02  # beyond shares of 0 and 1


def draw(epochs: Epochs, curves: Curves) -> dict[str, str]:
    """Name -> SVG document; what there is nothing for is left out.

    Args:
        epochs: of the training.
        curves: `precision` and `recall` within each radius, (bits + 1,), or nothing.
    """
    found = {"loss.svg": _loss(epochs)} if len(epochs) > 1 else {}
    if curves:
        found |= {"precision-recall.svg": _trade(curves), "radius.svg": _radii(curves)}
    return found


def _loss(epochs: Epochs) -> str:
    points = [(epoch["epoch"], epoch["loss"]) for epoch in epochs]
    values = [value for _, value in points]
    low, high = min(values), max(values)
    wide = low > 0 and high > WIDE_RANGE * low
    room = 0 if wide else (high - low or 1) * 2 * _MARGIN
    alt = f"Loss over {len(epochs)} epochs: {values[0]:.3g} to {values[-1]:.3g}"
    return chart(
        {"loss": points},
        Axis("epoch", points[0][0], points[-1][0]),
        Axis("loss", low - room, high + room, logarithmic=wide),
        alt=alt,
    )


def _trade(curves: Curves) -> str:
    points = list(zip(curves["recall"].tolist(), curves["precision"].tolist(), strict=True))
    alt = f"Precision against recall at {len(points) - 1} bits, over all radii"
    return chart({"": points}, _share("recall"), _share("precision"), alt=alt)


def _radii(curves: Curves) -> str:
    bits = len(curves["precision"]) - 1
    lines = {name: list(enumerate(values.tolist())) for name, values in curves.items()}
    alt = told_by_radius("Precision and recall", bits, curves)
    return chart(lines, Axis("Hamming radius", 0, bits), _share("share"), alt=alt)


def _share(label: str) -> Axis:
    return Axis(label, -_MARGIN, 1 + _MARGIN)
