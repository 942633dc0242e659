"""Pictures, or their codes, and a collection -> the most similar pictures of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isdh.codes import hamming_distances
from isdh.collection import Collection
from isdh.errors import InputError
from isdh.index import require_count
from isdh.search import Pair

RESULTS = 10  # of a picture, unless told
SHORTLIST = 10  # times as many are looked at where they are ordered anew


@dataclass(frozen=True)
class Match:
    """An item that was found.

    Attributes:
        rank: from 1; of items at one distance the collection's first comes first.
        distance: Hamming.
        image: its id.
        path: of its file.
        labels: its own.
    """

    rank: int
    distance: int
    image: str
    path: str
    labels: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "rank": self.rank,
            "distance": self.distance,
            "image": self.image,
            "path": self.path,
            "labels": list(self.labels),
        }


@dataclass(frozen=True)
class Answer:
    """What was found for a picture.

    Attributes:
        name: of the picture, usually its path.
        code: its own, uint8 (ceil(bits / 8),) as bytes.
        matches: nearest first.
        within: how many items lie within the radius, if one was given.
    """

    name: str
    code: bytes
    matches: tuple[Match, ...]
    within: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "picture": self.name,
            "code": self.code.hex(),
            **({} if self.within is None else {"within": self.within}),
            "matches": [match.as_dict() for match in self.matches],
        }


def ask(
    pair: Pair,
    pictures: Sequence[tuple[str, bytes]],
    *,
    k: int | None = None,
    radius: int | None = None,
    rerank: bool = False,
) -> list[Answer]:
    """The most similar items of each picture.

    Args:
        pair: the model and the collection.
        pictures: names and files' bytes.
        k: as in `search`.
        radius: as in `search`.
        rerank: by the network's outputs.

    Raises:
        InputError: one is no image, which is named, or as in `search`.
    """
    names, model = [name for name, _ in pictures], pair.encoder
    pixels = np.stack([model.pixels(data, name=name) for name, data in pictures])
    outputs = model.outputs(pixels) if rerank else None
    return search(pair.collection, names, model.codes(pixels), k=k, radius=radius, outputs=outputs)


def search(
    found: Collection,
    names: Sequence[str],
    codes: NDArray[np.uint8],
    *,
    k: int | None = None,
    radius: int | None = None,
    outputs: NDArray[np.float32] | None = None,
) -> list[Answer]:
    """The most similar items of each code.

    Args:
        found: the collection.
        names: of the pictures.
        codes: theirs, uint8 (Q, ceil(bits / 8)).
        k: how many items of each; beyond the collection it means all. By default RESULTS, or all
            within the radius.
        radius: only items at a distance of at most so much.
        outputs: the network's, (Q, bits): of SHORTLIST times as many nearest, those are taken that
            agree best with them (HammingIndex.rerank). Not with a radius.

    Raises:
        InputError: codes of another length, k below 1, or a radius below 0.
    """
    if radius is not None:
        if outputs is not None:
            raise InputError("--radius --rerank: one of them at a time")
        return _within(found, names, codes, radius, require_count(k) if k is not None else None)
    k = require_count(RESULTS if k is None else k)
    distances, items = found.index.search(codes, k if outputs is None else SHORTLIST * k)
    if outputs is not None:
        _, items = found.index.rerank(outputs, items)
        items = items[:, :k]
        distances = np.stack(
            [
                hamming_distances(code[None], found.codes[found.searched[row]], bits=found.bits)[0]
                for code, row in zip(codes, items, strict=True)
            ]
        )
    return [
        Answer(name, code.tobytes(), tuple(_matches(found, far, row)))
        for name, code, far, row in zip(names, codes, distances, items, strict=True)
    ]


def _within(
    found: Collection,
    names: Sequence[str],
    codes: NDArray[np.uint8],
    radius: int,
    k: int | None,
) -> list[Answer]:
    """All items within a radius of each code, or the first k of them."""
    lims, distances, items = found.index.within(codes, radius)
    answers = []
    for place, (name, code) in enumerate(zip(names, codes, strict=True)):
        start, stop = int(lims[place]), int(lims[place + 1])
        shown = slice(start, stop if k is None else min(start + k, stop))
        matches = tuple(_matches(found, distances[shown], items[shown]))
        answers.append(Answer(name, code.tobytes(), matches, within=stop - start))
    return answers


def _matches(
    found: Collection, distances: NDArray[np.int32], items: NDArray[np.int64]
) -> Iterator[Match]:
    ranked = enumerate(zip(distances.tolist(), items.tolist(), strict=True), start=1)
    for rank, (distance, item) in ranked:
        row = int(found.searched[item])
        labels = tuple(found.labels_of(row))
        yield Match(rank, distance, found.images[row], str(found.files[row]), labels)


def as_dict(pair: Pair, answers: Sequence[Answer]) -> dict[str, Any]:
    """For JSON."""
    return {
        "model": pair.source.as_dict(),
        "dataset": pair.source.cell.dataset,
        "pictures": len(pair.collection),
        "answers": [answer.as_dict() for answer in answers],
    }
