"""CNNH: Convolutional Neural Network Hashing (Xia, Pan, Lai, Liu and Yan, AAAI 2014).

Formula: docs/method.md, section 2.18.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isdh.fitting import signs
from isdh.method import Batch, LossTerms, Method, require_positive
from isdh.similarity import shares_label


class CNNH(Method):
    """Regression to codes that were found beforehand, from the labels of the training rows alone.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        sweeps: over all entries of all codes, in finding them.
    """

    codes: Tensor

    def __init__(self, *, bits: int, num_classes: int, sweeps: int = 10) -> None:
        super().__init__(bits=bits, num_classes=num_classes)
        require_positive(sweeps=sweeps)
        self.sweeps = sweeps
        self.register_buffer("codes", torch.empty(0, bits, dtype=torch.int8))

    def prepare(self, labels: Tensor, width: int) -> None:
        """Find the codes: stage 1; labels (T, num_classes)."""
        start = 2 * torch.rand(len(labels), self.bits, dtype=torch.float64) - 1
        self.codes = signs(factorise(start, labels, self.sweeps)).to(torch.int8)

    def activate(self, outputs: Tensor) -> Tensor:
        """Clamping to [-1, 1]; the loss reads the outputs as they are."""
        return outputs.clamp(-1, 1)

    def forward(self, outputs: Tensor, labels: Tensor, batch: Batch | None = None) -> LossTerms:
        """Stage 2: outputs (N, bits), labels (N, num_classes).

        Without a batch there is no code to regress to. Then stage 1's objective is taken over the
        outputs themselves: how far <u_i, u_j> / bits is from 1 for pairs that share a label, and
        from -1 for the others.
        """
        if batch is None or not len(self.codes):
            similar = 2 * shares_label(labels, labels).to(outputs.dtype) - 1
            total = (outputs @ outputs.T / self.bits - similar).square().mean()
            return LossTerms(total, {"pairwise": total})
        total = (outputs - self.codes[batch.rows].to(outputs.dtype)).square().mean()
        return LossTerms(total, {"regression": total})


def factorise(codes: Tensor, labels: Tensor, sweeps: int) -> Tensor:
    """Descend on |H H^T - bits S|^2, one entry of H at a time, S = 1 where a label is shared.

    A sweep takes the rows in random order (torch's global generator). S is made by blocks of rows.

    Args:
        codes: float64 (T, bits) in [-1, 1], H to begin with.
        labels: bool (T, num_classes).
        sweeps: over all entries.

    Returns:
        float64 (T, bits) in [-1, 1].
    """
    values = codes.numpy().copy()
    products = values.T @ values
    for _ in range(sweeps):
        order = torch.randperm(len(values))
        for begin in range(0, len(order), ROWS):
            rows = order[begin : begin + ROWS]
            similar = shares_label(labels[rows], labels).numpy()
            _compiled()(values, products, rows.numpy(), similar)
    return torch.from_numpy(values)


# Rows of S that are held at a time, a byte per entry.
ROWS = 1024


@cache
def _compiled() -> Any:
    import numba

    try:
        return numba.njit(cache=True, nogil=True)(descend)
    except RuntimeError:  # no folder to cache in: a read-only container, a user without a home
        return numba.njit(nogil=True)(descend)


def descend(values: Any, products: Any, rows: Any, similar: Any) -> None:
    """Give each entry of some rows of H a Newton step, clamped to [-1, 1]; in place, compiled.

    With L = H H^T - bits S, a step d of H_ik changes |L|^2 by
    4 d (L H)_ik + 2 d^2 (|H_k|^2 + H_ik^2 + L_ii) + 4 H_ik d^3 + d^4, H_k a column. L itself is
    never formed: (L H)_ik = <H_i, (H^T H)_k> - bits (S H)_ik.

    Args:
        values: float64 (T, bits), H.
        products: float64 (bits, bits), H^T H, kept up to date.
        rows: int64 (R,).
        similar: bool (R, T), whether S is 1, else -1.
    """
    count, bits = values.shape
    for place in range(len(rows)):
        i = rows[place]
        row, pull = values[i], np.zeros(bits)
        for j in range(count):
            sign = 1.0 if similar[place, j] else -1.0
            for k in range(bits):
                pull[k] += sign * values[j, k]
        own = 1.0 if similar[place, i] else -1.0
        for k in range(bits):
            h, slope, length = row[k], -bits * pull[k], 0.0
            for m in range(bits):
                slope += row[m] * products[k, m]
                length += row[m] * row[m]
            curvature = products[k, k] + h * h + length - bits * own
            step = -slope / curvature if curvature > 0 else -2 * np.sign(slope)
            step = min(max(step, -1 - h), 1 - h)
            rise = 4 * slope + step * (2 * curvature + step * (4 * h + step))
            if step * rise >= 0:
                continue
            for m in range(bits):
                if m != k:
                    products[k, m] += step * row[m]
                    products[m, k] = products[k, m]
            products[k, k] += step * (2 * h + step)
            row[k] = h + step
