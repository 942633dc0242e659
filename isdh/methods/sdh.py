"""SDH: Supervised Discrete Hashing (Shen, Shen, Liu and Shen, CVPR 2015), with the L2 loss.

Formula: docs/method.md, section 2.27.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isdh.fitting import anchored, descend_bits, ridge, signs
from isdh.method import FittedMethod, require_positive


class SDH(FittedMethod):
    """Codes from which labels are regressed, and kernels from which codes are.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        anchors: how many; no more than training rows.
        label_penalty: lambda, of the regression from codes to labels.
        nu: weight of the distance between codes and what the kernels give.
        kernel_penalty: of the regression from kernels to codes.
        iterations: of all three steps.
        rounds: over all bits, within a step of the codes; it ends before if none changes.
    """

    head = "kernel"

    def __init__(
        self,
        *,
        bits: int,
        num_classes: int,
        anchors: int = 1000,
        label_penalty: float = 1.0,
        nu: float = 1e-5,
        kernel_penalty: float = 1e-2,
        iterations: int = 5,
        rounds: int = 10,
    ) -> None:
        super().__init__(bits=bits, num_classes=num_classes)
        require_positive(
            anchors=anchors,
            label_penalty=label_penalty,
            nu=nu,
            kernel_penalty=kernel_penalty,
            iterations=iterations,
            rounds=rounds,
        )
        self.anchors = anchors
        self.label_penalty = label_penalty
        self.nu = nu
        self.kernel_penalty = kernel_penalty
        self.iterations = iterations
        self.rounds = rounds

    def fit(
        self, features: Tensor, labels: Tensor, *, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Fit features (T, F) to labels (T, num_classes)."""
        state, kernels = anchored(features, self.anchors, SPREAD, generator)
        ones = kernels.new_ones(len(kernels), 1)
        inputs, targets = torch.cat([kernels, ones], dim=1), labels.double()
        codes = signs(torch.randn(len(features), self.bits, generator=generator).double())
        projection = ridge(inputs, codes, self.kernel_penalty)
        for _ in range(self.iterations):
            weight = ridge(codes, targets, self.label_penalty)
            codes = self.descend(codes, weight, targets, self.nu * (inputs @ projection))
            projection = ridge(inputs, codes, self.kernel_penalty)
        return {**state, "weight": projection[:-1].T.float(), "bias": projection[-1].float()}

    def descend(self, codes: Tensor, weight: Tensor, targets: Tensor, pull: Tensor) -> Tensor:
        """The step of the codes (T, bits): rounds over all bits until none changes."""
        for _ in range(self.rounds):
            before, codes = codes, descend_bits(codes, weight, targets, pull)
            if torch.equal(before, codes):
                break
        return codes


# The width of the kernels: a multiple of the mean squared distance to the anchors.
SPREAD = 2.0
