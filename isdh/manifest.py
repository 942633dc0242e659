"""The manifest, one row an image: its schema, what it refuses, and where its rows lie."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from isdh.artifacts import REMAKE, missing, replacing, sha256
from isdh.errors import InputError, first_five

if TYPE_CHECKING:  # the readers' options are validated without pandas
    import pandas as pd

Splits: TypeAlias = "pd.DataFrame | Mapping[str, np.ndarray]"  # columns by name

TEXT = ("image", "path", "split")  # columns of str; image is the id
SPLITS = ("train", "query", "database")
FIXED = (*TEXT, "also_database", "sha256")  # every other column is a label, bool
OUTSIDE, MISSING = "outside", "missing"  # in a digest's place, while files are read


def labels_of(frame: pd.DataFrame) -> list[str]:
    """Names of the label columns, in order."""
    return [name for name in frame.columns if name not in FIXED]


def label_matrix(frame: pd.DataFrame) -> np.ndarray:
    """The labels: bool (N, C), columns in the manifest's order."""
    return np.ascontiguousarray(frame[labels_of(frame)].to_numpy(dtype=bool))


def training_rows(frame: Splits) -> np.ndarray:
    """Positions of the training rows: int64 (T,), ascending."""
    return np.flatnonzero(frame["split"] == "train")


def query_rows(frame: Splits) -> np.ndarray:
    """Positions of the queries: int64 (Q,), ascending."""
    return np.flatnonzero(frame["split"] == "query")


def database_rows(frame: Splits) -> np.ndarray:
    """Positions of the rows that are searched: int64 (D,), ascending."""
    return np.flatnonzero((frame["split"] == "database") | frame["also_database"])


def check(frame: pd.DataFrame, root: Path, *, reader: str) -> pd.DataFrame:
    """Turn what a reader returned into a manifest, or refuse it.

    Rows without a label are dropped; `attrs["unlabelled"]` counts them. Attributes that the reader
    set, such as how many images its lists leave out, are kept.

    Args:
        frame: image, path, split, also_database and bool label columns.
        root: the raw root, below which the paths lie.
        reader: name of the reader, kept in `attrs["reader"]`.

    Returns:
        The labelled rows, in order, with the sha256 of each file.

    Raises:
        InputError: a broken rule; the first five offenders are named.
    """
    kept = labelled(frame, root)
    for text in broken_rules(kept):
        raise InputError(text)
    kept["sha256"] = _digests(root, kept["path"].tolist())
    attrs = {**kept.attrs, "reader": reader}
    kept = kept.loc[:, [*FIXED, *labels_of(kept)]]
    kept.attrs = attrs
    return kept


def labelled(frame: pd.DataFrame, root: Path) -> pd.DataFrame:
    """The rows that have a label; `attrs["unlabelled"]` counts the others.

    Raises:
        InputError: a column is missing or of another kind, or no row has a label.
    """
    _check_columns(frame, TEXT)
    has_label = label_matrix(frame).any(axis=1)
    if not has_label.any():
        raise InputError(f"{root}: no row of {len(frame)} has a label; check the label files")
    kept = frame.iloc[np.flatnonzero(has_label)].reset_index(drop=True)
    kept.attrs = {**frame.attrs, "unlabelled": int((~has_label).sum())}
    return kept


def without(frame: pd.DataFrame, damage: Mapping[int, str]) -> pd.DataFrame:
    """A checked manifest without some rows; `attrs["damaged"]` has the reason of each path.

    Args:
        frame: a checked manifest.
        damage: row -> reason.

    Raises:
        InputError: what is left breaks a rule.
    """
    kept = frame.drop(index=list(damage)).reset_index(drop=True)
    for text in broken_rules(kept):
        raise InputError(f"without {len(damage)} damaged files: {text}")
    paths = frame["path"].tolist()
    kept.attrs = {**frame.attrs, "damaged": {paths[row]: damage[row] for row in damage}}
    return kept


def repeats(values: Sequence[str]) -> list[str]:
    """Values that occur more than once, in order of their second occurrence."""
    seen: set[str] = set()
    again: dict[str, None] = {}
    for value in values:
        if value in seen:
            again[value] = None
        seen.add(value)
    return list(again)


def write(frame: pd.DataFrame, path: Path) -> None:
    """Write a checked manifest; equal manifests give equal bytes."""
    with replacing(path) as stream:
        frame.to_parquet(stream, engine="pyarrow", index=False)


def read(path: Path) -> pd.DataFrame:
    """Read a manifest.

    Raises:
        InputError: missing, not Parquet, or not of a manifest's columns.
    """
    import pandas as pd

    if not path.exists():
        raise missing(path)
    try:
        frame = pd.read_parquet(path, engine="pyarrow")
    except (OSError, ValueError) as error:  # pyarrow's errors are among these
        raise InputError(f"{path}: not a Parquet file ({error}); {REMAKE}") from None
    try:
        _check_columns(frame, [*TEXT, "sha256"])
    except InputError as error:
        raise InputError(f"{path}: {error}; {REMAKE}") from None
    return frame


