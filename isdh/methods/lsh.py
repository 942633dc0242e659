"""LSH: Locality-Sensitive Hashing by random hyperplanes (Charikar, STOC 2002).

Formula: docs/method.md, section 2.22.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isdh.method import FittedMethod


class LSH(FittedMethod):
    """Signs of Gaussian random projections; nothing is learned.

    Args:
        bits: the code length.
        num_classes: the number of labels, which it does not look at.
    """

    head = "linear"

    def fit(
        self, features: Tensor, labels: Tensor, *, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Draw the projections for features (T, F)."""
        weight = torch.randn(self.bits, features.shape[1], generator=generator)
        return {"weight": weight, "bias": torch.zeros(self.bits)}
