"""A folder of pictures and a table -> the rows of a manifest.

The table (CSV in UTF-8, or Parquet) has a row an image:

- `path`, relative to the folder; or `image`, which then is the path too; or both, and `image`
  is the id;
- `labels`, as `cat;dog`; or one column of 0 and 1 for each label;
- `split` (train, query, database); without it, the options name lists of ids, or it is drawn so
  that every label has its share in each;
- `also_database` (0 or 1): training images that are searched too;
- `sha256`, which is passed over, so that a manifest is such a table.
"""

from __future__ import annotations

import csv
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field, field_validator, model_validator

from isdh import lists
from isdh.errors import InputError, first_five
from isdh.manifest import FIXED, SPLITS, repeats
from isdh.settings import Source
from isdh.splits import stratify

if TYPE_CHECKING:
    import pandas as pd

TABLE = "labels.csv"
KNOWN = ("image", "path", "split", "also_database", "labels", "sha256")
FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
MOST_TRAIN, MOST_QUERY = 10_000, 1_000  # rows of a split that nobody sized


def _count_or_share(value: Any) -> Any:
    count = type(value) is int and value >= 1
    share = type(value) is float and 0.0 < value < 1.0
    if not (count or share):
        raise ValueError("want a count, 1 or more, or a share, above 0 and below 1")
    return value


Amount = Annotated[int | float, BeforeValidator(_count_or_share)]


class Options(Source):
    """Where the table is, and how rows are split if it does not say."""

    table: str = TABLE  # below the folder; .csv or .parquet
    lists: str | None = None  # below the folder, with train.txt, query.txt and database.txt
    train: Amount | None = None  # drawn for training; None: half, at most MOST_TRAIN
    query: Amount | None = None  # drawn as queries; None: a tenth, at most MOST_QUERY
    seed: int = Field(0, ge=0)  # of the draw
    also_database: bool = False  # search training images too

    @field_validator("table", "lists")
    @classmethod
    def _below_the_folder(cls, path: str | None) -> str | None:
        pure = PurePosixPath(path or "")
        if pure.is_absolute() or ".." in pure.parts:
            raise ValueError("want a path below the folder, so that its changes are seen")
        return path

    @model_validator(mode="after")
    def _one_way(self) -> Options:
        if self.lists is not None and (drawn := self.model_fields_set & {"train", "query", "seed"}):
            raise ValueError(f"lists says it all: remove {', '.join(sorted(drawn))}")
        return self


def read(root: Path, options: Options) -> pd.DataFrame:
    """Read the table, and lists if there are any.

    With lists, `attrs` has the sha256 of each, and says how many labelled images are in none of
    them (`unlisted`); these are left out, and with them labels of the column `labels` that no
    other image has.

    Args:
        root: the folder.
        options: the reader's options.

    Returns:
        The manifest's columns except sha256.

    Raises:
        InputError: no such table or lists, not of the form above, or a broken option.
    """
    import pandas as pd

    name = options.table
    table = _table(root, name)
    if not any(table.values()):
        raise InputError(f"{name}: no row below the header {list(table)}; add one an image")
    column = _column_of_paths(table, name)
    paths = _paths(table[column], column, name)
    images = _text(table["image"], "image", name) if "image" in table else paths
    if "split" not in table and (again := repeats(images)):
        raise InputError(f"{name}: images that stand twice: {first_five(again)}; keep one row each")
    labels = _labels(table, name)
    attrs: dict[Any, Any] = {}
    if options.lists is None or "split" in table:
        split = _split(table, labels, options)
    else:
        split, attrs = _listed(root / options.lists, options, images, paths, labels)
    listed = np.flatnonzero(split != "")
    columns = {
        "image": images,
        "path": paths,
        "split": split,
        "also_database": _also_database(options, table, split),
        **{label: has for label, has in labels.items() if has[listed].any() or label in table},
    }
    kept = pd.DataFrame(columns).iloc[listed].reset_index(drop=True)
    kept.attrs = attrs
    return kept


