"""Codes and raw pictures -> what a few queries retrieve, as small pictures with labels."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isdh import artifacts
from isdh.artifacts import Cell, Workspace
from isdh.errors import InputError
from isdh.images import thumbnail
from isdh.report import emphasis, vocabulary
from isdh.report.evidence import Evidence

QUERIES = 6
NEIGHBOURS = 8
METHODS = 2
_SIDE = 128  # pixels
_LABELS = 8  # shown of one picture; shared ones always


@dataclass(frozen=True)
class Picture:
    """One picture with its labels.

    Attributes:
        source: a data: URL.
        small: so small that enlarging it should keep its pixels.
        labels: label and whether the query shares it, shared ones first.
        more: how many labels are not listed.
    """

    source: str
    small: bool
    labels: tuple[tuple[str, bool], ...]
    more: int

    @property
    def shared(self) -> int:
        """How many labels it shares with the query."""
        return sum(shared for _, shared in self.labels)


@dataclass(frozen=True)
class Answer:
    """What one model retrieves for a query: pictures at Hamming distances, nearest first."""

    cell: Cell
    neighbours: tuple[tuple[int, Picture], ...]

    @property
    def relevant(self) -> int:
        """How many of the pictures share a label with the query."""
        return sum(picture.shared > 0 for _, picture in self.neighbours)

    @property
    def gain(self) -> float:
        """Shared labels per picture."""
        return sum(picture.shared for _, picture in self.neighbours) / len(self.neighbours)


@dataclass(frozen=True)
class Query:
    """A query and its answers.

    Attributes:
        image: its id.
        picture: its own.
        relevant: the share of the database that shares a label with it.
        gain: labels that a database picture shares with it, in the mean.
        answers: one per model.
    """

    image: str
    picture: Picture
    relevant: float
    gain: float
    answers: tuple[Answer, ...]


def gallery(workspace: Workspace, evidence: Evidence) -> list[Query]:
    """Queries evenly spaced over the query rows, so that nobody chose them, and their answers.

    The models are the first methods in colour by the headline's metric, at the longest code
    length and lowest seed.

    Raises:
        InputError: codes or a picture are missing or broken.
    """
    bits, seed = max(evidence.bits), min(evidence.seeds)
    metric = vocabulary.headline(next(iter(evidence.scores.values())))
    methods = emphasis.in_colour(evidence, metric)[:METHODS]
    cells = [Cell(evidence.dataset, method, bits, seed) for method in methods]
    chosen = _evenly(evidence.queries, QUERIES)
    found = [_search(workspace, evidence, cell, chosen) for cell in cells]
    database = evidence.labels[evidence.database].astype(np.int64)
    queries = []
    for place, row in enumerate(chosen):
        shared = database @ evidence.labels[row]
        answers = []
        for cell, (distances, rows) in zip(cells, found, strict=True):
            nearest = zip(distances[place].tolist(), rows[place].tolist(), strict=True)
            pictures = tuple((far, _picture(evidence, other, row)) for far, other in nearest)
            answers.append(Answer(cell, pictures))
        queries.append(
            Query(
                evidence.images[row],
                _picture(evidence, row, row),
                float((shared > 0).mean()),
                float(shared.mean()),
                tuple(answers),
            )
        )
    return queries


def _evenly(rows: NDArray[np.int64], count: int) -> Sequence[int]:
    count = min(count, len(rows))
    chosen: list[int] = rows[np.arange(count) * len(rows) // count].tolist()
    return chosen


def _search(
    workspace: Workspace, evidence: Evidence, cell: Cell, queries: Sequence[int]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Distances and rows of the nearest database pictures, both (queries, NEIGHBOURS)."""
    from isdh.index import HammingIndex

    folder = workspace.codes(cell)
    codes = artifacts.read_codes(folder, bits=cell.bits, rows=len(evidence.labels))
    database = evidence.database
    index = HammingIndex(codes[database], cell.bits)
    distances, positions = index.search(codes[queries], min(NEIGHBOURS, len(database)))
    return distances, database[positions]


def _picture(evidence: Evidence, row: int, query: int) -> Picture:
    labels, wanted = evidence.labels[row], evidence.labels[query]
    shared = [(evidence.label_names[i], True) for i in np.flatnonzero(labels & wanted)]
    others = [(evidence.label_names[i], False) for i in np.flatnonzero(labels & ~wanted)]
    listed = max(_LABELS - len(shared), 0)
    source, small = embedded(evidence.raw, evidence.paths[row])
    return Picture(source, small, (*shared, *others[:listed]), len(others[listed:]))


def embedded(raw: Path, path: str) -> tuple[str, bool]:
    """A picture as a data: URL, shrunk, and whether it was small already.

    Raises:
        InputError: it is not there, or no image.
    """
    try:
        data = (raw / path).read_bytes()
    except OSError as error:
        raise InputError(f"{raw / path}: {error.strerror}; restore it below {raw}") from None
    return data_url(data, name=str(raw / path))


def data_url(data: bytes, *, name: str) -> tuple[str, bool]:
    """An image file as a data: URL, shrunk, and whether it was small already.

    Raises:
        InputError: no image, as messages call it by its name.
    """
    picture = thumbnail(data, side=_SIDE, name=name)
    stream = BytesIO()
    picture.save(stream, "WEBP", quality=80, method=4)
    url = "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
    return url, max(picture.size) <= _SIDE // 2
