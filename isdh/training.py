"""One loop for all methods: network, method, rows -> trained network, an epoch at a time."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from isdh import heads
from isdh.artifacts import replacing
from isdh.device import autocast
from isdh.errors import InputError
from isdh.method import Batch, FittedMethod, Method
from isdh.networks import Network
from isdh.settings import Training

# epoch, timestamp (unix ms), seconds; of descended methods loss, its parts, learning_rate
Record = dict[str, float]


@dataclass(frozen=True)
class TrainingRows:
    """What is learned from.

    Attributes:
        inputs: (N, ...), all rows of the dataset, as stored; may be a memory map.
        labels: bool (N, C).
        rows: int64 (T,), the training rows.
        mirrored: (T, ...), mirrored inputs of the training rows; or of no row.
    """

    inputs: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    mirrored: np.ndarray = field(default_factory=lambda: np.empty(0))


def fit(
    network: Network,
    method: Method,
    data: TrainingRows,
    settings: Training,
    *,
    seed: int,
    device: torch.device,
    checkpoint: Path | None = None,
) -> Iterator[Record]:
    """Train in place; after each epoch its record is yielded.

    A fitted method takes one epoch: the network's head becomes what it computes.

    An epoch depends on the state before it, the seed and its number alone, so that a run resumed
    from its checkpoint equals an undisturbed one bit for bit, on the CPU.

    Args:
        network: trained in place, on `device`.
        method: its parameters and buffers are trained and kept likewise.
        data: the rows to learn from.
        settings: the dataset's section `training`.
        seed: of batches, augmentation and dropout.
        device: where to compute.
        checkpoint: a file to resume from and to keep up to date; None: none.

    Yields:
        The record of each epoch, those before a resumption included.

    Raises:
        InputError: fewer training rows than a batch holds, or the loss is not finite.
    """
    if len(data.rows) < settings.batch_size:
        raise InputError(
            f"training.batch_size={settings.batch_size}: only {len(data.rows)} training rows; "
            "lower it"
        )
    network.to(device)
    standardise(network, data)
    torch.manual_seed(seed)
    if isinstance(method, FittedMethod):
        yield _fit_at_once(network, method, data, seed)
        return
    method.prepare(torch.from_numpy(data.labels[data.rows]), network.width)
    method.to(device)
    run = _Run(network, method, data, settings, seed, device)
    records = run.resume(checkpoint)
    yield from records
    saved = time.monotonic()
    for epoch in range(len(records), settings.epochs):
        records.append(run.epoch(epoch))
        due = time.monotonic() - saved > CHECKPOINT_SECONDS
        if checkpoint and (due or epoch in {0, settings.epochs - 1}):
            run.save(checkpoint, records)
            saved = time.monotonic()
        yield records[-1]


CHECKPOINT_SECONDS = 5.0
LARGEST_SHARE = 0.99  # of a row that is mixed with another one


def _fit_at_once(network: Network, method: FittedMethod, data: TrainingRows, seed: int) -> Record:
    """Compute the hash function of a fitted method from what the backbone gives as it is."""
    start = time.perf_counter()
    device = network.normalise.mean.device
    network.eval()
    features = []
    with torch.inference_mode():
        for begin in range(0, len(data.rows), 256):
            inputs = torch.from_numpy(data.inputs[data.rows[begin : begin + 256]])
            features.append(network.features(inputs.to(device)).float().cpu())
    labels = torch.from_numpy(data.labels[data.rows])
    generator = torch.Generator().manual_seed(seed)
    state = method.fit(torch.cat(features), labels, generator=generator)
    network.neck = nn.Identity()
    network.head = heads.load(str(method.head), state).to(device)
    now = time.time_ns() // 1_000_000
    return {"epoch": 1, "timestamp": now, "seconds": time.perf_counter() - start}


def standardise(network: Network, data: TrainingRows) -> None:
    """Set the network's mean and standard deviation from the training rows, where it wants that.

    Per feature, or per channel of images; one that never varies is divided by 1.
    """
    normalise = network.normalise
    if not normalise.from_rows:
        return
    count, total, squares = 0, 0.0, 0.0
    for start in range(0, len(data.rows), 4096):  # blocks: memory stays bounded
        block = data.inputs[data.rows[start : start + 4096]].astype(np.float64)
        block = block.reshape(-1, block.shape[-1]) / (255 if normalise.images else 1)
        count, total = count + len(block), total + block.sum(axis=0)
        squares = squares + (block**2).sum(axis=0)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    normalise.mean.copy_(torch.from_numpy(mean))
    normalise.std.copy_(torch.from_numpy(np.where(std > 0, std, 1)))


class _Run:
    """The state of one training: everything that a checkpoint holds, and the steps on it."""

    def __init__(
        self,
        network: Network,
        method: Method,
        data: TrainingRows,
        settings: Training,
        seed: int,
        device: torch.device,
    ) -> None:
        self.network = network
        self.method = method
        self.data = data
        self.settings = settings
        self.seed = seed
        self.device = device
        self.steps_per_epoch = len(data.rows) // settings.batch_size
        self.steps = settings.epochs * self.steps_per_epoch
        self.labels = _labels(network, method, data)
        self.optimizer = _optimizer(network, method, settings)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.factor = 1.0

    def epoch(self, number: int) -> Record:
        """Run one epoch, 0-based."""
        start = time.perf_counter()
        generator = torch.Generator().manual_seed((self.seed << 20) + number)
        torch.manual_seed((self.seed << 20) + number)  # dropout draws from the global generator
        order = torch.randperm(len(self.data.rows), generator=generator)
        self.network.train()
        self.method.train()
        sums: dict[str, Tensor] = {}
        for i in range(self.steps_per_epoch):
            rows = order[i * self.settings.batch_size : (i + 1) * self.settings.batch_size]
            step = number * self.steps_per_epoch + i
            for name, value in self.step(rows, step, number, generator).items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value.detach()
        means = {name: float(value) / self.steps_per_epoch for name, value in sums.items()}
        if not math.isfinite(means["loss"]):
            raise InputError(
                f"loss={means['loss']} in epoch {number + 1}: training diverged; "
                f"lower training.learning_rate={self.settings.learning_rate}"
            )
        return {
            "epoch": number + 1,
            "timestamp": time.time_ns() // 1_000_000,
            **means,
            "learning_rate": self.settings.learning_rate * self.factor,
            "seconds": time.perf_counter() - start,
        }

    def step(
        self, rows: Tensor, step: int, epoch: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Descend on one batch: positions among the training rows -> loss and its parts."""
        self.factor = rate_factor(step, self.steps, self.settings)
        for group, base in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = base * self.factor
        inputs = [self.gather(rows, generator)]
        if self.method.views:  # from draws of their own: all methods see the same batches
            anew = torch.Generator().manual_seed((self.seed << 20) + self.steps + step)
            inputs += [self.gather(rows, anew) for _ in range(self.method.views)]
        labels = self.labels[rows]
        if self.settings.mixup:
            mix = Mix.draw(len(rows), self.settings, generator)
            inputs, labels = [mix(rows) for rows in inputs], mix(labels)
        hidden, outputs = self.forward(inputs[0])
        views = tuple(self.forward(view)[1] for view in inputs[1:])
        batch = Batch(rows.to(self.device), step, self.steps, epoch, hidden, views)
        terms = self.method(outputs, labels.to(self.device), batch)
        self.optimizer.zero_grad(set_to_none=True)
        terms.total.backward()
        self.optimizer.step()
        return {"loss": terms.total, **terms.parts}

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs as stored -> what the hash layer reads, and its outputs; float32."""
        with autocast(self.device):
            hidden = self.network.hidden(inputs.to(self.device, non_blocking=True))
        hidden = hidden.float()
        outputs: Tensor = self.network.head(hidden)  # in float32: a bit hangs on its sign
        return hidden, outputs

    def gather(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Inputs of a batch, augmented: (N, ...) as stored."""
        positions = rows.numpy()
        inputs = torch.from_numpy(self.data.inputs[self.data.rows[positions]])
        if self.settings.flip:
            flipped = torch.rand(len(rows), generator=generator) < 0.5
            if len(self.data.mirrored):
                inputs[flipped] = torch.from_numpy(self.data.mirrored[positions[flipped.numpy()]])
            elif inputs.ndim == 4:
                inputs[flipped] = inputs[flipped].flip(2)
        return shifted(inputs, self.settings.shift, generator) if self.settings.shift else inputs

    def save(self, path: Path, records: list[Record]) -> None:
        """Write the checkpoint: atomic, the last one stays until the new one is whole."""
        state = {
            "network": self.network.state_dict(),
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "records": records,
        }
        with replacing(path) as stream:
            torch.save(state, stream)

    def resume(self, path: Path | None) -> list[Record]:
        """Take up the checkpoint where there is one; its records, or none."""
        if path is None or not path.exists():
            return []
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        records: list[Record] = state["records"]
        return records


