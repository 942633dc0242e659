"""RISH: Ranking Instance Similarity Hashing, a loss of this project.

Formula: docs/method.md, section 2.21.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isdh.errors import InputError
from isdh.listwise import (
    cosines,
    list_cross_entropy,
    mean_of_lists,
    shared_labels,
    soft_ranking,
)
from isdh.method import Batch, LossTerms, Method, require_not_negative, require_positive


class RISH(Method):
    """Average precision and NDCG of the lists within a batch, descended on as such.

    It is made for a network with a hidden layer and BatchNorm on the hash layer, and batches of
    256. The classifier of the auxiliary term is sized by `prepare` and dropped after training; the
    term falls away without `Batch.hidden` or without `prepare`.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        list_weight: of the cross-entropy of lists.
        ap_weight: of 1 - average precision.
        ndcg_weight: of 1 - NDCG.
        straight_through: share of the sign in the codes that are compared, from 0 to 1.
        auxiliary_weight: of the cross-entropy of the classifier on what the hash layer reads.
        scale: of the cosines, before the softmax of lists.
    """

    def __init__(
        self,
        *,
        bits: int,
        num_classes: int,
        list_weight: float = 1.0,
        ap_weight: float = 9.0,
        ndcg_weight: float = 6.0,
        straight_through: float = 0.5,
        auxiliary_weight: float = 0.1,
        scale: float = 3.0,
    ) -> None:
        super().__init__(bits=bits, num_classes=num_classes)
        require_not_negative(
            list_weight=list_weight,
            ap_weight=ap_weight,
            ndcg_weight=ndcg_weight,
            auxiliary_weight=auxiliary_weight,
        )
        require_positive(scale=scale)
        if not 0 <= straight_through <= 1:
            raise InputError(f"straight_through={straight_through}: a share, from 0 to 1")
        self.list_weight = list_weight
        self.ap_weight = ap_weight
        self.ndcg_weight = ndcg_weight
        self.straight_through = straight_through
        self.auxiliary_weight = auxiliary_weight
        self.scale = scale
        self.classifier: nn.Linear | None = None

    def prepare(self, labels: Tensor, width: int) -> None:
        """Make the classifier of the auxiliary term, where that has a weight."""
        if self.auxiliary_weight:
            self.classifier = nn.Linear(width, self.num_classes)

    def rates(self) -> Mapping[str, float]:
        """The classifier learns five times as fast as the hash layer."""
        return {"classifier": 5.0}

    def activate(self, outputs: Tensor) -> Tensor:
        """Hyperbolic tangent."""
        return outputs.tanh()

    def forward(self, outputs: Tensor, labels: Tensor, batch: Batch | None = None) -> LossTerms:
        """The loss of one batch: outputs (N, bits), labels (N, num_classes)."""
        cosine = cosines(self._half_binary(outputs))
        shared = shared_labels(labels, cosine.dtype)
        lists = list_cross_entropy(self.scale * cosine, shared.exp2() - 1)
        precision, ndcg = soft_ranking(self.bits * (1 - cosine) / 2, shared, self.bits)
        parts = {
            "list": mean_of_lists(lists, shared),
            "ap": mean_of_lists(1 - precision, shared),
            "ndcg": mean_of_lists(1 - ndcg, shared),
        }
        total = (
            self.list_weight * parts["list"]
            + self.ap_weight * parts["ap"]
            + self.ndcg_weight * parts["ndcg"]
        )
        if self.classifier is not None and batch is not None and batch.hidden is not None:
            logits = self.classifier(batch.hidden)
            entropy = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
            parts["auxiliary"] = entropy * self.num_classes / 4
            total = total + self.auxiliary_weight * parts["auxiliary"]
        return LossTerms(total, parts)

    def _half_binary(self, outputs: Tensor) -> Tensor:
        """Relaxed codes moved towards their sign, with the gradient of the relaxed ones."""
        codes = self.activate(outputs)
        signs = torch.where(outputs > 0, 1.0, -1.0).to(codes.dtype)
        return codes + self.straight_through * (signs - codes).detach()
