"""RISH: Ranking Instance Similarity Hashing, a loss of this project.

Formula: docs/method.md, section 2.21.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from isdh.classwise import label_cross_entropy
from isdh.errors import InputError
from isdh.kernel_ridge import leave_one_out
from isdh.listwise import (
    cosines,
    expected_relevance,
    list_cross_entropy,
    mean_of_lists,
    shared_labels,
    soft_ranking,
)
from isdh.method import Batch, LossTerms, Method, require_not_negative, require_positive


class RISH(Method):
    """Average precision and NDCG of the lists within a batch, descended on as such.

    It is made for features of a frozen backbone, a network with a hidden layer and BatchNorm on the
    hash layer, and batches of 256. The classifier of the auxiliary term is sized by `prepare` and
    dropped after training; the term falls away without `Batch.hidden` or without `prepare`. Without
    a batch the share of the sign is that of half way.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        list_weight: of the cross-entropy of lists.
        ap_weight: of 1 - average precision.
        ndcg_weight: of 1 - NDCG.
        anchor_power: a row's say in lists and NDCG is the labels it shares, to this power.
        straight_through_start: share of the sign in the codes that are compared, at the first step;
            default: 6 / bits, at most 1, because a short code loses most by being cut to its sign.
        straight_through: the same at the last step; between them it changes evenly.
        auxiliary_weight: of the cross-entropy of the classifier on what the hash layer reads.
        teacher_share: of the labels predicted from the other rows, in the labels trained on.
        scale: of the cosines, before the softmax of lists.
    """

    def __init__(
        self,
        *,
        bits: int,
        num_classes: int,
        list_weight: float = 2.0,
        ap_weight: float = 12.0,
        ndcg_weight: float = 9.0,
        anchor_power: float = 0.5,
        straight_through_start: float | None = None,
        straight_through: float = 1.0,
        auxiliary_weight: float = 0.3,
        teacher_share: float = 0.3,
        scale: float = 3.0,
    ) -> None:
        super().__init__(bits=bits, num_classes=num_classes)
        if straight_through_start is None:
            straight_through_start = min(1.0, 6 / bits)
        require_not_negative(
            list_weight=list_weight,
            ap_weight=ap_weight,
            ndcg_weight=ndcg_weight,
            anchor_power=anchor_power,
            auxiliary_weight=auxiliary_weight,
        )
        require_positive(scale=scale)
        _require_share(
            straight_through_start=straight_through_start,
            straight_through=straight_through,
            teacher_share=teacher_share,
        )
        self.list_weight = list_weight
        self.ap_weight = ap_weight
        self.ndcg_weight = ndcg_weight
        self.anchor_power = anchor_power
        self.straight_through_start = straight_through_start
        self.straight_through = straight_through
        self.auxiliary_weight = auxiliary_weight
        self.teacher_share = teacher_share
        self.scale = scale
        self.classifier: nn.Linear | None = None

    def prepare(self, labels: Tensor, width: int) -> None:
        """Make the classifier of the auxiliary term, where that has a weight."""
        if self.auxiliary_weight:
            self.classifier = nn.Linear(width, self.num_classes)

    def soften(self, labels: Tensor, features: Tensor) -> Tensor:
        """The labels to train on: mixed with what the other rows predict of each.

        Args:
            labels: bool (T, num_classes), of all training rows.
            features: float32 (T, F), standardised.

        Returns:
            float32 (T, num_classes) in [0, 1]; the labels themselves without a share.
        """
        if not self.teacher_share:
            return labels
        predicted = leave_one_out(features, labels)
        return labels.float() + self.teacher_share * (predicted - labels.float())

    def rates(self) -> Mapping[str, float]:
        """The classifier learns five times as fast as the hash layer."""
        return {"classifier": 5.0}

    def activate(self, outputs: Tensor) -> Tensor:
        """Hyperbolic tangent."""
        return outputs.tanh()

    def forward(self, outputs: Tensor, labels: Tensor, batch: Batch | None = None) -> LossTerms:
        """The loss of one batch: outputs (N, bits), labels (N, num_classes)."""
        cosine = cosines(self._partly_binary(outputs, batch))
        shared = shared_labels(labels, cosine.dtype)
        relevance, gains = expected_relevance(labels, cosine.dtype)
        lists = list_cross_entropy(self.scale * cosine, gains)
        precision, ndcg = soft_ranking(self.bits * (1 - cosine) / 2, relevance, gains, self.bits)
        parts = {
            "list": mean_of_lists(lists, shared, self.anchor_power),
            "ap": mean_of_lists(1 - precision, shared),
            "ndcg": mean_of_lists(1 - ndcg, shared, self.anchor_power),
        }
        total = (
            self.list_weight * parts["list"]
            + self.ap_weight * parts["ap"]
            + self.ndcg_weight * parts["ndcg"]
        )
        if self.classifier is not None and batch is not None and batch.hidden is not None:
            logits = self.classifier(batch.hidden)
            entropy = label_cross_entropy(logits, labels.to(logits.dtype))
            parts["auxiliary"] = entropy * self.num_classes / 4
            total = total + self.auxiliary_weight * parts["auxiliary"]
        return LossTerms(total, parts)

    def _partly_binary(self, outputs: Tensor, batch: Batch | None) -> Tensor:
        """Relaxed codes moved towards their sign, with the gradient of the relaxed ones."""
        codes = self.activate(outputs)
        signs = torch.where(outputs > 0, 1.0, -1.0).to(codes.dtype)
        done = batch.step / batch.steps if batch is not None else 0.5
        start, end = self.straight_through_start, self.straight_through
        return codes + (start + (end - start) * done) * (signs - codes).detach()


def _require_share(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise InputError(f"{name}={value}: a share, from 0 to 1")
