"""What every method is: network outputs and labels of a batch -> the terms of its loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
        hidden: (N, F), what the hash layer read.
    """

    rows: Tensor
    step: int
    steps: int
    hidden: Tensor | None = None


class Method(nn.Module):
    """A loss over network outputs; a subclass's signature holds the published defaults.

    Args:
        bits: the code length.
        num_classes: the number of labels.
    """

    def __init__(self, *, bits: int, num_classes: int) -> None:
        super().__init__()
        self.bits = bits
        self.num_classes = num_classes

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
            labels: bool or uint8 (N, num_classes); unlabelled rows are allowed.
            batch: where the batch stands; None where the method does not ask.
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


def require_not_negative(**values: float) -> None:
    """Refuse hyper-parameters that must not be negative and are.

    Raises:
        InputError: naming the first.
    """
    for name, value in values.items():
        if not value >= 0:
            raise InputError(f"{name}={value}: must not be negative")
