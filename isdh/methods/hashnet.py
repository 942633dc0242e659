"""HashNet: Deep Learning to Hash by Continuation (Cao, Long, Wang and Yu, ICCV 2017).

Source: github.com/thuml/HashNet, pytorch/src. Formula: docs/method.md, section 2.6.
"""

from __future__ import annotations

import math

from torch import Tensor

from isdh.method import Batch, LossTerms, Method, require_not_negative, require_positive
from isdh.pairwise import cross_entropy
from isdh.similarity import shares_label

ITERATIONS = 10_000  # of the published training, over which the slope grows
REFRESH = 200  # iterations between two slopes


class HashNet(Method):
    """Weighted cross-entropy on tanh codes that steepen towards the sign.

    Without whereabouts the slope is that of the first step, 1.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        class_num: weight of similar pairs; the others have 1.
        scale: of the logits, theta = scale <h, h> / bits.
        growth: the slope is sqrt(1 + growth t) in iteration t of 10,000.
    """

    def __init__(
        self,
        *,
        bits: int,
        num_classes: int,
        class_num: float = 1.0,
        scale: float = 10.0,
        growth: float = 0.005,
    ) -> None:
        super().__init__(bits=bits, num_classes=num_classes)
        require_positive(class_num=class_num, scale=scale)
        require_not_negative(growth=growth)
        self.class_num = class_num
        self.scale = scale
        self.growth = growth

    def activate(self, outputs: Tensor) -> Tensor:
        """Hyperbolic tangent, at slope 1."""
        return outputs.tanh()

    def slope(self, batch: Batch | None) -> float:
        """Of the tanh: the published schedule, stretched over the training."""
        if batch is None:
            return 1.0
        iteration = REFRESH * (ITERATIONS // REFRESH * batch.step // batch.steps)
        return math.sqrt(1 + self.growth * iteration)

    def forward(self, outputs: Tensor, labels: Tensor, batch: Batch | None = None) -> LossTerms:
        """The loss of one batch: outputs (N, bits), labels (N, num_classes)."""
        codes = self.activate(self.slope(batch) * outputs)
        similar = shares_label(labels, labels).to(codes.dtype)
        values = cross_entropy(self.scale * (codes @ codes.T) / self.bits, similar)
        weights = 1 + (self.class_num - 1) * similar
        total = (weights * values).sum() / weights.sum()
        return LossTerms(total, {"pairwise": total})
