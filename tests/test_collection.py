"""A collection's search against a slow one: filters, ties, what is left out, at any code length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isdh.codes import hamming_distances, pack
from isdh.collection import Collection
from isdh.errors import InputError


def made(generator: np.random.Generator, bits: int, rows: int) -> Collection:
    searched = np.flatnonzero(generator.random(rows) < 0.7)
    if not len(searched):
        searched = np.array([0])
    return Collection.of(
        bits,
        images=[f"image {row}" for row in range(rows)],
        files=[Path()] * rows,
        splits=["database"] * rows,
        label_names=["a", "b", "c"],
        labels=generator.random((rows, 3)) < 0.5,
        codes=pack(generator.normal(size=(rows, bits))),
        searched=searched,
    )


@settings(deadline=None)
@given(
    seed=st.integers(0, 1000),
    bits=st.sampled_from([1, 3, 12, 36, 64, 70]),
    rows=st.integers(1, 60),
    k=st.integers(1, 70),
    radius=st.none() | st.integers(0, 70),
    labels=st.sets(st.integers(0, 2)),
    own=st.booleans(),
)
def test_what_is_found_is_what_a_look_at_every_row_finds(seed, bits, rows, k, radius, labels, own):
    generator = np.random.default_rng(seed)
    collection = made(generator, bits, rows)
    row = int(generator.integers(rows))
    code = collection.codes[row]
    found = collection.search(
        code, k=k, radius=radius, labels=sorted(labels), without=row if own else None
    )
    distances = hamming_distances(code[None], collection.codes, bits=bits)[0].tolist()
    matching = sorted(
        (distances[each], each)
        for each in collection.searched.tolist()
        if all(collection.labels[each, column] for column in labels)
        and (radius is None or distances[each] <= radius)
        and not (own and each == row)
    )
    assert list(zip(found.distances.tolist(), found.rows.tolist(), strict=True)) == matching[:k]
    assert found.matching == len(matching)
    last = matching[:k][-1][0] if matching else None
    assert found.tied == sum(distance == last for distance, _ in matching)


def test_unknown_labels_and_ids():
    collection = made(np.random.default_rng(0), 12, 5)
    assert collection.row("image 3") == 3
    assert collection.row("image 5") is None
    assert collection.label_columns(["c", "a"]) == [2, 0]
    with pytest.raises(InputError, match="'d'"):
        collection.label_columns(["d"])
