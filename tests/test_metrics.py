"""The closed forms against every order of small databases, and their digits on large ones."""

from dataclasses import FrozenInstanceError
from math import comb, fsum, log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isdh import _kernels, _ranks, codes, metrics
from isdh.errors import InputError
from tests.reference import ranking

EXACT = {"rtol": 0, "atol": 1e-9}


def histogram_of(rankings, bits, most=None):
    """The joint histogram of queries given as (distances, shared labels) of each item."""
    most = max(max(shared) for _, shared in rankings) if most is None else most
    counts = np.zeros((len(rankings), bits + 1, most + 1), np.int64)
    for query, (distances, shared) in enumerate(rankings):
        np.add.at(counts[query], (distances, shared), 1)
    return counts


def assert_equals_every_order(rankings, bits):
    size = len(rankings[0][0])
    cutoffs = (*range(1, size + 2), None)
    scores = metrics.score(histogram_of(rankings, bits), cutoffs=cutoffs)
    for cutoff in cutoffs:
        expected = [ranking.expected_metrics(d, r, cutoff or size) for d, r in rankings]
        for name in ranking.METRICS:
            np.testing.assert_allclose(
                scores.per_query[f"{name}_at_{cutoff or 'all'}"],
                [values[name] for values in expected],
                err_msg=f"{name} at {cutoff}",
                **EXACT,
            )


@st.composite
def small_rankings(draw):
    """Some queries over one database of at most 6 items, as (distances, shared labels) each."""
    bits, size = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    most = draw(st.sampled_from([0, 1, 3, 9]))

    def column(largest):
        return st.lists(st.integers(0, largest), min_size=size, max_size=size)

    one = st.tuples(column(bits), column(most))
    return draw(st.lists(one, min_size=1, max_size=3)), bits


@settings(deadline=None, max_examples=80)
@given(small_rankings())
def test_every_metric_and_cutoff_equals_the_mean_over_every_order(case):
    assert_equals_every_order(*case)


@pytest.mark.parametrize(
    ("distances", "shared"),
    [
        pytest.param([1] * 7, [0, 1, 2, 3, 0, 1, 5], id="all tied"),
        pytest.param([0, 1, 2, 3, 4, 5, 6], [0, 2, 0, 1, 3, 0, 1], id="all distinct"),
        pytest.param([1, 1, 1, 2, 2, 2], [0] * 6, id="no relevant item"),
        pytest.param([1, 1, 1, 2, 2, 2], [4] * 6, id="all relevant"),
        pytest.param([3], [2], id="one item"),
        pytest.param([3], [0], id="one irrelevant item"),
        pytest.param([0, 0, 0, 5, 5, 5], [0, 0, 0, 1, 1, 1], id="a tie without a relevant item"),
        pytest.param([2, 2, 2, 2, 2, 6], [0, 0, 0, 0, 9, 0], id="one relevant in a large tie"),
        pytest.param([2, 2, 2, 2, 6, 6], [30, 1, 0, 15, 2, 31], id="many shared labels"),
        pytest.param([0, 6, 6, 6, 6, 6, 6], [1, 0, 0, 2, 0, 3, 0], id="cut in the last tie"),
    ],
)
def test_degenerate_rankings_equal_the_mean_over_every_order(distances, shared):
    assert_equals_every_order([(distances, shared)], bits=6)


def test_evaluate_equals_every_order_of_real_codes():
    rng = np.random.default_rng(0)
    bits, size = 5, 7
    query_bits, query_labels = rng.integers(0, 2, (6, bits)), rng.random((6, 4)) < 0.5
    database_bits, database_labels = rng.integers(0, 2, (size, bits)), rng.random((size, 4)) < 0.4
    query_labels[2] = False
    database_labels[[1, 4]] = False
    scores = metrics.evaluate(
        codes.pack(query_bits),
        query_labels,
        codes.pack(database_bits),
        database_labels,
        bits=bits,
        cutoffs=(3, 4, None),
    )
    for query in range(6):
        distances = [ranking.hamming(query_bits[query], code) for code in database_bits]
        shared = [ranking.shared_labels(query_labels[query], row) for row in database_labels]
        for cutoff in (3, 4, None):
            for name, value in ranking.expected_metrics(distances, shared, cutoff or size).items():
                found = scores.per_query[f"{name}_at_{cutoff or 'all'}"][query]
                assert found == pytest.approx(value, abs=1e-9), (query, name, cutoff)
        precision, recall = ranking.within_radius(distances, shared, 2)
        assert scores.per_query["precision_within_r2"][query] == pytest.approx(precision)
        assert scores.per_query["recall_within_r2"][query] == pytest.approx(recall)
    without = sum(1 for row in query_labels if not (row & database_labels).any())
    assert scores.queries_without_relevant == without >= 1


