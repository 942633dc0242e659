"""Compiled inner loops of `codes` and `metrics`: words -> joint histogram; a cut tie -> moments.

Importing this module imports numba. The first call on a machine compiles for a few seconds, later
processes read the compiled code from the cache beside the module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

_Function = TypeVar("_Function", bound=Callable[..., Any])

# A sub-table counts a quarter of a block, which uint16 holds.
BLOCK = 32_768
# Cells of so many rows stay in the first-level cache between computing and counting them.
CHUNK = 1024
# Against a mode of weight 1, what lies beyond is lost in rounding.
NEGLIGIBLE = 1e-20


def _compiled(function: _Function) -> _Function:
    try:
        return cast(_Function, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # no folder to cache in: a read-only container, a user without a home
        return cast(_Function, numba.njit(nogil=True)(function))


def _popcount(context: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


popcount: Any = intrinsic(_popcount)


def joint_histogram(
    query_codes: NDArray[np.uint64],
    query_labels: NDArray[np.uint64],
    database_codes: NDArray[np.uint64],
    database_labels: NDArray[np.uint64],
    distances: int,
    shared: int,
) -> NDArray[np.int64]:
    """Counts by (distance, shared labels), int64 (Q, distances, shared).

    Args:
        query_codes: words (Q, words).
        query_labels: words (Q, words).
        database_codes: words (words, D): one word of all rows is contiguous, so that the popcounts
            of a chunk are vector instructions.
        database_labels: words (words, D).
        distances: how many different distances there are, bits + 1.
        shared: how many different numbers of shared labels there are, S + 1.
    """
    narrow = distances * shared <= 1 << 16
    cells = np.empty(CHUNK, np.uint16 if narrow else np.uint32)
    histogram = np.zeros((len(query_codes), distances * shared), np.int64)
    _count_all(query_codes, query_labels, database_codes, database_labels, shared, cells, histogram)
    return histogram.reshape(-1, distances, shared)


@_compiled
def _count_all(
    query_codes: Any,
    query_labels: Any,
    database_codes: Any,
    database_labels: Any,
    shared: int,
    cells: Any,
    histogram: Any,
) -> None:
    # Blocks outside, queries inside: a block is read from memory once, from the cache Q times.
    rows = database_codes.shape[1]
    tables = np.zeros((4, histogram.shape[1]), np.uint16)
    for start in range(0, rows, BLOCK):
        stop = min(start + BLOCK, rows)
        for query in range(len(query_codes)):
            for first in range(start, stop, CHUNK):
                chunk = cells[: min(CHUNK, stop - first)]
                _find_cells(
                    query_codes[query],
                    query_labels[query],
                    database_codes,
                    database_labels,
                    first,
                    shared,
                    chunk,
                )
                _count(chunk, tables)
            _flush(tables, histogram[query])


@_compiled
def _find_cells(
    query_code: Any,
    query_label: Any,
    database_codes: Any,
    database_labels: Any,
    first: int,
    shared: int,
    cells: Any,
) -> None:
    """The cell of each row from `first`: distance * shared + number of shared labels."""
    last = first + len(cells)
    width = np.uint64(shared)
    codes, labels = database_codes[0, first:last], database_labels[0, first:last]
    for row in range(len(cells)):
        distance = popcount(query_code[0] ^ codes[row])
        cells[row] = distance * width + popcount(query_label[0] & labels[row])
    for word in range(1, len(query_code)):
        codes = database_codes[word, first:last]
        for row in range(len(cells)):
            cells[row] += popcount(query_code[word] ^ codes[row]) * width
    for word in range(1, len(query_label)):
        labels = database_labels[word, first:last]
        for row in range(len(cells)):
            cells[row] += popcount(query_label[word] & labels[row])


@_compiled
def _count(cells: Any, tables: Any) -> None:
    """Add 1 at each cell.

    Rows take turns over four sub-tables: neighbours often meet in one cell, and a load of what was
    stored just before stalls.
    """
    table_0, table_1, table_2, table_3 = tables[0], tables[1], tables[2], tables[3]
    whole = len(cells) // 4 * 4
    for row in range(0, whole, 4):
        table_0[cells[row]] += 1
        table_1[cells[row + 1]] += 1
        table_2[cells[row + 2]] += 1
        table_3[cells[row + 3]] += 1
    for row in range(whole, len(cells)):
        table_0[cells[row]] += 1


@_compiled
def _flush(tables: Any, histogram: Any) -> None:
    """Move the counts of the sub-tables to a query's histogram."""
    table_0, table_1, table_2, table_3 = tables[0], tables[1], tables[2], tables[3]
    for cell in range(len(histogram)):
        half = np.int64(table_0[cell]) + np.int64(table_1[cell])
        histogram[cell] += half + np.int64(table_2[cell]) + np.int64(table_3[cell])
    tables[:] = 0


@_compiled
def cut_moments(
    items: NDArray[np.float64],
    relevant: NDArray[np.float64],
    places: NDArray[np.float64],
    relevant_before: NDArray[np.float64],
) -> NDArray[np.float64]:
    """E[1/(R+x)], E[x/(R+x)], E[x(x-1)/(R+x)] over x ~ hypergeometric(n, m, T), per query.

    Of a tie of n items, m of them relevant, T stand inside the cut-off; x of those are relevant,
    R stand before the tie. A term with R + x = 0 counts 0. Probabilities follow from their ratios,
    outwards from the mode, and are normalised at the end (docs/method.md, 4.3).

    Args:
        items: n, whole numbers as all the others, (Q,).
        relevant: m, (Q,).
        places: T, (Q,).
        relevant_before: R, (Q,).

    Returns:
        float64 (Q, 3).
    """
    moments = np.zeros((len(items), 3))
    for query in range(len(items)):
        n, m, t = items[query], relevant[query], places[query]
        before = relevant_before[query]
        others = n - m - t  # as many irrelevant items stand beyond the cut-off when x = 0
        low, high = max(0.0, -others), min(m, t)
        mode = min(max(np.floor((t + 1.0) * (m + 1.0) / (n + 2.0)), low), high)
        x, weight, total = mode, 1.0, 0.0
        while x > low and weight > NEGLIGIBLE:
            weight *= x * (others + x) / ((m - x + 1.0) * (t - x + 1.0))
            x -= 1.0
        while x <= mode or (x <= high and weight > NEGLIGIBLE):
            share = weight / (before + x) if before + x > 0.0 else 0.0
            moments[query, 0] += share
            moments[query, 1] += share * x
            moments[query, 2] += share * x * (x - 1.0)
            total += weight
            weight *= (m - x) * (t - x) / ((x + 1.0) * (others + x + 1.0))
            x += 1.0
        moments[query] /= total
    return moments
