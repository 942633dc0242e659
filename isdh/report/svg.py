"""A matplotlib drawing -> one small inline SVG that takes its colours and font from the page."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (352, 240)  # points; a panel is shown at about as many pixels, so text keeps its size
TALL = (352, 320)  # for many lines

# Stand-ins: colours that no drawing uses otherwise, each replaced by one of the page's.
INK, GRID, CHANCE, OTHERS = "#010203", "#010204", "#010205", "#010206"
_PAGE = {
    INK: "currentColor",
    GRID: "var(--grid)",
    CHANCE: "var(--muted)",
    OTHERS: "var(--others)",
}
COLOURS = 8
_PAGE |= {f"#0102{16 + i:02x}": f"var(--series-{i})" for i in range(COLOURS)}
_MARKERS = "os^DvPX*"
_DASHES = ("-", "--", ":", "-.")
LOOKS = COLOURS * len(_DASHES)

_STYLE: Any = {  # matplotlib's type of it names each of its 300 keys
    "svg.fonttype": "none",
    "svg.hashsalt": "isdh",
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.labelsize": 11,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "path.simplify": True,
}
_METADATA: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
# Comments, metadata, and a style sheet that inline would be the whole page's.
_FOREIGN = re.compile(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", re.DOTALL)
_NAMED = re.compile(r' id="named:([^"]*)">')
_REFERENCE = re.compile(r'(?:url\(#|href="#)([^)"]+)')


@dataclass(frozen=True)
class Panel:
    """One drawing.

    Attributes:
        title: what stands above it.
        markup: the <svg> element, with its description for those who do not see it.
    """

    title: str
    markup: Markup


def color(look: int) -> str:
    """The stand-in for the page's colour of a look; they repeat."""
    return f"#0102{16 + look % COLOURS:02x}"


def line(look: int | None, **more: Any) -> dict[str, Any]:
    """Colour, marker and dashes of a look, the first two never alike among LOOKS; None is grey."""
    if look is None:
        return {"color": OTHERS, "linewidth": 1}
    turn = look // COLOURS
    return {
        "color": color(look),
        "marker": _MARKERS[(look + 3 * turn) % len(_MARKERS)],
        "linestyle": _DASHES[turn % len(_DASHES)],
        **more,
    }


def named(name: str) -> str:
    """An artist's gid -> what the page shows when a pointer rests on it."""
    return f"named:{name}"


def panel(
    draw: Callable[[Axes], None], *, key: str, title: str, alt: str, size: tuple[int, int] = SIZE
) -> Panel:
    """Draw one panel.

    Args:
        draw: what to draw on the axes.
        key: distinguishes the panel's ids from those of the others on the page.
        title: what stands above the panel.
        alt: what it shows, in words; empty for an ornament.
        size: width and height in points.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    stream = StringIO()
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(stream, format="svg", transparent=True, metadata=_METADATA)
    return Panel(title, _inline(stream.getvalue(), key, alt))


def _inline(document: str, key: str, alt: str) -> Markup:
    """An SVG document as an element of an HTML page."""
    svg = re.sub(_FOREIGN, "", document)
    svg = re.sub(_NAMED, r' class="named"><title>\1</title>', svg)
    referenced = set(_REFERENCE.findall(svg))
    svg = re.sub(
        r' id="([^"]*)"', lambda m: f' id="{key}-{m[1]}"' if m[1] in referenced else "", svg
    )
    svg = svg.replace("url(#", f"url(#{key}-").replace('xlink:href="#', f'href="#{key}-')
    for stand_in, page in _PAGE.items():
        svg = svg.replace(stand_in, page)
    svg = re.sub(r"font-family:[^;\"]*;?|font: ([\d.]+px) [^;\"]*", _font, svg)
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r">\s+<", "><", re.sub(r"\s*\n\s*", " ", body)).strip()
    box = re.search(r'viewBox="[^"]*"', svg)
    role = f'role="img" aria-label="{escape(alt)}"' if alt else 'aria-hidden="true"'
    opening = f'<svg id="{key}" {box[0] if box else ""} {role}>'
    return Markup(opening + body)


def _font(match: re.Match[str]) -> str:
    """Only the size: the family is the page's."""
    return f"font-size: {match[1]}" if match[1] else ""
