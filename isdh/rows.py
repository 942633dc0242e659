"""Rows that were computed before, by the content that they are of and by how they were computed.

A cache: bounded, never needed, safe to delete at any moment. One process appends blocks of rows
to a segment, a file of its own that no other process writes. So a process that is killed leaves
at most a block cut short, which is passed over, and processes side by side do not meet. Each row
carries a checksum. The segments least recently used go first.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import secrets
import shutil
import struct
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from isdh.errors import InputError

LIMIT = 10_000_000_000  # bytes
SEGMENT = 64 << 20  # bytes after which a segment is followed by another, or an eighth of the limit
MOST = "the least of ISDH_ROWS_BYTES and half of what is free"
SUFFIX = ".rows"
DIGEST = 32  # bytes of a sha256
MAGIC = b"isdhrow1"
HEAD = struct.Struct(
    "<8sII"
)  # magic, rows in the block, bytes a row; then digests, checksums, rows
CHECK = struct.Struct("<I")


class Rows:
    """The rows of one recipe; several processes may hold the same folder, one thread each.

    Args:
        folder: of the rows of all recipes; created when the first one is kept.
        recipe: all that determines a row except the content of its file, for JSON.
        limit: bytes that the folder may take, up to one segment a process more; and never more
            than half of what would be free without it. 0: nothing is kept, and nothing read.

    Attributes:
        stopped: why rows are no longer kept, once that failed; None: nothing has.
    """

    def __init__(self, folder: Path, recipe: Mapping[str, Any], *, limit: int = LIMIT) -> None:
        self.folder = folder
        text = json.dumps(recipe, sort_keys=True)
        self.recipe = hashlib.sha256(text.encode()).hexdigest()[:DIGEST]
        self.limit = limit
        self.stopped: str | None = None
        self._segment = self._new_segment()
        self._room = 0  # bytes that may be written before the folder is looked at again

    def load(self, digests: Sequence[str], width: int) -> Iterator[tuple[int, bytes]]:
        """Read what is there, in the order in which it lies on the disk.

        Args:
            digests: hex sha256 of the files that the rows are of; one may occur twice.
            width: bytes a row.

        Yields:
            A position in `digests`, at most once, and the bytes of its row.
        """
        if not self.limit:
            return
        wanted: dict[bytes, list[int]] = {}
        for position, text in enumerate(digests):
            wanted.setdefault(bytes.fromhex(text), []).append(position)
        for _, segment in _oldest_first(self.folder, self.recipe):
            found = 0
            for digest, row in _read(segment, wanted, width):
                found += 1
                for position in wanted.pop(digest):
                    yield position, row
            if found:
                with suppress(OSError):  # removed meanwhile, or not ours: it only goes sooner
                    os.utime(segment)

    def keep(self, digests: Sequence[str], rows: np.ndarray) -> None:
        """Keep rows for another time; where that fails, `stopped` says why, and no row is kept.

        Args:
            digests: as in `load`, a row each.
            rows: (N, ...).
        """
        if not self.limit or self.stopped is not None or not len(rows):
            return
        block = _block(digests, rows)
        try:
            self._append(block)
        except OSError as error:
            self.stopped = error.strerror or str(error)

    def make_way(self, place: Path, wanted: int) -> None:
        """Remove segments, least recently used first, that keep bytes from a place beside them."""
        if not self.limit or not _same_disk(self.folder, place):
            return
        for size, segment in _oldest_first(self.folder):
            if wanted <= 0:
                break
            with suppress(OSError):
                segment.unlink()
                wanted -= size

    def _append(self, block: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._size() + len(block) > min(SEGMENT, self.limit // 8):
            self._segment = self._new_segment()
            self._room = 0
        if len(block) > self._room:
            self._find_room(len(block))
        with self._segment.open("ab") as stream:
            stream.write(block)
        self._room -= len(block)

    def _find_room(self, wanted: int) -> None:
        segments = _oldest_first(self.folder)
        taken = sum(size for size, _ in segments)
        allowed = min(self.limit, (taken + shutil.disk_usage(self.folder).free) // 2)
        for size, segment in segments:
            if taken + wanted <= allowed:
                break
            if segment != self._segment:
                segment.unlink(missing_ok=True)
                taken -= size
        if taken + wanted > allowed:
            raise OSError(errno.ENOSPC, f"no room within {allowed:,} bytes, {MOST}")
        self._room = min(allowed - taken, SEGMENT)

    def _size(self) -> int:
        try:
            return self._segment.stat().st_size
        except FileNotFoundError:
            return 0

    def _new_segment(self) -> Path:
        return self.folder / f"{self.recipe}-{time.time_ns()}-{secrets.token_hex(4)}{SUFFIX}"


NOTHING_KEPT = Rows(Path(), {}, limit=0)


def limit(environment: Mapping[str, str]) -> int:
    """Bytes that kept rows may take, as ISDH_ROWS_BYTES says; 0: none are kept.

    Raises:
        InputError: not a number of bytes.
    """
    text = environment.get("ISDH_ROWS_BYTES", str(LIMIT))
    if not text.isdecimal():
        raise InputError(f"ISDH_ROWS_BYTES={text}: want a whole number of bytes; 0 keeps no rows")
    return int(text)


def sources(*modules: str) -> dict[str, str]:
    """Digests of modules' source, for a recipe; the modules are not imported.

    Returns:
        Name -> hex sha256.
    """
    digests = {}
    for name in modules:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ValueError(f"{name}: a module without source")
        digests[name] = hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()
    return digests


def versions(*packages: str) -> dict[str, str | None]:
    """Versions of packages, for a recipe; None: not installed."""
    found: dict[str, str | None] = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _block(digests: Sequence[str], rows: np.ndarray) -> bytes:
    keys = [bytes.fromhex(digest) for digest in digests]
    values = [row.tobytes() for row in rows]
    checks = [CHECK.pack(_check(*pair)) for pair in zip(keys, values, strict=True)]
    return b"".join([HEAD.pack(MAGIC, len(keys), len(values[0])), *keys, *checks, *values])


def _check(digest: bytes, row: bytes) -> int:
    return zlib.crc32(row, zlib.crc32(digest))


def _read(segment: Path, wanted: Mapping[bytes, Any], width: int) -> Iterator[tuple[bytes, bytes]]:
    """Digests and rows of a segment that are wanted when their turn comes, and whole.

    A segment that is damaged, cut short or gone ends early: the rest counts as not kept.
    """
    try:
        with segment.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            while (entries := _entries(stream, size, width)) is not None:
                start = stream.tell()
                for number, (digest, check) in enumerate(entries):
                    if digest not in wanted:
                        continue
                    stream.seek(start + number * width)
                    row = stream.read(width)
                    if _check(digest, row) == check:
                        yield digest, row
                stream.seek(start + len(entries) * width)
    except OSError:
        return


def _entries(stream: BinaryIO, size: int, width: int) -> list[tuple[bytes, int]] | None:
    """Digest and checksum of each row of the next block, whose rows follow; None: no more."""
    head = stream.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    magic, rows, found = HEAD.unpack(head)
    length = rows * (DIGEST + CHECK.size)
    if (magic, found) != (MAGIC, width) or stream.tell() + length + rows * width > size:
        return None
    keys = stream.read(length)
    checks = CHECK.iter_unpack(keys[rows * DIGEST :])
    return [(keys[DIGEST * n : DIGEST * (n + 1)], check) for n, (check,) in enumerate(checks)]


def _oldest_first(folder: Path, recipe: str = "") -> list[tuple[int, Path]]:
    """Size in bytes and path of every segment, or of one recipe's, least recently used first."""
    found = []
    with suppress(OSError):  # no folder yet, or no longer
        for entry in os.scandir(folder):
            if entry.name.startswith(recipe) and entry.name.endswith(SUFFIX):
                with suppress(OSError):  # another process removed it
                    status = entry.stat()
                    found.append((status.st_mtime_ns, entry.name, status.st_size))
    return [(size, folder / name) for _, name, size in sorted(found)]


def _same_disk(folder: Path, place: Path) -> bool:
    with suppress(OSError):
        return folder.stat().st_dev == place.stat().st_dev
    return False
