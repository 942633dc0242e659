"""GreedyHash (Su, Zhang, Han and Tian, NeurIPS 2018).

Source: github.com/ssppp/GreedyHash. Formula: docs/method.md, section 2.12.
"""

from __future__ import annotations

from torch import Tensor, nn

from isdh.classwise import label_cross_entropy
from isdh.method import Batch, LossTerms, Method, require_not_negative


class GreedyHash(Method):
    """A linear classifier reads the bits; the gradient passes the sign as if it were not there.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        penalty_weight: of mean | (|u| - 1)^3 |.
    """

    remark = (
        "published for one label an image, with softmax; here every label has its own sigmoid"
        " and binary cross-entropy"
    )

    def __init__(self, *, bits: int, num_classes: int, penalty_weight: float = 0.1) -> None:
        super().__init__(bits=bits, num_classes=num_classes)
        require_not_negative(penalty_weight=penalty_weight)
        self.penalty_weight = penalty_weight
        self.classifier = nn.Linear(bits, num_classes, bias=False)

    def activate(self, outputs: Tensor) -> Tensor:
        """The sign, whose gradient is taken to be 1."""
        return outputs.detach().sign() + (outputs - outputs.detach())

    def forward(self, outputs: Tensor, labels: Tensor, batch: Batch | None = None) -> LossTerms:
        """The loss of one batch: outputs (N, bits), labels (N, num_classes)."""
        logits = self.classifier(self.activate(outputs))
        classification = label_cross_entropy(logits, labels.to(outputs.dtype))
        penalty = (outputs.abs() - 1).pow(3).abs().mean()
        total = classification + self.penalty_weight * penalty
        return LossTerms(total, {"classification": classification, "penalty": penalty})
