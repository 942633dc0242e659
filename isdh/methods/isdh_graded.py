"""ISDH, graded: the loss of ISDH with gamma = 1, where degrees of overlap have more say.

A setting of this project's. Source of the loss: github.com/pectinid16/ISDH-Tensorflow. Formula:
docs/method.md, section 2.1.
"""

from __future__ import annotations

from torch import Tensor

from isdh.pairwise import InstancePairs, instance_pairs


class ISDHGraded(InstancePairs):
    """Cross-entropy on hard pairs, squared error of the sigmoid on soft pairs, weighed alike.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        gamma: weight of hard pairs; the authors' ISDH has 10.
        alpha: weight of the quantisation term.
        beta: bound of the logits, |theta| <= beta.
    """

    def __init__(
        self,
        *,
        bits: int,
        num_classes: int,
        gamma: float = 1.0,
        alpha: float = 0.1,
        beta: float = 5.0,
    ) -> None:
        super().__init__(bits=bits, num_classes=num_classes, gamma=gamma, alpha=alpha, beta=beta)

    def pairs(self, codes: Tensor, similarity: Tensor) -> Tensor:
        """The loss of each pair, (N, N)."""
        return instance_pairs(self.beta * (codes @ codes.T) / self.bits, similarity, self.gamma)
