"""HammingIndex against a sort of all (distance, position), ties and boundaries included."""

from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isdh import codes
from isdh.approximate import ApproximateIndex
from isdh.errors import InputError
from isdh.index import HammingIndex
from isdh.multi_index import MultiIndex
from tests.reference import ranking


def random_bits(rng, rows, bits):
    return rng.integers(0, 2, (rows, bits), dtype=np.uint8)


def clustered(rng, rows, bits, *, centres=20, flips=0.05):
    """Bits of codes as learning makes them: many are near one another, some are equal."""
    middle = random_bits(rng, centres, bits)
    return middle[rng.integers(0, centres, rows)] ^ (rng.random((rows, bits)) < flips)


CASES = {
    "seed": st.integers(0, 2**32),
    "bits": st.integers(1, 70),
    "rows": st.integers(1, 60),
    "queries": st.integers(1, 40),
}


@settings(deadline=None, max_examples=60)
@given(k=st.integers(1, 70), padded=st.booleans(), **CASES)
def test_search_returns_the_nearest_with_ties_by_position(seed, bits, rows, queries, k, padded):
    rng = np.random.default_rng(seed)
    collection, asked = random_bits(rng, rows, bits), random_bits(rng, queries, bits)
    index = HammingIndex(codes.pack(collection), bits, padded=padded)
    distances, positions = index.search(codes.pack(asked), k)
    assert (distances.dtype, positions.dtype) == (np.int32, np.int64)
    expected = np.array(
        [ranking.nearest(query, collection.tolist())[:k] for query in asked.tolist()]
    )
    np.testing.assert_array_equal(distances, expected[:, :, 0])
    np.testing.assert_array_equal(positions, expected[:, :, 1])


@settings(deadline=None, max_examples=60)
@given(radius=st.integers(0, 80), padded=st.booleans(), **CASES)
def test_within_returns_the_closed_ball_with_ties_by_position(
    seed, bits, rows, queries, radius, padded
):
    rng = np.random.default_rng(seed)
    collection, asked = random_bits(rng, rows, bits), random_bits(rng, queries, bits)
    index = HammingIndex(codes.pack(collection), bits, padded=padded)
    lims, distances, positions = index.within(codes.pack(asked), radius)
    assert (lims.dtype, distances.dtype, positions.dtype) == (np.int64, np.int32, np.int64)
    assert len(lims) == queries + 1
    assert len(distances) == len(positions) == lims[-1]
    for row, query in enumerate(asked.tolist()):
        ball = [pair for pair in ranking.nearest(query, collection.tolist()) if pair[0] <= radius]
        inside = slice(lims[row], lims[row + 1])
        found = zip(distances[inside].tolist(), positions[inside].tolist(), strict=True)
        assert list(found) == ball


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 2**32),
    bits=st.integers(1, 140),
    rows=st.integers(1, 400),
    flips=st.sampled_from([0.0, 0.05, 0.5]),
)
def test_tables_find_all_within_every_radius_and_each_once(seed, bits, rows, flips):
    rng = np.random.default_rng(seed)
    collection = codes.pack(clustered(rng, rows, bits, flips=flips))
    asked = np.vstack([collection[:3], codes.pack(random_bits(rng, 2, bits))])
    tables = MultiIndex(collection, bits)
    tables.most_values = tables.most_rows = 20_000
    distances = codes.hamming_distances(asked, collection, bits=bits)
    radius = 0
    while radius <= bits and tables.plan(radius):
        keys, left_out = tables.find(codes._words(asked), radius)
        assert not left_out.any()
        query, position = np.nonzero(distances <= radius)
        near = (query << tables.distance_bits) | distances[query, position]
        expected = (near << tables.position_bits) | position
        np.testing.assert_array_equal(np.sort(keys), np.sort(expected))
        radius += 1
    assert radius > 0


