"""The files of a manifest -> arrays of rows: verified and decoded in threads, written in order."""

from __future__ import annotations

import hashlib
import math
import os
import platform
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from isdh.arrays import Write, new_array, row_bytes
from isdh.errors import NAMED, InputError
from isdh.images import decode, decoders
from isdh.rows import NOTHING_KEPT, Rows, sources

Progress = Callable[[int, int], None]  # rows done, rows in all
DECODING = ("isdh.images",)  # the source that determines pixels


class UnreadableError(InputError):
    """Files that could not be decoded; `reasons` has a line for each of the first five."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = list(reasons[:NAMED])
        super().__init__("\n  ".join(self.reasons))


@dataclass(frozen=True)
class Pictures:
    """Image files, in manifest order, and the form in which they are wanted.

    Args:
        root: the raw root.
        paths: below the root, one a row.
        digests: hex sha256 of each file, as the manifest has them.
        size: pixels a side.
        channels: 1 or 3.
    """

    root: Path
    paths: Sequence[str]
    digests: Sequence[str]
    size: int
    channels: int = 3

    def __len__(self) -> int:
        return len(self.paths)

    def only(self, rows: Sequence[int]) -> Pictures:
        """Some of the files, in the order given."""
        paths, digests = [self.paths[row] for row in rows], [self.digests[row] for row in rows]
        return replace(self, paths=paths, digests=digests)

    def pixels(self, rows: range) -> np.ndarray:
        """Decode some rows, each verified against its digest.

        Returns:
            uint8 (len(rows), size, size, channels).

        Raises:
            UnreadableError: missing, altered or undecodable files, every one of the batch.
        """
        batch = np.empty((len(rows), self.size, self.size, self.channels), dtype=np.uint8)
        reasons = []
        for position, row in enumerate(rows):
            try:
                batch[position] = self.decode(row, self.read(row))
            except InputError as error:
                reasons.append(str(error))
        if reasons:
            raise UnreadableError(reasons)
        return batch

    @property
    def recipe(self) -> dict[str, Any]:
        """All that determines the pixels of a row, except its file."""
        return {
            "size": self.size,
            "channels": self.channels,
            "machine": platform.machine(),
            **decoders(),
            **sources(*DECODING),
        }

    def decode(self, row: int, data: bytes) -> np.ndarray:
        """A file's content: uint8 (size, size, channels)."""
        return decode(data, size=self.size, channels=self.channels, name=self.paths[row])

    def read(self, row: int) -> bytes:
        """A file, verified against its digest.

        Raises:
            InputError: it is missing or altered.
        """
        path = self.paths[row]
        try:
            data = (self.root / path).read_bytes()
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; restore it below {self.root}") from None
        if hashlib.sha256(data).hexdigest() != self.digests[row]:
            raise InputError(f"{path}: not the file of the manifest; run `dvc repro` again")
        return data


def cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_batches(
    pictures: Pictures,
    compute: Callable[[np.ndarray], np.ndarray],
    *,
    batch_size: int,
    threads: int | None = None,
    on_progress: Progress | None = None,
) -> Generator[np.ndarray, None, None]:
    """Decode batch by batch and compute on each batch's pixels, in threads.

    Batches are the same and come in row order whatever the number of threads; at most twice
    as many as threads are in memory.

    Args:
        pictures: the files.
        compute: pixels uint8 (n, size, size, channels) -> (n, ...).
        batch_size: n of every batch but the last.
        threads: default: one a core.
        on_progress: called after each batch, in the caller's thread.

    Raises:
        InputError: unreadable files; the first five are named, and nothing more is computed.
    """
    threads = threads or cores()
    failed = threading.Event()

    def work(rows: range) -> np.ndarray:
        try:
            pixels = pictures.pixels(rows)
        except UnreadableError:
            failed.set()
            raise
        return pixels if failed.is_set() else compute(pixels)

    reasons: list[str] = []
    with ThreadPoolExecutor(threads) as pool:
        for rows, future in _ahead(pool, work, len(pictures), batch_size, 2 * threads):
            try:
                result = future.result()
            except UnreadableError as error:
                reasons += error.reasons
            if len(reasons) >= NAMED:
                break
            if not failed.is_set():
                yield result
            if on_progress is not None:
                on_progress(rows.stop, len(pictures))
    if reasons:
        raise UnreadableError(reasons)


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[range], Any], rows: int, batch: int, depth: int
) -> Iterator[tuple[range, Future[Any]]]:
    """Futures of consecutive batches in order, with at most `depth` submitted and unread."""
    waiting: deque[tuple[range, Future[Any]]] = deque()
    try:
        for here in _parts(rows, batch):
            waiting.append((here, pool.submit(work, here)))
            if len(waiting) == depth:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        for _, future in waiting:
            future.cancel()


