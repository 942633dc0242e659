"""A .npy file whose rows come in any order: its space taken first, in its place at the end."""

from __future__ import annotations

import errno
import io
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from isdh.artifacts import replacing
from isdh.errors import InputError

Write = Callable[[Sequence[int], Any], None]  # positions in an array, and the rows that go there
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def new_array(
    path: Path,
    shape: tuple[int, ...],
    dtype: Any,
    *,
    make_way: Callable[[int], None] = lambda wanted: None,
) -> Iterator[Write]:
    """Write an array, byte for byte as numpy.save would; every row has to be written.

    Args:
        path: a .npy file; it is replaced at the end, and as it was if the body raises.
        shape: of the array.
        dtype: of the array.
        make_way: called with the bytes that the disk lacks, to free them if it can.

    Yields:
        What writes rows: C-contiguous values at positions.

    Raises:
        InputError: no space on the disk, at the start or later; the bytes needed are named.
    """
    header, width = _header(shape, dtype), row_bytes(shape[1:], dtype)
    needed = len(header) + shape[0] * width
    path.parent.mkdir(parents=True, exist_ok=True)
    if (lacking := needed - _free(path)) > 0:
        make_way(lacking)
    if needed > _free(path):
        raise _too_small(path, needed)
    try:
        with replacing(path) as stream:
            _reserve(stream.fileno(), needed)
            stream.write(header)

            def write(positions: Sequence[int], values: Any) -> None:
                for position, value in zip(positions, values, strict=True):
                    stream.seek(len(header) + position * width)
                    stream.write(value)

            yield write
    except OSError as error:
        if error.errno in NO_SPACE:
            raise _too_small(path, needed) from None
        raise


def row_bytes(shape: tuple[int, ...], dtype: Any) -> int:
    """Bytes of a row of some shape."""
    return math.prod(shape) * int(np.dtype(dtype).itemsize)


def _header(shape: tuple[int, ...], dtype: Any) -> bytes:
    stream = io.BytesIO()
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False}
    np.lib.format.write_array_header_1_0(stream, {**header, "shape": shape})
    return stream.getvalue()


def _reserve(descriptor: int, size: int) -> None:
    """Take a file's space before hours are spent on what goes there."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise  # any other: a file system without such a thing


def _free(path: Path) -> int:
    return shutil.disk_usage(path.parent).free


def _too_small(path: Path, needed: int) -> InputError:
    return InputError(
        f"{path}: {needed:,} bytes are needed and {_free(path):,} are free there; free the rest, "
        "or put the project on a larger disk"
    )