@pytest.mark.parametrize("bits", [8, 12, 24, 36, 48, 64, 65, 128])
@pytest.mark.parametrize("padded", [False, True])
def test_within_is_exact_in_a_collection_that_has_tables(bits, padded):
    # Queries with few neighbours go by the tables, those with many by a scan, in one call.
    rng = np.random.default_rng(bits)
    lonely = random_bits(rng, 20_000, bits)
    crowded = clustered(rng, 5_000, bits, centres=2, flips=0.02)
    packed = codes.pack(np.vstack([lonely, crowded]))
    index = HammingIndex(packed, bits, padded=padded)
    queries = packed[[0, 24_000, 1, 24_001, 24_999, 2]]
    distances = codes.hamming_distances(queries, packed, bits=bits)
    for radius in range(7):
        lims, far, positions = index.within(queries, radius)
        for row in range(len(queries)):
            order = np.argsort(distances[row], kind="stable")
            inside = order[distances[row, order] <= radius]
            np.testing.assert_array_equal(positions[lims[row] : lims[row + 1]], inside)
            np.testing.assert_array_equal(far[lims[row] : lims[row + 1]], distances[row, inside])
    assert index.nbytes > packed.nbytes  # the tables were made


def test_threads_that_ask_first_at_once_are_all_answered():
    packed = codes.pack(random_bits(np.random.default_rng(0), 200_000, 64))
    expected = HammingIndex(packed, 64).within(packed[:50], 2)
    for _ in range(3):
        index = HammingIndex(packed, 64)
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(index.within, packed[:50], 2) for _ in range(8)]
        for answer in asked:
            for found, wanted in zip(answer.result(), expected, strict=True):
                np.testing.assert_array_equal(found, wanted)


