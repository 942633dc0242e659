"""Methods with discrete steps, in plain loops from their formulas (docs/method.md, 2.18-2.27)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def share(a, b) -> bool:
    return any(x > 0 and y > 0 for x, y in zip(a.tolist(), b.tolist(), strict=True))


def sign_matrix(labels) -> np.ndarray:
    return np.array([[1.0 if share(a, b) else -1.0 for b in labels] for a in labels])


def cnnh_objective(h: np.ndarray, labels) -> float:
    return float(((h @ h.T - h.shape[1] * sign_matrix(labels)) ** 2).sum())


def cnnh_codes(start: np.ndarray, labels, orders: Sequence[Sequence[int]]) -> np.ndarray:
    """Stage 1 with the whole matrix at hand: each step is judged by the objective itself."""
    h = start.copy()
    bits = h.shape[1]
    wanted = bits * sign_matrix(labels)
    for order in orders:
        for i in order:
            for k in range(bits):
                error = h @ h.T - wanted
                slope = 4 * error[i] @ h[:, k]
                curvature = 4 * (h[:, k] @ h[:, k] + h[i, k] ** 2 + error[i, i])
                step = -slope / curvature if curvature > 0 else -2 * np.sign(slope)
                new = h.copy()
                new[i, k] = min(max(h[i, k] + step, -1.0), 1.0)
                if ((new @ new.T - wanted) ** 2).sum() < (error**2).sum():
                    h = new
    return h


def flip_bits(codes, weight, targets, pull) -> np.ndarray:
    """One round over the bits: each entry takes the value of the smaller objective."""
    codes = codes.copy()
    for k in range(codes.shape[1]):
        for i in range(len(codes)):
            values = {}
            for bit in (-1.0, 1.0):
                row = codes[i].copy()
                row[k] = bit
                misfit = targets[i] - row @ weight
                values[bit] = misfit @ misfit - 2 * row @ pull[i]
            if abs(values[1.0] - values[-1.0]) > 1e-12:
                codes[i, k] = min(values, key=values.__getitem__)
    return codes


def ridge(inputs, targets, penalty) -> np.ndarray:
    """Least squares with the penalty as further rows."""
    width = inputs.shape[1]
    rows = np.vstack([inputs, math.sqrt(penalty) * np.eye(width)])
    more = np.vstack([targets, np.zeros((width, targets.shape[1]))])
    return np.linalg.lstsq(rows, more, rcond=None)[0]


class DSDH:
    """The loss over several batches, with its memory."""

    def __init__(self, labels, codes, *, mu=1.0, nu=1.0, eta=55.0, rounds=10):
        self.mu, self.nu, self.eta, self.rounds = mu, nu, eta, rounds
        self.targets = labels.double().numpy()
        self.codes = codes.double().numpy().copy()
        self.memory = np.zeros_like(self.codes)
        self.epoch = None

    def loss(self, outputs: Tensor, labels, rows, epoch: int) -> Tensor:
        if epoch != self.epoch:
            self.epoch = epoch
            for _ in range(self.rounds):
                self.weight = ridge(self.codes, self.targets, self.nu / self.mu)
                pull = self.eta / self.mu * self.memory
                self.codes = flip_bits(self.codes, self.weight, self.targets, pull)
        for place, row in enumerate(rows):
            self.memory[row] = outputs[place].detach().numpy()
            self.targets[row] = labels[place].numpy()
        count, size = len(self.codes), len(rows)
        total = torch.zeros((), dtype=outputs.dtype)
        for place, row in enumerate(rows):
            for other in range(count):
                theta = (outputs[place] * torch.from_numpy(self.memory[other])).sum() / 2
                similar = 1.0 if share(labels[place], self.targets[other]) else 0.0
                total = total + (torch.log1p(theta.exp()) - similar * theta) / (size * count)
            gap = torch.from_numpy(self.codes[row]) - outputs[place]
            total = total + self.eta * (gap**2).sum() / (size * count)
            misfit = labels[place].numpy() - self.codes[row] @ self.weight
            total = total + self.mu * float(misfit @ misfit) / (size * count)
        return total + self.nu * float((self.weight**2).sum()) / count**2


def rotations(projected: np.ndarray, start: np.ndarray, iterations: int) -> list[np.ndarray]:
    """ITQ: the rotation after each iteration, the first one included."""
    turned = [start]
    for _ in range(iterations):
        corners = np.where(projected @ turned[-1] > 0, 1.0, -1.0)
        u, _, vt = np.linalg.svd(corners.T @ projected, full_matrices=False)
        turned.append((u @ vt).T)
    return turned


def eigenfunctions(features, mean, directions, lowest, omega) -> np.ndarray:
    out = np.ones((len(features), len(omega)))
    for i, row in enumerate(features):
        for k, frequencies in enumerate(omega):
            for direction, low, frequency in zip(directions, lowest, frequencies, strict=True):
                place = sum((x - m) * d for x, m, d in zip(row, mean, direction, strict=True))
                out[i, k] *= math.sin(frequency * (place - low) + math.pi / 2)
    return out


def frequencies(sides: Sequence[float], bits: int) -> np.ndarray:
    """SH as in `trainSH.m`: modes of every side up to a maximum, sorted, the constant dropped."""
    longest = max(sides)
    modes = [(0.0, -1, 0)]
    for d, side in enumerate(sides):
        most = math.ceil((bits + 1) * side / longest)
        modes += [((m * math.pi / side) ** 2, d, m) for m in range(1, most)]
    chosen = np.zeros((bits, len(sides)))
    for k, (_, d, m) in enumerate(sorted(modes)[1 : bits + 1]):
        chosen[k, d] = m * math.pi / sides[d]
    return chosen


def kernels(features, anchors, width) -> np.ndarray:
    return np.array(
        [[math.exp(-sum((x - a) ** 2) / width) for a in anchors] for x in np.asarray(features)]
    )


def sdh(inputs, targets, codes, *, label_penalty, nu, kernel_penalty, iterations, rounds):
    """SDH: (codes, projection) from kernels with a column of ones."""
    projection = ridge(inputs, codes, kernel_penalty)
    for _ in range(iterations):
        weight = ridge(codes, targets, label_penalty)
        for _ in range(rounds):
            codes = flip_bits(codes, weight, targets, nu * (inputs @ projection))
        projection = ridge(inputs, codes, kernel_penalty)
    return codes, projection


def ksh_smooth(kernels, residual, start, iterations):
    """KSH's accelerated descent on -y' R y, y = 2 / (1 + exp(-K a)) - 1; costs as it goes."""

    def cost(a):
        y = 2 / (1 + np.exp(-kernels @ a)) - 1
        return -y @ residual @ y

    def slope(a):
        y = 2 / (1 + np.exp(-kernels @ a)) - 1
        return -sum(
            p * (1 - v**2) * row for p, v, row in zip(residual @ y, y, kernels, strict=True)
        )

    before = here = start
    delta, beta = [0.0, 1.0], 1.0
    costs = [cost(start)]
    for _ in range(iterations):
        v = here + (delta[-2] - 1) / delta[-1] * (here - before)
        g = slope(v)
        while True:
            z = v - g / beta
            if cost(z) <= cost(v) + g @ (z - v) + beta / 2 * (z - v) @ (z - v):
                break
            beta *= 2
        before, here = here, z
        delta.append((1 + math.sqrt(1 + 4 * delta[-1] ** 2)) / 2)
        costs.append(cost(here))
        if abs(costs[-1] - costs[-2]) <= 0.01 * len(kernels):
            break
    return here, costs
