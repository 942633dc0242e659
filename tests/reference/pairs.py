"""Losses of pairs and triplets, one at a time, in plain loops (docs/method.md, section 2).

Each takes network outputs float64 (N, bits) and labels float64 (N, C), 0 and 1 or in between, and
returns a scalar Tensor, so that autograd gives the gradient of the loops themselves.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def zero(outputs: Tensor) -> Tensor:
    return outputs.sum() * 0


def mean(values: list[Tensor], outputs: Tensor) -> Tensor:
    return sum(values, zero(outputs)) / len(values) if values else zero(outputs)


def shared(a: Tensor, b: Tensor) -> float:
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def cosine(a: Tensor, b: Tensor) -> float:
    length = math.sqrt(shared(a, a)) * math.sqrt(shared(b, b))
    return shared(a, b) / length if length > 0 else 0.0


def logistic_loss(theta: Tensor, similar: bool) -> Tensor:
    return torch.log(1 + torch.exp(theta)) - (theta if similar else 0)


def off_sign(u: Tensor) -> Tensor:
    gaps = [(x - math.copysign(1, x.item())) ** 2 for x in u.flatten()]
    return mean(gaps, u)


def isdh_graded(outputs: Tensor, labels: Tensor, *, gamma=1.0, alpha=0.1, beta=5.0) -> Tensor:
    codes, bits, values = outputs / (1 + outputs.abs()), outputs.shape[1], []
    for i in range(len(codes)):
        for j in range(len(codes)):
            similarity = cosine(labels[i], labels[j])
            theta = beta * (codes[i] * codes[j]).sum() / bits
            if similarity < 0.01 or similarity > 0.99:
                entropy = torch.log(1 + torch.exp(theta)) - similarity * theta
                values.append(gamma * entropy)
            else:
                values.append((similarity - 1 / (1 + torch.exp(-theta))) ** 2)
    gaps = [(x.abs() - 1).abs() for x in codes.flatten()]
    return mean(values, outputs) + alpha * mean(gaps, outputs)


def dpsh(outputs: Tensor, labels: Tensor, *, eta=0.1, memory=None, rows=None) -> Tensor:
    """memory: a list of (code, labels) of all training rows, written here; rows: where to."""
    if memory is None:
        others = [(u.detach() * 0 + u, y) for u, y in zip(outputs, labels, strict=True)]
    else:
        for n, row in enumerate(rows):
            memory[row] = (outputs[n].detach().clone(), labels[n])
        others = memory
    values = []
    for u, y in zip(outputs, labels, strict=True):
        for v, z in others:
            values.append(logistic_loss((u * v).sum() / 2, shared(y, z) > 0))
    return mean(values, outputs) + eta * off_sign(outputs)


def hashnet(
    outputs: Tensor,
    labels: Tensor,
    *,
    class_num=1.0,
    scale=10.0,
    growth=0.005,
    step=0,
    steps=1,
) -> Tensor:
    iteration = 0  # the last multiple of 200 of 10,000 iterations that were stretched
    while (iteration + 200) * steps <= step * 10_000:
        iteration += 200
    codes = torch.tanh(math.sqrt(1 + growth * iteration) * outputs)
    total, weights = zero(outputs), 0.0
    for i in range(len(codes)):
        for j in range(len(codes)):
            similar = shared(labels[i], labels[j]) > 0
            weight = class_num if similar else 1.0
            theta = scale / outputs.shape[1] * (codes[i] * codes[j]).sum()
            total = total + weight * logistic_loss(theta, similar)
            weights += weight
    return total / weights


def dsh(outputs: Tensor, labels: Tensor, *, margin=2.0, alpha=0.01) -> Tensor:
    values = []
    for i in range(len(outputs)):
        for j in range(len(outputs)):
            if i == j:
                continue
            distance = ((outputs[i] - outputs[j]) ** 2).sum()
            if shared(labels[i], labels[j]) == 0:
                distance = (margin * outputs.shape[1] - distance).clamp(min=0)
            values.append(distance / 2)
    gaps = [(u.abs() - 1).abs().sum() for u in outputs]
    # of both images of a pair; a batch of one has an image, if no pair
    return mean(values, outputs) + alpha * 2 * mean(gaps, outputs)


def dtsh(outputs: Tensor, labels: Tensor, *, margin=5.0, quantisation_weight=1.0) -> Tensor:
    anchors = []
    for q in range(len(outputs)):
        values = []
        for p in range(len(outputs)):
            for n in range(len(outputs)):
                if shared(labels[q], labels[p]) > 0 and shared(labels[q], labels[n]) == 0:
                    ahead = (outputs[q] * outputs[p]).sum() - (outputs[q] * outputs[n]).sum()
                    values.append(torch.log(1 + torch.exp(-(ahead - margin))))
        if values:
            anchors.append(mean(values, outputs))
    return mean(anchors, outputs) + quantisation_weight * off_sign(outputs)


def dsrh(outputs: Tensor, labels: Tensor, *, margin=5.0, balance_weight=1.0) -> Tensor:
    """Over every list that the authors' data provider may draw, as it is drawn there."""
    codes, count = 2 * torch.sigmoid(outputs) - 1, len(outputs)

    def hinge(q: int, i: int, j: int) -> Tensor:
        behind = 0.5 * ((codes[q] * codes[j]).sum() - (codes[q] * codes[i]).sum())
        return (margin + behind).clamp(min=0)

    queries = []
    for q in range(count):
        level = {k: shared(labels[q], labels[k]) for k in range(count) if k != q}
        top = max(level.values(), default=0)
        most = [k for k in level if level[k] > 0 and abs(level[k] - top) < 1e-6]
        fewer = [k for k in level if level[k] > 0 and k not in most]
        none = [k for k in level if level[k] == 0]
        if not most or not (fewer or none):
            continue
        lists = []
        for a in most:
            for b in fewer or [None]:
                for n in none or [None]:
                    ideal = (2**top - 1) / math.log(2)
                    if b is not None:
                        ideal += (2 ** level[b] - 1) / math.log(3)
                    value = zero(outputs)
                    if b is not None:
                        value = value + (2**top - 2 ** level[b]) / ideal * hinge(q, a, b)
                    if n is not None:
                        value = value + (2**top - 1) / ideal * hinge(q, a, n)
                    if b is not None and n is not None:
                        value = value + (2 ** level[b] - 1) / ideal * hinge(q, b, n)
                    lists.append(value)
        queries.append(mean(lists, outputs))
    balance = zero(outputs)
    for k in range(outputs.shape[1]):
        balance = balance + mean(list(codes[:, k]), outputs) ** 2
    return mean(queries, outputs) + balance_weight * balance / (2 * count)


