"""Answers -> tables on a terminal; one HTML page that asks for nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from isdh.answers import Answer
from isdh.search import Pair

if TYPE_CHECKING:
    from rich.table import Table


def tables(pair: Pair, answers: Sequence[Answer]) -> Iterator[Table]:
    """One for each picture that was asked for."""
    from rich.table import Table
    from rich.text import Text

    for answer in answers:
        within = f", {answer.within:,} within the radius" if answer.within is not None else ""
        caption = f"{pair.source}; {len(pair.collection):,} pictures{within}"
        table = Table(title=Text(answer.name), caption=Text(caption))
        table.add_column("rank", justify="right")
        table.add_column("distance", justify="right")
        table.add_column("labels")
        table.add_column("path", overflow="fold")
        for match in answer.matches:
            labels = Text(", ".join(match.labels))
            table.add_row(str(match.rank), str(match.distance), labels, Text(match.path))
        yield table


def page(
    pair: Pair, answers: Sequence[Answer], pictures: Sequence[bytes], *, reranked: bool
) -> str:
    """The page.

    Args:
        pair: the model and the collection.
        answers: one for each picture that was asked for.
        pictures: the bytes of their files.
        reranked: the answers are ordered by agreement.

    Raises:
        InputError: a picture of the collection is missing or broken.
    """
    from isdh.report.gallery import Picture, data_url, embedded
    from isdh.report.rendering import render

    shown = []
    for answer, data in zip(answers, pictures, strict=True):
        neighbours = []
        for match in answer.matches:
            labels = tuple((label, False) for label in match.labels)
            picture = Picture(*embedded(Path(), match.path), labels, more=0)
            neighbours.append((match, picture))
        shown.append((answer, data_url(data, name=answer.name), neighbours))
    return render("search.html", {"pair": pair, "shown": shown, "reranked": reranked})
