"""A pair and what was found in it -> answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import isdh
from isdh.collection import MOST, Collection, Neighbours
from isdh.search import Pair
from isdh.serve import answers
from isdh.serve.service import Service


@dataclass(frozen=True, eq=False)
class Query:
    """A code that is searched for, and the row that it is of, if any."""

    code: NDArray[np.uint8]
    row: int | None = None


def answer(
    pair: Pair, alias: str, query: Query, found: Neighbours, *, asked: int, k: int
) -> answers.Found:
    """The answer to a search.

    Args:
        pair: that was searched.
        alias: which it holds.
        query: what was asked for.
        found: the neighbours.
        asked: how many.
        k: how many there could be.
    """
    collection = pair.collection
    own = collection.labels_of(query.row) if query.row is not None else []
    nearest = []
    for row, distance in zip(found.rows.tolist(), found.distances.tolist(), strict=True):
        labels = collection.labels_of(row)
        nearest.append(
            answers.Neighbour(
                id=collection.images[row],
                distance=distance,
                labels=labels,
                shared=[name for name in labels if name in own],
                code=collection.codes[row].tobytes().hex(),
                split=collection.splits[row],
            )
        )
    return answers.Found(
        model=model(pair, alias),
        asked=answers.Asked(
            id=collection.images[query.row] if query.row is not None else None,
            code=query.code.tobytes().hex(),
            labels=own,
        ),
        neighbours=nearest,
        ties=_ties(found),
        k=k,
        matching=found.matching,
        notes=_notes(asked, k, collection),
    )


def _ties(found: Neighbours) -> list[answers.Tie]:
    distances, counts = np.unique(found.distances, return_counts=True)
    ties = [
        answers.Tie(distance=distance, shown=count, all=count)
        for distance, count in zip(distances.tolist(), counts.tolist(), strict=True)
    ]
    if ties:  # only the last can be cut
        ties[-1].all = found.tied
    return ties


def _notes(asked: int, k: int, collection: Collection) -> list[str]:
    if asked <= k:
        return []
    if k == len(collection.searched):
        return [f"k is {k}, not as asked: the collection has no more pictures"]
    return [f"k is {k}, not as asked: the most of one answer"]


def picture(collection: Collection, row: int) -> answers.Picture:
    """A row of the collection."""
    return answers.Picture(
        id=collection.images[row], split=collection.splits[row], labels=collection.labels_of(row)
    )


def name_of(pair: Pair) -> str:
    """What the header says of the pair that answered."""
    return f"{pair.version.model}/{pair.version.number}"


def model(pair: Pair, alias: str) -> answers.Model:
    """Which model a pair has."""
    used = pair.version
    return answers.Model(
        name=used.model,
        version=used.number,
        alias=alias,
        cell=str(used.cell),
        bits=used.cell.bits,
        weights_sha256=used.weights_sha256,
    )


def version(service: Service) -> answers.Version:
    """What is served, and what is not."""
    serving = service.current.serving
    collection = service.champion.collection
    names, counts = np.unique(np.asarray(collection.splits), return_counts=True)
    searched = collection.labels[collection.searched].sum(axis=0)
    return answers.Version(
        isdh=isdh.__version__,
        dataset=service.current.dataset,
        models=[model(pair, alias) for alias, pair in serving.pairs.items()],
        refused={alias: each.why for alias, each in serving.refused.items()},
        registry=serving.fault,
        pictures=len(collection.images),
        searched=len(collection.searched),
        splits=dict(zip(names.tolist(), counts.tolist(), strict=True)),
        labels=[
            answers.Label(name=name, pictures=int(count))
            for name, count in zip(collection.label_names, searched, strict=True)
        ],
        most_bytes=service.options.most_bytes,
        most_neighbours=MOST,
    )
