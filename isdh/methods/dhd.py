"""DHD: Deep Hash Distillation (Jang, Gu, Ko, Kang and Cho, ECCV 2022).

Source: github.com/youngkyunJang/Deep-Hash-Distillation. Formula: docs/method.md, section 2.17.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isdh.classwise import cosines, softmax_cross_entropy
from isdh.method import Batch, LossTerms, Method, require_not_negative, require_positive


class DHD(Method):
    """Softmax over learnable proxies; a second view of the same rows learns from the first.

    Without a batch, or one that has no view, the distillation falls away.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        temperature: of the cosines to proxies.
        distillation_weight: of 1 - the cosine of two views.
        quantisation_weight: of the quantisation term.
        deviation: of the Gaussians around -1 and 1 in the quantisation term.
    """

    views = 1
    remark = (
        "published with a strongly augmented view that learns from a weakly augmented one, and"
        " LayerNorm on the hash layer; here both views and the network are those of the settings"
    )

    def __init__(
        self,
        *,
        bits: int,
        num_classes: int,
        temperature: float = 0.2,
        distillation_weight: float = 0.1,
        quantisation_weight: float = 0.1,
        deviation: float = 0.5,
    ) -> None:
        super().__init__(bits=bits, num_classes=num_classes)
        require_positive(temperature=temperature, deviation=deviation)
        require_not_negative(
            distillation_weight=distillation_weight, quantisation_weight=quantisation_weight
        )
        self.temperature = temperature
        self.distillation_weight = distillation_weight
        self.quantisation_weight = quantisation_weight
        self.deviation = deviation
        self.proxies = nn.Parameter(torch.empty(num_classes, bits))
        nn.init.xavier_uniform_(self.proxies, gain=nn.init.calculate_gain("tanh"))

    def activate(self, outputs: Tensor) -> Tensor:
        """Hyperbolic tangent."""
        return outputs.tanh()

    def forward(self, outputs: Tensor, labels: Tensor, batch: Batch | None = None) -> LossTerms:
        """The loss of one batch: outputs (N, bits), labels (N, num_classes)."""
        codes = self.activate(outputs)
        logits = cosines(codes, self.proxies) / self.temperature
        classification = softmax_cross_entropy(logits, labels.to(outputs.dtype))
        distillation = outputs.sum() * 0
        if batch and batch.views:
            students = self.activate(batch.views[0])
            distillation = (1 - F.cosine_similarity(students, codes.detach())).mean()
        quantisation = gaussian_cross_entropy(codes, self.deviation).mean()
        total = (
            classification
            + self.distillation_weight * distillation
            + self.quantisation_weight * quantisation
        )
        parts = {
            "classification": classification,
            "distillation": distillation,
            "quantisation": quantisation,
        }
        return LossTerms(total, parts)


def gaussian_cross_entropy(codes: Tensor, deviation: float) -> Tensor:
    """Binary cross-entropies of a bit under Gaussians around 1 and around -1, their sum.

    With g(x) = exp(-(x / deviation)^2 / 2) they are -log g(|u| - 1) - log(1 - g(|u| + 1)): the bit
    is the code's own sign, and the two Gaussians mirror each other.

    Args:
        codes: (N, bits), relaxed.
        deviation: of both.

    Returns:
        (N, bits).
    """
    own = ((codes.abs() - 1) / deviation).square() / 2
    other = ((codes.abs() + 1) / deviation).square() / 2
    return own - torch.log1p(-torch.exp(-other))
