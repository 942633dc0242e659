"""A dataset's raw folder and its settings -> what it is like and what is amiss, before any stage.

All that can be found is found in one run: where a rule is broken, the rest is looked at still.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from isdh import datasets, duplicates, manifest
from isdh.chance import chance
from isdh.errors import NAMED, InputError, first_five
from isdh.images import decode
from isdh.settings import Source
from isdh.statistics import describe
from isdh.store import cores, leave_out

if TYPE_CHECKING:
    import pandas as pd

    from isdh.params import Params

CHUNK = 64  # files a thread takes at once

Level = Literal["refused", "warning"]
Progress = Callable[[int, int], None]  # files looked at, files in all


@dataclass(frozen=True)
class Finding:
    """One thing amiss: "refused" stops a stage, a "warning" only spoils what comes out."""

    level: Level
    text: str


@dataclass(frozen=True)
class Inspection:
    """What was found in one dataset.

    Attributes:
        dataset: its name.
        findings: all that is amiss, what is refused first.
        files: how many there are of "all" that rows name, and of them "missing" and "undecodable".
        unlisted: images that the reader's lists leave out.
        statistics: `statistics.describe` of the rows whose files can be read; none if the rows
            themselves cannot.
        chance: metric -> what a random ranking scores; empty without queries or database.
    """

    dataset: str
    findings: tuple[Finding, ...]
    files: Mapping[str, int] = field(default_factory=dict)
    unlisted: int = 0
    statistics: Mapping[str, Any] = field(default_factory=dict)
    chance: Mapping[str, float] = field(default_factory=dict)

    @property
    def passes(self) -> bool:
        """Whether the stages would take it."""
        return not any(finding.level == "refused" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "dataset": self.dataset,
            "passes": self.passes,
            "findings": [vars(finding) for finding in self.findings],
            "files": dict(self.files),
            "unlisted": self.unlisted,
            "statistics": dict(self.statistics),
            "chance": dict(self.chance),
        }


@dataclass(frozen=True)
class _File:
    """One file: its sha256, and why it is of no use if it is of none."""

    digest: str = ""
    lost: str = ""  # it is not there, or may not be read
    damage: str = ""  # it does not decode

    @property
    def usable(self) -> bool:
        return not self.lost and not self.damage


def inspect(
    params: Params,
    dataset: str,
    *,
    threads: int | None = None,
    on_progress: Progress = lambda done, total: None,
) -> Inspection:
    """Look at one dataset's raw folder as the stages `dataset` and `preprocess` will.

    Args:
        params: the settings.
        dataset: a name among `datasets`.
        threads: default: one a core.
        on_progress: called in the caller's thread.

    Raises:
        InputError: an unknown name; whatever is wrong with the data is a finding.
    """
    root, options = params.root(dataset), _options(params, dataset)
    try:
        rows = _rows(params, dataset, options)
    except InputError as error:
        return Inspection(dataset, (Finding("refused", str(error)),))
    small = np.empty((len(rows), duplicates.SIDE, duplicates.SIDE), dtype=np.uint8)
    files = _look(root, rows["path"].tolist(), small, threads or cores(), on_progress)
    usable = np.array([file.usable for file in files])
    kept = rows[usable].reset_index(drop=True)
    kept["sha256"] = [file.digest for file in files if file.usable]
    kept.attrs = rows.attrs
    statistics = describe(kept, small if usable.all() else small[usable])
    chances = _chance(kept, params.evaluate.cutoffs)
    findings = [Finding("refused", text) for text in _broken_rules(rows, files, options.damaged)]
    findings += [*_spoilt(files, options.damaged), *_doubts(statistics, chances)]
    return Inspection(
        dataset,
        tuple(sorted(findings, key=lambda finding: finding.level != "refused")),
        {
            "all": len(files),
            "missing": sum(bool(file.lost) for file in files),
            "undecodable": sum(bool(file.damage) for file in files),
        },
        rows.attrs.get("unlisted", 0),
        statistics,
        chances,
    )


def _options(params: Params, dataset: str) -> Source:
    return datasets.options(params.section(dataset).source, where=f"dataset.{dataset}.source")


def _rows(params: Params, dataset: str, options: Source) -> pd.DataFrame:
    """The labelled rows, as the reader has them; `attrs["unlabelled"]` counts the others.

    Raises:
        InputError: the reader or the columns' rules refuse them, or none has a label.
    """
    reader, root = params.section(dataset).source["reader"], params.root(dataset)
    frame: pd.DataFrame = datasets.READERS[reader].read(root, options)
    return manifest.labelled(frame, root)


def _look(
    root: Path,
    paths: Sequence[str],
    small: NDArray[np.uint8],
    threads: int,
    on_progress: Progress,
) -> list[_File]:
    """Read, hash and decode every file, in threads: one picture a thread is in memory.

    Args:
        root: the raw root.
        paths: below it.
        small: uint8 (N, side, side), which receives the luma of those that decode.
        threads: how many.
        on_progress: as in `inspect`.
    """

    def look(rows: range) -> list[_File]:
        plain = [paths[row] for row in rows if manifest.plain(paths[row])]
        digests = dict(zip(plain, manifest.digest_each(root, plain), strict=True))
        return [_look_at(root, paths[row], digests.get(paths[row]), small[row]) for row in rows]

    files: list[_File] = []
    starts = range(0, len(paths), CHUNK)
    pool = ThreadPoolExecutor(threads)
    try:
        for part in pool.map(look, [range(i, min(i + CHUNK, len(paths))) for i in starts]):
            files += part
            on_progress(len(files), len(paths))
    finally:
        pool.shutdown(cancel_futures=True)
    return files


def _look_at(root: Path, path: str, digest: str | None, small: NDArray[np.uint8]) -> _File:
    """One file, whose digest is the manifest's; its luma is written to `small`, (side, side)."""
    if digest is None:
        return _File(lost=f"{path!r}: not a plain path relative to the folder")
    if digest == manifest.OUTSIDE:
        return _File(lost=f"{path}: a link that leads out of the folder")
    try:
        data = (root / path).read_bytes()
        small[:] = decode(data, size=len(small), channels=1, name=path)[..., 0]
    except OSError as error:
        return _File(lost=f"{path}: {error.strerror}")
    except InputError as error:
        return _File(digest, damage=str(error))
    return _File(digest)


