"""ITQ: Iterative Quantization (Gong and Lazebnik, CVPR 2011).

Formula: docs/method.md, section 2.23.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isdh.fitting import principal_directions, rotation
from isdh.method import FittedMethod, require_positive


class ITQ(FittedMethod):
    """Principal directions, rotated so that the rows lie near the corners of a cube.

    Args:
        bits: the code length.
        num_classes: the number of labels, which it does not look at.
        iterations: of the rotation.
    """

    head = "linear"

    def __init__(self, *, bits: int, num_classes: int, iterations: int = 50) -> None:
        super().__init__(bits=bits, num_classes=num_classes)
        require_positive(iterations=iterations)
        self.iterations = iterations

    def fit(
        self, features: Tensor, labels: Tensor, *, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Project features (T, F) on min(bits, F) directions, and rotate them."""
        mean, directions = principal_directions(features, self.bits)
        projected = (features.double() - mean) @ directions.T
        weight = rotation(projected, self.bits, self.iterations, generator).T @ directions
        return {"weight": weight.float(), "bias": -(weight @ mean).float()}
