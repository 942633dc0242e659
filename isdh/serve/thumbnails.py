"""Picture files -> small WebP pictures, the last ones kept in memory."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from isdh.errors import InputError
from isdh.images import thumbnail

SIDES = {"small": 192, "large": 512}  # pixels
MOST_BYTES = 64_000_000  # kept


@dataclass(frozen=True)
class Thumbnail:
    """A small picture: the bytes of a WebP file, and a tag that differs where they do."""

    data: bytes
    tag: str


class Thumbnails:
    """Makes small pictures, from whichever thread."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Path, str, int], Thumbnail] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def of(self, path: Path, size: str) -> Thumbnail:
        """A picture's small one.

        Args:
            path: of its file.
            size: a key of SIDES.

        Raises:
            InputError: no such file, or it does not decode.
        """
        try:
            key = (path, size, path.stat().st_mtime_ns)
            with self._lock:
                if found := self._kept.get(key):
                    self._kept.move_to_end(key)
                    return found
            data = path.read_bytes()
        except OSError:
            raise InputError("its file is not on this machine") from None
        stream = BytesIO()
        small = thumbnail(data, side=SIDES[size], name="its file")
        small.save(stream, "WEBP", quality=80, method=2)
        made = Thumbnail(stream.getvalue(), hashlib.sha256(stream.getbuffer()).hexdigest()[:32])
        self._keep(key, made)
        return made

    def _keep(self, key: tuple[Path, str, int], made: Thumbnail) -> None:
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = made
            self._bytes += len(made.data)
            while self._bytes > MOST_BYTES:
                _, old = self._kept.popitem(last=False)
                self._bytes -= len(old.data)
