"""Slow oracles of retrieval: every order of a small database; histograms and neighbours by loops.

Written from the definitions of the metrics, one ranked list at a time, so that they share no
formula with `isdh.metrics`.
"""

from __future__ import annotations

from collections import Counter
from itertools import permutations, product
from math import log2

METRICS = ("map", "wap", "acg", "ndcg", "precision", "recall")


def metrics_of_order(shared: tuple[int, ...], k: int) -> dict[str, float]:
    """The metrics at k of one ranked list: how many labels each item shares, nearest first."""
    k = min(k, len(shared))
    relevant_in_all = sum(1 for r in shared if r > 0)
    relevant, shared_so_far = 0, 0
    average_precision, weighted_precision, gain = 0.0, 0.0, 0.0
    for rank, r in enumerate(shared[:k], start=1):
        shared_so_far += r
        if r > 0:
            relevant += 1
            average_precision += relevant / rank
            weighted_precision += shared_so_far / rank
        gain += (2**r - 1) / log2(1 + rank)
    best_gain = 0.0
    for rank, r in enumerate(sorted(shared, reverse=True)[:k], start=1):
        best_gain += (2**r - 1) / log2(1 + rank)
    return {
        "map": average_precision / relevant if relevant else 0.0,
        "wap": weighted_precision / relevant if relevant else 0.0,
        "acg": shared_so_far / k,
        "ndcg": gain / best_gain if best_gain else 0.0,
        "precision": relevant / k,
        "recall": relevant / relevant_in_all if relevant_in_all else 0.0,
    }


def expected_metrics(distances: list[int], shared: list[int], k: int) -> dict[str, float]:
    """The mean of the metrics at k over every order of the items inside each tie."""
    ties: dict[int, list[int]] = {}
    for distance, r in zip(distances, shared, strict=True):
        ties.setdefault(distance, []).append(r)
    orders: Counter[tuple[int, ...]] = Counter()
    for parts in product(*(list(permutations(ties[distance])) for distance in sorted(ties))):
        orders[tuple(r for part in parts for r in part)] += 1
    means = dict.fromkeys(METRICS, 0.0)
    for order, times in orders.items():
        for name, value in metrics_of_order(order, k).items():
            means[name] += value * times
    return {name: total / orders.total() for name, total in means.items()}


def within_radius(distances: list[int], shared: list[int], radius: int) -> tuple[float, float]:
    """Precision and recall of the items at a distance of at most `radius`; an empty ball is 0."""
    ball = [r for distance, r in zip(distances, shared, strict=True) if distance <= radius]
    hits = sum(1 for r in ball if r > 0)
    relevant = sum(1 for r in shared if r > 0)
    return (hits / len(ball) if ball else 0.0), (hits / relevant if relevant else 0.0)


def hamming(a: list[int], b: list[int]) -> int:
    """Distance of two codes given as 0/1 lists."""
    return sum(1 for x, y in zip(a, b, strict=True) if x != y)


def shared_labels(a: list[int], b: list[int]) -> int:
    """How many labels two 0/1 rows share."""
    return sum(1 for x, y in zip(a, b, strict=True) if x and y)


def joint_histogram(
    query_bits: list[list[int]],
    query_labels: list[list[int]],
    database_bits: list[list[int]],
    database_labels: list[list[int]],
) -> list[list[list[int]]]:
    """Counts by query, distance and shared labels."""
    most = max(sum(row) for row in query_labels)
    histogram = []
    for code, labels in zip(query_bits, query_labels, strict=True):
        counts = [[0] * (most + 1) for _ in range(len(code) + 1)]
        for other, other_labels in zip(database_bits, database_labels, strict=True):
            counts[hamming(code, other)][shared_labels(labels, other_labels)] += 1
        histogram.append(counts)
    return histogram


def nearest(query: list[int], collection: list[list[int]]) -> list[tuple[int, int]]:
    """(distance, position) of every item, by distance, then position."""
    return sorted((hamming(query, code), position) for position, code in enumerate(collection))
