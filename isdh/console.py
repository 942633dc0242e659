"""An inspection -> tables and lines on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from isdh.inspection import Inspection

SPLITS = {"train": "training", "query": "queries", "database": "database"}
COLOURS = {"refused": "red", "warning": "yellow"}


def show(inspection: Inspection) -> None:
    """Print what is known of a dataset, then all that is amiss."""
    console = Console()
    console.rule(inspection.dataset, align="left")
    if inspection.statistics:
        for table in tables(inspection):
            console.print(table, "")
    for finding in inspection.findings:
        console.print(finding.level, style=COLOURS[finding.level], end=": ")
        console.print(finding.text, markup=False, highlight=False, soft_wrap=True)
    if not inspection.findings:
        console.print("nothing amiss", style="green")


def tables(inspection: Inspection) -> Iterator[Table]:
    """Labels by split, files, copies, pairs, chance levels."""
    statistics = inspection.statistics
    yield _labels(statistics)
    yield _left_out(inspection)
    yield _copies(statistics["duplicates"], statistics["rows"])
    yield _pairs(statistics)
    if inspection.chance:
        yield _chance(inspection.chance)


def _labels(statistics: Mapping[str, Any]) -> Table:
    rows, by_split = statistics["rows"], statistics["labels_by_split"]
    mean = f"{statistics['labels_per_image']:.2f} labels an image"
    shared = statistics["also_database"]
    caption = f"{mean}; {shared:,} training rows are searched too" if shared else mean
    table = Table("", title="Rows by split, and how many carry each label", caption=caption)
    for split in SPLITS.values():
        table.add_column(split, justify="right")
        table.add_column("%", justify="right")
    table.add_row("all", *[cell for split in SPLITS for cell in (f"{rows[split]:,}", "")])
    table.add_section()
    for name in statistics["labels"]:
        counts = {split: by_split[split][name] for split in SPLITS}
        cells = [
            cell
            for split, count in counts.items()
            for cell in (f"{count:,}", f"{100 * count / max(rows[split], 1):.1f}")
        ]
        table.add_row(_plain(name), *cells)
    return table


def _left_out(inspection: Inspection) -> Table:
    table = Table("Files", title=None)
    table.add_column("", justify="right")
    table.add_row("of labelled rows", f"{inspection.files['all']:,}")
    table.add_row("missing", f"{inspection.files['missing']:,}")
    table.add_row("undecodable", f"{inspection.files['undecodable']:,}")
    table.add_row("images without a label, left out", f"{inspection.statistics['unlabelled']:,}")
    if inspection.unlisted:
        table.add_row("images in no list, left out", f"{inspection.unlisted:,}")
    return table


def _copies(duplicates: Mapping[str, Any], rows: Mapping[str, int]) -> Table:
    repeated = ", ".join(f"{SPLITS[split]} {n:,}" for split, n in duplicates["repeated"].items())
    table = Table(
        "rows",
        "that stand in",
        title="Copies across splits",
        caption=f"rows that repeat the bytes of another row of their split: {repeated}",
    )
    for column in ("equal to the byte", "nearly the same", "of"):
        table.add_column(column, justify="right")
    for exact, near in zip(duplicates["exact"], duplicates["near"], strict=True):
        split = exact["split"]
        counts = [f"{found['rows']:,}" for found in (exact, near)]
        table.add_row(SPLITS[split], SPLITS[exact["other"]], *counts, f"{rows[split]:,}")
    return table


def _pairs(statistics: Mapping[str, Any]) -> Table:
    table = Table("% of pairs", title="Pairs by instance similarity S")
    for column in ("S = 0", "0 < S < 1", "S = 1"):
        table.add_column(column, justify="right")
    for name, shares in (
        ("query, database", statistics["query_pairs"]),
        ("training, training", statistics["pairs"]),
    ):
        table.add_row(name, *[f"{100 * shares[kind]:.2f}" for kind in ("none", "some", "all")])
    return table


def _chance(scores: Mapping[str, float]) -> Table:
    """A row a metric, a column a cut-off; those of no cut-off in the caption."""
    split = {name: name.partition("_at_") for name in scores}
    cutoffs = list(dict.fromkeys(cutoff for _, at, cutoff in split.values() if at))
    others = [f"{name} {scores[name]:.4g}" for name, (_, at, _) in split.items() if not at]
    table = Table("", title="Chance level of each metric", caption="; ".join(others))
    for cutoff in cutoffs:
        table.add_column(f"at {cutoff}", justify="right")
    for metric in dict.fromkeys(metric for metric, at, _ in split.values() if at):
        table.add_row(metric, *[f"{scores[f'{metric}_at_{cutoff}']:.4f}" for cutoff in cutoffs])
    return table


def _plain(text: str) -> str:
    """A user's text, which is no markup."""
    from rich.markup import escape

    return escape(text)
