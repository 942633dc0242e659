"""ISDH: Instance Similarity Deep Hashing (arXiv:1803.02987v1, 2018), as the authors' code has it.

Source: github.com/pectinid16/ISDH-Tensorflow. Formula: docs/method.md, section 2.1.
"""

from __future__ import annotations

from torch import Tensor

from isdh.pairwise import InstancePairs, instance_pairs


class ISDH(InstancePairs):
    """Weighted cross-entropy on hard pairs, squared error of the sigmoid on soft pairs.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        gamma: weight of hard pairs.
        alpha: weight of the quantisation term.
        beta: bound of the logits, |theta| <= beta.
    """

    def __init__(
        self,
        *,
        bits: int,
        num_classes: int,
        gamma: float = 10.0,
        alpha: float = 0.1,
        beta: float = 5.0,
    ) -> None:
        super().__init__(bits=bits, num_classes=num_classes, gamma=gamma, alpha=alpha, beta=beta)

    def pairs(self, codes: Tensor, similarity: Tensor) -> Tensor:
        """The loss of each pair, (N, N)."""
        return instance_pairs(self.beta * (codes @ codes.T) / self.bits, similarity, self.gamma)
