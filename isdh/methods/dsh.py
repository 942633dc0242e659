"""DSH: Deep Supervised Hashing (Liu, Wang, Shan and Chen, CVPR 2016), as the authors' code has it.

Source: github.com/lhmRyan/deep-supervised-hashing-DSH. Formula: docs/method.md, section 2.7.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isdh.method import (
    Batch,
    LossTerms,
    Method,
    require_at_most,
    require_not_negative,
    require_positive,
)
from isdh.pairwise import binarisation_gap, different_rows, mean_where
from isdh.similarity import shares_label


class DSH(Method):
    """Contrastive loss: similar pairs together, the others at a squared distance of 2 bits or more.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        margin: squared distance that suffices for a dissimilar pair, times the code length.
        alpha: weight of the regulariser of each image of a pair.
    """

    def __init__(
        self, *, bits: int, num_classes: int, margin: float = 2.0, alpha: float = 0.01
    ) -> None:
        super().__init__(bits=bits, num_classes=num_classes)
        require_positive(margin=margin)
        require_not_negative(alpha=alpha)
        require_at_most(4, "the largest squared distance, per bit", margin=margin)
        self.margin = margin
        self.alpha = alpha

    def activate(self, outputs: Tensor) -> Tensor:
        """Outputs cut to [-1, 1]; the loss reads them as they are."""
        return outputs.clamp(-1, 1)

    def forward(self, outputs: Tensor, labels: Tensor, batch: Batch | None = None) -> LossTerms:
        """The loss of one batch: outputs (N, bits), labels (N, num_classes)."""
        squares = outputs.square().sum(dim=1)
        distance = squares[:, None] + squares - 2 * outputs @ outputs.T
        apart = (self.margin * self.bits - distance).relu()
        values = torch.where(shares_label(labels, labels), distance, apart) / 2
        pairwise = mean_where(values, different_rows(outputs))
        quantisation = 2 * binarisation_gap(outputs).sum(dim=1).mean()
        total = pairwise + self.alpha * quantisation
        return LossTerms(total, {"pairwise": pairwise, "quantisation": quantisation})