def read_splits(path: Path) -> Mapping[str, np.ndarray]:
    """Read which rows are trained on, asked for and searched, and nothing else.

    For stages that need no more: without pandas, a third of a second.

    Returns:
        split, str (N,), and also_database, bool (N,): for `training_rows` and its like.

    Raises:
        InputError: missing, or not a manifest.
    """
    from pyarrow import ArrowException, parquet

    if not path.exists():
        raise missing(path)
    names = ["split", "also_database"]
    try:
        table = parquet.read_table(path, columns=names)
        return {name: table.column(name).to_numpy() for name in names}
    except (ArrowException, KeyError, OSError) as error:
        raise InputError(f"{path}: not a manifest ({error}); {REMAKE}") from None


def _check_columns(frame: pd.DataFrame, text: Sequence[str]) -> None:
    absent = [name for name in (*text, "also_database") if name not in frame.columns]
    if absent:
        raise InputError(f"columns {first_five(absent)} are missing; a manifest has {FIXED}")
    if repeated := repeats(frame.columns.tolist()):
        raise InputError(f"columns {first_five(repeated)} stand twice; name each once")
    for name in text:
        if odd := [value for value in frame[name] if not isinstance(value, str) or not value]:
            raise InputError(f"column {name!r} holds {first_five(odd)}; want text in every row")
    if odd := [name for name in ("also_database", *labels_of(frame)) if frame[name].dtype != bool]:
        raise InputError(f"columns {first_five(odd)} are not bool; labels are true or false")


def broken_rules(frame: pd.DataFrame) -> Iterator[str]:
    """What makes a set of labelled rows no experiment, a text for each broken rule."""
    split = frame["split"]
    if odd := sorted(set(split) - set(SPLITS)):
        yield f"splits {first_five(odd)}; known: {', '.join(SPLITS)}"
    if repeated := repeats(frame["image"].tolist()):
        pairs = frame.groupby("image")["split"].nunique()
        if two := [image for image in repeated if pairs[image] > 1]:
            yield f"images in two splits: {first_five(two)}; keep each in one"
        if again := [image for image in repeated if pairs[image] == 1]:
            yield f"image ids that stand twice: {first_five(again)}; remove one of each"
    if repeated := repeats(frame["path"].tolist()):
        yield f"paths under two ids: {first_five(repeated)}; keep one row a file"
    if odd := frame.loc[frame["also_database"] & (split != "train"), "image"].tolist():
        yield f"also_database is for training rows, not {first_five(odd)}; set it to false there"
    if unused := [name for name in labels_of(frame) if not frame[name].any()]:
        yield f"labels that no image has: {first_five(unused)}; remove them from the table"
    rows = {name: int((split == name).sum()) for name in SPLITS}
    rows["database"] = len(database_rows(frame))  # training rows will do, where they are searched
    if empty := [name for name in SPLITS if not rows[name]]:
        yield f"splits without a labelled row: {first_five(empty)}; put images into each"


def _digests(root: Path, paths: Sequence[str]) -> list[str]:
    """Hex sha256 of each file, read in threads.

    Raises:
        InputError: a path that leaves the root, or files that are missing.
    """
    if odd := [path for path in paths if not plain(path)]:
        raise InputError(
            f"paths that are not plain: {first_five(odd)}; a path is relative to {root}, with "
            "forward slashes and without '.' or '..'"
        )
    chunks = [paths[start : start + 256] for start in range(0, len(paths), 256)]
    with ThreadPoolExecutor() as pool:
        found = [d for part in pool.map(partial(digest_each, root), chunks) for d in part]
    by_path = list(zip(paths, found, strict=True))
    if out := [path for path, digest in by_path if digest == OUTSIDE]:
        raise InputError(
            f"links that lead out of {root}: {first_five(out)}; put the files themselves there"
        )
    if lost := [path for path, digest in by_path if digest == MISSING]:
        raise InputError(
            f"no readable file below {root}: {first_five(lost)}; add the files or drop their rows"
        )
    return found


def plain(path: str) -> bool:
    """Whether a path is relative, with forward slashes and without "." or ".."."""
    pure = PurePosixPath(path)
    relative = not pure.is_absolute() and str(pure) == path and ".." not in pure.parts
    return relative and path != "." and "\0" not in path


def digest_each(root: Path, paths: Sequence[str]) -> list[str]:
    """Hex sha256 of each file, or OUTSIDE or MISSING in its place."""
    real_root = os.path.realpath(root)
    real_folders: dict[str, str] = {}  # resolving a path costs more than reading a small file
    digests = []
    for path in paths:
        folder, _, name = path.rpartition("/")
        if folder not in real_folders:
            real_folders[folder] = os.path.realpath(os.path.join(real_root, folder))
        real = os.path.join(real_folders[folder], name)
        if os.path.islink(real):
            real = os.path.realpath(real)
        if os.path.commonpath([real_root, real]) != real_root:
            digests.append(OUTSIDE)
            continue
        try:
            digests.append(sha256(Path(real)))
        except OSError:
            digests.append(MISSING)
    return digests
