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
        std: likewise.
        images: inputs are uint8 (N, S, S, C) in 0..255 and become float (N, C, S, S).
        from_rows: both are to be set from the training rows; else they are the backbone's own.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, *, images: bool, from_rows: bool = False) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.images = images
        self.from_rows = from_rows

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
        neck: (N, F) -> (N, width): dropout, and the hidden layer where there is one.
        head: (N, width) -> (N, bits): the hash layer.
        width: of what the head reads.
    """

    def __init__(
        self,
        normalise: Standardise,
        backbone: nn.Module,
        neck: nn.Module,
        head: nn.Module,
        width: int,
    ) -> None:
        super().__init__()
        self.normalise = normalise
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.width = width

    def features(self, inputs: Tensor) -> Tensor:
        """What the backbone makes, (N, F), of inputs as they are stored."""
        features: Tensor = self.backbone(self.normalise(inputs))
        return features

    def hidden(self, inputs: Tensor) -> Tensor:
        """What the head reads, (N, width), of inputs as they are stored."""
        hidden: Tensor = self.neck(self.features(inputs))
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
    hidden_dropout: float = 0.0,
    batch_norm: bool = False,
    head: nn.Module | None = None,
) -> Network:
    """Make an untrained network.

    Args:
        input_shape: of a row, (S, S, C) for images or (F,) for features.
        bits: the code length.
        backbone: for images, "convnet" or the name of a torchvision classification model.
        weights: where a torchvision backbone starts; None: from initial values.
        hidden: width of a ReLU layer before the hash layer; None: no such layer.
        dropout: on what the first linear layer reads.
        hidden_dropout: on what the hash layer reads behind a hidden layer.
        batch_norm: on the hash layer's outputs.
        head: a fitted hash function, which reads the features themselves: then `hidden`, dropouts
            and `batch_norm` are without effect.

    Raises:
        InputError: images without a backbone, features with one, or an unknown backbone.
    """
    body: nn.Module
    images = len(input_shape) == 3
    if images != (backbone is not None):
        need = "images need" if images else "features take no"
        raise InputError(f"network.backbone={backbone!r}: {need} backbone; mend params.yaml")
    if backbone is None:
        width = input_shape[0]
        normalise, body = _standardise_by_rows(width, images=False), nn.Identity()
    elif backbone == "convnet":
        normalise = _standardise_by_rows(input_shape[2], images=True)
        body, width = ConvNet(input_shape[2]), ConvNet.width
    else:
        mean, std = torch.tensor(backbones.IMAGENET_MEAN), torch.tensor(backbones.IMAGENET_STD)
        normalise = Standardise(mean, std, images=True)
        body, width = backbones.without_classifier(
            backbones.pretrained(backbone, weights) if weights else backbones.untrained(backbone)
        )
    if head is not None:
        return Network(normalise, body, nn.Identity(), head, width)
    neck: list[nn.Module] = [nn.Dropout(dropout)] if dropout else []
    if hidden:
        neck += [nn.Linear(width, hidden), nn.ReLU()]
        neck += [nn.Dropout(hidden_dropout)] if hidden_dropout else []
        width = hidden
    last = (
        [nn.Linear(width, bits), nn.BatchNorm1d(bits)] if batch_norm else [nn.Linear(width, bits)]
    )
    network = Network(normalise, body, nn.Sequential(*neck), nn.Sequential(*last), width)
    return network.to(memory_format=torch.channels_last) if images else network


def _standardise_by_rows(width: int, *, images: bool) -> Standardise:
    return Standardise(torch.zeros(width), torch.ones(width), images=images, from_rows=True)


class ConvNet(nn.Module):
    """Three convolutions for pictures of about 32 pixels; 52 k parameters.

    Each keeps the size of its maps; the first two are followed by a max-pool, which stands before
    the BatchNorm and the ReLU, where these have a quarter of the work. The maximum over the whole
    of each last map says that something is in the picture, wherever it is.

    Args:
        channels: of the pictures, 1 or 3.
    """

    width = 96

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 24, 3, padding=1, bias=False),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.Conv2d(24, 48, 3, padding=1, bias=False),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(48),
            nn.ReLU(),
            nn.Conv2d(48, self.width, 3, padding=1, bias=False),
            nn.BatchNorm2d(self.width),
            nn.ReLU(),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Float (N, C, S, S), mean 0 and deviation 1 over the training pictures -> (N, 96)."""
        maps: Tensor = self.layers(images)
        return maps.amax(dim=(2, 3))
