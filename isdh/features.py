"""A frozen torchvision backbone: images -> features, computed once for a dataset."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from isdh.errors import InputError, unknown
from isdh.store import Pictures, Progress, map_batches, write_rows

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, on a scale of 0 to 1: torchvision's convention
STD = (0.229, 0.224, 0.225)
# 16: the fewest images for which torch hands 1x1 convolutions of one thread to oneDNN.
BATCH_SIZE = {"cpu": 16, "cuda": 256}


class FeatureBackbone:
    """A classification network of torchvision without its last layer, in eval mode.

    Features are what the last layer would read: for mobilenet_v2 the pooled 1280 channels.
    On a CPU float32 throughout; on CUDA under bfloat16 autocast.
    """

    def __init__(self, name: str, network: nn.Module, device: torch.device) -> None:
        self.name = name
        self.device = device
        self.network = network.to(device).to(memory_format=torch.channels_last)

    @classmethod
    def load(cls, name: str, weights: Path, device: str = "cpu") -> FeatureBackbone:
        """Build a backbone and read its weights.

        Args:
            name: a classification model of torchvision.models.
            weights: a file with its state_dict.
            device: "cpu" or "cuda".

        Raises:
            InputError: an unknown name, no such file, or weights of another network.
        """
        network = _classifier(name, weights)
        network.load_state_dict(_state_dict(name, weights, network), strict=True)
        return cls(name, _without_last_layer(network), torch.device(device))

    @property
    def batch_size(self) -> int:
        """Images a batch when a dataset is encoded."""
        return BATCH_SIZE[self.device.type]

    def features(self, images: np.ndarray) -> np.ndarray:
        """Features of a batch.

        Batches of one size give an image the same bits whatever stands beside it; another
        size or device may change the last ones.

        Args:
            images: uint8 (N, S, S, 3), RGB.

        Returns:
            float16 (N, F).
        """
        # torch wants an array that it could write to, and no negative strides.
        pixels = torch.from_numpy(np.require(images, requirements=["C", "W"])).to(self.device)
        half = self.device.type == "cuda"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            outputs = self.network(normalise(pixels))
        features: np.ndarray = outputs.flatten(1).to(torch.float16).cpu().numpy()
        return features


def normalise(pixels: Tensor) -> Tensor:
    """Scale pixels as torchvision's ImageNet models expect them.

    Args:
        pixels: uint8 (N, S, S, 3), RGB.

    Returns:
        float32 (N, 3, S, S), channels last in memory.
    """
    n, height, width, _ = pixels.shape
    mean = torch.tensor(MEAN, device=pixels.device).mul(255)
    std = torch.tensor(STD, device=pixels.device).mul(255)
    # Rows of width * 3 values and constants as long: broadcasting over 3 would not vectorise.
    rows = pixels.reshape(n, height, width * 3).float()
    rows = rows.sub_(mean.repeat(width)).mul_(std.reciprocal().repeat(width))
    return rows.view(n, height, width, 3).permute(0, 3, 1, 2)


def extract(
    backbone: FeatureBackbone,
    pictures: Pictures,
    path: Path,
    *,
    mirrored: bool = False,
    threads: int | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Write the features of every file, float16 (N, F).

    The result is the same whatever the number of threads.

    Args:
        backbone: the frozen network.
        pictures: the files; 3 channels.
        path: the .npy file to write.
        mirrored: mirror each image left to right before it is encoded.
        threads: default: one a core.
        on_progress: called with rows done and rows in all.

    Raises:
        InputError: unreadable files (the first five are named), a size that the backbone
            cannot read, or features that float16 cannot hold.
    """
    width = _width(backbone, pictures.size)

    def compute(pixels: np.ndarray) -> np.ndarray:
        count = len(pixels)
        if mirrored:
            pixels = pixels[:, :, ::-1]
        batch = np.zeros((backbone.batch_size, *pixels.shape[1:]), dtype=np.uint8)
        batch[:count] = pixels  # the last batch is filled up: all are of one size
        features = backbone.features(batch)[:count]
        if not np.isfinite(features).all():
            raise InputError(f"{backbone.name}: features beyond float16; check its weights file")
        return features

    with _single_thread():
        batches = map_batches(
            pictures,
            compute,
            batch_size=backbone.batch_size,
            threads=threads,
            on_progress=on_progress,
        )
        write_rows(path, batches, shape=(len(pictures), width), dtype=np.float16)


def _width(backbone: FeatureBackbone, size: int) -> int:
    try:
        features = backbone.features(np.zeros((1, size, size, 3), dtype=np.uint8))
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"size={size}: {backbone.name} cannot read it ({error}); try 224"
        ) from error
    return int(features.shape[1])


@contextmanager
def _single_thread() -> Iterator[None]:
    """Operators on one thread each: the batches are what runs side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _classifier(name: str, weights: Path) -> nn.Module:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise unknown("backbone", name, known)
    if not weights.is_file():
        official = torchvision.models.get_model_weights(name).DEFAULT
        licence = official.meta.get("license", "the BSD-3-Clause licence of torchvision")
        raise InputError(
            f"{weights}: no such file; download torchvision's official weights of {name} "
            f"from {official.url} ({licence}) to that path"
        )
    with torch.random.fork_rng(devices=[]):  # initial values are drawn and then replaced
        network: nn.Module = torchvision.models.get_model(name, weights=None)
    return network.eval()


def _state_dict(name: str, weights: Path, network: nn.Module) -> dict[str, Tensor]:
    try:
        state: Any = torch.load(weights, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = (str(error) or "empty").splitlines()[0]
        raise InputError(
            f"{weights}: not a file of weights ({reason}); download it again"
        ) from None
    wanted = network.state_dict()
    found = state if isinstance(state, dict) else {}
    wrong = [
        key
        for key in sorted(wanted.keys() | found.keys(), key=str)
        if getattr(wanted.get(key), "shape", None) != getattr(found.get(key), "shape", None)
    ]
    if wrong:
        raise InputError(
            f"{weights}: not the weights of {name}: {len(wrong)} of {len(wanted)} entries are "
            f"missing, unknown or of another shape ({', '.join(map(str, wrong[:5]))}); "
            f"download torchvision's weights of {name}"
        )
    return found


def _without_last_layer(network: nn.Module) -> nn.Module:
    """Drop the layer that yields the classes and fold batch normalisation into convolutions."""
    layers = [key for key, m in network.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    network.set_submodule(layers[-1], nn.Identity())
    return fuse(network).requires_grad_(False)
