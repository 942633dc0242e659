"""DSDH: Deep Supervised Discrete Hashing (Li, Sun, He and Tan, NIPS 2017).

Formula: docs/method.md, section 2.19.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isdh.fitting import descend_bits, ridge, signs
from isdh.method import Batch, LossTerms, Method, require_positive
from isdh.pairwise import cross_entropy
from isdh.similarity import shares_label


class DSDH(Method):
    """Pairwise cross-entropy, and outputs drawn to codes from which the labels can be regressed.

    It remembers the outputs and labels of all training rows, and a code for each. At the begin of
    an epoch the codes B and the regression W are computed anew from what is remembered.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        mu: weight of |Y - B W|^2, Y the labels.
        nu: weight of |W|^2.
        eta: weight of |B - U|^2, U the outputs.
        rounds: of W and then all bits of B in turn, each epoch; it ends before if no bit changes.
    """

    outputs: Tensor
    targets: Tensor
    codes: Tensor
    weight: Tensor
    fresh: Tensor

    def __init__(
        self,
        *,
        bits: int,
        num_classes: int,
        mu: float = 1.0,
        nu: float = 1.0,
        eta: float = 55.0,
        rounds: int = 10,
    ) -> None:
        super().__init__(bits=bits, num_classes=num_classes)
        require_positive(mu=mu, nu=nu, eta=eta, rounds=rounds)
        self.mu = mu
        self.nu = nu
        self.eta = eta
        self.rounds = rounds
        self.register_buffer("outputs", torch.zeros(0, bits))
        self.register_buffer("targets", torch.zeros(0, num_classes))
        self.register_buffer("codes", torch.zeros(0, bits))
        self.register_buffer("weight", torch.zeros(bits, num_classes))
        self.register_buffer("fresh", torch.tensor(-1))  # the epoch of codes and weight

    def prepare(self, labels: Tensor, width: int) -> None:
        """Size the memories for labels (T, num_classes); the codes begin at random."""
        self.outputs = torch.zeros(len(labels), self.bits)
        self.targets = labels.float()
        self.codes = signs(torch.randn(len(labels), self.bits))

    def activate(self, outputs: Tensor) -> Tensor:
        """Clamping to [-1, 1]; the loss reads the outputs as they are."""
        return outputs.clamp(-1, 1)

    def forward(self, outputs: Tensor, labels: Tensor, batch: Batch | None = None) -> LossTerms:
        """The loss of one batch: outputs (N, bits), labels (N, num_classes).

        Without a batch its own rows stand in for the memory, and there is no code to be drawn to.
        """
        if batch is None or not len(self.codes):
            total = likelihood(outputs, labels, outputs.detach(), labels)
            return LossTerms(total, {"pairwise": total})
        if self.training:
            self.remember(outputs.detach(), labels, batch)
        codes, count = self.codes[batch.rows], len(self.codes)
        pairwise = likelihood(outputs, labels, self.outputs, self.targets)
        misfit = labels.to(codes.dtype) - codes @ self.weight
        classification = misfit.square().sum(dim=1).mean()
        regularisation = self.weight.square().sum()
        quantisation = (codes - outputs).square().sum(dim=1).mean()
        total = (
            pairwise
            + (self.mu * classification + self.eta * quantisation) / count
            + self.nu * regularisation / count**2
        )
        return LossTerms(
            total,
            {
                "pairwise": pairwise,
                "classification": classification,
                "regularisation": regularisation,
                "quantisation": quantisation,
            },
        )

    @torch.no_grad()
    def remember(self, outputs: Tensor, labels: Tensor, batch: Batch) -> None:
        """Take up a batch; in a new epoch first compute B and W from what came before."""
        if self.fresh != batch.epoch:
            self.renew()
            self.fresh.fill_(batch.epoch)
        self.outputs[batch.rows] = outputs.to(self.outputs.dtype)
        self.targets[batch.rows] = labels.to(self.targets.dtype)

    def renew(self) -> None:
        """Alternate between the best W for B and, bit after bit, the best B for W."""
        pull = self.eta / self.mu * self.outputs
        for _ in range(self.rounds):
            self.weight = ridge(self.codes, self.targets, self.nu / self.mu)
            before = self.codes
            self.codes = descend_bits(before, self.weight, self.targets, pull)
            if torch.equal(before, self.codes):
                break


def likelihood(outputs: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor) -> Tensor:
    """Mean cross-entropy of all pairs (N, M), with the logit <u_i, u_j> / 2."""
    similar = shares_label(labels, other_labels).to(outputs.dtype)
    return cross_entropy(outputs @ others.to(outputs.dtype).T / 2, similar).mean()
