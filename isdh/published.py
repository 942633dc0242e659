"""What the readers of published collections share: options of the split, and rows -> a frame."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, model_validator

from isdh import lists, protocols
from isdh.errors import InputError, first_five, unknown
from isdh.protocols import PROTOCOLS, Protocol
from isdh.settings import Source
from isdh.splits import draw

if TYPE_CHECKING:
    import pandas as pd


class Published(Source):
    """How a published collection is split: as a protocol says, by lists, or by a draw."""

    protocol: str | None = None  # one of isdh.protocols for the collection
    lists: str | None = None  # a folder below the root: train.txt, query.txt, database.txt
    train: int | None = Field(None, ge=1)  # images drawn for training
    query: int | None = Field(None, ge=1)  # images drawn as queries; the rest is the database
    seed: int = Field(0, ge=0)  # of the draw
    also_database: bool = False  # search training images too

    @classmethod
    def collection(cls, given: Mapping[str, Any]) -> str:
        """The key in PROTOCOLS, from options as they were given."""
        raise NotImplementedError

    @property
    def published(self) -> Protocol | None:
        """The protocol that is named."""
        if self.protocol is None:
            return None
        return PROTOCOLS[self.collection(self.model_dump())][self.protocol]

    @model_validator(mode="before")
    @classmethod
    def _settle(cls, values: Any) -> Any:
        """Fill in what the protocol settles; refuse an option that says otherwise."""
        if not isinstance(values, Mapping):
            return values
        given = {key: value for key, value in values.items() if value is not None}
        if "lists" in given and (drawn := given.keys() & {"train", "query", "seed"}):
            raise ValueError(f"lists says it all: remove {', '.join(sorted(drawn))}")
        collection, name = cls.collection(given), given.get("protocol")
        if not isinstance(name, str) or collection not in PROTOCOLS:
            return values
        known = PROTOCOLS[collection]
        if not known:
            raise ValueError(
                f"protocol={name!r}: none is known for {collection}; give train, query and "
                "also_database, or lists"
            )
        if name not in known:
            raise unknown(f"protocol of {collection}", name, known)
        settled = known[name].settled
        if odd := [key for key in settled if key in given and given[key] != settled[key]]:
            said = ", ".join(f"{key}={settled[key]!r}, not {given[key]!r}" for key in odd)
            raise ValueError(f"protocol={name!r} has {said}; remove one of the two")
        if known[name].rule == "lists" and "seed" in given:
            raise ValueError(f"protocol={name!r} draws nothing; remove seed")
        return {**values, **settled}

    @model_validator(mode="after")
    def _one_way(self) -> Published:
        if self.lists is None:
            self.counts()
        return self

    def counts(self) -> tuple[int, int]:
        """How many images are drawn for training and as queries.

        Raises:
            InputError: it is not said.
        """
        if self.train is None or self.query is None:
            known = sorted(PROTOCOLS.get(self.collection(self.model_dump()), {}))
            names = f"protocol ({', '.join(known)}), " if known else ""
            raise InputError(f"no way to split; give {names}lists, or both train and query")
        return self.train, self.query


def frame(
    root: Path,
    options: Published,
    *,
    names: Sequence[str],
    paths: Sequence[str],
    labels: Mapping[str, np.ndarray],
    official: np.ndarray | None = None,
    present: np.ndarray | None = None,
    leave_out: bool = False,
    fetch: str = "",
) -> pd.DataFrame:
    """Split the rows of a collection and lay them out for the manifest.

    `attrs` says which protocol and which list files (their sha256), how many labelled images are
    in no list (`unlisted`) and, with `present`, how many have no picture (`missing`). Both kinds
    are left out.

    Args:
        root: the raw root.
        options: how to split.
        names: ids of the N images.
        paths: their pictures, below the root.
        labels: name -> bool (N,), in order.
        official: str objects (N,), the split by the collection's own lists, for a protocol that
            goes by them.
        present: bool (N,), whose picture is there; without it, each.
        leave_out: leave missing pictures out instead of refusing them.
        fetch: the end of a message about missing pictures.

    Returns:
        The manifest's columns except sha256.

    Raises:
        InputError: pictures are missing, the collection or the lists are not what the protocol
            has, or too few images for the draw.
    """
    import pandas as pd

    matrix = np.column_stack(list(labels.values()))
    labelled = np.logical_or.reduce(list(labels.values()))
    here = np.ones(len(names), dtype=bool) if present is None else present
    _check_size(options, len(names))
    attrs: dict[Any, Any] = {} if options.protocol is None else {"protocol": options.protocol}
    if options.lists is not None:
        found = _listed(root / options.lists, options, names, paths, labelled)
        split, attrs["lists"] = found.split, found.sha256
    else:
        available = here if leave_out else np.ones_like(here)
        split = _drawn(options, matrix, list(labels), available) if official is None else official
    split = np.where(labelled, split, "database")  # the manifest drops and counts these
    unlisted = split == ""
    lost = labelled & ~here & ~unlisted
    if lost.any() and not leave_out:
        raise InputError(
            f"{root}: {lost.sum()} of the {(labelled & ~unlisted).sum()} pictures with a label are "
            f"missing: {first_five(itertools.compress(paths, lost))}; {fetch}"
        )
    attrs["unlisted"] = int(unlisted.sum())
    if present is not None:
        attrs["missing"] = int(lost.sum())
    columns: dict[Any, Any] = {
        "image": names,
        "path": paths,
        "split": split,
        "also_database": options.also_database & (split == "train"),
        **labels,
    }
    kept = pd.DataFrame(columns).iloc[np.flatnonzero(~unlisted & ~lost)].reset_index(drop=True)
    kept.attrs = attrs
    return kept


def on_disk(root: Path, paths: Sequence[str]) -> np.ndarray:
    """Which of the files are there: bool (N,). Lists each folder once."""
    places = [path.rpartition("/") for path in paths]
    found: dict[str, set[str]] = {}
    for folder in {folder for folder, _, _ in places}:
        try:
            found[folder] = set(os.listdir(root / folder))
        except OSError:
            found[folder] = set()
    return np.array([name in found[folder] for folder, _, name in places], dtype=bool)


def _check_size(options: Published, images: int) -> None:
    protocol = options.published
    if protocol is not None and images != protocol.images:
        raise InputError(
            f"protocol={options.protocol!r}: splits {protocol.images} images, found {images}; "
            "fetch the whole collection, or say train, query and also_database instead"
        )


def _drawn(
    options: Published, matrix: np.ndarray, names: list[str], available: np.ndarray
) -> np.ndarray:
    generator = np.random.default_rng(options.seed)
    if options.published is not None:
        return protocols.split(
            options.published, matrix, names=names, available=available, generator=generator
        )
    train, query = options.counts()
    pool = available & matrix.any(axis=1)
    return draw(pool, train=train, query=query, generator=generator)


def _listed(
    folder: Path,
    options: Published,
    names: Sequence[str],
    paths: Sequence[str],
    labelled: np.ndarray,
) -> lists.Lists:
    protocol = options.published
    every = protocol is not None and protocol.pool == "all"
    found = lists.read(
        folder,
        names=names,
        paths=paths,
        allowed=np.ones_like(labelled) if every else labelled,
        also_database=options.also_database,
    )
    if protocol is not None:
        for part, count in protocol.rows.items():
            if (rows := int((found.split == part).sum())) != count:
                raise InputError(
                    f"{folder / part}.txt: {rows} images, protocol={options.protocol!r} has "
                    f"{count}; give its lists, or remove `protocol`"
                )
    return found
