"""HammingIndex against a sort of all (distance, position), ties and boundaries included."""

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isdh import codes
from isdh.errors import InputError
from isdh.index import HammingIndex
from tests.reference import ranking


def random_bits(rng, rows, bits):
    return rng.integers(0, 2, (rows, bits), dtype=np.uint8)


CASES = {
    "seed": st.integers(0, 2**32),
    "bits": st.integers(1, 70),
    "rows": st.integers(1, 60),
    "queries": st.integers(1, 40),
}


@settings(deadline=None, max_examples=60)
@given(k=st.integers(1, 70), **CASES)
def test_search_returns_the_nearest_with_ties_by_position(seed, bits, rows, queries, k):
    rng = np.random.default_rng(seed)
    collection, asked = random_bits(rng, rows, bits), random_bits(rng, queries, bits)
    distances, positions = HammingIndex(codes.pack(collection), bits).search(codes.pack(asked), k)
    assert (distances.dtype, positions.dtype) == (np.int32, np.int64)
    expected = np.array(
        [ranking.nearest(query, collection.tolist())[:k] for query in asked.tolist()]
    )
    np.testing.assert_array_equal(distances, expected[:, :, 0])
    np.testing.assert_array_equal(positions, expected[:, :, 1])


@settings(deadline=None, max_examples=60)
@given(radius=st.integers(0, 80), **CASES)
def test_within_returns_the_closed_ball_with_ties_by_position(seed, bits, rows, queries, radius):
    rng = np.random.default_rng(seed)
    collection, asked = random_bits(rng, rows, bits), random_bits(rng, queries, bits)
    index = HammingIndex(codes.pack(collection), bits)
    lims, distances, positions = index.within(codes.pack(asked), radius)
    assert (lims.dtype, distances.dtype, positions.dtype) == (np.int64, np.int32, np.int64)
    assert len(lims) == queries + 1
    assert len(distances) == len(positions) == lims[-1]
    for row, query in enumerate(asked.tolist()):
        ball = [pair for pair in ranking.nearest(query, collection.tolist()) if pair[0] <= radius]
        inside = slice(lims[row], lims[row + 1])
        found = zip(distances[inside].tolist(), positions[inside].tolist(), strict=True)
        assert list(found) == ball


@pytest.mark.parametrize("bits", [2, 12])
def test_of_the_items_tied_at_the_last_place_the_first_are_kept(bits):
    # More rows than FAISS scans in one go (65,536), almost all of them tied.
    rng = np.random.default_rng(0)
    packed = codes.pack(random_bits(rng, 70_000, bits))
    queries = packed[:3]
    distances = codes.hamming_distances(queries, packed, bits=bits)
    expected = np.argsort(distances, axis=1, kind="stable")
    index = HammingIndex(packed, bits)
    for k in (1, 5, 1000, 69_999, 70_000):
        found, positions = index.search(queries, k)
        np.testing.assert_array_equal(positions, expected[:, :k])
        np.testing.assert_array_equal(found, np.take_along_axis(distances, expected[:, :k], 1))


def test_answers_do_not_depend_on_the_number_of_threads():
    rng = np.random.default_rng(0)
    packed = codes.pack(random_bits(rng, 5000, 12))
    index = HammingIndex(packed, 12)
    threads = faiss.omp_get_max_threads()
    answers = []
    try:
        for count in (1, 2, 5):
            faiss.omp_set_num_threads(count)
            answers.append((*index.search(packed[:50], 100), *index.within(packed[:50], 2)))
    finally:
        faiss.omp_set_num_threads(threads)
    for answer in answers[1:]:
        for found, expected in zip(answer, answers[0], strict=True):
            np.testing.assert_array_equal(found, expected)


def test_k_beyond_the_collection_returns_the_whole_collection():
    index = HammingIndex(codes.pack(np.eye(5)), 5)
    distances, positions = index.search(codes.pack(np.eye(5)[:1]), 100)
    np.testing.assert_array_equal(distances, [[0, 2, 2, 2, 2]])
    np.testing.assert_array_equal(positions, [[0, 1, 2, 3, 4]])
    assert len(index) == 5


def test_a_collection_handed_over_as_a_strided_view_is_searched():
    packed = codes.pack(random_bits(np.random.default_rng(0), 40, 20))
    _, positions = HammingIndex(packed[::2], 20).search(packed[::4], 1)
    copied, _ = HammingIndex(packed[::2].copy(), 20).search(packed[::4].copy(), 1)
    assert (copied == 0).all()
    np.testing.assert_array_equal(packed[::2][positions[:, 0]], packed[::4])


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda index: index.search(codes.pack(np.eye(9)), 1), "bits=5: queries of width 2"),
        (lambda index: index.search(np.full((1, 1), 64, np.uint8), 1), "queries have pad bits"),
        (lambda index: index.search(codes.pack(np.eye(5)), 0), "k=0: a whole number from 1"),
        (lambda index: index.search(codes.pack(np.eye(5)), 2.5), "k=2.5: a whole number from 1"),
        (lambda index: index.within(codes.pack(np.eye(5)), -1), "radius=-1: a whole number from 0"),
        (lambda index: HammingIndex(np.zeros((0, 1), np.uint8), 5), "0 codes: a collection holds"),
        (lambda index: HammingIndex(np.zeros((1, 1), np.uint8), 9), "bits=9: codes of width 1"),
    ],
)
def test_index_refuses_at_the_door(ask, words):
    index = HammingIndex(codes.pack(np.eye(5)), 5)
    with pytest.raises(InputError, match=words):
        ask(index)
