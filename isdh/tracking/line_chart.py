"""Lines over two axes -> an SVG file of its own, in a millisecond: without matplotlib."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 480, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 466, 30, 272  # of the area within the axes
_MOST_TICKS = 6
_SHEET = Path(__file__).parents[1] / "templates" / "report.css"


@dataclass(frozen=True)
class Axis:
    """What an axis tells.

    Attributes:
        label: what stands beside it.
        low: where it begins.
        high: where it ends; above `low`.
        logarithmic: likewise its scale; `low` is above 0 then.
    """

    label: str
    low: float
    high: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """From 0 at the beginning to 1 at the end."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> list[float]:
        """Round numbers, six at most on a linear scale.

        >>> Axis("", 0.0, 1.0).ticks
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
        >>> Axis("", 0.03, 2.5, logarithmic=True).ticks
        [0.05, 0.1, 0.2, 0.5, 1.0, 2.0]
        >>> Axis("", 1.0, 70.0).ticks
        [20.0, 40.0, 60.0]
        """
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if len(powers) <= _MOST_TICKS / 2 else (1,)
            found = [float(f"{step}e{power}") for power in powers for step in steps]
            return [value for value in found if self.low <= value <= self.high]
        rough = (self.high - self.low) / _MOST_TICKS
        power = math.floor(math.log10(rough))
        step = next(s for s in (1, 2, 5, 10) if s * 10.0**power >= rough * (1 - 1e-9))
        first, last = (
            math.ceil(self.low / step / 10.0**power - 1e-9),
            math.floor(self.high / step / 10.0**power + 1e-9),
        )
        return [float(f"{number * step}e{power}") for number in range(first, last + 1)]


def chart(lines: Mapping[str, Points], x: Axis, y: Axis, *, alt: str) -> str:
    """Draw lines, on white.

    Args:
        lines: name -> points; several lines are named in a key.
        x: the horizontal axis.
        y: the vertical axis.
        alt: what is shown, in words.
    """
    colours = _colours()
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}"'
        f' viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" fill="{colours["ink"]}"'
        ' font-family="system-ui, DejaVu Sans, Verdana, sans-serif" font-size="12">',
        f"<title>{escape(alt)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="{colours["card"]}"/>',
        f'<path fill="none" stroke="{colours["grid"]}" d="{_grid(x, y)}"/>',
        _labels(x, y),
    ]
    for place, (name, points) in enumerate(lines.items()):
        colour = colours[f"series-{place}"]
        where = " ".join(f"{_across(x, a):.1f},{_down(y, b):.1f}" for a, b in points)
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.8" points="{where}"/>'
        )
        if len(lines) > 1:
            parts.append(_key(name, colour, _LEFT + 110 * place))
    return "\n".join([*parts, "</svg>", ""])


def _across(axis: Axis, value: float) -> float:
    return _LEFT + (_RIGHT - _LEFT) * axis.place(value)


def _down(axis: Axis, value: float) -> float:
    return _BOTTOM - (_BOTTOM - _TOP) * axis.place(value)


def _grid(x: Axis, y: Axis) -> str:
    upright = [f"M{_across(x, value):.1f},{_TOP}V{_BOTTOM}" for value in x.ticks]
    level = [f"M{_LEFT},{_down(y, value):.1f}H{_RIGHT}" for value in y.ticks]
    return "".join([*upright, *level, f"M{_LEFT},{_TOP}V{_BOTTOM}H{_RIGHT}"])


def _labels(x: Axis, y: Axis) -> str:
    middle, half = (_LEFT + _RIGHT) / 2, (_TOP + _BOTTOM) / 2
    texts = [
        *[_text(f"{value:g}", _across(x, value), _BOTTOM + 18) for value in x.ticks],
        *[_text(f"{value:g}", _LEFT - 8, _down(y, value) + 4, "end") for value in y.ticks],
        _text(x.label, middle, _HEIGHT - 10),
        f'<g transform="translate(16 {half:g}) rotate(-90)">{_text(y.label, 0, 0)}</g>',
    ]
    return "\n".join(texts)


def _key(name: str, colour: str, across: int) -> str:
    line = f'<path d="M{across},{_TOP - 14}h24" stroke="{colour}" stroke-width="1.8"/>'
    return line + _text(name, across + 32, _TOP - 10, "start")


def _text(text: str, across: float, down: float, anchor: str = "middle") -> str:
    return f'<text x="{across:.1f}" y="{down:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


@cache
def _colours() -> dict[str, str]:
    """Those that the pages have on a light ground, by name."""
    light = _SHEET.read_text(encoding="utf-8").partition("@media")[0]
    return dict(re.findall(r"--([\w-]+): (#\w+)", light))
