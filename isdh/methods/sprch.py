"""SPRCH: Self-Paced Relational Contrastive Hashing (github.com/IMAG-LZY/SPRCH).

Source: github.com/QinLab-WFU/HASH-ZOO, SPRCH/losses.py. Formula: docs/method.md, section 2.16.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from isdh.classwise import cosines
from isdh.method import (
    Batch,
    LossTerms,
    Method,
    require_at_most,
    require_not_negative,
    require_positive,
)
from isdh.similarity import shares_label


class SPRCH(Method):
    """One contrastive term for the pairs of an anchor and for its labels' prototypes.

    Without a batch the pace stands where it ends.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        temperature: of the cosines.
        prototype_rate: the prototypes' learning rate, as a multiple of the hash layer's.
        ramp: the share of the training in which the pace rises from 0 to 1.
    """

    def __init__(
        self,
        *,
        bits: int,
        num_classes: int,
        temperature: float = 0.3,
        prototype_rate: float = 10.0,
        ramp: float = 1 / 3,
    ) -> None:
        super().__init__(bits=bits, num_classes=num_classes)
        require_positive(temperature=temperature)
        require_not_negative(prototype_rate=prototype_rate, ramp=ramp)
        require_at_most(1, "the whole of the training", ramp=ramp)
        self.temperature = temperature
        self.prototype_rate = prototype_rate
        self.ramp = ramp
        self.prototypes = nn.Linear(num_classes, bits)

    def rates(self) -> Mapping[str, float]:
        """The prototypes learn faster than the hash layer."""
        return {"prototypes": self.prototype_rate}

    def activate(self, outputs: Tensor) -> Tensor:
        """Hyperbolic tangent."""
        return outputs.tanh()

    def pace(self, batch: Batch | None) -> float:
        """How far difficulty already counts, in [0, 1]."""
        rising = self.ramp * batch.steps if batch else 0
        return min(1.0, batch.step / rising) if batch and rising else 1.0

    def forward(self, outputs: Tensor, labels: Tensor, batch: Batch | None = None) -> LossTerms:
        """The loss of one batch: outputs (N, bits), labels (N, num_classes)."""
        codes, has = self.activate(outputs), labels.to(outputs.dtype)
        prototypes = (self.prototypes.weight.T + self.prototypes.bias).tanh()
        similar = shares_label(labels, labels).to(codes.dtype)
        pace = self.pace(batch)
        near, far = self.masses(cosines(codes, codes), similar, pace)
        near_classes, far_classes = self.masses(cosines(codes, prototypes), has, pace)
        near = near + balance(similar, has) * near_classes
        far = far + balance(1 - similar, 1 - has) * far_classes
        labelled = near > 0
        shares = torch.where(labelled, near, 1) / torch.where(labelled, near + far, 1)
        total = -shares.log().mean()
        return LossTerms(total, {"contrast": total})

    def masses(self, cosine: Tensor, positive: Tensor, pace: float) -> tuple[Tensor, Tensor]:
        """Sums per anchor of exp(cosine / temperature) over what is positive, and over the rest.

        Each is weighed by how hard it is: positives by exp(-1 - cosine)^(pace / 4), the others by
        exp(cosine - 1)^pace; no gradient passes the weights.
        """
        fixed = cosine.detach()
        # one off every cosine: the factor cancels in the loss, and nothing overflows
        scaled = (cosine - 1) / self.temperature
        near = positive * (scaled - (1 + fixed) * (pace / 4)).exp()
        far = (1 - positive) * (scaled + (fixed - 1) * pace).exp()
        return near.sum(dim=1), far.sum(dim=1)


def balance(pairs: Tensor, classes: Tensor) -> Tensor:
    """Pairs per class of each anchor, (N, N), (N, C) -> (N,); 0 where there is no class."""
    counts = classes.sum(dim=1)
    some = counts > 0
    return torch.where(some, pairs.sum(dim=1) / torch.where(some, counts, 1), 0)