def _broken_rules(rows: pd.DataFrame, files: Sequence[_File], allowed: float) -> list[str]:
    """Of all rows, and of those that stay where damaged files are left out."""
    broken = list(manifest.broken_rules(rows))
    damaged = np.array([bool(file.damage) for file in files])
    if 0 < damaged.sum() <= allowed * len(files):
        kept = rows[~damaged].reset_index(drop=True)
        said = f"without {_counted(int(damaged.sum()), 'damaged file')}"
        broken += [f"{said}: {text}" for text in manifest.broken_rules(kept) if text not in broken]
    return broken


def _spoilt(files: Sequence[_File], damaged: float) -> Iterator[Finding]:
    """What is told of files that are of no use; a share of damaged ones may be allowed."""
    lost = [file.lost for file in files if file.lost]
    damage = [file.damage for file in files if file.damage]
    total = f"of {len(files):,}"
    if lost:
        text = f"{_counted(len(lost), 'file')} {total} cannot be read; add them or drop their rows"
        yield Finding("refused", text + _listed(lost))
    if len(damage) > damaged * len(files):
        text = f"{_counted(len(damage), 'file')} {total} cannot be decoded; replace them, or "
        text += leave_out(len(damage), len(files))
        yield Finding("refused", text + _listed(damage))
    elif damage:
        text = f"{_counted(len(damage), 'file')} {total} cannot be decoded and will be left out"
        yield Finding("warning", text + _listed(damage))


def _listed(reasons: Sequence[str]) -> str:
    """The first five, a line each."""
    more = [f"and {len(reasons) - NAMED:,} more"] * (len(reasons) > NAMED)
    return "".join(f"\n  {line}" for line in [*reasons[:NAMED], *more])


def _chance(rows: pd.DataFrame, cutoffs: Sequence[int | None]) -> dict[str, float]:
    labels = manifest.label_matrix(rows)
    queries, database = manifest.query_rows(rows), manifest.database_rows(rows)
    if not len(queries) or not len(database):
        return {}
    return chance(labels[queries], labels[database], cutoffs=cutoffs)


def _doubts(statistics: Mapping[str, Any], chances: Mapping[str, float]) -> Iterator[Finding]:
    """What no stage refuses and yet spoils scores."""
    for kind in ("exact", "near"):
        for found in statistics["duplicates"][kind]:
            if found["rows"]:
                rows = statistics["rows"][found["split"]]
                yield Finding("warning", _copies(found, rows, exact=kind == "exact"))
    for part, noun, consequence in (
        ("train", "training", "nothing of them can be learned"),
        ("query", "query", "nothing of them is measured"),
        ("database", "database", "no query can find them"),
    ):
        counts = statistics["labels_by_split"][part]
        if absent := [name for name, count in counts.items() if not count]:
            text = f"labels without a {noun} row: {first_five(absent)}; {consequence}"
            yield Finding("warning", text)
    if empty := int(chances.get("queries_without_relevant", 0)):
        text = f"queries that share no label with any database row: {empty:,}; each scores 0"
        yield Finding("warning", text)


def _copies(found: Mapping[str, Any], rows: int, *, exact: bool) -> str:
    """Copies across two splits in words."""
    noun = {"query": ("query", "queries"), "train": ("training row", "training rows")}
    where = {"database": "the database", "train": "the training rows"}[found["other"]]
    consequence = {
        ("query", "database"): "such a query finds its own picture, which raises every score",
        ("query", "train"): "their labels were learned, which raises every score",
        ("train", "database"): "what is searched was learned in part, which raises scores",
    }[found["split"], found["other"]]
    examples = [
        f"{image} and {copy}" + ("" if exact else f" ({alike:.3f})")
        for image, copy, alike in found["examples"]
    ]
    return (
        f"{_counted(found['rows'], *noun[found['split']])} of {rows:,} also in {where}, "
        f"{'equal to the byte' if exact else 'nearly the same to the eye'}: "
        f"{', '.join(examples)}; {consequence}"
    )


def _counted(count: int, one: str, many: str = "") -> str:
    """A number with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
