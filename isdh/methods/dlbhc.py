"""DLBHC: Deep Learning of Binary Hash Codes (Lin, Yang, Hsiao and Chen, CVPR Workshops 2015).

Source: github.com/kevinlin311tw/caffe-cvprw15. Formula: docs/method.md, section 2.11.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from isdh.classwise import label_cross_entropy
from isdh.method import Batch, LossTerms, Method, require_not_negative


class DLBHC(Method):
    """A linear classifier of the labels reads the sigmoid of the outputs; no term of pairs.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        classifier_rate: the classifier's learning rate, as a multiple of the hash layer's.
    """

    remark = (
        "published for one label an image, with softmax; here every label has its own sigmoid"
        " and binary cross-entropy"
    )

    def __init__(self, *, bits: int, num_classes: int, classifier_rate: float = 10.0) -> None:
        super().__init__(bits=bits, num_classes=num_classes)
        require_not_negative(classifier_rate=classifier_rate)
        self.classifier_rate = classifier_rate
        self.classifier = nn.Linear(bits, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def rates(self) -> Mapping[str, float]:
        """The classifier learns faster than the hash layer."""
        return {"classifier": self.classifier_rate}

    def activate(self, outputs: Tensor) -> Tensor:
        """The sigmoid, brought from (0, 1) to (-1, 1): 2 sigmoid(x) - 1."""
        return (outputs / 2).tanh()

    def forward(self, outputs: Tensor, labels: Tensor, batch: Batch | None = None) -> LossTerms:
        """The loss of one batch: outputs (N, bits), labels (N, num_classes)."""
        logits = self.classifier(outputs.sigmoid())
        classification = label_cross_entropy(logits, labels.to(outputs.dtype))
        return LossTerms(classification, {"classification": classification})
