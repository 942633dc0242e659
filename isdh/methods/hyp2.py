"""HyP2: Hybrid Proxy-Pair loss (Xu et al., ACM Multimedia 2022).

Source: github.com/JerryXu0129/HyP2-Loss. Formula: docs/method.md, section 2.15.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isdh.classwise import cosines
from isdh.method import Batch, LossTerms, Method, require_not_negative
from isdh.pairwise import mean_where
from isdh.similarity import shares_label


class HyP2(Method):
    """Cosines to learnable proxies, and cosines of pairs of rich label sets that share nothing.

    Args:
        bits: the code length.
        num_classes: the number of labels.
        pair_weight: of the pairs.
        proxy_rate: the proxies' learning rate, as a multiple of the hash layer's.

    Attributes:
        zeta: the cosine up to which what does not belong together is left alone.
    """

    def __init__(
        self, *, bits: int, num_classes: int, pair_weight: float = 0.5, proxy_rate: float = 2.0
    ) -> None:
        super().__init__(bits=bits, num_classes=num_classes)
        require_not_negative(pair_weight=pair_weight, proxy_rate=proxy_rate)
        self.pair_weight = pair_weight
        self.proxy_rate = proxy_rate
        self.zeta = 1 - 2 * best_distance(bits, dimension(num_classes)) / bits
        self.proxies = nn.Parameter(torch.empty(num_classes, bits))
        nn.init.kaiming_normal_(self.proxies, mode="fan_out")

    def rates(self) -> Mapping[str, float]:
        """The proxies learn faster than the hash layer."""
        return {"proxies": self.proxy_rate}

    def activate(self, outputs: Tensor) -> Tensor:
        """The outputs at length 1, as the cosines see them."""
        return F.normalize(outputs, dim=1)

    def forward(self, outputs: Tensor, labels: Tensor, batch: Batch | None = None) -> LossTerms:
        """The loss of one batch: outputs (N, bits), labels (N, num_classes)."""
        cosine = cosines(outputs, self.proxies)
        has = labels > 0
        attraction = mean_where(1 - cosine, has)
        repulsion = mean_where(F.relu(cosine - self.zeta), ~has)
        rich = has.sum(dim=1) > 1
        apart = ~shares_label(labels, labels) & rich & rich[:, None]
        pairs = mean_where(F.relu(cosines(outputs, outputs) - self.zeta), apart)
        total = attraction + repulsion + self.pair_weight * pairs
        parts = {"attraction": attraction, "repulsion": repulsion, "pairs": pairs}
        return LossTerms(total, parts)


def dimension(num_classes: int) -> int:
    """Of the smallest binary linear code with a word for every class; at least 1."""
    return max(1, math.ceil(math.log2(num_classes)))


def best_distance(bits: int, dimension: int) -> int:
    """The largest minimum distance of a binary linear code [bits, dimension].

    Beyond dimension 7, which is 128 classes, a bound that a code may fall short of. At least 1,
    though there is no code whose length is below its dimension.

    >>> [best_distance(bits, 6) for bits in (12, 16, 24, 32, 36, 48, 64)]
    [4, 6, 10, 16, 16, 24, 32]
    """
    distance = 1
    while shortest_length(distance + 1, dimension) <= bits:
        distance += 1
    return distance


def shortest_length(distance: int, dimension: int) -> int:
    """The least length of a binary linear code: Griesmer's bound and what it misses by.

    Beyond dimension 7 the bound alone, or what the code of dimension 7 inside needs, and a bit for
    each dimension more.
    """
    even = distance + distance % 2  # a parity bit makes an odd distance even
    griesmer = sum(-(-even // (1 << i)) for i in range(dimension))
    length = griesmer + EXCESS.get(dimension, {}).get(even, 0) - (even - distance)
    return max(length, shortest_length(distance, dimension - 1) + 1) if dimension > 7 else length


# dimension -> even distance -> how much longer than Griesmer's bound the shortest code is
EXCESS = {
    5: dict.fromkeys((4, 6), 1),
    6: dict.fromkeys((4, 6, 8, 10, 12, 14, 20), 1),
    7: dict.fromkeys((4, 6, 8, 10, 12, 18, 20, 22, 24, 30, 36, 38, 40, 42, 44), 1)
    | dict.fromkeys((14, 16, 26, 28), 2),
}
