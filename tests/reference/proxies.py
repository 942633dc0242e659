"""Losses over classes, entry by entry, in plain loops (docs/method.md, 2.11 to 2.17).

Each takes network outputs float64 (N, bits), labels float64 (N, C) and the method's own parameters
and returns a scalar Tensor, so that autograd gives the gradient of the loops themselves.
"""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt()


def mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean() if values else torch.zeros((), dtype=torch.float64)


def sum_of(values: list[Tensor]) -> Tensor:
    return torch.stack(values).sum() if values else torch.zeros((), dtype=torch.float64)


def of_labels(logit, labels: Tensor) -> Tensor:
    """Binary cross-entropy of every label of every image; logit(i, c) gives the logits."""
    terms = []
    for i, c in product(range(labels.shape[0]), range(labels.shape[1])):
        p = sigmoid(logit(i, c))
        terms.append(-labels[i, c] * p.log() - (1 - labels[i, c]) * (1 - p).log())
    return mean(terms)


def dlbhc(outputs: Tensor, labels: Tensor, *, weight: Tensor, bias: Tensor) -> Tensor:
    return of_labels(lambda i, c: (sigmoid(outputs[i]) * weight[c]).sum() + bias[c], labels)


def greedyhash(outputs: Tensor, labels: Tensor, *, weight: Tensor, penalty_weight=0.1):
    """The loss, and its gradient in the outputs by the rule that the sign's derivative is 1."""
    bits = torch.tensor([[1.0 if x > 0 else -1.0 for x in row] for row in outputs]).double()
    bits.requires_grad_()
    classification = of_labels(lambda i, c: (bits[i] * weight[c]).sum(), labels)
    penalty = mean([((x.abs() - 1) ** 3).abs() for x in outputs.flatten()])
    through = torch.autograd.grad(classification, bits, retain_graph=True)[0]
    own = torch.autograd.grad(penalty, outputs, retain_graph=True)[0]
    return classification + penalty_weight * penalty, through + penalty_weight * own


def csq(outputs, labels, *, centres: Tensor, tie_break: Tensor, quantisation_weight=0.05):
    count, bits = outputs.shape
    total = torch.zeros((), dtype=outputs.dtype)
    for i in range(count):
        if labels[i].sum() == 0:
            continue
        for k in range(bits):
            votes = round(float(sum(y * c[k] for y, c in zip(labels[i], centres, strict=True))), 6)
            target = tie_break[k] if votes == 0 else (1.0 if votes > 0 else -1.0)
            u = torch.tanh(outputs[i, k])
            agrees = (u + 1) / 2 if target > 0 else 1 - (u + 1) / 2
            total = total - agrees.log() + quantisation_weight * (u.abs() - 1) ** 2
    return total / (count * bits)


def split_cross_entropy(logits: list[list[Tensor]], labels: Tensor) -> Tensor:
    """Softmax cross-entropy against y / |y|; an image without a label counts 0."""
    total = torch.zeros((), dtype=labels.dtype)
    for row, y in zip(logits, labels, strict=True):
        if y.sum() == 0:
            continue
        log_partition = sum_of([x.exp() for x in row]).log()
        for x, share in zip(row, y, strict=True):
            total = total - share / y.sum() * (x - log_partition)
    return total / len(labels)


def orthohash(outputs, labels, *, class_codes: Tensor, scale=8.0, margin=0.2) -> Tensor:
    logits = [
        [scale * (cosine(v, code) - margin * y) for code, y in zip(class_codes, row, strict=True)]
        for v, row in zip(outputs, labels, strict=True)
    ]
    return split_cross_entropy(logits, labels)


def hyp2(outputs, labels, *, proxies: Tensor, zeta: float, pair_weight=0.5) -> Tensor:
    near, far, pairs = [], [], []
    for i, c in product(range(len(outputs)), range(len(proxies))):
        cos = cosine(outputs[i], proxies[c])
        if labels[i, c] > 0:
            near.append(1 - cos)
        else:
            far.append(torch.relu(cos - zeta))
    for i, j in product(range(len(outputs)), repeat=2):
        rich = (labels[i] > 0).sum() > 1 and (labels[j] > 0).sum() > 1
        if rich and not (labels[i] * labels[j]).any():
            pairs.append(torch.relu(cosine(outputs[i], outputs[j]) - zeta))
    return mean(near) + mean(far) + pair_weight * mean(pairs)


def sprch(outputs, labels, *, weight: Tensor, bias: Tensor, pace: float, temperature=0.3) -> Tensor:
    """weight (bits, C) and bias (bits,) make the prototypes."""
    codes = torch.tanh(outputs)
    prototypes = [torch.tanh(weight[:, c] + bias) for c in range(labels.shape[1])]

    def near(cos):
        return (cos / temperature).exp() * math.exp(-1 - cos.item()) ** (pace / 4)

    def far(cos):
        return (cos / temperature).exp() * math.exp(-1 + cos.item()) ** pace

    terms = []
    for i, y in enumerate(labels):
        if y.sum() == 0:
            terms.append(outputs.sum() * 0)
            continue
        shares = [bool((y * other).any()) for other in labels]
        pairs = [cosine(codes[i], code) for code in codes]
        classes = [cosine(codes[i], prototype) for prototype in prototypes]
        positives = sum_of([near(c) for c, s in zip(pairs, shares, strict=True) if s])
        negatives = sum_of([far(c) for c, s in zip(pairs, shares, strict=True) if not s])
        a = sum(shares) / float(y.sum())
        without = float((1 - y).sum())
        b = (len(labels) - sum(shares)) / without if without else 0.0
        positives = positives + a * sum_of([v * near(c) for v, c in zip(y, classes, strict=True)])
        negatives = negatives + b * sum_of(
            [(1 - v) * far(c) for v, c in zip(y, classes, strict=True)]
        )
        terms.append(-(positives / (positives + negatives)).log())
    return mean(terms)


def dhd(
    outputs,
    labels,
    view,
    *,
    proxies: Tensor,
    temperature=0.2,
    distillation_weight=0.1,
    quantisation_weight=0.1,
    deviation=0.5,
) -> Tensor:
    codes, students = torch.tanh(outputs), torch.tanh(view)
    logits = [[cosine(u, p) / temperature for p in proxies] for u in codes]
    apart = [1 - cosine(s, u.detach()) for s, u in zip(students, codes, strict=True)]
    quantisation = []
    for u in codes.flatten():
        high = torch.exp(-0.5 * ((u - 1) / deviation) ** 2)
        low = torch.exp(-0.5 * ((u + 1) / deviation) ** 2)
        bit = 1.0 if u > 0 else 0.0
        quantisation.append(
            -bit * high.log()
            - (1 - bit) * (1 - high).log()
            - (1 - bit) * low.log()
            - bit * (1 - low).log()
        )
    return (
        split_cross_entropy(logits, labels)
        + distillation_weight * mean(apart)
        + quantisation_weight * mean(quantisation)
    )
