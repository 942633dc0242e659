"""Image bytes -> packed codes: what a served model does, from one folder of files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter

from isdh import models
from isdh.artifacts import read_json, verify
from isdh.device import autocast
from isdh.encoding import encode
from isdh.errors import InputError
from isdh.features import FeatureBackbone
from isdh.images import decode
from isdh.networks import Network
from isdh.settings import Features, Images, Inputs


class Encoder:
    """Image bytes -> code: decoding, the frozen backbone where there is one, the network.

    Args:
        network: trained.
        inputs: how images become inputs.
        backbone: the frozen backbone; None for the kind `images`.
        device: where to compute.
    """

    def __init__(
        self,
        network: Network,
        inputs: Images | Features,
        backbone: FeatureBackbone | None,
        device: torch.device,
    ) -> None:
        self.network = network
        self.inputs = inputs
        self.backbone = backbone
        self.device = device

    @classmethod
    def load(cls, folder: Path, backbone: Path | None = None, device: str = "cpu") -> Encoder:
        """Read a model folder, verified.

        Args:
            folder: holds weights.safetensors and model.json.
            backbone: the frozen backbone's weights file; by default where model.json says.
            device: "cpu" or "cuda".

        Raises:
            InputError: missing or altered files.
        """
        card = read_json(folder / "model.json")
        inputs = TypeAdapter[Images | Features](Inputs).validate_python(card["inputs"])
        frozen = None
        if isinstance(inputs, Features):
            weights = backbone or Path(inputs.weights)
            verify(weights, card["backbone_sha256"])
            frozen = FeatureBackbone.load(inputs.backbone, weights, device)
        return cls(models.load(folder), inputs, frozen, torch.device(device))

    def encode(self, images: Sequence[bytes]) -> np.ndarray:
        """Codes of image files.

        Args:
            images: the files' bytes.

        Returns:
            uint8 (N, ceil(bits / 8)), packed.

        Raises:
            InputError: no images, or one that does not decode.
        """
        if not images:
            raise InputError("images=[]: at least 1 is needed")
        return self.codes(np.stack([self.pixels(data) for data in images]))

    def pixels(self, image: bytes, *, name: str = "image") -> np.ndarray:
        """What the first network reads of one image file: uint8 (S, S, C).

        Raises:
            InputError: it does not decode.
        """
        channels = self.inputs.channels if isinstance(self.inputs, Images) else 3
        return decode(image, size=self.inputs.size, channels=channels, name=name)

    def codes(self, pixels: np.ndarray) -> np.ndarray:
        """Codes of decoded images, uint8 (N, S, S, C): uint8 (N, ceil(bits / 8)), packed."""
        stored = pixels if self.backbone is None else self.backbone.features(pixels)
        return encode(self.network, stored, device=self.device)

    def outputs(self, pixels: np.ndarray) -> np.ndarray:
        """What the network gives for decoded images: float32 (N, bits). Signs of it are the codes.

        Args:
            pixels: uint8 (N, S, S, C), few enough for one batch.
        """
        stored = pixels if self.backbone is None else self.backbone.features(pixels)
        network = self.network.to(self.device).eval()
        with torch.inference_mode():
            with autocast(self.device):
                hidden = network.hidden(torch.from_numpy(np.array(stored)).to(self.device))
            outputs: np.ndarray = network.head(hidden.float()).cpu().numpy()
        return outputs
