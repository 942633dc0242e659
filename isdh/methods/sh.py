"""SH: Spectral Hashing (Weiss, Torralba and Fergus, NIPS 2008).

Formula: docs/method.md, section 2.24.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from isdh.fitting import principal_directions
from isdh.method import FittedMethod


class SH(FittedMethod):
    """Signs of the slowest waves on the box that the rows fill along their principal directions.

    Args:
        bits: the code length.
        num_classes: the number of labels, which it does not look at.
    """

    head = "eigenfunctions"

    def fit(
        self, features: Tensor, labels: Tensor, *, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Lay a box about features (T, F) along min(bits, F) directions, and take its waves."""
        mean, directions = principal_directions(features, self.bits)
        projected = (features.double() - mean) @ directions.T
        lowest, highest = projected.aminmax(dim=0)
        return {
            "mean": mean.float(),
            "directions": directions.float(),
            "lowest": lowest.float(),
            "omega": frequencies(highest - lowest, self.bits).float(),
        }


def frequencies(sides: Tensor, bits: int) -> Tensor:
    """The lowest frequencies of waves along one side of a box, the constant left out.

    Along a side of length l there are waves of omega = m pi / l, m = 1, 2, ...; of equal ones the
    earlier side comes first.

    Args:
        sides: (D,), lengths; a wave needs one that is not 0.
        bits: how many waves.

    Returns:
        (bits, D), each row with one entry that is not 0.
    """
    sides = sides.where(sides > 1e-9 * sides.amax().clamp(min=1e-9), math.inf)
    if torch.isinf(sides).all():  # all rows are equal: any wave gives all the same code
        sides = torch.ones_like(sides)
    modes = torch.arange(1, bits + 1, dtype=sides.dtype)
    omega = math.pi * modes / sides[:, None]
    order = omega.flatten().where(omega.flatten() > 0, math.inf).argsort(stable=True)[:bits]
    chosen = torch.zeros(bits, len(sides), dtype=sides.dtype)
    chosen[torch.arange(bits), order // bits] = omega.flatten()[order]
    return chosen
