"""Rank intervals (items before, places) -> sums of 1/i and of 1/log2(1 + i) over the places.

The discounts of average precision and of cumulative gain. Up to rank 4096 the sums come from a
table, beyond it from Euler and Maclaurin's formula,

    sum_{a < i <= b} f(i) = integral_a^b f + (f(b) - f(a)) / 2 + (f'(b) - f'(a)) / 12 + ...,

whose next term is below 1e-15 there: neither time nor memory grows with the database, and an
interval far from the top keeps its digits, which a difference of prefix sums would lose.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["sum_inverse", "sum_inverse_log"]

_Floats = NDArray[np.float64]

_TABLE = 4096
_RANKS = np.arange(1.0, _TABLE + 1)
_INVERSE = np.concatenate([[0.0], np.cumsum(1 / _RANKS)])
_INVERSE_LOG = np.concatenate([[0.0], np.cumsum(1 / np.log2(1 + _RANKS))])
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


def sum_inverse(before: _Floats, places: _Floats) -> _Floats:
    """sum_{t=1..T} 1 / (C + t) for C items before and T places, whole numbers as float64.

    >>> sum_inverse(np.array([0.0, 2.0]), np.array([2.0, 1.0]))
    array([1.5       , 0.33333333])
    """
    after = before + places
    a, b = np.maximum(before, _TABLE), np.maximum(after, _TABLE)
    beyond = np.log1p((b - a) / a) + (1 / b - 1 / a) / 2 - (1 / b**2 - 1 / a**2) / 12
    return _from_table(_INVERSE, before, after) + beyond


def sum_inverse_log(before: _Floats, places: _Floats) -> _Floats:
    """sum_{t=1..T} 1 / log2(1 + C + t) for C items before and T places, whole numbers as float64.

    >>> sum_inverse_log(np.array([0.0, 2.0]), np.array([1.0, 1.0]))
    array([1. , 0.5])
    """
    after = before + places
    sums = _from_table(_INVERSE_LOG, before, after)
    far = after > _TABLE
    a, b = 1 + np.maximum(before[far], _TABLE), 1 + after[far]
    log_a, log_b = np.log(a), np.log(b)
    # integral of 1 / log x = integral of e^u / u over u = log x: smooth, so 16 nodes suffice
    half = np.log1p((b - a) / a) / 2
    u = log_a[:, None] + half[:, None] * (1 + _NODES)
    integral = half * ((np.exp(u) / u) @ _WEIGHTS)
    ends = (1 / log_b - 1 / log_a) / 2 - (1 / (b * log_b**2) - 1 / (a * log_a**2)) / 12
    sums[far] += np.log(2) * (integral + ends)
    return sums


def _from_table(table: _Floats, before: _Floats, after: _Floats) -> _Floats:
    """The part of the sum up to the table's last rank."""
    first, last = (np.minimum(rank, _TABLE).astype(np.intp) for rank in (before, after))
    return table[last] - table[first]