def labels_of(root: Path, name: str = TABLE) -> dict[str, list[str]]:
    """Path -> labels, of a table whose splits do not matter.

    Raises:
        InputError: no such table, or not of the form above.
    """
    table = _table(root, name)
    column = _column_of_paths(table, name)
    labels = _labels(table, name)
    return {
        path: [label for label, has in labels.items() if has[row]]
        for row, path in enumerate(_paths(table[column], column, name))
    }


def _column_of_paths(table: dict[str, list[Any]], name: str) -> str:
    column = "path" if "path" in table else "image"
    if column not in table:
        raise InputError(
            f"{name}: no column 'path' or 'image' among {first_five(table)}; add one, or name the "
            "columns in the first line"
        )
    return column


def _table(root: Path, name: str) -> dict[str, list[Any]]:
    """Column -> its cells, None where Parquet has none."""
    path = root / name
    if not path.is_file():
        others = sorted(p.name for p in root.glob("*") if p.suffix in (".csv", ".parquet"))
        there = f" (there: {first_five(others)})" if others else ""
        raise InputError(
            f"{path}: no such table{there}; put it there, with columns path and labels, or name "
            "another with `table:`"
        )
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
    table = {}
    for name, column in frame.items():
        cells = zip(column.tolist(), column.isna(), strict=True)
        table[str(name)] = [None if absent else cell for cell, absent in cells]
    return table


