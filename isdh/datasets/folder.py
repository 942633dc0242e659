"""A folder of pictures and a table -> the rows of a manifest.

The table (CSV in UTF-8, or Parquet) has a row an image:

- `path`, relative to the folder; or `image`, which then is the path too; or both, and `image`
  is the id;
- `labels`, as `cat;dog`; or one column of 0 and 1 for each label;
- `split` (train, query, database), unless it is drawn;
- `also_database` (0 or 1): training images that are searched too.
"""

from __future__ import annotations

import csv
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, model_validator

from isdh.errors import InputError, first_five
from isdh.manifest import FIXED, SPLITS
from isdh.settings import Section
from isdh.splits import draw

if TYPE_CHECKING:
    import pandas as pd

KNOWN = ("image", "path", "split", "also_database", "labels")
FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


class Options(Section):
    """Where the table is, and how rows are split if it does not say."""

    table: str = "labels.csv"  # below the folder; .csv or .parquet
    train: int | None = Field(None, ge=1)  # images drawn for training
    query: int | None = Field(None, ge=1)  # images drawn as queries; the rest is the database
    seed: int = Field(0, ge=0)  # of the draw
    also_database: bool = False  # search training images too

    @model_validator(mode="after")
    def _both_counts(self) -> Options:
        if (self.train is None) != (self.query is None):
            raise ValueError("train and query go together; give both or neither")
        return self


def read(root: Path, options: Options) -> pd.DataFrame:
    """Read the table.

    Args:
        root: the folder.
        options: the reader's options.

    Returns:
        The manifest's columns except sha256.

    Raises:
        InputError: no such table, not of the form above, or a broken option.
    """
    import pandas as pd

    table = _table(root / options.table)
    if "path" not in table and "image" not in table:
        raise InputError(
            f"{options.table}: no column 'path' or 'image' among {first_five(table)}; add one"
        )
    paths = [str(PurePosixPath(str(path))) for path in table.get("path", table.get("image", []))]
    labels = _labels(table, options.table)
    columns = {
        "image": [str(name) for name in table.get("image", paths)],
        "path": paths,
        **_split(table, labels, options),
        **labels,
    }
    return pd.DataFrame(columns)


def _table(path: Path) -> dict[str, list[Any]]:
    if not path.is_file():
        raise InputError(f"{path}: no such table; put it there or name another with `table:`")
    if path.suffix == ".parquet":
        return _parquet(path)
    if path.suffix == ".csv":
        return _csv(path)
    raise InputError(f"{path}: a table ends in .csv or .parquet; save it as one of them")


def _parquet(path: Path) -> dict[str, list[Any]]:
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a Parquet file ({error}); save it again") from None
    return {str(name): frame[name].tolist() for name in frame.columns}


def _csv(path: Path) -> dict[str, list[Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = csv.reader(stream, strict=True)
            numbered = [(lines.line_num, row) for row in lines if row] or [(1, [])]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); save it as CSV UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{path}: not CSV ({error}); save it again as CSV") from None
    header, *rows = [row for _, row in numbered]
    if len(header) < 2:
        raise InputError(
            f"{path}: one column, {header}; columns are separated by commas, not semicolons or tabs"
        )
    if len(set(header)) < len(header):
        raise InputError(f"{path}: header {header}: a column stands twice; name each once")
    if uneven := [line for line, row in numbered if len(row) != len(header)]:
        raise InputError(
            f"{path}: lines {first_five(uneven)} have not the {len(header)} fields of the header; "
            "quote fields that hold commas"
        )
    return {name: [row[i].strip() for row in rows] for i, name in enumerate(header)}


def _labels(table: dict[str, list[Any]], name: str) -> dict[str, np.ndarray]:
    """Label -> bool (N,)."""
    others = [column for column in table if column not in KNOWN]
    if "labels" not in table:
        if not others:
            raise InputError(f"{name}: no labels; add a column 'labels' or one of 0/1 a label")
        return {column: _flags(table[column], column, name) for column in others}
    if others:
        raise InputError(
            f"{name}: columns {first_five(others)} beside 'labels'; known: {', '.join(KNOWN)}; "
            "remove them, or remove 'labels' if each is a label of 0 and 1"
        )
    sets = [{label.strip() for label in _names(cell)} - {""} for cell in table["labels"]]
    known = sorted(set().union(*sets))
    if not known:
        raise InputError(f"{name}: no labels at all; fill the column 'labels' as in cat;dog")
    if odd := [label for label in known if label in FIXED]:
        raise InputError(f"{name}: labels {first_five(odd)} are column names; rename them")
    return {label: np.array([label in row for row in sets], dtype=bool) for label in known}


def _names(cell: Any) -> list[str]:
    if isinstance(cell, str):
        return cell.split(";")
    return [] if cell is None else [str(label) for label in cell]


def _flags(values: list[Any], column: str, name: str) -> np.ndarray:
    flags = [FLAGS.get(str(value).lower()) for value in values]
    if odd := [value for value, flag in zip(values, flags, strict=True) if flag is None]:
        raise InputError(f"{name}: column {column!r} holds {first_five(odd)}; want 0 or 1")
    return np.array(flags, dtype=bool)


def _split(
    table: dict[str, list[Any]], labels: dict[str, np.ndarray], options: Options
) -> dict[str, Any]:
    """The columns split and also_database."""
    name = options.table
    if "split" in table:
        if options.train is not None:
            raise InputError(f"{name}: has a column 'split'; remove the options train and query")
        split = np.array(table["split"], dtype=object)
        if odd := sorted({str(value) for value in split} - set(SPLITS)):
            raise InputError(f"{name}: splits {first_five(odd)}; known: {', '.join(SPLITS)}")
    elif options.train is None or options.query is None:
        raise InputError(f"{name}: no column 'split'; add it, or the options train and query")
    else:
        labelled = np.logical_or.reduce(list(labels.values()))
        generator = np.random.default_rng(options.seed)
        split = draw(labelled, train=options.train, query=options.query, generator=generator)
    if "also_database" not in table:
        return {"split": split, "also_database": options.also_database & (split == "train")}
    if options.also_database:
        raise InputError(f"{name}: has a column 'also_database'; remove the option of that name")
    return {
        "split": split,
        "also_database": _flags(table["also_database"], "also_database", name),
    }
