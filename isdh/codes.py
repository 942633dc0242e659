"""Real values -> packed codes; packed codes and labels -> Hamming distances, joint histograms.

Codes are uint8 (N, ceil(bits / 8)), little bit order, pad bits 0. Labels are bool or uint8 0/1
(N, C). The joint histogram holds all that the metrics need to know of a ranking: how many
database rows stand at each (distance, number of shared labels).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isdh.errors import InputError

__all__ = [
    "check_codes",
    "check_histogram",
    "check_labels",
    "hamming_distances",
    "joint_histogram",
    "pack",
    "unpack",
]


def pack(values: Any) -> NDArray[np.uint8]:
    """Packed codes of real values: bit = 1 iff value > 0.

    Args:
        values: (N, bits) numbers: array, nested list or torch tensor on any device.

    Returns:
        uint8 (N, ceil(bits / 8)), little bit order, pad bits 0.

    Raises:
        InputError: values are not a matrix of numbers with a column, or one of them is NaN.

    >>> pack([[0.3, -0.2, 0.0, 1.5]])
    array([[9]], dtype=uint8)
    """
    # A tensor compares itself, so that torch is not imported and bfloat16 and GPUs need no case.
    values = values if hasattr(values, "cpu") else np.asarray(values)
    if values.ndim != 2 or values.shape[1] < 1:
        raise InputError(
            f"values of shape {tuple(values.shape)}: a matrix (N, bits) with at least one column;"
            " pass one row of values per code"
        )
    if isinstance(values, np.ndarray) and values.dtype.kind not in "biuf":
        raise InputError(f"values of dtype {values.dtype}: real numbers; convert them first")
    if _as_bool(values != values).any():  # only NaN differs from itself
        raise InputError("values hold NaN: every value has a sign; mend the network's outputs")
    return np.packbits(_as_bool(values > 0), axis=1, bitorder="little")


def unpack(packed: ArrayLike, bits: int) -> NDArray[np.uint8]:
    """The bits of packed codes: uint8 0/1 (N, bits). The inverse of `pack` on signs.

    Raises:
        InputError: packed are not packed codes of so many bits.

    >>> unpack(pack([[0.3, -0.2, 0.0, 1.5]]), 4)
    array([[1, 0, 0, 1]], dtype=uint8)
    """
    codes = check_codes(packed, bits)
    return np.unpackbits(codes, axis=1, count=bits, bitorder="little")


def hamming_distances(
    query_codes: ArrayLike, database_codes: ArrayLike, *, bits: int
) -> NDArray[np.int32]:
    """Distances of all pairs, int32 (Q, D), held in memory: for small Q * D.

    Raises:
        InputError: an argument is not packed codes of so many bits.

    >>> hamming_distances(pack([[1, 1, -1]]), pack([[1, 1, 1], [-1, -1, 1]]), bits=3)
    array([[1, 3]], dtype=int32)
    """
    queries = _words(check_codes(query_codes, bits, "query codes"))
    database = _words(check_codes(database_codes, bits, "database codes"))
    distances = np.zeros((len(queries), len(database)), np.int32)
    for query_word, database_word in zip(queries.T, database.T, strict=True):
        distances += np.bitwise_count(query_word[:, None] ^ database_word)
    return distances


def joint_histogram(
    query_codes: ArrayLike,
    query_labels: ArrayLike,
    database_codes: ArrayLike,
    database_labels: ArrayLike,
    *,
    bits: int,
) -> NDArray[np.int64]:
    """How many database rows stand at each distance and share so many labels, per query.

    One pass over the database on one core, without the global interpreter lock. S, the largest
    number of labels of a query row, does not depend on the database: histograms of the shards of
    a database add up to the histogram of the whole.

    Args:
        query_codes: uint8 (Q, ceil(bits / 8)).
        query_labels: bool or uint8 0/1 (Q, C).
        database_codes: uint8 (D, ceil(bits / 8)).
        database_labels: bool or uint8 0/1 (D, C).
        bits: the length of a code.

    Returns:
        int64 (Q, bits + 1, S + 1), each query's entries summing to D.

    Raises:
        InputError: an argument has another dtype, shape or value, or no rows.

    >>> labels = np.eye(2, dtype=bool)
    >>> codes = pack([[1, 1, 1], [-1, 1, 1]])
    >>> joint_histogram(codes[:1], labels[:1], codes, labels, bits=3)
    array([[[0, 1],
            [1, 0],
            [0, 0],
            [0, 0]]])
    """
    from isdh import _kernels  # numba: not for those who only pack

    query_codes = check_codes(query_codes, bits, "query codes")
    database_codes = check_codes(database_codes, bits, "database codes")
    query_labels = check_labels(query_labels, len(query_codes), "query")
    database_labels = check_labels(database_labels, len(database_codes), "database")
    if query_labels.shape[1] != database_labels.shape[1]:
        raise InputError(
            f"query labels with {query_labels.shape[1]} columns, database labels with "
            f"{database_labels.shape[1]}: one column per label in both; pass the same label set"
        )
    largest = int(query_labels.sum(axis=1, dtype=np.int64).max())
    return _kernels.joint_histogram(
        _words(query_codes),
        _words(np.packbits(query_labels, axis=1)),
        np.ascontiguousarray(_words(database_codes).T),
        np.ascontiguousarray(_words(np.packbits(database_labels, axis=1)).T),
        bits + 1,
        largest + 1,
    )


def check_codes(codes: ArrayLike, bits: int, name: str = "codes") -> NDArray[np.uint8]:
    """The codes as an array, once they are packed codes of so many bits.

    Raises:
        InputError: bits below 1, another dtype or width, or a pad bit that is set.
    """
    if not isinstance(bits, int | np.integer) or bits < 1:
        raise InputError(f"bits={bits!r}: a whole number from 1; pass the bits used to encode")
    codes = np.asarray(codes)
    if codes.dtype != np.uint8 or codes.ndim != 2:
        raise InputError(
            f"{name} of dtype {codes.dtype} and shape {codes.shape}: uint8 (N, ceil(bits / 8));"
            " make them with isdh.codes.pack"
        )
    width = codes.shape[1]
    if width != -(-bits // 8):
        held = f"most {8 * width}" if bits > 8 * width else f"least {8 * width - 7}"
        raise InputError(
            f"bits={bits}: {name} of width {width} bytes hold at {held};"
            " pass the bits used to encode"
        )
    if bits % 8 and (codes[:, -1] >> (bits % 8)).any():
        raise InputError(
            f"bits={bits}: {name} have pad bits that are set, beyond the last bit of a code;"
            " pass the bits used to encode, in little bit order"
        )
    return codes


def check_labels(labels: ArrayLike, rows: int, name: str) -> NDArray[np.uint8]:
    """The labels as uint8, once they are 0/1 with as many rows as there are codes.

    Raises:
        InputError: no rows or columns, another dtype, length or value.
    """
    labels = np.asarray(labels)
    if labels.dtype not in (np.bool_, np.uint8) or labels.ndim != 2 or labels.shape[1] < 1:
        raise InputError(
            f"{name} labels of dtype {labels.dtype} and shape {labels.shape}: bool or uint8"
            " (N, C) with at least one column; pass multi-hot rows, such as labels.astype(bool)"
        )
    if len(labels) != rows:
        raise InputError(
            f"{len(labels)} rows of {name} labels for {rows} {name} codes: row i of one is row i"
            " of the other; pass both for the same rows"
        )
    if rows < 1:
        raise InputError(f"0 {name} rows: at least one; pass codes and labels of a {name} set")
    labels = labels.view(np.uint8)
    if labels.max() > 1:
        raise InputError(f"{name} labels hold {labels.max()}: 0 or 1; pass labels.astype(bool)")
    return labels


def check_histogram(histogram: ArrayLike) -> NDArray[np.int64]:
    """The joint histogram as int64, once it counts the rows of one database for every query.

    Raises:
        InputError: another dtype or shape, a negative entry, or totals that differ by query.
    """
    counts = np.asarray(histogram)
    if counts.dtype.kind not in "iu" or counts.ndim != 3 or 0 in counts.shape:
        raise InputError(
            f"histogram of dtype {counts.dtype} and shape {counts.shape}: integers"
            " (Q, bits + 1, S + 1); make it with isdh.codes.joint_histogram"
        )
    counts = counts.astype(np.int64, copy=False)
    sizes = counts.sum(axis=(1, 2))
    if counts.min() < 0 or sizes[0] < 1 or (sizes != sizes[0]).any():
        raise InputError(
            f"histogram of {sizes.min()} to {sizes.max()} database rows per query, smallest entry"
            f" {counts.min()}: every query counts every row of one database; sum the histograms"
            " of all shards for the same queries"
        )
    return counts


def _as_bool(answers: Any) -> NDArray[np.bool_]:
    """A boolean tensor or array as an array in main memory."""
    return np.asarray(answers.cpu() if hasattr(answers, "cpu") else answers)


def _words(packed: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Packed rows as 64-bit words (N, ceil(width / 8)), filled up with zeros."""
    rows, width = packed.shape
    filled = np.zeros((rows, -(-width // 8) * 8), np.uint8)
    filled[:, :width] = packed
    return filled.view(np.uint64)
