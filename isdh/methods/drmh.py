"""DRMH: Multi-Label Hashing for Dependency Relations (Peng et al., IEEE TIP 2023): its loss.

Source: github.com/plk-t/DRMH, loss/loss.py. Formula: docs/method.md, section 2.10.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from isdh.classwise import label_cross_entropy
from isdh.method import Batch, LossTerms, Method, require_not_negative
from isdh.pairwise import different_rows, mean_where
from isdh.similarity import instance_similarity


class DRMH(Method):
    """Squared error of the share of equal bits, pairs weighed by how wrong they are.

    A linear classifier reads the relaxed codes.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        hash_weight: of the pairs.
        classification_weight: of the binary cross-entropy of the classifier.
        quantisation_weight: of how far inner products are from those of the signs.
    """

    remark = "Only the loss is DRMH's: its network reads the regions of an object detector."

    def __init__(
        self,
        *,
        bits: int,
        num_classes: int,
        hash_weight: float = 1e-2,
        classification_weight: float = 1.0,
        quantisation_weight: float = 1e-4,
    ) -> None:
        super().__init__(bits=bits, num_classes=num_classes)
        require_not_negative(
            hash_weight=hash_weight,
            classification_weight=classification_weight,
            quantisation_weight=quantisation_weight,
        )
        self.hash_weight = hash_weight
        self.classification_weight = classification_weight
        self.quantisation_weight = quantisation_weight
        self.classifier = nn.Linear(bits, num_classes)

    def activate(self, outputs: Tensor) -> Tensor:
        """Hyperbolic tangent."""
        return outputs.tanh()

    def forward(self, outputs: Tensor, labels: Tensor, batch: Batch | None = None) -> LossTerms:
        """The loss of one batch: outputs (N, bits), labels (N, num_classes)."""
        codes = self.activate(outputs)
        similarity = instance_similarity(labels, labels, dtype=codes.dtype)
        inner = codes @ codes.T
        unit, signs = F.normalize(codes.detach()), codes.detach().sign()
        wrong = (similarity - (1 + unit @ unit.T) / 2).abs()
        error = (inner + self.bits) / 2 - similarity * self.bits
        pairwise = mean_where(wrong * error.square(), different_rows(codes))
        quantisation = ((inner - signs @ signs.T).abs() / self.bits).exp().mean()
        logits = self.classifier(codes)
        classification = label_cross_entropy(logits, labels.to(logits.dtype))
        total = (
            self.hash_weight * pairwise
            + self.classification_weight * classification
            + self.quantisation_weight * quantisation
        )
        return LossTerms(
            total,
            {
                "pairwise": pairwise,
                "classification": classification,
                "quantisation": quantisation,
            },
        )
