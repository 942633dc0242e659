"""Terms that pairwise losses share: relaxed codes of a batch -> values per pair. Pure torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from isdh.method import Batch, LossTerms, Method, require_not_negative, require_positive
from isdh.similarity import hard_pairs, instance_similarity


def cross_entropy(theta: Tensor, similarity: Tensor) -> Tensor:
    """Negative log-likelihood of a pair under P(similar) = sigmoid(theta).

    log(1 + exp(theta)) - S theta, by softplus, which neither overflows nor underflows.

    Args:
        theta: (N, M), logits.
        similarity: (N, M) in [0, 1].

    Returns:
        (N, M).
    """
    return F.softplus(theta) - similarity * theta


def instance_pairs(theta: Tensor, similarity: Tensor, gamma: float) -> Tensor:
    """ISDH's pairs (docs/method.md, section 2.1).

    Args:
        theta: (N, M), logits.
        similarity: (N, M) in [0, 1], instance similarity.
        gamma: weight of hard pairs.

    Returns:
        (N, M): weighted cross-entropy where hard, squared error of the sigmoid where soft.
    """
    hard = gamma * cross_entropy(theta, similarity)
    soft = (similarity - theta.sigmoid()).square()
    return torch.where(hard_pairs(similarity), hard, soft)


def log_one_plus_exp(values: Tensor) -> Tensor:
    """The logistic loss log(1 + exp x) for values whose derivative is known otherwise.

    About five times as fast on a CPU as `softplus`, whose log1p is not vectorised. No gradient: at
    0 it would be 0, not 1/2.

    Args:
        values: of any shape, infinite ones included.

    Returns:
        Of the same shape.
    """
    values = values.detach()
    return values.relu() + values.abs().neg_().exp_().add_(1).log_()


def with_slope(value: Tensor, slope: Tensor, variable: Tensor) -> Tensor:
    """A number whose derivative was worked out beside it, so that nothing is kept for autograd.

    Args:
        value: scalar, without gradient.
        slope: its derivative by the variable, of the variable's shape.
        variable: finite.

    Returns:
        Scalar, the value, with the gradient `slope`.
    """
    return value + (slope * (variable - variable.detach())).sum()


def mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen values; of none it is 0, and keeps the graph.

    Args:
        values: finite, any shape.
        chosen: bool or 0 and 1, of the same shape.

    Returns:
        Scalar.
    """
    chosen = chosen.to(values.dtype)
    return (values * chosen).sum() / chosen.sum().clamp(min=1)


def different_rows(codes: Tensor) -> Tensor:
    """All pairs of a batch but those of a row with itself.

    Args:
        codes: (N, bits).

    Returns:
        bool (N, N).
    """
    return ~torch.eye(len(codes), dtype=torch.bool, device=codes.device)


def binarisation_gap(codes: Tensor) -> Tensor:
    """How far relaxed codes are from binary: | |D| - 1 | (docs/method.md, section 2.1).

    Args:
        codes: (N, bits), relaxed.

    Returns:
        (N, bits).
    """
    return (codes.abs() - 1).abs()


def sign_gap(outputs: Tensor) -> Tensor:
    """How far outputs are from their signs, squared: (u - sign u)^2 (docs/method.md, section 2.5).

    Args:
        outputs: (N, bits); sign 0 = 0.

    Returns:
        (N, bits).
    """
    return (outputs - outputs.sign()).square()


def smooth_binarisation_gap(codes: Tensor) -> Tensor:
    """A smooth surrogate of the gap: log cosh(|u| - 1) (docs/method.md, section 2.3).

    Args:
        codes: (N, bits), relaxed.

    Returns:
        (N, bits).
    """
    gap = codes.abs() - 1
    # log cosh x = softplus(2x) - x - log 2 stays finite where cosh overflows
    return F.softplus(2 * gap) - gap - LOG_2


LOG_2 = 0.6931471805599453


class InstancePairs(Method):
    """The frame of ISDH and IDHN: one mean over all pairs of a batch, by instance similarity.

    The mean runs over all N x N pairs, self pairs included, hard and soft ones alike.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        gamma: weight of one kind of pair.
        alpha: weight of the quantisation term.
        beta: bound of the logits, |theta| <= beta.
    """

    def __init__(
        self, *, bits: int, num_classes: int, gamma: float, alpha: float, beta: float
    ) -> None:
        super().__init__(bits=bits, num_classes=num_classes)
        require_not_negative(gamma=gamma, alpha=alpha)
        require_positive(beta=beta)
        self.gamma = gamma
        self.alpha = alpha
        self.beta = beta

    def activate(self, outputs: Tensor) -> Tensor:
        """Softsign, x / (1 + |x|)."""
        return F.softsign(outputs)

    def pairs(self, codes: Tensor, similarity: Tensor) -> Tensor:
        """The loss of each pair.

        Args:
            codes: (N, bits), relaxed.
            similarity: (N, N), instance similarity.

        Returns:
            (N, N).
        """
        raise NotImplementedError

    def forward(self, outputs: Tensor, labels: Tensor, batch: Batch | None = None) -> LossTerms:
        """The loss of one batch: outputs (N, bits), labels (N, num_classes)."""
        codes = self.activate(outputs)
        similarity = instance_similarity(labels, labels, dtype=codes.dtype)
        pairwise = self.pairs(codes, similarity).mean()
        quantisation = binarisation_gap(codes).mean()
        total = pairwise + self.alpha * quantisation
        return LossTerms(total, {"pairwise": pairwise, "quantisation": quantisation})
