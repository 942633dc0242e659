"""CSQ: Central Similarity Quantization (Yuan et al., CVPR 2020).

Source: github.com/yuanli2333/Hadamard-Matrix-for-hashing. Formula: docs/method.md, section 2.13.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from isdh.method import Batch, LossTerms, Method, require_not_negative

# votes of mixed rows that cancel each other do so up to rounding only
TIE = 1e-4
DRAWS = 100


class CSQ(Method):
    """Every bit is drawn towards that of the row's centre: binary cross-entropy.

    The centre of a row is the majority vote of its labels' centres; where the vote is a tie, one
    random vector decides, the same for all rows.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        quantisation_weight: of mean (|u| - 1)^2.
    """

    centres: Tensor
    tie_break: Tensor

    def __init__(self, *, bits: int, num_classes: int, quantisation_weight: float = 0.05) -> None:
        super().__init__(bits=bits, num_classes=num_classes)
        require_not_negative(quantisation_weight=quantisation_weight)
        self.quantisation_weight = quantisation_weight
        self.register_buffer("centres", class_centres(num_classes, bits))
        self.register_buffer("tie_break", torch.randint(2, (bits,)).float() * 2 - 1)

    def activate(self, outputs: Tensor) -> Tensor:
        """Hyperbolic tangent."""
        return outputs.tanh()

    def row_centres(self, labels: Tensor) -> Tensor:
        """What each row is drawn to, in {-1, 1}: labels float (N, num_classes) -> (N, bits)."""
        votes = labels @ self.centres.to(labels.dtype)
        return torch.where(votes.abs() < TIE, self.tie_break.to(labels.dtype), votes.sign())

    def forward(self, outputs: Tensor, labels: Tensor, batch: Batch | None = None) -> LossTerms:
        """The loss of one batch: outputs (N, bits), labels (N, num_classes)."""
        labels = labels.to(outputs.dtype)
        targets = (self.row_centres(labels) + 1) / 2
        # (tanh(x) + 1) / 2 = sigmoid(2x), whose logarithm is finite wherever tanh rounds to 1
        entropies = F.binary_cross_entropy_with_logits(2 * outputs, targets, reduction="none")
        labelled = (labels > 0).any(dim=1, keepdim=True)
        central = (entropies * labelled).mean()
        quantisation = ((self.activate(outputs).abs() - 1).square() * labelled).mean()
        total = central + self.quantisation_weight * quantisation
        return LossTerms(total, {"central": central, "quantisation": quantisation})


def class_centres(num_classes: int, bits: int) -> Tensor:
    """Codes far from each other, one a class.

    Rows of a Hadamard matrix H, then those of -H, where `bits` is a power of two and they
    suffice: they differ in half the bits, or in all. Else random codes with half the bits -1: of
    DRAWS draws the one whose closest two centres are furthest apart.

    Returns:
        float32 (num_classes, bits) in {-1, 1}.
    """
    if bits & (bits - 1) == 0 and num_classes <= 2 * bits:
        matrix = hadamard(bits)
        return torch.cat([matrix, -matrix])[:num_classes]
    draws = [balanced_codes(num_classes, bits) for _ in range(DRAWS)]
    return min(draws, key=lambda codes: float((codes @ codes.T).fill_diagonal_(-bits).max()))


def hadamard(size: int) -> Tensor:
    """Sylvester's matrix of +-1 whose rows are orthogonal; `size` is a power of two.

    >>> hadamard(2).tolist()
    [[1.0, 1.0], [1.0, -1.0]]
    """
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    return matrix


def balanced_codes(count: int, bits: int) -> Tensor:
    """Random codes float32 (count, bits), round(bits / 2) bits of each -1, the others 1."""
    ranks = torch.rand(count, bits).argsort(dim=1).argsort(dim=1)
    return torch.where(ranks < round(bits / 2), -1.0, 1.0)
