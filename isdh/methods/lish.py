"""LISH: Listwise Instance Similarity Hashing, a loss of this project.

Formula: docs/method.md, section 2.20.
"""

from __future__ import annotations

from torch import Tensor

from isdh.listwise import cosines, list_cross_entropy, mean_of_lists, shared_labels
from isdh.method import Batch, LossTerms, Method, require_positive


class LISH(Method):
    """Every row's softmax over the others is to follow the gains of their shared labels.

    It is made for a network with BatchNorm on the hash layer and batches of 256.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        scale: of the cosines, before the softmax.
    """

    def __init__(self, *, bits: int, num_classes: int, scale: float = 3.0) -> None:
        super().__init__(bits=bits, num_classes=num_classes)
        require_positive(scale=scale)
        self.scale = scale

    def activate(self, outputs: Tensor) -> Tensor:
        """Hyperbolic tangent."""
        return outputs.tanh()

    def forward(self, outputs: Tensor, labels: Tensor, batch: Batch | None = None) -> LossTerms:
        """The loss of one batch: outputs (N, bits), labels (N, num_classes)."""
        codes = self.activate(outputs)
        shared = shared_labels(labels, codes.dtype)
        lists = list_cross_entropy(self.scale * cosines(codes), shared.exp2() - 1)
        total = mean_of_lists(lists, shared)
        return LossTerms(total, {"list": total})