def _labels(network: Network, method: Method, data: TrainingRows) -> Tensor:
    """The labels of the training rows, as the method wants them where inputs are features."""
    labels = torch.from_numpy(data.labels[data.rows])
    if network.normalise.images or type(method).soften is Method.soften:
        return labels
    with torch.no_grad():
        normalise = copy.deepcopy(network.normalise).cpu()
        return method.soften(labels, normalise(torch.from_numpy(data.inputs[data.rows])))


def _optimizer(network: Network, method: Method, settings: Training) -> torch.optim.Optimizer:
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    groups: dict[float, list[nn.Parameter]] = {settings.backbone_rate: [], 1.0: []}
    groups[settings.backbone_rate] += network.backbone.parameters()
    groups[1.0] += [*network.neck.parameters(), *network.head.parameters()]
    rates = method.rates()
    for name, parameter in method.named_parameters():
        rate = next((rates[key] for key in rates if f"{name}.".startswith(f"{key}.")), 1.0)
        groups.setdefault(rate, []).append(parameter)
    return kind(
        [
            {"params": parameters, "lr": settings.learning_rate * rate}
            for rate, parameters in groups.items()
            if parameters
        ],
        weight_decay=settings.weight_decay,
    )


def rate_factor(step: int, steps: int, settings: Training) -> float:
    """The learning rate at a step, as a multiple of the setting.

    Args:
        step: 0-based.
        steps: in all.
        settings: schedule, halve_every and warmup count.

    >>> rate_factor(500, 1000, Training(schedule="staircase"))
    0.5
    >>> rate_factor(500, 1000, Training(schedule="cosine"))
    0.5
    """
    rising = round(settings.warmup * steps)
    if step < rising:
        return (step + 1) / rising
    if settings.schedule == "staircase":
        return float(0.5 ** (step // settings.halve_every))
    if settings.schedule == "cosine":
        return (1 + math.cos(math.pi * (step - rising) / max(steps - rising, 1))) / 2
    return 1.0


@dataclass(frozen=True)
class Mix:
    """Which rows of a batch are mixed with which others: mixup (Zhang et al., ICLR 2018).

    Attributes:
        partners: int64 (N,).
        shares: float32 (N,), of the row itself, 1/2 or more; 1 where it stays alone.
    """

    partners: Tensor
    shares: Tensor

    @classmethod
    def draw(cls, count: int, settings: Training, generator: torch.Generator) -> Mix:
        """Draw partners and shares for `count` rows."""
        partners = torch.randperm(count, generator=generator)
        mixes = torch.rand(count, generator=generator) < settings.mixup
        seed = int(torch.randint(1 << 62, (1,), generator=generator))
        beta = np.random.default_rng(seed).beta(settings.mixup_beta, settings.mixup_beta, count)
        own = np.maximum(beta, 1 - beta)  # a row stays itself: memories and codes are per row
        own[own > LARGEST_SHARE] = 1  # so little of another row is no label of this one
        shares = torch.where(mixes, torch.from_numpy(own), 1.0)
        return cls(partners, shares.float())

    def __call__(self, rows: Tensor) -> Tensor:
        """Mix inputs or labels, (N, ...) of any dtype -> float32 (N, ...)."""
        shares = self.shares.view(-1, *[1] * (rows.ndim - 1))
        values = rows.float()
        return values * shares + values[self.partners] * (1 - shares)


def shifted(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Translate each image by its own random offset; the edge pixels are repeated.

    Args:
        images: uint8 (N, S, S, C).
        pixels: the largest offset in either direction.
        generator: where offsets are drawn from.

    Returns:
        uint8 (N, S, S, C).
    """
    count, height, width, _ = images.shape
    offsets = torch.randint(-pixels, pixels + 1, (2, count, 1), generator=generator)
    ys = (torch.arange(height) + offsets[0]).clamp(0, height - 1)
    xs = (torch.arange(width) + offsets[1]).clamp(0, width - 1)
    return images[torch.arange(count)[:, None, None], ys[:, :, None], xs[:, None, :]]
