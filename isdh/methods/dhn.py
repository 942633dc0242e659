"""DHN: Deep Hashing Network (Zhu, Long, Wang and Cao, AAAI 2016).

Formula: docs/method.md, section 2.3.
"""

from __future__ import annotations

from torch import Tensor

from isdh.method import Batch, LossTerms, Method, require_not_negative
from isdh.pairwise import cross_entropy, smooth_binarisation_gap
from isdh.similarity import shares_label


class DHN(Method):
    """Pairwise cross-entropy on whether two images share a label, with theta = <u, u> / 2.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        quantisation_weight: of mean log cosh(|u| - 1).
    """

    def __init__(self, *, bits: int, num_classes: int, quantisation_weight: float = 0.1) -> None:
        super().__init__(bits=bits, num_classes=num_classes)
        require_not_negative(quantisation_weight=quantisation_weight)
        self.quantisation_weight = quantisation_weight

    def activate(self, outputs: Tensor) -> Tensor:
        """Hyperbolic tangent."""
        return outputs.tanh()

    def forward(self, outputs: Tensor, labels: Tensor, batch: Batch | None = None) -> LossTerms:
        """The loss of one batch: outputs (N, bits), labels (N, num_classes)."""
        codes = self.activate(outputs)
        similar = shares_label(labels, labels).to(codes.dtype)
        pairwise = cross_entropy(codes @ codes.T / 2, similar).mean()
        quantisation = smooth_binarisation_gap(codes).mean()
        total = pairwise + self.quantisation_weight * quantisation
        return LossTerms(total, {"pairwise": pairwise, "quantisation": quantisation})