@pytest.mark.parametrize("sizes", [[1] * 6001, [4000, 1, 7000, 95, 9000], [1, 20_000, 1]])
def test_long_rankings_equal_the_definition_where_order_inside_ties_is_immaterial(sizes):
    # Every item of a tie shares as many labels: one order stands for all of them.
    rng = np.random.default_rng(0)
    of_tie = rng.integers(0, 4, len(sizes))
    order = tuple(np.repeat(of_tie, sizes).tolist())
    distances = np.repeat(np.arange(len(sizes)), sizes)
    cutoffs = (100, 4096, 4097, 5000, len(order) - 1, None)
    scores = metrics.score(histogram_of([(distances, order)], len(sizes)), cutoffs=cutoffs)
    for cutoff in cutoffs:
        for name, value in ranking.metrics_of_order(order, cutoff or len(order)).items():
            found = scores.per_query[f"{name}_at_{cutoff or 'all'}"][0]
            assert found == pytest.approx(value, rel=1e-12, abs=1e-12), (name, cutoff)


def exact_moments(n, m, t, before):
    """E[1/(R+x)], E[x/(R+x)], E[x(x-1)/(R+x)] from whole-number binomials."""
    x = max(0, t - (n - m))
    ways, total = comb(m, x) * comb(n - m, t - x), comb(n, t)
    terms = []
    while ways:
        if before + x:
            chance = ways / total  # of whole numbers, so rounded once
            terms.append([chance * a / (before + x) for a in (1, x, x * (x - 1))])
        ways = ways * (m - x) * (t - x) // ((x + 1) * (n - m - t + x + 1))
        x += 1
    return [fsum(column) for column in zip(*terms, strict=True)]


@pytest.mark.parametrize(
    ("n", "m", "t", "before"),
    [
        (200_000, 110_000, 5000, 0),
        (200_000, 110_000, 5000, 777),
        (200_000, 3, 5000, 12),
        (200_000, 3, 199_998, 0),
        (200_000, 199_990, 1000, 1),
        (200_000, 40_000, 1, 5),
        (150_000, 2000, 140_000, 100_000),
    ],
)
def test_moments_of_a_cut_tie_keep_thirteen_digits_at_200_000_items(n, m, t, before):
    arguments = (np.array([float(value)]) for value in (n, m, t, before))
    moments = _kernels.cut_moments(*arguments)[0]
    np.testing.assert_allclose(moments, exact_moments(n, m, t, before), rtol=1e-13, atol=1e-300)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 60), st.data())