def drmh(
    outputs: Tensor,
    labels: Tensor,
    *,
    hash_weight=1e-2,
    classification_weight=1.0,
    quantisation_weight=1e-4,
    classifier,
) -> Tensor:
    """classifier: a matrix (C, bits) and a bias (C,)."""
    codes, (count, bits) = torch.tanh(outputs), outputs.shape
    pairs, gaps, entropies = [], [], []
    for i in range(count):
        for j in range(count):
            similarity = cosine(labels[i], labels[j])
            inner = (codes[i] * codes[j]).sum()
            lengths = ((codes[i] ** 2).sum().sqrt() * (codes[j] ** 2).sum().sqrt()).item()
            wrong = abs(similarity - (1 + inner.item() / lengths) / 2)
            if i != j:
                pairs.append(wrong * ((inner + bits) / 2 - similarity * bits) ** 2)
            signs = (codes[i].sign() * codes[j].sign()).sum().item()
            gaps.append(torch.exp((inner - signs).abs() / bits))
    matrix, bias = classifier
    for i in range(count):
        for c in range(len(bias)):
            chance = torch.sigmoid((matrix[c] * codes[i]).sum() + bias[c])
            truth = float(labels[i, c])
            entropies.append(-truth * torch.log(chance) - (1 - truth) * torch.log(1 - chance))
    return (
        hash_weight * mean(pairs, outputs)
        + classification_weight * mean(entropies, outputs)
        + quantisation_weight * mean(gaps, outputs)
    )