def test_queries_beyond_one_batch_are_answered_in_order(monkeypatch):
    packed = codes.pack(random_bits(np.random.default_rng(0), 300, 12))
    index = HammingIndex(packed, 12)
    expected = index.within(packed, 2)
    monkeypatch.setattr("isdh.index._ASKED", 7)
    for found, wanted in zip(index.within(packed, 2), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_no_queries_have_no_answers():
    index = HammingIndex(codes.pack(np.eye(5)), 5)
    none = np.zeros((0, 1), np.uint8)
    assert index.search(none, 2)[0].shape == (0, 2)
    assert [len(each) for each in index.within(none, 2)] == [1, 0, 0]


def test_a_saved_index_is_built_again_from_its_codes(tmp_path):
    packed = codes.pack(random_bits(np.random.default_rng(0), 50, 36))
    HammingIndex(packed, 36, padded=True).save(tmp_path, weights_sha256="0" * 64)
    np.testing.assert_array_equal(np.load(tmp_path / "codes.npy"), packed)
    loaded = HammingIndex.load(tmp_path, rows=50)
    for found, wanted in zip(
        loaded.search(packed, 5), HammingIndex(packed, 36).search(packed, 5), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


def test_altered_codes_are_not_loaded(tmp_path):
    HammingIndex(codes.pack(np.eye(16)), 16).save(tmp_path, weights_sha256="0" * 64)
    path = tmp_path / "codes.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="sha256"):
        HammingIndex.load(tmp_path)
    with pytest.raises(InputError, match=r"codes\.json: no such file"):
        HammingIndex.load(tmp_path / "elsewhere")


def test_an_index_keeps_the_codes_and_little_else():
    packed = codes.pack(random_bits(np.random.default_rng(0), 20_000, 64))
    index = HammingIndex(packed, 64)
    index.search(packed[:1], 10)
    assert index.nbytes == packed.nbytes
    index.within(packed[:1], 2)  # three tables of codes, places, and where each value begins
    assert index.nbytes == packed.nbytes + 3 * (12 * 20_000 + 4 * ((1 << 13) + 1))


def test_outputs_order_what_was_found_by_agreement():
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(4, 20))
    collection = random_bits(rng, 60, 20)
    index = HammingIndex(codes.pack(collection), 20)
    _, positions = index.search(codes.pack(outputs), 30)
    agreements, order = index.rerank(outputs, positions)
    for row in range(4):
        by_hand = {
            position: sum(
                z if b else -z for z, b in zip(outputs[row], collection[position], strict=True)
            )
            for position in positions[row].tolist()
        }
        assert set(order[row].tolist()) == set(by_hand)
        np.testing.assert_allclose(agreements[row], [by_hand[each] for each in order[row]])
        assert (np.diff(agreements[row]) <= 0).all()


def test_items_that_agree_equally_stay_in_order():
    index = HammingIndex(codes.pack([[1, 1], [-1, 1], [1, 1], [1, 1]]), 2)
    _, positions = index.search(codes.pack([[1, 1]]), 4)
    _, order = index.rerank([[0.5, 2.0]], positions)
    np.testing.assert_array_equal(order, [[0, 2, 3, 1]])


def test_clusters_find_what_their_recall_says():
    rng = np.random.default_rng(0)
    packed = codes.pack(clustered(rng, 3000, 32))
    near = ApproximateIndex(packed, 32, probes=4, clusters=40, k=50)
    assert (near.measured_at, 0.3 < near.recall <= 1.0) == (50, True)
    assert ApproximateIndex(packed, 32, probes=1, clusters=40, k=50).recall <= near.recall
    everywhere = ApproximateIndex(packed, 32, probes=40, clusters=40, k=50)
    assert everywhere.recall == 1.0
    distances, positions = everywhere.search(packed[:20], 50)
    np.testing.assert_array_equal(distances, HammingIndex(packed, 32).search(packed[:20], 50)[0])
    tied = np.diff(distances, axis=1) == 0
    assert (np.diff(positions, axis=1)[tied] > 0).all()


def test_recall_is_that_of_a_loop():
    rng = np.random.default_rng(1)
    packed = codes.pack(random_bits(rng, 500, 24))
    queries = codes.pack(random_bits(rng, 10, 24))
    index = ApproximateIndex(packed, 24, probes=2, clusters=20, queries=queries, k=10)
    distances = codes.hamming_distances(queries, packed, bits=24)
    hits = 0
    for row, (far, positions) in enumerate(zip(*index.search(queries, 10), strict=True)):
        last = np.sort(distances[row])[9]
        hits += sum(p >= 0 and d <= last for d, p in zip(far, positions, strict=True))
    assert index.recall == hits / 100 < 1.0


@pytest.mark.parametrize("bits", [2, 12])
def test_of_the_items_tied_at_the_last_place_the_first_are_kept(bits):
    # More rows than FAISS scans in one go (65,536), almost all of them tied.
    rng = np.random.default_rng(0)
    packed = codes.pack(random_bits(rng, 70_000, bits))
    queries = packed[:3]
    distances = codes.hamming_distances(queries, packed, bits=bits)
    expected = np.argsort(distances, axis=1, kind="stable")
    index = HammingIndex(packed, bits)
    for k in (1, 5, 256, 257, 1000, 69_999, 70_000):
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
        (lambda index: index.search(codes.pack(np.eye(5)), True), "k=True: a whole number from 1"),
        (lambda index: index.within(codes.pack(np.eye(5)), -1), "radius=-1: a whole number from 0"),
        (lambda index: HammingIndex(np.zeros((0, 1), np.uint8), 5), "0 codes: a collection holds"),
        (lambda index: index.rerank(np.zeros((2, 4)), np.zeros((2, 1), int)), "outputs of shape"),
        (lambda index: index.rerank([[np.nan] * 5], np.zeros((1, 1), int)), "finite values"),
        (lambda index: HammingIndex(np.zeros((1, 1), np.uint8), 9), "bits=9: codes of width 1"),
    ],
)
def test_index_refuses_at_the_door(ask, words):
    index = HammingIndex(codes.pack(np.eye(5)), 5)
    with pytest.raises(InputError, match=words):
        ask(index)
