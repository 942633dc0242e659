"""Manifest, codes and pictures added later -> one collection, searched by code."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isdh.codes import hamming_distances
from isdh.errors import InputError
from isdh.index import HammingIndex

MOST = 1000  # neighbours of one answer
ADDED = "added"  # the split of pictures that no manifest has


@dataclass(frozen=True)
class Neighbours:
    """An answer: rows by distance, then position.

    Attributes:
        rows: int64 (K,), of the collection.
        distances: int32 (K,).
        matching: how many pictures the filters leave, those at any distance within the radius.
        tied: how many of these stand at the last distance, shown or not.
    """

    rows: NDArray[np.int64]
    distances: NDArray[np.int32]
    matching: int
    tied: int


@dataclass(frozen=True, eq=False)
class Collection:
    """Pictures with ids, labels and codes. Nothing changes in it: another one takes its place.

    Attributes:
        bits: the code length.
        images: ids.
        files: where each picture lies.
        splits: of each row: train, query, database, or added.
        label_names: of the columns of `labels`.
        labels: bool (N, C).
        codes: uint8 (N, ceil(bits / 8)).
        searched: int64 (D,), the rows that are searched, ascending.
        is_searched: bool (N,), the same.
        rows: id -> row.
        index: over the codes of the rows that are searched.
    """

    bits: int
    images: Sequence[str]
    files: Sequence[Path]
    splits: Sequence[str]
    label_names: Sequence[str]
    labels: NDArray[np.bool_]
    codes: NDArray[np.uint8]
    searched: NDArray[np.int64]
    is_searched: NDArray[np.bool_]
    rows: Mapping[str, int]
    index: HammingIndex
    tables: threading.Lock = field(default_factory=threading.Lock)  # made at the first radius

    @classmethod
    def of(
        cls,
        bits: int,
        images: Sequence[str],
        files: Sequence[Path],
        splits: Sequence[str],
        label_names: Sequence[str],
        labels: NDArray[np.bool_],
        codes: NDArray[np.uint8],
        searched: NDArray[np.int64],
    ) -> Collection:
        """A collection of such rows.

        Raises:
            InputError: codes of another length, or nothing that is searched.
        """
        is_searched = np.zeros(len(images), bool)
        is_searched[searched] = True
        return cls(
            bits,
            images,
            files,
            splits,
            label_names,
            labels,
            codes,
            searched,
            is_searched,
            rows={image: row for row, image in enumerate(images)},
            index=HammingIndex(codes[searched], bits, padded=True),
        )

    def __len__(self) -> int:
        return len(self.searched)

    def row(self, image: str) -> int | None:
        """The row of an id, or None."""
        return self.rows.get(image)

    def label_columns(self, names: Sequence[str]) -> list[int]:
        """The columns of labels.

        Raises:
            InputError: an unknown one.
        """
        known = {name: column for column, name in enumerate(self.label_names)}
        for name in names:
            if name not in known:
                raise InputError(f"label {name[:80]!r}: no label of the collection")
        return [known[name] for name in names]

    def labels_of(self, row: int) -> list[str]:
        """The names of a row's labels."""
        return [self.label_names[column] for column in np.flatnonzero(self.labels[row]).tolist()]

    def search(
        self,
        code: NDArray[np.uint8],
        *,
        k: int,
        radius: int | None = None,
        labels: Sequence[int] = (),
        without: int | None = None,
    ) -> Neighbours:
        """The nearest pictures.

        Args:
            code: uint8 (ceil(bits / 8),).
            k: at least 1; how many at most.
            radius: only those at this distance or nearer.
            labels: columns; only pictures that have all of these labels.
            without: a row that is left out: the picture that asks.
        """
        if labels:
            rows, distances = self._labelled(code, labels, radius)
        elif radius is not None:
            rows, distances = self._within(code, radius)
        else:
            return self._nearest(code, k, without)
        rows, distances = _left(rows, distances, without)
        last = distances[min(k, len(rows)) - 1] if len(rows) else 0
        return Neighbours(rows[:k], distances[:k], len(rows), int((distances == last).sum()))

    def _nearest(self, code: NDArray[np.uint8], k: int, without: int | None) -> Neighbours:
        """Without filters."""
        found, positions = self.index.search(code[None], k + 2)  # one may go, one tells of a tie
        rows, distances = _left(self.searched[positions[0]], found[0], without)
        matching = len(self.searched) - int(without is not None and self.is_searched[without])
        if not len(rows):
            return Neighbours(rows, distances, matching, 0)
        last = int(distances[min(k, len(rows)) - 1])
        every = distances
        if distances[-1] == last:  # no larger than k and the tie
            _, every = _left(*self._within(code, last), without)
        return Neighbours(rows[:k], distances[:k], matching, int((every == last).sum()))

    def _within(
        self, code: NDArray[np.uint8], radius: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        with self.tables:
            _, distances, positions = self.index.within(code[None], radius)
        return self.searched[positions], distances

    def _labelled(
        self, code: NDArray[np.uint8], labels: Sequence[int], radius: int | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        rows = np.flatnonzero(self.labels[:, list(labels)].all(axis=1) & self.is_searched)
        distances = hamming_distances(code[None], self.codes[rows], bits=self.bits)[0]
        if radius is not None:
            near = distances <= radius
            rows, distances = rows[near], distances[near]
        order = np.argsort(distances.astype(np.uint16), kind="stable")  # a radix sort
        return rows[order], distances[order]


def _left(
    rows: NDArray[np.int64], distances: NDArray[np.int32], without: int | None
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """What is left without a row."""
    if without is None:
        return rows, distances
    keep = rows != without
    return rows[keep], distances[keep]
