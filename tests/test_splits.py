from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isdh.errors import InputError
from isdh.splits import draw


@given(st.integers(3, 60), st.integers(0, 2**32 - 1), st.data())
def test_counts_hold_and_only_labelled_rows_are_drawn(rows, seed, data):
    train = data.draw(st.integers(1, rows - 2))
    query = data.draw(st.integers(1, rows - train - 1))
    labelled = np.zeros(2 * rows, dtype=bool)
    labelled[np.random.default_rng([seed, 1]).permutation(2 * rows)[:rows]] = True
    split = draw(labelled, train=train, query=query, generator=np.random.default_rng(seed))
    assert np.count_nonzero(split == "train") == train
    assert np.count_nonzero(split == "query") == query
    assert set(split[~labelled]) == {"database"}


def test_every_row_is_drawn_equally_often():
    generator = np.random.default_rng(0)
    drawn = sum(
        draw(np.ones(10, bool), train=3, query=2, generator=generator) == "train"
        for _ in range(3000)
    )
    assert np.abs(drawn / 3000 - 0.3).max() < 0.04  # 4.8 standard deviations


def test_a_draw_that_leaves_no_database_is_refused():
    with pytest.raises(InputError, match=r"train=6, query=4: .* of the 10 labelled rows"):
        draw(np.ones(10, bool), train=6, query=4, generator=np.random.default_rng(0))
