"""train.txt, query.txt and database.txt, an image a line -> the split of each row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from isdh.errors import InputError, first_five
from isdh.manifest import SPLITS, repeats

Stem = Callable[[str], str]  # what of a path is enough to know it by
AMBIGUOUS = -1  # in a row's place, where several rows have the name


@dataclass(frozen=True)
class Lists:
    """What three list files say.

    Attributes:
        split: str objects (N,), "" where in no list; "train" where in train.txt, whether or not
            database.txt has the row too.
        sha256: file name -> hex digest of its bytes.
    """

    split: np.ndarray
    sha256: dict[str, str]


def read(
    folder: Path,
    *,
    names: Sequence[str],
    paths: Sequence[str],
    allowed: np.ndarray,
    also_database: bool,
    by_file_name: bool = True,
) -> Lists:
    """Read the three lists of a folder.

    A line is an image's id or its path; 0s and 1s after it, the labels in the lists of others, are
    passed over unless the whole line is a name.

    Args:
        folder: where train.txt, query.txt and database.txt lie.
        names: ids of the rows.
        paths: paths of the rows, below the raw root.
        allowed: bool (N,), rows that a list may hold: as a rule, those with a label.
        also_database: database.txt may hold training images: all of them, or none.
        by_file_name: a line may also be any path that ends in an image's file name, whatever its
            suffix: for collections in which a name stands once.

    Raises:
        InputError: a list is missing or no text, or names an image that is not there, ambiguous,
            unlabelled, twice there or in another list.
    """
    stem = _stem if by_file_name else str
    known = _known(names, paths, stem)
    split = np.full(len(names), "", dtype=object)
    sha256 = {}
    for part in SPLITS:
        path = folder / f"{part}.txt"
        if not path.is_file():
            raise InputError(f"{path}: no such list; want train.txt, query.txt and database.txt")
        content = path.read_bytes()
        sha256[path.name] = hashlib.sha256(content).hexdigest()
        entries = _entries(content, path)
        rows = _rows(entries, known, stem, path)
        ids = [names[row] for row in rows]
        if again := repeats(ids):
            raise InputError(f"{path}: {first_five(again)} more than once; keep one line each")
        searched_too = (split[rows] == "train") & (part == "database") & also_database
        _refuse(path, ids, (split[rows] != "") & ~searched_too, "in another list too")
        _refuse(path, ids, ~allowed[rows], "without a label")
        if searched_too.any() and searched_too.sum() < (split == "train").sum():
            absent = np.setdiff1d(np.flatnonzero(split == "train"), rows)
            raise InputError(
                f"{path}: holds some training images, not {first_five(names[i] for i in absent)}; "
                "list all of them or none"
            )
        split[rows[~searched_too]] = part
    return Lists(split, sha256)


def _known(names: Sequence[str], paths: Sequence[str], stem: Stem) -> dict[str, int]:
    """Id, path and stem -> row."""
    known: dict[str, int] = {}
    for row, (name, path) in enumerate(zip(names, paths, strict=True)):
        for key in {name, path, stem(path)}:
            known[key] = AMBIGUOUS if key in known else row
    return known


def _entries(content: bytes, path: Path) -> list[str]:
    """The lines of a list that are not empty, with forward slashes."""
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from None
    return [line.strip().replace("\\", "/") for line in lines if line.strip()]


def _rows(entries: list[str], known: dict[str, int], stem: Stem, path: Path) -> np.ndarray:
    """The row of each entry: int64 (M,)."""
    by_entry = [(entry, _row(entry, known, stem)) for entry in entries]
    if odd := [_without_labels(entry) for entry, row in by_entry if row is None]:
        raise InputError(f"{path}: no image {first_five(odd)}; remove the lines")
    if odd := [_without_labels(entry) for entry, row in by_entry if row == AMBIGUOUS]:
        raise InputError(f"{path}: several images are called {first_five(odd)}; write the paths")
    return np.array([row for _, row in by_entry], dtype=np.int64)


def _row(entry: str, known: dict[str, int], stem: Stem) -> int | None:
    """The row of a line: what it says as a whole comes first, an image may be called "cat 1"."""
    bare = _without_labels(entry)
    return next((known[k] for k in (entry, bare, stem(entry), stem(bare)) if k in known), None)


def _without_labels(entry: str) -> str:
    first, *rest = entry.split()
    return first if rest and set(rest) <= {"0", "1"} else entry


def _refuse(path: Path, ids: list[str], wrong: np.ndarray, problem: str) -> None:
    if wrong.any():
        odd = [name for name, bad in zip(ids, wrong, strict=True) if bad]
        raise InputError(f"{path}: {first_five(odd)} {problem}; remove the lines")


def _stem(path: str) -> str:
    """The file name without its suffix."""
    name = path.rpartition("/")[2]
    return name.rpartition(".")[0] or name
