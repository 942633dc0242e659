from __future__ import annotations

import pytest
import torch

from isdh.similarity import hard_pairs, instance_similarity, shares_label


def test_similarity_is_the_cosine_of_label_rows():
    a = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.uint8)
    b = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 1]], dtype=torch.bool)
    expected = torch.tensor([[2 / (2 * 4) ** 0.5, 0.0], [0.5, 0.0]])
    assert torch.allclose(instance_similarity(a, b), expected)


def test_an_unlabelled_row_is_similar_to_nothing_not_even_itself():
    labels = torch.tensor([[0, 0, 0], [1, 0, 1]])
    assert instance_similarity(labels, labels)[0].tolist() == [0.0, 0.0]
    assert torch.isfinite(instance_similarity(labels, labels)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 11, 38])
def test_equal_label_sets_are_hard_however_similarity_rounds(dtype, count):
    labels = torch.zeros(2, 38)
    labels[:, :count] = 1
    assert hard_pairs(instance_similarity(labels, labels, dtype=dtype)).all()


def test_pairs_that_share_some_labels_are_soft():
    labels = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 1]])
    soft = ~hard_pairs(instance_similarity(labels, labels))
    assert soft.tolist() == [
        [False, True, False],
        [True, False, False],
        [False, False, False],
    ]


def test_shares_label_is_true_where_similarity_is_positive():
    labels = torch.rand(20, 6, generator=torch.Generator().manual_seed(0)) < 0.3
    assert torch.equal(shares_label(labels, labels), instance_similarity(labels, labels) > 0)
