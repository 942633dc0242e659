"""ITQ-CCA: Iterative Quantization of canonical correlations (Gong and Lazebnik, CVPR 2011).

Formula: docs/method.md, section 2.25.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isdh.fitting import rotation
from isdh.method import FittedMethod, require_positive


class ITQCCA(FittedMethod):
    """Directions that correlate most with the labels, scaled by the correlation and rotated.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        regularisation: added to the diagonal of both covariances.
        iterations: of the rotation.
    """

    head = "linear"
    remark = (
        "Codes longer than the number of labels rotate that many directions into all bits, and the "
        "published `regularisation` is small: choose it on images held out from training."
    )

    def __init__(
        self, *, bits: int, num_classes: int, regularisation: float = 1e-4, iterations: int = 50
    ) -> None:
        super().__init__(bits=bits, num_classes=num_classes)
        require_positive(regularisation=regularisation, iterations=iterations)
        self.regularisation = regularisation
        self.iterations = iterations

    def fit(
        self, features: Tensor, labels: Tensor, *, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Project features (T, F) on min(bits, F, num_classes) directions, and rotate them."""
        mean = features.double().mean(dim=0)
        centred = features.double() - mean
        directions = canonical_directions(centred, labels.double(), self.regularisation)
        directions = directions[: self.bits]
        turned = rotation(centred @ directions.T, self.bits, self.iterations, generator)
        weight = turned.T @ directions
        return {"weight": weight.float(), "bias": -(weight @ mean).float()}


def canonical_directions(features: Tensor, labels: Tensor, regularisation: float) -> Tensor:
    """Canonical directions of features towards labels, each times its correlation.

    With the factors A A^T and B B^T of both covariances, they are A^-T u for the left singular
    vectors u of A^-1 C B^-T, C the covariance between the two; the singular values correlate.

    Args:
        features: float64 (T, F), centred.
        labels: float64 (T, C).
        regularisation: added to the diagonal of both covariances.

    Returns:
        float64 (min(F, C), F), the largest correlation first.
    """
    labels = labels - labels.mean(dim=0)
    freedom = max(len(features) - 1, 1)
    own, other = (
        torch.linalg.cholesky(
            rows.T @ rows / freedom + regularisation * torch.eye(rows.shape[1], dtype=rows.dtype)
        )
        for rows in (features, labels)
    )
    between = torch.linalg.solve_triangular(own, features.T @ labels / freedom, upper=False)
    whitened = torch.linalg.solve_triangular(other, between.T, upper=False).T
    left, correlations, _ = torch.linalg.svd(whitened, full_matrices=False)
    directions: Tensor = torch.linalg.solve_triangular(own.T, left * correlations, upper=True)
    return directions.T