def test_moments_of_a_cut_tie_equal_the_sum_over_binomials(n, data):
    m, t = data.draw(st.integers(0, n)), data.draw(st.integers(0, n))
    before = data.draw(st.integers(0, 5))
    arguments = (np.array([float(value)]) for value in (n, m, t, before))
    moments = _kernels.cut_moments(*arguments)[0]
    expected = exact_moments(n, m, t, before) if before or (m and t) else [0.0] * 3
    np.testing.assert_allclose(moments, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("before", [0, 1, 100, 4095, 4096, 4097, 200_000, 10**9, 10**12])
@pytest.mark.parametrize("places", [0, 1, 2, 30, 5000, 300_000])
def test_rank_sums_keep_twelve_digits_far_from_the_top(before, places):
    arguments = np.array([float(before)]), np.array([float(places)])
    ranks = range(before + 1, before + places + 1)
    inverse, inverse_log = fsum(1 / i for i in ranks), fsum(1 / log2(1 + i) for i in ranks)
    np.testing.assert_allclose(_ranks.sum_inverse(*arguments), [inverse], rtol=1e-12)
    np.testing.assert_allclose(_ranks.sum_inverse_log(*arguments), [inverse_log], rtol=1e-12)


def random_set(seed, rows=40, database=3000, bits=12, labels=20):
    rng = np.random.default_rng(seed)
    query_labels = rng.random((rows, labels)) < 0.2
    database_labels = rng.random((database, labels)) < 0.2
    planes = rng.normal(size=(labels, bits))

    def encode(rows):
        return codes.pack(rows @ planes + rng.normal(size=(len(rows), bits)))

    return encode(query_labels), query_labels, encode(database_labels), database_labels


def test_scores_are_unchanged_when_the_database_is_shuffled_or_sorted():
    queries, query_labels, database, database_labels = random_set(0)
    expected = metrics.evaluate(queries, query_labels, database, database_labels, bits=12)
    shuffled = np.random.default_rng(1).permutation(len(database))
    for order in (shuffled, np.argsort(database_labels.sum(axis=1))):
        scores = metrics.evaluate(
            queries, query_labels, database[order], database_labels[order], bits=12
        )
        assert scores.as_dict() == expected.as_dict()


def test_the_sum_of_shard_histograms_scores_as_the_whole_database():
    queries, query_labels, database, database_labels = random_set(0)
    whole = metrics.evaluate(queries, query_labels, database, database_labels, bits=12)
    parts = [
        codes.joint_histogram(queries, query_labels, database[s], database_labels[s], bits=12)
        for s in (slice(0, 1), slice(1, 2000), slice(2000, None))
    ]
    assert metrics.score(sum(parts)).as_dict() == whole.as_dict()


def test_names_come_in_one_order():
    scores = metrics.evaluate(*random_set(0), bits=12)
    names = [
        f"{metric}_at_{k}"
        for metric in ("map", "wap", "acg", "ndcg", "precision", "recall")
        for k in (100, 1000, 5000, "all")
    ]
    names += ["precision_within_r2", "recall_within_r2"]
    assert list(scores.per_query) == names
    assert list(scores.as_dict()) == [*names, "queries_without_relevant"]


def test_the_dictionary_holds_the_means_over_queries_as_plain_numbers():
    scores = metrics.evaluate(*random_set(0), bits=12, cutoffs=iter((10, None)))
    values = scores.as_dict()
    for name, of_queries in scores.per_query.items():
        assert (of_queries.shape, of_queries.dtype) == ((40,), np.float64)
        assert values[name] == pytest.approx(of_queries.mean(), abs=1e-15)
        assert type(values[name]) is float
    assert type(values["queries_without_relevant"]) is int


def test_a_cutoff_beyond_the_database_means_the_whole_database():
    scores = metrics.evaluate(*random_set(0, database=300), bits=12)
    for metric in ranking.METRICS:
        whole = scores.per_query[f"{metric}_at_all"]
        np.testing.assert_array_equal(scores.per_query[f"{metric}_at_5000"], whole)
        assert not np.array_equal(scores.per_query[f"{metric}_at_100"], whole)


def test_a_query_without_relevant_items_counts_zero_and_is_reported():
    queries, query_labels, database, database_labels = random_set(0)
    query_labels[:, 1] = True  # no other query is without
    query_labels[[3, 8]] = False  # unlabelled
    query_labels[5], database_labels[:, 0] = False, False
    query_labels[5, 0] = True  # a label that no database row has
    scores = metrics.evaluate(queries, query_labels, database, database_labels, bits=12)
    assert scores.queries_without_relevant == 3
    for values in scores.per_query.values():
        np.testing.assert_array_equal(values[[3, 5, 8]], 0)


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_curves_by_radius_are_means_over_balls(bits):
    rng = np.random.default_rng(bits)
    rankings = [
        (rng.integers(0, bits + 1, 9).tolist(), rng.integers(0, 3, 9).tolist()) for _ in range(4)
    ]
    rankings.append(([bits] * 9, [0] * 8 + [1]))  # small balls of this one are empty
    scores = metrics.score(histogram_of(rankings, bits), cutoffs=(None,))
    balls = np.array(
        [[ranking.within_radius(d, r, radius) for radius in range(bits + 1)] for d, r in rankings]
    )
    np.testing.assert_allclose(scores.precision_by_radius, balls[:, :, 0].mean(axis=0))
    np.testing.assert_allclose(scores.recall_by_radius, balls[:, :, 1].mean(axis=0))
    at = min(2, bits)
    np.testing.assert_allclose(scores.per_query["precision_within_r2"], balls[:, at, 0])
    np.testing.assert_allclose(scores.per_query["recall_within_r2"], balls[:, at, 1])


def test_gains_of_a_thousand_shared_labels_do_not_overflow():
    most = 1000
    scores = metrics.score(histogram_of([([0, 1, 2], [0, most, 1])], 2), cutoffs=(3,))
    assert scores.per_query["ndcg_at_3"][0] == pytest.approx(1 / log2(3))
    with pytest.raises(InputError, match="a query of 1001 labels"):
        metrics.score(histogram_of([([0, 1], [0, most + 1])], 2))


def test_scores_do_not_change_after_the_fact():
    scores = metrics.score(histogram_of([([0, 1], [1, 0])], 1))
    with pytest.raises(FrozenInstanceError):
        scores.queries_without_relevant = 1


@pytest.mark.parametrize("cutoff", [0, -1, 2.5, "all"])
def test_a_cutoff_below_one_is_refused(cutoff):
    with pytest.raises(InputError, match=f"cutoff={cutoff!r}: a rank from 1"):
        metrics.evaluate(*random_set(0), bits=12, cutoffs=(10, cutoff))


@pytest.mark.parametrize(
    ("histogram", "words"),
    [
        (np.ones((2, 3)), r"shape \(2, 3\): integers \(Q, bits \+ 1, S \+ 1\)"),
        (np.ones((2, 3, 2)), "dtype float64"),
        (np.ones((0, 3, 2), int), r"shape \(0, 3, 2\)"),
        (np.zeros((2, 3, 2), int), "histogram of 0 to 0 database rows"),
        (np.array([[[1, 1]], [[1, 2]]]), "histogram of 2 to 3 database rows"),
        (np.array([[[3, -1]], [[1, 1]]]), "smallest entry -1"),
    ],
)
def test_score_refuses_what_is_no_histogram(histogram, words):
    with pytest.raises(InputError, match=words):
        metrics.score(histogram)


def test_evaluate_refuses_what_the_histogram_refuses():
    queries, query_labels, database, database_labels = random_set(0)
    with pytest.raises(InputError, match="bits=17: query codes of width 2 bytes"):
        metrics.evaluate(queries, query_labels, database, database_labels, bits=17)
