"""DPSH: Deep Pairwise-Supervised Hashing (Li, Wang and Kang, IJCAI 2016).

Source: github.com/swuxyj/DeepHash-pytorch, DPSH.py. Formula: docs/method.md, section 2.5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isdh.method import Batch, LossTerms, Method, require_not_negative
from isdh.pairwise import log_one_plus_exp, sign_gap, with_slope
from isdh.similarity import shares_label


class DPSH(Method):
    """Cross-entropy between the batch and the last codes of all training rows; theta = <u, v> / 2.

    The batch's own codes are remembered first; no gradient goes through the memory. Before
    `prepare`, or without whereabouts, the pairs are those of the batch.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        eta: weight of the mean of (u - sign u)^2.
    """

    codes: Tensor
    labels: Tensor

    def __init__(self, *, bits: int, num_classes: int, eta: float = 0.1) -> None:
        super().__init__(bits=bits, num_classes=num_classes)
        require_not_negative(eta=eta)
        self.eta = eta
        self.register_buffer("codes", torch.zeros(0, bits))
        self.register_buffer("labels", torch.zeros(0, num_classes, dtype=torch.bool))

    def prepare(self, labels: Tensor, width: int) -> None:
        """Remember a code of zeros for each training row: until its turn it pulls nowhere."""
        self.codes = self.codes.new_zeros(len(labels), self.bits)
        self.labels = labels > 0

    def activate(self, outputs: Tensor) -> Tensor:
        """Outputs cut to [-1, 1]; the loss reads them as they are."""
        return outputs.clamp(-1, 1)

    def remember(self, outputs: Tensor, labels: Tensor, rows: Tensor) -> None:
        """Write a batch into the memory: outputs (N, bits), labels (N, num_classes), rows (N,)."""
        self.codes[rows] = outputs.detach().to(self.codes.dtype)
        self.labels[rows] = labels > 0

    def forward(self, outputs: Tensor, labels: Tensor, batch: Batch | None = None) -> LossTerms:
        """The loss of one batch: outputs (N, bits), labels (N, num_classes)."""
        others, their_labels = outputs, labels
        if batch is not None and len(self.codes):
            if self.training:
                self.remember(outputs, labels, batch.rows)
            # a copy: the memory moves on before a later backward may ask for it
            others, their_labels = self.codes.to(outputs.dtype, copy=True), self.labels
        theta = outputs @ others.T / 2
        similar = shares_label(labels, their_labels).to(outputs.dtype)
        likelihood = (log_one_plus_exp(theta) - similar * theta.detach()).mean()
        slope = (theta.detach().sigmoid() - similar) / theta.numel()
        pairwise = with_slope(likelihood, slope, theta)
        quantisation = sign_gap(outputs).mean()
        total = pairwise + self.eta * quantisation
        return LossTerms(total, {"pairwise": pairwise, "quantisation": quantisation})
