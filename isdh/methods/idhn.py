"""IDHN: Improved Deep Hashing Network (arXiv:1803.02987v2, 2019), as the authors' code has it.

Source: github.com/pectinid16/IDHN. Formula: docs/method.md, section 2.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isdh.pairwise import InstancePairs, cross_entropy
from isdh.similarity import hard_pairs


class IDHN(InstancePairs):
    """Cross-entropy on hard pairs, squared error of the inner product on soft pairs.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        gamma: weight of soft pairs, times the code length.
        alpha: weight of the quantisation term.
        beta: bound of the logits, |theta| <= beta.
    """

    def __init__(
        self,
        *,
        bits: int,
        num_classes: int,
        gamma: float = 0.1,
        alpha: float = 0.1,
        beta: float = 5.0,
    ) -> None:
        super().__init__(bits=bits, num_classes=num_classes, gamma=gamma, alpha=alpha, beta=beta)

    def pairs(self, codes: Tensor, similarity: Tensor) -> Tensor:
        """The loss of each pair, (N, N)."""
        inner = codes @ codes.T
        hard = cross_entropy(self.beta * inner / self.bits, similarity)
        soft = self.gamma * self.bits * ((inner / self.bits + 1) / 2 - similarity).square()
        return torch.where(hard_pairs(similarity), hard, soft)
