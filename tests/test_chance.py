from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from isdh.chance import chance
from isdh.errors import InputError


def test_chance_is_the_mean_over_all_orders_of_the_database():
    rng = np.random.default_rng(0)
    queries, database = rng.random((3, 4)) < 0.5, rng.random((5, 4)) < 0.5
    queries[1] = [True, False, False, True]
    shared = queries.astype(int) @ database.T
    assert (shared > 0).any(axis=1).all()
    precision, gain, average = [], [], []
    for row in shared:
        for order in permutations(row.tolist()):
            hits = np.array(order) > 0
            precision.append(hits[:2].mean())
            gain.append(np.mean(order[:2]))
            ranks = np.flatnonzero(hits[:2]) + 1
            average.append(sum((i + 1) / rank for i, rank in enumerate(ranks)) / max(len(ranks), 1))
    found = chance(queries, database, cutoffs=[2])
    assert found["precision_at_2"] == pytest.approx(np.mean(precision))
    assert found["acg_at_2"] == pytest.approx(np.mean(gain))
    assert found["map_at_2"] == pytest.approx(np.mean(average))
    assert found["recall_within_r2"] == 1.0  # all are at distance 0


def test_a_database_that_shares_nothing_is_counted_and_no_database_refused():
    labels = np.eye(2, dtype=bool)
    assert chance(labels[:1], labels[1:])["queries_without_relevant"] == 1
    with pytest.raises(InputError):
        chance(labels, labels[:0])