def _csv(path: Path) -> dict[str, list[Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = csv.reader(stream, strict=True)
            numbered = [(lines.line_num, row) for row in lines if row] or [(1, [])]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); save it as CSV UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{path}: not CSV ({error}); save it again as CSV") from None
    header, *rows = [[field.strip() for field in row] for _, row in numbered]
    if any("\0" in field for field in header):
        raise InputError(f"{path}: zero bytes, as in UTF-16, not UTF-8; save it as CSV UTF-8")
    if len(header) < 2:
        raise InputError(
            f"{path}: one column, {header}; columns are separated by commas, not semicolons or tabs"
        )
    if len(set(header)) < len(header):
        raise InputError(f"{path}: header {header}: a column stands twice; name each once")
    if uneven := [line for line, row in numbered if len(row) != len(header)]:
        raise InputError(
            f"{path}: lines {first_five(uneven)} have not the {len(header)} fields of the header; "
            "labels are separated by semicolons, and a field that holds a comma is quoted"
        )
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def _text(cells: list[Any], column: str, name: str) -> list[str]:
    if empty := [row for row, cell in enumerate(cells, 1) if cell is None or not str(cell)]:
        raise InputError(
            f"{name}: column {column!r} is empty in rows {first_five(empty)} (1 follows the "
            "header); fill it or remove the rows"
        )
    return [str(cell) for cell in cells]


def _paths(cells: list[Any], column: str, name: str) -> list[str]:
    paths = _text(cells, column, name)
    if odd := [path for path in paths if "\\" in path]:
        raise InputError(
            f"{name}: paths with backslashes: {first_five(odd)}; write forward slashes, a/b.jpg"
        )
    return [str(PurePosixPath(path)) for path in paths]


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
    sets = [{label.strip() for label in _names(cell, name)} - {""} for cell in table["labels"]]
    known = sorted(set().union(*sets))
    if not known:
        raise InputError(f"{name}: no labels at all; fill the column 'labels' as in cat;dog")
    if odd := [label for label in known if label in FIXED]:
        raise InputError(f"{name}: labels {first_five(odd)} are column names; rename them")
    joined = [label for label in known if "," in label or "|" in label]
    if joined and max(map(len, sets)) == 1:
        raise InputError(
            f"{name}: labels {first_five(joined)} look like several; separate them by semicolons, "
            "as in cat;dog, or rename them"
        )
    return {label: np.array([label in row for row in sets], dtype=bool) for label in known}


def _names(cell: Any, name: str) -> list[str]:
    if cell is None:
        return []
    if isinstance(cell, str):
        return cell.split(";")
    labels = [cell] if isinstance(cell, int) else cell
    if not isinstance(labels, list | np.ndarray) or not all(_is_name(label) for label in labels):
        raise InputError(f"{name}: column 'labels' holds {cell!r}; want cat;dog or a list of names")
    return [str(label) for label in labels]


def _is_name(label: Any) -> bool:
    return isinstance(label, str | int | np.integer) and not isinstance(label, bool)


def _flags(cells: list[Any], column: str, name: str) -> np.ndarray:
    texts = [str(cell) for cell in cells]
    flags = {text: FLAGS.get(text.lower()) for text in set(texts)}
    if odd := sorted(text for text, flag in flags.items() if flag is None):
        remedy = ""
        if column not in KNOWN:
            nearest = get_close_matches(column, KNOWN, n=1)
            meant = f", or name it {nearest[0]!r} if that is meant" if nearest else ""
            remedy = (
                " in a label's column, as any is but " + ", ".join(KNOWN) + f"; remove it{meant}"
            )
        raise InputError(f"{name}: column {column!r} holds {first_five(odd)}; want 0 or 1{remedy}")
    return np.array([flags[text] for text in texts], dtype=bool)


def _split(
    table: dict[str, list[Any]], labels: dict[str, np.ndarray], options: Options
) -> np.ndarray:
    """The table's split, or one that is drawn: str objects (N,)."""
    name = options.table
    if "split" not in table:
        return _drawn(np.column_stack(list(labels.values())), options)
    if odd := sorted(options.model_fields_set & {"train", "query", "seed", "lists"}):
        raise InputError(f"{name}: has a column 'split'; remove the options {', '.join(odd)}")
    split = np.array(table["split"], dtype=object)
    if unknown := sorted({str(value) for value in split} - set(SPLITS)):
        raise InputError(f"{name}: splits {first_five(unknown)}; known: {', '.join(SPLITS)}")
    return split


def _listed(
    folder: Path,
    options: Options,
    images: list[str],
    paths: list[str],
    labels: dict[str, np.ndarray],
) -> tuple[np.ndarray, dict[Any, Any]]:
    """The split that lists say, str objects (N,), "" in none of them; and the frame's `attrs`."""
    labelled: np.ndarray = np.logical_or.reduce(list(labels.values()))
    found = lists.read(
        folder,
        names=images,
        paths=paths,
        allowed=labelled,
        also_database=options.also_database,
        by_file_name=False,  # a/1.jpg and b/1.jpg are two pictures
    )
    split = np.where(labelled, found.split, "database")  # the manifest drops and counts these
    return split, {"lists": found.sha256, "unlisted": int((split == "").sum())}


def _also_database(options: Options, table: dict[str, list[Any]], split: np.ndarray) -> np.ndarray:
    if "also_database" not in table:
        return np.asarray(options.also_database & (split == "train"))
    if options.also_database:
        raise InputError(
            f"{options.table}: has a column 'also_database'; remove the option of that name"
        )
    return _flags(table["also_database"], "also_database", options.table)


def _drawn(labels: np.ndarray, options: Options) -> np.ndarray:
    """A split of the labelled rows: str objects (N,).

    Args:
        labels: bool (N, C).
        options: how many rows each part has, and the seed.
    """
    labelled = int(labels.any(axis=1).sum())
    if labelled < len(SPLITS):
        raise InputError(
            f"{options.table}: {labelled} rows with a label; a split wants three or more, one each "
            f"for {', '.join(SPLITS)}"
        )
    train = _rows(options.train, labelled, otherwise=min(labelled // 2, MOST_TRAIN))
    query = _rows(options.query, labelled, otherwise=min(max(labelled // 10, 1), MOST_QUERY))
    generator = np.random.default_rng(options.seed)
    return stratify(labels, train=train, query=query, generator=generator)


def _rows(amount: float | None, labelled: int, *, otherwise: int) -> int:
    if amount is None:
        return otherwise
    return amount if isinstance(amount, int) else max(round(amount * labelled), 1)
