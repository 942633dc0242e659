"""Packing, Hamming distances and the joint histogram against loops over single bits."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isdh import _kernels, codes
from isdh.errors import InputError
from tests.reference import ranking

WIDTHS = [1, 3, 7, 8, 9, 12, 48, 63, 64, 65, 128, 130]


def random_set(rng, rows, bits, labels, density=0.3):
    """Bits, packed codes and labels of random rows."""
    values = rng.integers(0, 2, (rows, bits), dtype=np.uint8)
    return values, codes.pack(values), (rng.random((rows, labels)) < density)


@pytest.mark.parametrize("bits", WIDTHS)
def test_unpack_inverts_pack_at_any_width(bits):
    values = np.random.default_rng(bits).normal(size=(20, bits))
    packed = codes.pack(values)
    assert packed.shape == (20, -(-bits // 8))
    assert packed.dtype == np.uint8
    unpacked = codes.unpack(packed, bits)
    assert unpacked.dtype == np.uint8
    np.testing.assert_array_equal(unpacked, values > 0)


def test_bit_order_is_little_and_pad_bits_are_zero():
    values = -np.ones((1, 10))
    values[0, [0, 9]] = 1
    np.testing.assert_array_equal(codes.pack(values), [[0b0000_0001, 0b0000_0010]])


def test_zero_and_negative_zero_become_bit_zero():
    packed = codes.pack([[0.0, -0.0, 1e-300, np.inf, -np.inf]])
    np.testing.assert_array_equal(codes.unpack(packed, 5), [[0, 0, 1, 1, 0]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64])
def test_a_tensor_packs_as_the_list_of_its_values(dtype):
    values = [[1, -2, 0, 3, -1, 5, 2, -7, 4], [0, 0, 1, -1, 2, -2, 3, -3, 4]]
    np.testing.assert_array_equal(codes.pack(torch.tensor(values, dtype=dtype)), codes.pack(values))


def test_a_tensor_that_needs_a_gradient_packs():
    values = torch.tensor([[0.5, -0.5]], requires_grad=True)
    np.testing.assert_array_equal(codes.pack(values), [[1]])


def test_packing_imports_neither_torch_nor_numba():
    program = (
        "import sys, isdh.codes as c; c.unpack(c.pack([[1, -1]]), 2);"
        "assert not {'torch', 'numba'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_histogram_is_counted_where_no_folder_can_hold_compiled_code():
    program = (
        "import numpy as np; from isdh import codes; one = np.ones((1, 1), np.uint8);"
        "print(codes.joint_histogram(one, one, one, one, bits=1).tolist())"
    )
    nowhere = os.environ | {"NUMBA_CACHE_LOCATOR_CLASSES": "ZipCacheLocator"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=nowhere, capture_output=True, text=True
    )
    assert (done.stdout, done.returncode) == ("[[[0, 1], [0, 0]]]\n", 0), done.stderr


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1.0, 2.0], r"values of shape \(2,\).*matrix"),
        (np.zeros((3, 0)), "at least one column"),
        ([[1.0, np.nan]], "NaN.*every value has a sign"),
        (torch.tensor([[1.0, float("nan")]]), "NaN.*every value has a sign"),
        ([["a", "b"]], "dtype <U1: real numbers"),
        ([[1j, 2.0]], "dtype complex128: real numbers"),
    ],
)
def test_pack_refuses_what_has_no_signs(values, words):
    with pytest.raises(InputError, match=words):
        codes.pack(values)


@pytest.mark.parametrize(
    ("packed", "bits", "words"),
    [
        (
            np.zeros((2, 16), np.uint8),
            130,
            "bits=130: codes of width 16 bytes hold at most 128; pass the bits used to encode",
        ),
        (np.zeros((2, 16), np.uint8), 120, "bits=120: codes of width 16 bytes hold at least 121"),
        (np.zeros((2, 2), np.uint8), 0, "bits=0: a whole number from 1"),
        (np.zeros((2, 2), np.uint8), -8, "bits=-8: a whole number from 1"),
        (np.zeros((2, 2), np.uint8), 12.0, "bits=12.0: a whole number from 1"),
        (np.zeros((2, 2), np.int64), 12, "codes of dtype int64"),
        (np.zeros(2, np.uint8), 12, r"shape \(2,\)"),
        (np.array([[0, 0b1_0000]], np.uint8), 12, "bits=12: codes have pad bits that are set"),
    ],
)
def test_unpack_refuses_what_is_no_code_of_so_many_bits(packed, bits, words):
    with pytest.raises(InputError, match=words):
        codes.unpack(packed, bits)


@pytest.mark.parametrize("bits", WIDTHS)
def test_distances_equal_those_counted_bit_by_bit(bits):
    rng = np.random.default_rng(bits)
    queries, packed_queries, _ = random_set(rng, 4, bits, 1)
    database, packed_database, _ = random_set(rng, 9, bits, 1)
    distances = codes.hamming_distances(packed_queries, packed_database, bits=bits)
    assert distances.dtype == np.int32
    expected = [[ranking.hamming(a, b) for b in database.tolist()] for a in queries.tolist()]
    np.testing.assert_array_equal(distances, expected)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    bits=st.integers(1, 140),
    labels=st.integers(1, 140),
    queries=st.integers(1, 4),
    rows=st.integers(1, 40),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_histogram_equals_counting_pair_by_pair(seed, bits, labels, queries, rows, density):
    rng = np.random.default_rng(seed)
    query_bits, query_codes, query_labels = random_set(rng, queries, bits, labels, density)
    database_bits, database_codes, database_labels = random_set(rng, rows, bits, labels, density)
    histogram = codes.joint_histogram(
        query_codes, query_labels, database_codes, database_labels, bits=bits
    )
    assert histogram.dtype == np.int64
    expected = ranking.joint_histogram(
        query_bits.tolist(),
        query_labels.tolist(),
        database_bits.tolist(),
        database_labels.tolist(),
    )
    np.testing.assert_array_equal(histogram, expected)


def histogram_by_numpy(query_codes, query_labels, database_codes, database_labels, bits):
    distances = codes.hamming_distances(query_codes, database_codes, bits=bits)
    shared = query_labels.astype(int) @ database_labels.T.astype(int)
    width = query_labels.sum(1).max() + 1
    cells = distances * width + shared
    counts = [np.bincount(row, minlength=(bits + 1) * width) for row in cells]
    return np.reshape(counts, (-1, bits + 1, width))


@pytest.mark.parametrize(("bits", "labels"), [(48, 38), (64, 70), (130, 10), (63, 31)])
@pytest.mark.parametrize("rows", [1023, 1025, 16_384, 16_387, 40_001])
def test_histogram_holds_across_chunks_and_blocks(bits, labels, rows):
    rng = np.random.default_rng(rows)
    _, query_codes, query_labels = random_set(rng, 3, bits, labels)
    _, database_codes, database_labels = random_set(rng, rows, bits, labels)
    arrays = (query_codes, query_labels, database_codes, database_labels)
    np.testing.assert_array_equal(
        codes.joint_histogram(*arrays, bits=bits), histogram_by_numpy(*arrays, bits)
    )


def test_a_cell_holds_more_rows_than_a_sub_table_counts():
    rows = 5 * _kernels.BLOCK + 3  # more than uint16 holds
    histogram = codes.joint_histogram(
        codes.pack([[1, 1]]),
        np.ones((1, 1), bool),
        np.full((rows, 1), 3, np.uint8),
        np.ones((rows, 1), bool),
        bits=2,
    )
    np.testing.assert_array_equal(histogram, [[[0, rows], [0, 0], [0, 0]]])


def test_histogram_holds_where_cells_exceed_sixteen_bits():
    rng = np.random.default_rng(0)
    bits, labels = 600, 400
    _, query_codes, query_labels = random_set(rng, 2, bits, labels, 0.6)
    _, database_codes, database_labels = random_set(rng, 2000, bits, labels, 0.6)
    assert (bits + 1) * (query_labels.sum(1).max() + 1) > 1 << 16
    arrays = (query_codes, query_labels, database_codes, database_labels)
    np.testing.assert_array_equal(
        codes.joint_histogram(*arrays, bits=bits), histogram_by_numpy(*arrays, bits)
    )


def test_histograms_of_shards_add_up_to_that_of_the_database():
    rng = np.random.default_rng(0)
    _, query_codes, query_labels = random_set(rng, 5, 24, 9)
    _, database_codes, database_labels = random_set(rng, 500, 24, 9)
    whole = codes.joint_histogram(
        query_codes, query_labels, database_codes, database_labels, bits=24
    )
    parts = [
        codes.joint_histogram(
            query_codes, query_labels, database_codes[rows], database_labels[rows], bits=24
        )
        for rows in np.array_split(np.arange(500), [1, 17, 480])
    ]
    np.testing.assert_array_equal(sum(parts), whole)


def test_views_with_strides_count_as_their_copies():
    rng = np.random.default_rng(0)
    _, packed, labels = random_set(rng, 60, 24, 9)
    strided = codes.joint_histogram(packed[::2], labels[::2], packed[::-1], labels[::-1], bits=24)
    copied = codes.joint_histogram(
        packed[::2].copy(), labels[::2].copy(), packed[::-1].copy(), labels[::-1].copy(), bits=24
    )
    np.testing.assert_array_equal(strided, copied)
    np.testing.assert_array_equal(strided.sum(axis=(1, 2)), 60)


LABELS = np.eye(3, dtype=bool)
CODES = codes.pack(np.eye(3))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bits": 0}, "bits=0"),
        ({"bits": 9}, "bits=9: query codes of width 1 bytes hold at most 8"),
        ({"query_codes": CODES.astype(np.int64)}, "query codes of dtype int64"),
        ({"database_codes": CODES | 8}, "database codes have pad bits"),
        ({"query_labels": LABELS.astype(float)}, r"query labels of dtype float64.*astype\(bool\)"),
        ({"query_labels": LABELS[0]}, "query labels of dtype bool and shape"),
        ({"database_labels": LABELS[:, :0]}, "at least one column"),
        ({"database_labels": LABELS[:2]}, "2 rows of database labels for 3 database codes"),
        ({"query_labels": LABELS[:, :2]}, "query labels with 2 columns, database labels with 3"),
        ({"database_labels": LABELS.astype(np.uint8) * 7}, "database labels hold 7: 0 or 1"),
        ({"query_codes": CODES[:0], "query_labels": LABELS[:0]}, "0 query rows: at least one"),
        ({"database_codes": CODES[:0], "database_labels": LABELS[:0]}, "0 database rows"),
    ],
)
def test_histogram_refuses_at_the_door(change, words):
    arguments = {
        "query_codes": CODES,
        "query_labels": LABELS,
        "database_codes": CODES,
        "database_labels": LABELS,
        "bits": 3,
    } | change
    with pytest.raises(InputError, match=words):
        codes.joint_histogram(**arguments)
