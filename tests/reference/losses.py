"""Losses pair by pair, in plain loops, from the authors' TensorFlow code (docs/method.md, 2).

Each takes network outputs float64 (N, bits) and labels (N, C) and returns a scalar Tensor, so that
autograd gives the gradient of the loops themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor


def softsign(x: Tensor) -> Tensor:
    return x / (1 + x.abs())


def similarity(a: Tensor, b: Tensor) -> float:
    shared = float((a * b).sum())
    return shared / (float(a.sum()) ** 0.5 * float(b.sum()) ** 0.5)


def isdh(outputs: Tensor, labels: Tensor, *, gamma=10.0, alpha=0.1, beta=5.0) -> Tensor:
    codes, bits, count = softsign(outputs), outputs.shape[1], len(outputs)
    total = torch.zeros((), dtype=outputs.dtype)
    for i in range(count):
        for j in range(count):
            s = similarity(labels[i], labels[j])
            theta = beta * (codes[i] * codes[j]).sum() / bits
            if s < 0.01 or s > 0.99:
                total = total + gamma * (torch.log(1 + torch.exp(theta)) - s * theta)
            else:
                total = total + (s - 1 / (1 + torch.exp(-theta))) ** 2
    return total / count**2 + alpha * quantisation(codes)


def idhn(outputs: Tensor, labels: Tensor, *, gamma=0.1, alpha=0.1, beta=5.0) -> Tensor:
    codes, bits, count = softsign(outputs), outputs.shape[1], len(outputs)
    total = torch.zeros((), dtype=outputs.dtype)
    for i in range(count):
        for j in range(count):
            s = similarity(labels[i], labels[j])
            inner = (codes[i] * codes[j]).sum()
            if s < 0.01 or s > 0.99:
                theta = beta * inner / bits
                total = total + torch.log(1 + torch.exp(theta)) - s * theta
            else:
                total = total + gamma / bits * ((inner + bits) / 2 - bits * s) ** 2
    return total / count**2 + alpha * quantisation(codes)


def dhn(outputs: Tensor, labels: Tensor, *, quantisation_weight=0.1) -> Tensor:
    codes, count = torch.tanh(outputs), len(outputs)
    total = torch.zeros((), dtype=outputs.dtype)
    for i in range(count):
        for j in range(count):
            similar = 1.0 if bool((labels[i] * labels[j]).any()) else 0.0
            theta = 0.5 * (codes[i] * codes[j]).sum()
            total = total + torch.log(1 + torch.exp(theta)) - similar * theta
    penalty = torch.stack([torch.log(torch.cosh(u.abs() - 1)) for u in codes.flatten()]).mean()
    return total / count**2 + quantisation_weight * penalty


def quantisation(codes: Tensor) -> Tensor:
    return torch.stack([(u.abs() - 1).abs() for u in codes.flatten()]).mean()
