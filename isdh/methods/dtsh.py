"""DTSH: Deep Supervised Hashing with Triplet Labels (Wang, Shi and Kitani, ACCV 2016).

Source: github.com/swuxyj/DeepHash-pytorch, DTSH.py. Formula: docs/method.md, section 2.8.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isdh.method import Batch, LossTerms, Method, require_at_most, require_not_negative
from isdh.pairwise import log_one_plus_exp, sign_gap, with_slope
from isdh.similarity import shares_label

ANCHORS = 8  # compared at a time: their triplets fit a processor's cache


class DTSH(Method):
    """Likelihood that an anchor's similar rows have the larger inner product, by a margin.

    All triplets of the batch; an anchor counts as similar to itself.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        margin: subtracted from the difference of inner products.
        quantisation_weight: of the mean of (u - sign u)^2.
    """

    def __init__(
        self,
        *,
        bits: int,
        num_classes: int,
        margin: float = 5.0,
        quantisation_weight: float = 1.0,
    ) -> None:
        super().__init__(bits=bits, num_classes=num_classes)
        require_not_negative(margin=margin, quantisation_weight=quantisation_weight)
        require_at_most(
            2 * bits, f"by how much two inner products of {bits} bits differ", margin=margin
        )
        self.margin = margin
        self.quantisation_weight = quantisation_weight

    def activate(self, outputs: Tensor) -> Tensor:
        """Outputs cut to [-1, 1]; the loss reads them as they are."""
        return outputs.clamp(-1, 1)

    def forward(self, outputs: Tensor, labels: Tensor, batch: Batch | None = None) -> LossTerms:
        """The loss of one batch: outputs (N, bits), labels (N, num_classes)."""
        inner = outputs @ outputs.T
        value, slope = triplets(inner.detach(), shares_label(labels, labels), self.margin)
        ranking = with_slope(value, slope, inner)
        quantisation = sign_gap(outputs).mean()
        total = ranking + self.quantisation_weight * quantisation
        return LossTerms(total, {"ranking": ranking, "quantisation": quantisation})


def triplets(inner: Tensor, similar: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Mean over anchors of the mean of softplus(margin + dissimilar - similar) over their triplets.

    Anchors without a similar or without a dissimilar row are left out.

    Args:
        inner: (N, N), inner products of anchors (rows) with all rows.
        similar: bool (N, N).
        margin: by which similar ones are to be ahead.

    Returns:
        The mean, a scalar, and its derivative by `inner`, (N, N).
    """
    counts = similar.sum(dim=1)
    anchors = counts.sort(stable=True).indices  # alike in count: few blanks in a block
    order = similar[anchors].to(torch.uint8).sort(dim=1, descending=True, stable=True).indices
    values = inner[anchors].gather(1, order)  # similar ones first
    counts, size = counts[anchors], inner.shape[1]
    number = (counts * (size - counts)).to(inner.dtype)  # of triplets
    weights = (number > 0) / (number.clamp(min=1) * (number > 0).sum().clamp(min=1))
    total, slopes = inner.new_zeros(()), torch.zeros_like(values)
    for start in range(0, len(values), ANCHORS):
        block = slice(start, start + ANCHORS)
        few, many = int(counts[block].min()), int(counts[block].max())
        columns, count = torch.arange(size, device=inner.device), counts[block, None]
        # a blank is infinitely far on its right side: its triplets weigh nothing
        ahead = values[block, :many].masked_fill(columns[:many] >= count, torch.inf)
        behind = values[block, few:].masked_fill(columns[few:] < count, -torch.inf)
        lag = (behind + margin)[:, None, :] - ahead[:, :, None]
        share = lag.sigmoid()
        total += (log_one_plus_exp(lag).sum(dim=(1, 2)) * weights[block]).sum()
        slopes[block, :many] -= share.sum(dim=2) * weights[block, None]
        slopes[block, few:] += share.sum(dim=1) * weights[block, None]
    slope = torch.zeros_like(inner)
    slope[anchors] = torch.zeros_like(values).scatter(1, order, slopes)
    return total, slope
