"""Published protocols: which images are trained on, asked for and searched. Pure numpy.

A protocol is a name under the collection it splits. What its source does not say is not here: a
name that is absent is refused, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from isdh.errors import InputError, first_five
from isdh.splits import draw


@dataclass(frozen=True)
class Protocol:
    """How one publication splits one collection.

    Attributes:
        images: the collection's size, unlabelled images among them.
        train, query: how many are trained on and asked for.
        database: how many are searched, training images among them if `also_database`.
        also_database: training images are searched too.
        rule: `random`: drawn from the pool; the rest of it is the database. `first_come`: see
            that function; the rest of the pool is the database. `lists`: the collection's own
            lists, named in `parts`; nothing is drawn.
        pool: what is drawn from: labelled images, or all.
        parts: for `lists`: split -> name of the collection's list.
        options: further options of the reader that the protocol settles.
        source: who says so.
    """

    images: int
    train: int
    query: int
    database: int
    source: str
    also_database: bool = False
    rule: Literal["random", "first_come", "lists"] = "random"
    pool: Literal["labelled", "all"] = "labelled"
    parts: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settled(self) -> dict[str, Any]:
        """The reader's options that a protocol answers, with its answers."""
        counts = {"train": self.train, "query": self.query, "also_database": self.also_database}
        return {**counts, **self.options}

    @property
    def rows(self) -> dict[str, int]:
        """Images of each split; the training images are in `train` alone."""
        rest = self.database - (self.train if self.also_database else 0)
        return {"train": self.train, "query": self.query, "database": rest}


_HYP2 = "HyP2 (Xu et al., ACM MM 2022), code JerryXu0129/HyP2-Loss"
_DEEPHASH = "code swuxyj/DeepHash-pytorch"
_NUSWIDE = Protocol(
    images=269_648,
    train=10_500,  # 500 a concept
    query=2_100,  # 100 a concept
    database=193_734,
    source=f"{_DEEPHASH}; {_HYP2}, has the same lists",
    also_database=True,
    rule="first_come",
    options={"labels": 21},
)

# collection -> name -> protocol
PROTOCOLS: dict[str, dict[str, Protocol]] = {
    "mirflickr": {
        "paper": Protocol(
            images=25_000,
            train=4_000,
            query=1_000,
            database=19_581,
            source="ISDH: 4,000 from pectinid16/ISDH-Tensorflow; the other counts from those who "
            "compare with it, the authors published none",
            options={"labels": "all"},
        ),
        "hyp2": Protocol(
            images=25_000,
            train=4_000,
            query=1_000,
            database=19_581,
            source=_HYP2,
            options={"labels": "all"},
        ),
        "deephash": Protocol(
            images=25_000,
            train=4_000,
            query=1_000,
            database=20_000,
            source=_DEEPHASH,
            pool="all",
            options={"labels": "all"},
        ),
    },
    "nuswide": {"hyp2": _NUSWIDE, "deephash": _NUSWIDE},
    "voc2007": {
        "hyp2": Protocol(
            images=9_963,
            train=5_011,
            query=4_952,
            database=5_011,
            source=_HYP2,
            also_database=True,
            rule="lists",
            parts={"train": "trainval", "query": "test"},
            options={"images": "main", "difficult": True},
        ),
    },
    "voc2012": {
        "paper": Protocol(
            images=17_125,
            train=4_000,
            query=1_000,
            database=12_125,
            source="inferred: ISDH gives no counts; a later code of its group splits 17 of the 20 "
            "classes into 4,000, 1,000 and 11,750 of these images",
            options={"images": "all"},
        ),
        "hyp2": Protocol(
            images=11_540,
            train=5_717,
            query=5_823,
            database=5_717,
            source=_HYP2,
            also_database=True,
            rule="lists",
            parts={"train": "train", "query": "val"},
            options={"images": "main", "difficult": True},
        ),
        "deephash": Protocol(
            images=11_540,
            train=4_000,
            query=1_000,
            database=6_540,
            source=_DEEPHASH,
            options={"images": "main", "difficult": False},
        ),
    },
    "coco": {},
}


def split(
    protocol: Protocol,
    labels: np.ndarray,
    *,
    names: Sequence[str],
    available: np.ndarray,
    generator: np.random.Generator,
) -> np.ndarray:
    """Draw the splits as the protocol does.

    Args:
        protocol: one whose rule is not `lists`.
        labels: bool (N, C), columns in the order of the published label numbers.
        names: of the C labels.
        available: bool (N,), rows whose picture is there; no other is drawn.
        generator: where the randomness comes from.

    Returns:
        str objects (N,): "train", "query" or "database", the last also where not available.

    Raises:
        InputError: too few rows for what is drawn.
    """
    pool = available & labels.any(axis=1) if protocol.pool == "labelled" else available
    if protocol.rule == "random":
        return draw(pool, train=protocol.train, query=protocol.query, generator=generator)
    each = {
        "train": protocol.train // labels.shape[1],
        "query": protocol.query // labels.shape[1],
    }
    drawn, wanting = first_come(labels & pool[:, None], each, generator=generator)
    if wanting.any():
        odd = [name for name, short in zip(names, wanting, strict=True) if short]
        raise InputError(
            f"labels with too few images: {first_five(odd)}; the protocol wants "
            f"{each['train']} training images and {each['query']} queries of each"
        )
    return drawn


def first_come(
    labels: np.ndarray, each: Mapping[str, int], *, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Go through the rows in random order and give each to its first label with a free place.

    The labels of a row are asked in the order of the columns, and of each label first its
    training places, then its query places: rows with many labels are taken more often than
    others (swuxyj/DeepHash-pytorch, data/nuswide_21/code.py).

    Args:
        labels: bool (N, C).
        each: split -> places for each label, in the order in which they are filled.
        generator: where the randomness comes from.

    Returns:
        str objects (N,), "database" where no place was free, and bool (C,), the labels with
        places left.
    """
    drawn = np.full(len(labels), "database", dtype=object)
    free = [(part, [places] * labels.shape[1]) for part, places in each.items()]
    left = sum(each.values()) * labels.shape[1]
    for row in generator.permutation(len(labels)):
        if not left:
            break
        for column in np.flatnonzero(labels[row]):
            place = next(((part, places) for part, places in free if places[column]), None)
            if place:
                drawn[row] = place[0]
                place[1][column] -= 1
                left -= 1
                break
    wanting = np.array([any(places[c] for _, places in free) for c in range(labels.shape[1])])
    return drawn, wanting
