"""ISDH: Instance Similarity Deep Hashing (arXiv:1803.02987v1, 2018), as the authors' code has it.

Source: github.com/pectinid16/ISDH-Tensorflow. Formula: docs/method.md, section 2.1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from isdh.method import Batch, LossTerms, Method, require_not_negative, require_positive
from isdh.pairwise import binarisation_gap, cross_entropy
from isdh.similarity import hard_pairs, instance_similarity


class ISDH(Method):
    """Weighted cross-entropy on hard pairs, squared error of the sigmoid on soft pairs.

    The mean runs over all N x N pairs of the batch, self pairs included, both kinds in one mean.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        gamma: weight of hard pairs.
        alpha: weight of the quantisation term.
        beta: bound of the logits, |theta| <= beta.
    """

    def __init__(
        self,
        *,
        bits: int,
        num_classes: int,
        gamma: float = 10.0,
        alpha: float = 0.1,
        beta: float = 5.0,
    ) -> None:
        super().__init__(bits=bits, num_classes=num_classes)
        require_not_negative(gamma=gamma, alpha=alpha)
        require_positive(beta=beta)
        self.gamma = gamma
        self.alpha = alpha
        self.beta = beta

    def activate(self, outputs: Tensor) -> Tensor:
        """Softsign, x / (1 + |x|)."""
        return F.softsign(outputs)

    def forward(self, outputs: Tensor, labels: Tensor, batch: Batch | None = None) -> LossTerms:
        """The loss of one batch: outputs (N, bits), labels (N, num_classes)."""
        codes = self.activate(outputs)
        similarity = instance_similarity(labels, labels, dtype=codes.dtype)
        theta = self.beta * (codes @ codes.T) / self.bits
        hard = self.gamma * cross_entropy(theta, similarity)
        soft = (similarity - theta.sigmoid()).square()
        pairwise = torch.where(hard_pairs(similarity), hard, soft).mean()
        quantisation = binarisation_gap(codes).mean()
        total = pairwise + self.alpha * quantisation
        return LossTerms(total, {"pairwise": pairwise, "quantisation": quantisation})
