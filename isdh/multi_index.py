"""Packed codes -> all within a small Hamming radius, without looking at the others. Exact.

Multi-index hashing (Norouzi, Punjani and Fleet, CVPR 2012): a code is cut into m parts of about
log2 N bits, and a table for each part lists the rows by that part's value. With r = a m + e, codes
at a distance of at most r differ in at most a bits of one of the first e + 1 parts, or in at most
a - 1 of one of the others: if all of them differed in more, they would differ in (e + 1)(a + 1) +
(m - e - 1) a = r + 1 bits at least. So the rows to look at stand under few values of each part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isdh._kernels import _compiled, popcount
from isdh.codes import _words, pack

# What looking at a row in a table costs, and looking a value up in one, in rows of a scan.
ROW, VALUE = 4, 256
WIDEST = 24  # bits of a part: 64 MB of starts
Keys = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Plan:
    """Where codes within a radius stand.

    Attributes:
        radii: in how many bits a code may differ from the query, in each of the first parts; int64.
        flips: what to flip of a part's value, uint64, one part after another.
        bounds: where those of each part begin, int64 (parts + 1,).
    """

    radii: NDArray[np.int64]
    flips: NDArray[np.uint64]
    bounds: NDArray[np.int64]


class MultiIndex:
    """Tables of the parts of codes. A table is made when a radius first needs it.

    Codes are copied into each table, in its order: those that are looked at together lie together.

    Args:
        codes: uint8 (N, at least ceil(bits / 8)), kept as they are.
        bits: the length of a code.
    """

    def __init__(self, codes: NDArray[np.uint8], bits: int) -> None:
        self.codes = codes
        self.bits = bits
        rows = len(codes)
        parts = -(-bits // min(max(rows.bit_length() - 1, 4), WIDEST))
        cuts = np.arange(parts + 1) * bits // parts
        self.first_bits, self.widths = cuts[:-1], np.diff(cuts)
        self.masks = _words(
            pack([[first <= bit < last for bit in range(bits)] for first, last in pairwise(cuts)])
        )
        number = np.int32 if rows < 1 << 31 else np.int64
        # memory is taken as it is written to: tables that are not made take none
        self.starts = np.zeros((parts, (1 << int(self.widths.max())) + 1), number)
        self.order = np.empty((parts, rows), number)
        self.words = np.empty((parts, rows, -(-bits // 64)), np.uint64)
        self.made = 0  # tables
        self.making = Lock()
        self.most_rows, self.most_values = rows // ROW, rows // VALUE  # of more, a scan is faster
        self.plans: dict[int, Plan | None] = {}
        self.position_bits, self.distance_bits = rows.bit_length(), bits.bit_length()

    @property
    def nbytes(self) -> int:
        """What the tables that are made take."""
        return sum(each[: self.made].nbytes for each in (self.starts, self.order, self.words))

    def plan(self, radius: int) -> Plan | None:
        """How to find what lies within a radius; None: a scan of all codes is faster."""
        if radius not in self.plans:
            self.plans[radius] = self._plan(radius)
        return self.plans[radius]

    def _plan(self, radius: int) -> Plan | None:
        whole, rest = divmod(radius, len(self.widths))
        radii = [whole + (part <= rest) - 1 for part in range(len(self.widths))]
        needed = [(r, int(width)) for r, width in zip(radii, self.widths, strict=True) if r >= 0]
        counts = [sum(comb(width, bits) for bits in range(r + 1)) for r, width in needed]
        if sum(counts) > self.most_values:
            return None
        return Plan(
            np.array([r for r, _ in needed]),
            np.array([flip for r, width in needed for flip in _flips(width, r)], np.uint64),
            np.concatenate([[0], np.cumsum(counts)]),
        )

    def find(self, queries: NDArray[np.uint64], radius: int) -> tuple[Keys, NDArray[np.bool_]]:
        """Rows at a distance of at most `radius`.

        Args:
            queries: words (Q, ceil(bits / 64)).
            radius: one that there is a plan for.

        Returns:
            A key for each found, in no order: query, distance and position, from the highest bits
            to the lowest, of which the position takes `position_bits` and the distance
            `distance_bits`. And bool (Q,), true for a query that was left out, because a scan is
            faster.
        """
        plan = self.plan(radius)
        assert plan is not None
        self._make(len(plan.radii))
        left_out = np.zeros(len(queries), np.bool_)
        keys = _find(
            queries,
            self.first_bits,
            self.widths,
            self.masks,
            plan.radii,
            plan.flips,
            plan.bounds,
            self.starts,
            self.order,
            self.words,
            radius,
            self.most_rows,
            left_out,
            self.distance_bits,
            self.position_bits,
        )
        return keys, left_out

    def _make(self, tables: int) -> None:
        """Make the tables of the first parts that are not made yet."""
        with self.making:
            if self.made >= tables:
                return
            codes = _words(self.codes)
            for part in range(self.made, tables):
                first, width = int(self.first_bits[part]), int(self.widths[part])
                _sort(codes, first, width, self.starts[part], self.order[part], self.words[part])
                self.made += 1


def _flips(width: int, radius: int) -> Iterator[int]:
    """All words of so many bits with at most `radius` of them set."""
    for count in range(radius + 1):
        for chosen in combinations(range(width), count):
            yield sum(1 << bit for bit in chosen)


@_compiled
def _part(words: Any, first: int, width: int) -> Any:
    """Bits first to first + width of a code."""
    word, offset = first >> 6, np.uint64(first & 63)
    value = words[word] >> offset
    if (first & 63) + width > 64:
        value |= words[word + 1] << (np.uint64(64) - offset)
    return value & ((np.uint64(1) << np.uint64(width)) - np.uint64(1))


@_compiled
def _sort(codes: Any, first: int, width: int, starts: Any, order: Any, words: Any) -> None:
    """Put codes in the order of a part's value, by counting; a value's begin at starts[value]."""
    starts[:] = 0
    for row in range(len(codes)):
        starts[_part(codes[row], first, width) + np.uint64(1)] += 1
    for value in range(1, len(starts)):
        starts[value] += starts[value - 1]
    free = starts[:-1].copy()
    for row in range(len(codes)):
        value = _part(codes[row], first, width)
        order[free[value]] = row
        words[free[value]] = codes[row]
        free[value] += 1


@_compiled
def _find(
    queries: Any,
    first_bits: Any,
    widths: Any,
    masks: Any,
    radii: Any,
    flips: Any,
    bounds: Any,
    starts: Any,
    order: Any,
    words: Any,
    radius: int,
    limit: int,
    left_out: Any,
    distance_bits: int,
    position_bits: int,
) -> Any:
    """Keys of the rows within the radius, but of queries for which tables name too many rows."""
    values = np.empty(len(radii), np.uint64)
    places = np.empty(0, np.int64)
    keys = np.empty(256, np.int64)
    count = 0
    for query in range(len(queries)):
        code = queries[query]
        named = 0
        for part in range(len(radii)):
            values[part] = _part(code, first_bits[part], widths[part])
            for flip in flips[bounds[part] : bounds[part + 1]]:
                value = values[part] ^ flip
                named += starts[part, value + np.uint64(1)] - starts[part, value]
        if named > limit:
            left_out[query] = True
            continue
        if named > len(places):
            places = np.empty(2 * named, np.int64)
        for part in range(len(radii)):
            begins, rows, codes, before = starts[part], order[part], words[part], masks[:part]
            near = 0
            for flip in flips[bounds[part] : bounds[part + 1]]:
                value = values[part] ^ flip
                first, last = begins[value], begins[value + np.uint64(1)]
                near = _near(code, codes, first, last, radius, places, near)
            if count + near > len(keys):
                keys = np.concatenate((keys[:count], np.empty(count + near, np.int64)))
            count = _append(
                code, query, codes, rows, places[:near], before, radii,
                distance_bits, position_bits, keys, count,
            )  # fmt: skip
    return keys[:count]


@_compiled
def _near(
    code: Any, words: Any, first: int, last: int, radius: int, places: Any, count: int
) -> int:
    """Append to the `count` places those from first to last whose codes lie within the radius."""
    own, most = code[0], np.uint64(radius)
    if len(code) == 1:  # a loop without another one in it
        for place in range(first, last):
            places[count] = place  # to be written over, unless it counts: no branch to guess
            count += int(popcount(own ^ words[place, 0]) <= most)
        return count
    for place in range(first, last):
        distance = np.uint64(0)
        for word in range(len(code)):
            distance += popcount(code[word] ^ words[place, word])
        if distance <= most:
            places[count] = place
            count += 1
    return count


@_compiled
def _append(
    code: Any,
    query: int,
    codes: Any,
    rows: Any,
    places: Any,
    masks: Any,
    radii: Any,
    distance_bits: int,
    position_bits: int,
    keys: Any,
    count: int,
) -> int:
    """Append to the `count` keys those of places to which no part before, cut by masks, has led."""
    for place in places:
        is_known: Any = np.bool_(False)
        for part in range(len(masks)):
            differing = np.uint64(0)
            for word in range(len(code)):
                differing += popcount((code[word] ^ codes[place, word]) & masks[part, word])
            is_known |= differing <= np.uint64(radii[part])
        distance = np.uint64(0)
        for word in range(len(code)):
            distance += popcount(code[word] ^ codes[place, word])
        key = (query << distance_bits) | np.int64(distance)
        keys[count] = (key << position_bits) | rows[place]  # likewise
        count += int(not is_known)
    return count
