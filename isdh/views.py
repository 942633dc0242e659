"""Comparisons and differences of runs -> tables on a terminal, CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from isdh.tracking import Comparison, Difference, Entry

COLUMNS = (
    "dataset", "metric", "method", "bits", "seeds",
    "mean", "std", "best", "level", "against", "champion",
)  # fmt: skip
MARKS = {1: "▴", 0: "=", -1: "▾"}  # beyond chance better or higher, level, worse or lower
SECTIONS = {
    "params": "parameters",
    "data": "data",
    "code": "code",
    "environment": "environment",
    "outputs": "outputs",
}


@dataclass(frozen=True)
class Marks:
    """What stands behind a mean.

    Attributes:
        level: it is level with the best.
        against: 1 or -1: better or worse than the reference; 0: neither, or not known.
        untold: one of the two is not known, though it could be.
        champion: its method trained the registered model that is in use.
    """

    level: bool
    against: int
    untold: bool
    champion: bool

    def __str__(self) -> str:
        against = MARKS[self.against] * bool(self.against)
        return "=" * self.level + against + "?" * self.untold + "*" * self.champion


def marks(comparison: Comparison, entry: Entry, bits: int) -> Marks:
    """Of one entry; what is not told of an absent reference is no fault of the runs."""
    referred = bits in comparison.methods.get(comparison.reference, {})
    untold = entry.level is None or (referred and entry.against is None)
    return Marks(bool(entry.level), entry.against or 0, untold, entry.champion)


def ranking(comparison: Comparison) -> list[str]:
    """The methods, best first by their mean over the code lengths that all have, else by name."""
    shared = [
        bits
        for bits in comparison.bits
        if all(bits in entries for entries in comparison.methods.values())
    ]
    sign = -1 if comparison.direction == "max" else 1
    means = {
        method: sign * fmean(entries[bits].mean for bits in shared) if shared else 0.0
        for method, entries in comparison.methods.items()
    }
    return sorted(means, key=lambda method: (means[method], method))


def comparison_table(comparison: Comparison) -> Table:
    """Methods by code length, for a terminal."""
    from rich.table import Table

    table = Table(
        title=f"{comparison.dataset}: {comparison.metric}",
        caption=(
            "bold: best of a code length; =: level with it; ▴ ▾: better, worse than "
            f"{comparison.reference} (paired bootstrap over queries, 95 %); ?: no values on the "
            "same queries to tell by; *: champion; ±: deviation over seeds"
        ),
    )
    table.add_column("method")
    for bits in comparison.bits:
        table.add_column(f"{bits} bits", justify="right")
    for method in ranking(comparison):
        entries = comparison.methods[method]
        cells = [
            _cell(comparison, entries[bits], bits) if bits in entries else ""
            for bits in comparison.bits
        ]
        table.add_row(method, *cells)
    return table


def _cell(comparison: Comparison, entry: Entry, bits: int) -> str:
    deviation = "" if entry.std is None else f"±{entry.std:.4f}"
    words = [f"{entry.mean:.4f}", deviation, str(marks(comparison, entry, bits))]
    text = " ".join(word for word in words if word)
    return f"[bold]{text}[/bold]" if entry.best else text


def comparison_csv(comparisons: Sequence[Comparison]) -> str:
    """A row per dataset, metric, method and code length; what is not known is empty."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for comparison in comparisons:
        for method, entries in comparison.methods.items():
            for bits, entry in entries.items():
                row = vars(comparison) | {"method": method, "bits": bits} | vars(entry)
                table.writerow([_plain(row[name]) for name in COLUMNS])
    return text.getvalue()


def _plain(value: object) -> object:
    """As CSV says it in any language: true, false, empty."""
    return str(value).lower() if isinstance(value, bool) else value


def difference_tables(found: Difference) -> Iterator[Table]:
    """What differs, then scores side by side, for a terminal."""
    from rich.table import Table

    sides = (found.first, found.second)
    titles = [f"{side.cell}\n{side.run_id[:8]}" for side in sides]
    table = Table("", *titles, title="What differs", caption=_command(found))
    for column in table.columns:
        column.overflow = "fold"
    for field, title in SECTIONS.items():
        pairs: Mapping[str, tuple[str | None, str | None]] = getattr(found, field)
        table.add_section()
        table.add_row(f"[bold]{title}[/bold]", *([] if pairs else ["the same", "the same"]))
        for name, pair in pairs.items():
            table.add_row(_escape(name), *[_value(value) for value in pair])
    yield table
    yield _score_table(found)


def _score_table(found: Difference) -> Table:
    from rich.table import Table

    told = (
        "▴ ▾: the second is higher, lower; =: level with the first (paired bootstrap over queries, "
        "95 %; what training varies by from seed to seed is not in it)"
    )
    untold = f"whether they differ by more than chance is not told: {found.unpaired}"
    caption = _escape(untold) if found.unpaired else told
    table = Table(title="Scores", caption=caption, box=None)  # all of it within 80 columns
    sides = [side.run_id[:8] for side in (found.first, found.second)]
    for title in ("", *sides, "difference", *(() if found.unpaired else ("95 %",))):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    for metric, score in found.scores.items():
        difference = _number(score.difference, "+.4f")
        row = [_number(score.first), _number(score.second), difference]
        if not found.unpaired:
            row[-1] += f" {' ' if score.verdict is None else MARKS[score.verdict]}"
            low, high = score.interval or (None, None)
            row.append("" if low is None else f"{low:+.4f} to {high:+.4f}")
        table.add_row(metric, *row)
    return table


def _command(found: Difference) -> str | None:
    """What shows a difference between two commits."""
    commits = [found.first.commit, found.second.commit]
    if None in commits or commits[0] == commits[1]:
        return None
    return f"git diff {str(commits[0])[:12]} {str(commits[1])[:12]}"


def _value(value: str | None) -> str:
    """A value as a table has room for it: of a digest the beginning."""
    if value is None:
        return "-"
    digest = re.fullmatch(r"([0-9a-f]{12})[0-9a-f]{20,}(\.dir)?", value)
    return digest[1] if digest else _escape(value)


def _number(value: float | None, form: str = ".4f") -> str:
    return "-" if value is None else format(value, form)


def _escape(text: str) -> str:
    """A text that is no markup."""
    from rich.markup import escape

    return escape(text)
