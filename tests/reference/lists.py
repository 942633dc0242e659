"""Listwise losses list by list, in plain loops, from docs/method.md, 2.20 and 2.21.

Each takes network outputs float64 (N, bits) and labels float64 (N, C) and returns a scalar Tensor,
so that autograd gives the gradient of the loops themselves.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def lish(outputs: Tensor, labels: Tensor, *, scale: float = 3.0) -> Tensor:
    codes = torch.tanh(outputs)
    lists = [
        cross_entropy(
            i, codes, scale, {j: 2 ** shared(i, j, labels) - 1 for j in others(i, labels)}
        )
        for i in range(len(outputs))
        if any(shared(i, j, labels) > 0 for j in others(i, labels))
    ]
    return sum(lists) / len(lists)


def rish(
    outputs: Tensor,
    labels: Tensor,
    *,
    list_weight: float = 2.0,
    ap_weight: float = 12.0,
    ndcg_weight: float = 9.0,
    anchor_power: float = 0.5,
    share: float = 0.75,
    scale: float = 3.0,
) -> Tensor:
    bits = outputs.shape[1]
    relaxed = torch.tanh(outputs)
    signs = torch.tensor([[1.0 if x > 0 else -1.0 for x in row] for row in outputs.tolist()])
    codes = relaxed + share * (signs.double() - relaxed).detach()
    graded, plain, weights = [], [], []
    for i in range(len(outputs)):
        number = sum(shared(i, j, labels) for j in others(i, labels))
        if number == 0:
            continue
        precision, ndcg = scores(i, codes, labels, bits)
        gains = {j: gain(i, j, labels) for j in others(i, labels)}
        entropy = cross_entropy(i, codes, scale, gains)
        weights.append(number**anchor_power)
        graded.append(weights[-1] * (list_weight * entropy + ndcg_weight * (1 - ndcg)))
        plain.append(ap_weight * (1 - precision))
    return sum(graded) / sum(weights) + sum(plain) / len(plain)


def auxiliary(hidden: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    rows, classes = labels.shape
    total = torch.zeros((), dtype=hidden.dtype)
    for i in range(rows):
        for c in range(classes):
            p = torch.sigmoid((weight[c] * hidden[i]).sum() + bias[c])
            y = labels[i, c]
            total = total - y * torch.log(p) - (1 - y) * torch.log(1 - p)
    return total / (rows * classes) * classes / 4


def cross_entropy(i: int, codes: Tensor, scale: float, gains: dict[int, float]) -> Tensor:
    weights = {j: torch.exp(scale * cosine(codes[i], codes[j])) for j in gains}
    total = torch.zeros((), dtype=codes.dtype)
    for j in gains:
        target = gains[j] / sum(gains.values())
        total = total - target * torch.log(weights[j] / sum(weights.values()))
    return total


def scores(i: int, codes: Tensor, labels: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    counts, relevant, gained = ([torch.zeros(()).double()] * (bits + 1) for _ in range(3))
    for j in others(i, labels):
        distance = bits * (1 - cosine(codes[i], codes[j])) / 2
        none = math.prod(1 - p**2 for p in products(i, j, labels))
        for d in range(bits + 1):
            share = (1 - (distance - d).abs()).clamp(min=0)
            counts[d] = counts[d] + share
            relevant[d] = relevant[d] + share * (1 - none)
            gained[d] = gained[d] + share * gain(i, j, labels)
    precision = ndcg = torch.zeros(()).double()
    for d in range(bits + 1):
        if counts[d] == 0:
            continue
        place = sum(counts[:d]) + (counts[d] + 1) / 2
        precision = precision + relevant[d] * (sum(relevant[:d]) + (relevant[d] + 1) / 2) / place
        ndcg = ndcg + gained[d] / torch.log2(1 + place)
    best = sorted((gain(i, j, labels) for j in others(i, labels)), reverse=True)
    ideal = sum(gain / math.log2(1 + rank) for rank, gain in enumerate(best, start=1))
    return precision / sum(relevant), ndcg / ideal


def others(i: int, labels: Tensor) -> list[int]:
    return [j for j in range(len(labels)) if j != i]


def products(i: int, j: int, labels: Tensor) -> list[float]:
    return (labels[i] * labels[j]).tolist()


def gain(i: int, j: int, labels: Tensor) -> float:
    return math.prod(1 + p for p in products(i, j, labels)) - 1


def shared(i: int, j: int, labels: Tensor) -> float:
    return float((labels[i] * labels[j]).sum())


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())
