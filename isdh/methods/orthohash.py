"""OrthoHash: One Loss for All (Hoe, Ng, Zhang, Chan, Song and Xiang, NeurIPS 2021).

Source: github.com/kamwoh/orthohash. Formula: docs/method.md, section 2.14.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from isdh.classwise import cosines, softmax_cross_entropy
from isdh.method import (
    Batch,
    LossTerms,
    Method,
    require_at_most,
    require_not_negative,
    require_positive,
)


class OrthoHash(Method):
    """Softmax over cosines to fixed random codes, with a margin on the labels an image has.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        scale: of the cosines, before the softmax.
        margin: taken off the cosine of a label that the image has.
    """

    remark = (
        "published with batch normalisation of the outputs, which here belongs to the network:"
        " batch_norm: true"
    )
    class_codes: Tensor

    def __init__(
        self, *, bits: int, num_classes: int, scale: float = 8.0, margin: float = 0.2
    ) -> None:
        super().__init__(bits=bits, num_classes=num_classes)
        require_positive(scale=scale)
        require_not_negative(margin=margin)
        require_at_most(2, "by how much two cosines differ", margin=margin)
        self.scale = scale
        self.margin = margin
        self.register_buffer("class_codes", torch.randint(2, (num_classes, bits)).float() * 2 - 1)

    def activate(self, outputs: Tensor) -> Tensor:
        """The outputs at length 1, as the cosines see them."""
        return F.normalize(outputs, dim=1)

    def forward(self, outputs: Tensor, labels: Tensor, batch: Batch | None = None) -> LossTerms:
        """The loss of one batch: outputs (N, bits), labels (N, num_classes)."""
        labels = labels.to(outputs.dtype)
        cosine = cosines(outputs, self.class_codes.to(outputs.dtype))
        total = softmax_cross_entropy(self.scale * (cosine - self.margin * labels), labels)
        return LossTerms(total, {"classification": total})
