"""Inputs -> outputs whose signs are the code: normalisation, backbone, hash layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from isdh import backbones
from isdh.errors import InputError


class Standardise(nn.Module):
    """Subtract a mean and divide by a standard deviation that travel with the weights.

    Args:
        mean: (F,), or (C,) for images.
        std: likewise; zeros count as ones.
        images: inputs are uint8 (N, S, S, C) in 0..255 and become float (N, C, S, S).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, *, images: bool) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", torch.where(std > 0, std, 1.0))
        self.images = images

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs as stored -> float32, standardised."""
        values = inputs.float() / 255 if self.images else inputs.float()
        values = (values - self.mean) / self.std
        # the permuted view is already channels_last in memory
        return values.permute(0, 3, 1, 2) if self.images else values


class Network(nn.Module):
    """The trained part of a model (docs/method.md, section 3.2).

    Args:
        normalise: raw inputs -> float inputs.
        backbone: float inputs -> (N, F).
        head: (N, F) -> (N, bits).
    """

    def __init__(self, normalise: Standardise, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.normalise = normalise
        self.backbone = backbone
        self.head = head

    def hidden(self, inputs: Tensor) -> Tensor:
        """What the head reads: (N, F) of inputs as they are stored."""
        hidden: Tensor = self.backbone(self.normalise(inputs))
        return hidden

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs (N, bits); bit = 1 iff an output is positive.

        Args:
            inputs: uint8 (N, S, S, C) images or float16 (N, F) features, as they are stored.
        """
        outputs: Tensor = self.head(self.hidden(inputs))
        return outputs


def build(
    *,
    input_shape: Sequence[int],
    bits: int,
    backbone: str | None = None,
    weights: Path | None = None,
    hidden: int | None = None,
    dropout: float = 0.0,
    batch_norm: bool = False,
) -> Network:
    """Make an untrained network.

    Args:
        input_shape: of a row, (S, S, C) for images or (F,) for features.
        bits: the code length.
        backbone: for images, "convnet" or the name of a torchvision classification model.
        weights: where a torchvision backbone starts; None: from initial values.
        hidden: width of a ReLU layer before the hash layer; None: no such layer.
        dropout: on what the first linear layer reads.
        batch_norm: on the hash layer's outputs.

    Raises:
        InputError: images without a backbone, features with one, or an unknown backbone.
    """
    images = len(input_shape) == 3
    if images != (backbone is not None):
        need = "images need" if images else "features take no"
        raise InputError(f"network.backbone={backbone!r}: {need} backbone; mend params.yaml")
    if backbone is None:
        width = input_shape[0]
        normalise = Standardise(torch.zeros(width), torch.ones(width), images=False)
        return Network(normalise, nn.Identity(), _head(width, bits, hidden, dropout, batch_norm))
    channels = input_shape[2]
    body: nn.Module
    if backbone == "convnet":
        body, width = ConvNet(channels), ConvNet.width
        mean, std = torch.full((channels,), 0.5), torch.full((channels,), 0.5)
    else:
        network = (
            backbones.pretrained(backbone, weights) if weights else backbones.untrained(backbone)
        )
        body, width = backbones.without_classifier(network)
        mean, std = torch.tensor(backbones.IMAGENET_MEAN), torch.tensor(backbones.IMAGENET_STD)
    head = _head(width, bits, hidden, dropout, batch_norm)
    return Network(Standardise(mean, std, images=True), body, head)


def _head(
    width: int, bits: int, hidden: int | None, dropout: float, batch_norm: bool
) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Dropout(dropout)] if dropout else []
    if hidden:
        layers += [nn.Linear(width, hidden), nn.ReLU()]
    layers.append(nn.Linear(hidden or width, bits))
    if batch_norm:
        layers.append(nn.BatchNorm1d(bits))
    return nn.Sequential(*layers)


class ConvNet(nn.Module):
    """A small network for small pictures: placeholder until the recipe is fixed."""

    width = 64

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Float (N, C, S, S) -> (N, 64)."""
        maps: Tensor = self.layers(images)
        return maps.amax(dim=(2, 3))
