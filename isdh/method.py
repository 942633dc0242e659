"""What every method is: network outputs and labels of a batch -> the terms of its loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from isdh.errors import InputError


@dataclass(frozen=True)
class LossTerms:
    """The loss of a batch: what is descended, and its parts for the curves.

    Attributes:
        total: scalar.
        parts: name -> scalar, unweighted.
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Where a batch stands, for methods with memories, schedules or auxiliary heads.

    Attributes:
        rows: int64 (N,), positions among the training rows.
        step: 0-based, over all epochs.
        steps: in all.
        epoch: 0-based.
        hidden: (N, width), what the hash layer read.
        views: outputs (N, bits) of the same rows, augmented anew; as many as the method asks for.
    """

    rows: Tensor
    step: int
    steps: int
    epoch: int = 0
    hidden: Tensor | None = None
    views: tuple[Tensor, ...] = ()


class Method(nn.Module):
    """A loss over network outputs; a subclass's signature holds the published defaults.

    Whatever a method remembers from batch to batch stands in its parameters and buffers, so that a
    checkpoint holds it.

    Args:
        bits: the code length.
        num_classes: the number of labels.

    Attributes:
        views: how many further outputs of each batch it compares, of rows augmented anew.
        head: the kind of a fitted hash function, a key of `isdh.heads.HEADS`; None: descended to.
        remark: what a user should know who chooses it, e.g. where it departs from the publication.
    """

    views: ClassVar[int] = 0
    head: ClassVar[str | None] = None
    remark: ClassVar[str] = ""

    def __init__(self, *, bits: int, num_classes: int) -> None:
        super().__init__()
        self.bits = bits
        self.num_classes = num_classes

    def prepare(self, labels: Tensor, width: int) -> None:
        """Size memories and auxiliary heads; called once, before training.

        Args:
            labels: bool (T, num_classes), of all training rows.
            width: of `Batch.hidden`.
        """

    def soften(self, labels: Tensor, features: Tensor) -> Tensor:
        """The labels to train on; asked for once, where the inputs are features.

        Args:
            labels: bool (T, num_classes), of all training rows.
            features: float32 (T, F), standardised.

        Returns:
            (T, num_classes), bool or float32 in [0, 1].
        """
        return labels

    def rates(self) -> Mapping[str, float]:
        """Names of parameters -> their learning rate, as a multiple of the hash layer's.

        A name stands for all parameters below it; what is not named has rate 1.
        """
        return {}

    def activate(self, outputs: Tensor) -> Tensor:
        """Relaxed codes in [-1, 1] with the sign of the outputs.

        Args:
            outputs: (N, bits), what the network gives.

        Returns:
            (N, bits).
        """
        raise NotImplementedError

    def forward(self, outputs: Tensor, labels: Tensor, batch: Batch | None = None) -> LossTerms:
        """The loss of one batch.

        Args:
            outputs: float (N, bits), what the network gives.
            labels: bool or uint8 (N, num_classes), or float in [0, 1] where rows were mixed;
                unlabelled rows are allowed.
            batch: where the batch stands; None where the method does not ask.
        """
        raise NotImplementedError


class FittedMethod(Method):
    """A method whose hash function is computed at once; it says of what kind, `head`."""

    def activate(self, outputs: Tensor) -> Tensor:
        """The sign itself: nothing is relaxed."""
        return outputs.sign()

    def forward(self, outputs: Tensor, labels: Tensor, batch: Batch | None = None) -> LossTerms:
        """There is no loss to descend.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{type(self).__name__} is fitted: call fit")

    def fit(
        self, features: Tensor, labels: Tensor, *, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Compute the hash function from the training rows.

        Args:
            features: float32 (T, F), standardised.
            labels: bool (T, num_classes).
            generator: where random draws come from.

        Returns:
            The state of the network's head of the kind `head`, by name.

        Raises:
            InputError: the rows do not suffice for the code length.
        """
        raise NotImplementedError


def require_positive(**values: float) -> None:
    """Refuse hyper-parameters that must be positive and are not.

    Raises:
        InputError: naming the first.
    """
    for name, value in values.items():
        if not value > 0:
            raise InputError(f"{name}={value}: must be positive")
        if math.isinf(value):
            raise InputError(f"{name}={value}: must be finite")


def require_not_negative(**values: float) -> None:
    """Refuse hyper-parameters that must not be negative and are.

    Raises:
        InputError: naming the first.
    """
    for name, value in values.items():
        if not value >= 0:
            raise InputError(f"{name}={value}: must not be negative")
        if math.isinf(value):
            raise InputError(f"{name}={value}: must be finite")


def require_at_most(limit: float, why: str, **values: float) -> None:
    """Refuse hyper-parameters above a limit.

    Args:
        limit: the largest value allowed.
        why: what the limit is.
        **values: hyper-parameters, by name.

    Raises:
        InputError: naming the first.
    """
    for name, value in values.items():
        if not value <= limit:
            raise InputError(f"{name}={value}: over {limit:g}, {why}; lower it")
