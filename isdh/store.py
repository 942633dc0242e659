"""The files of a manifest -> arrays of rows: verified and decoded in threads, written in order."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isdh.artifacts import replacing
from isdh.errors import NAMED, InputError
from isdh.images import decode

Progress = Callable[[int, int], None]  # rows done, rows in all


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
                batch[position] = self._decoded(row)
            except InputError as error:
                reasons.append(str(error))
        if reasons:
            raise UnreadableError(reasons)
        return batch

    def _decoded(self, row: int) -> np.ndarray:
        path = self.paths[row]
        try:
            data = (self.root / path).read_bytes()
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; restore it below {self.root}") from None
        if hashlib.sha256(data).hexdigest() != self.digests[row]:
            raise InputError(f"{path}: not the file of the manifest; run `dvc repro` again")
        return decode(data, size=self.size, channels=self.channels, name=path)


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
) -> Iterator[np.ndarray]:
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
        for start in range(0, rows, batch):
            here = range(start, min(start + batch, rows))
            waiting.append((here, pool.submit(work, here)))
            if len(waiting) == depth:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        for _, future in waiting:
            future.cancel()


def write_rows(
    path: Path, batches: Iterator[np.ndarray], *, shape: tuple[int, ...], dtype: Any
) -> None:
    """Write an array that comes in batches of rows, byte for byte as numpy.save would.

    Args:
        path: a .npy file; it is replaced when the last batch has been written.
        batches: (n, *shape[1:]) each, shape[0] rows in all.
        shape: of the whole array.
        dtype: of the array.

    Raises:
        ValueError: a batch of another dtype or row shape, or another number of rows in all.
    """
    written = 0
    with replacing(path) as stream:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False}
        np.lib.format.write_array_header_1_0(stream, {**header, "shape": shape})
        for batch in batches:
            if batch.dtype != np.dtype(dtype) or batch.shape[1:] != shape[1:]:
                raise ValueError(f"batch {batch.dtype} {batch.shape}: want {dtype} {shape}")
            stream.write(np.ascontiguousarray(batch).data)
            written += len(batch)
        if written != shape[0]:
            raise ValueError(f"{written} rows written, want {shape[0]}")


def build_store(
    pictures: Pictures,
    path: Path,
    *,
    threads: int | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Decode every file once and write the image store, uint8 (N, size, size, channels).

    Args:
        pictures: the files.
        path: the .npy file to write.
        threads: default: one a core.
        on_progress: called with rows done and rows in all.

    Raises:
        InputError: missing, altered or undecodable files; the first five are named.
    """
    shape = (len(pictures), pictures.size, pictures.size, pictures.channels)
    batches = map_batches(
        pictures, lambda pixels: pixels, batch_size=64, threads=threads, on_progress=on_progress
    )
    write_rows(path, batches, shape=shape, dtype=np.uint8)