def write_rows(
    path: Path,
    pictures: Pictures,
    compute: Callable[[np.ndarray], np.ndarray],
    *,
    row: tuple[int, ...],
    dtype: Any,
    batch_size: int,
    rows: Rows = NOTHING_KEPT,
    threads: int | None = None,
    on_progress: Progress | None = None,
) -> int:
    """Write an array with a row for each picture, byte for byte as numpy.save would.

    A row that is kept under its picture's digest is copied, and its file is not read: the digest
    is the manifest's, so the row is of the content that the manifest means. The others are
    computed, and kept.

    Args:
        path: a .npy file; it is replaced when the last row has been written.
        pictures: the files.
        compute: pixels uint8 (n, size, size, channels) -> (n, *row), each row of its own pixels
            alone.
        row: shape of a row.
        dtype: of the array.
        batch_size: n of every batch but the last.
        rows: where rows are kept.
        threads: default: one a core.
        on_progress: called with rows done and rows in all; rows that were kept are done at once.

    Returns:
        How many rows were computed.

    Raises:
        InputError: unreadable files (the first five are named), or no space on the disk.
        ValueError: a batch of another dtype or shape.
    """
    total = len(pictures)
    make_way = partial(rows.make_way, path.parent)
    with new_array(path, (total, *row), dtype, make_way=make_way) as write:
        missing = _copy(rows, pictures.digests, row_bytes(row, dtype), write)
        todo, done = pictures.only(missing), total - len(missing)

        def reach(now: int, _: int) -> None:
            if on_progress is not None:
                on_progress(done + now, total)

        if done:
            reach(0, total)
        computed = map_batches(
            todo, compute, batch_size=batch_size, threads=threads, on_progress=reach
        )
        with closing(computed) as batches:
            for batch, here in zip(batches, _parts(len(todo), batch_size), strict=True):
                if batch.dtype != np.dtype(dtype) or batch.shape != (len(here), *row):
                    raise ValueError(f"batch {batch.dtype} {batch.shape}: want {dtype} {row} each")
                write([missing[i] for i in here], np.ascontiguousarray(batch))
                rows.keep([todo.digests[i] for i in here], batch)
    return len(todo)


def _copy(rows: Rows, digests: Sequence[str], width: int, write: Write) -> list[int]:
    """Write the rows that are kept, and return the positions of the others."""
    kept = set()
    for position, data in rows.load(digests, width):
        write([position], [data])
        kept.add(position)
    return [position for position in range(len(digests)) if position not in kept]


def _parts(rows: int, size: int) -> Iterator[range]:
    return (range(start, min(start + size, rows)) for start in range(0, rows, size))


def build_store(
    pictures: Pictures,
    path: Path,
    *,
    rows: Rows = NOTHING_KEPT,
    threads: int | None = None,
    on_progress: Progress | None = None,
) -> int:
    """Decode every file once and write the image store, uint8 (N, size, size, channels).

    Args:
        pictures: the files.
        path: the .npy file to write.
        rows: where decoded pictures are kept.
        threads: default: one a core.
        on_progress: called with rows done and rows in all.

    Returns:
        How many files were decoded.

    Raises:
        InputError: missing, altered or undecodable files (the first five are named), or no space
            on the disk.
    """
    return write_rows(
        path,
        pictures,
        lambda pixels: pixels,
        row=(pictures.size, pictures.size, pictures.channels),
        dtype=np.uint8,
        batch_size=64,
        rows=rows,
        threads=threads,
        on_progress=on_progress,
    )


def undecodable(
    pictures: Pictures,
    *,
    share: float,
    rows: Rows = NOTHING_KEPT,
    threads: int | None = None,
    on_progress: Progress | None = None,
) -> dict[int, str]:
    """Find the files that do not decode, so that their rows can be left out.

    Args:
        pictures: the files.
        share: of the files, how many may be among them.
        rows: where the pixels of those that decode are kept.
        threads: default: one a core.
        on_progress: called with rows done and rows in all.

    Returns:
        Row -> reason, ascending.

    Raises:
        InputError: more than the share (the first five are named), or a missing or altered file.
    """
    threads, damage = threads or cores(), {}
    width = row_bytes((pictures.size, pictures.size, pictures.channels), np.uint8)
    missing = _copy(rows, pictures.digests, width, lambda *_: None)
    done = len(pictures) - len(missing)

    def look(part: range) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        pixels, reasons = {}, {}
        for row in (missing[i] for i in part):
            data = pictures.read(row)
            try:
                pixels[pictures.digests[row]] = pictures.decode(row, data)
            except InputError as error:
                reasons[row] = str(error)
        return pixels, reasons

    if on_progress is not None and done:
        on_progress(done, len(pictures))
    with ThreadPoolExecutor(threads) as pool:
        for part, future in _ahead(pool, look, len(missing), 64, 2 * threads):
            pixels, reasons = future.result()
            damage.update(reasons)
            if pixels:
                rows.keep(list(pixels), np.stack(list(pixels.values())))
            if on_progress is not None:
                on_progress(done + part.stop, len(pictures))
    if len(damage) > share * len(pictures):
        raise InputError(
            f"{len(damage):,} of {len(pictures):,} files do not decode, more than damaged={share} "
            f"allows; replace them, or {leave_out(len(damage), len(pictures))}\n  "
            + "\n  ".join(list(damage.values())[:NAMED])
        )
    return damage


def leave_out(damaged: int, files: int) -> str:
    """How to do without so many damaged files of so many, in words for people."""
    enough = math.ceil(1000 * damaged / files) / 1000
    return f"leave them out: source: {{damaged: {enough}}}"
