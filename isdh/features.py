"""A frozen torchvision backbone: images -> features, computed once for a dataset."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from isdh import backbones
from isdh.device import autocast
from isdh.errors import InputError
from isdh.rows import NOTHING_KEPT, Rows
from isdh.runtime import CompiledNetwork
from isdh.store import Pictures, Progress, write_rows

# 16: the fewest images for which torch hands 1x1 convolutions of one thread to oneDNN.
BATCH_SIZE = {"cpu": 16, "cuda": 256}


class FeatureBackbone:
    """A classification network of torchvision without its last layer, in eval mode.

    Features are what the last layer would read: for mobilenet_v2 the pooled 1280 channels.
    On a CPU float32 throughout, by torch or, once compiled, by ONNX Runtime, whose features differ
    by rounding; on CUDA under bfloat16 autocast.

    Args:
        name: of the network.
        network: float (N, 3, S, S), normalised -> (N, ...).
        device: where to compute.
        only_size: the one S that the network reads; None: it reads many.
    """

    def __init__(
        self, name: str, network: nn.Module, device: torch.device, only_size: int | None = None
    ) -> None:
        self.name = name
        self.only_size = only_size
        self.device = device
        self.network = network.to(device).to(memory_format=torch.channels_last)
        self._size: int | None = None  # of images that are compiled for
        self._compiled: CompiledNetwork | None = None
        self._compiling = threading.Lock()

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
        network = backbones.pretrained(name, weights)
        body, _ = backbones.without_classifier(network)
        only_size = getattr(network, "image_size", None)  # of vision transformers
        return cls(name, fuse(body).requires_grad_(False), torch.device(device), only_size)

    @property
    def batch_size(self) -> int:
        """Images a batch when a dataset is encoded."""
        return BATCH_SIZE[self.device.type]

    def compile(self, size: int) -> None:
        """Let many images of one size come: seconds at the first, twice the speed then.

        On CUDA torch goes on as it is.

        Args:
            size: pixels a side; images of other sizes are for torch as before.
        """
        self._size = size if self.device.type == "cpu" else None
        self._compiled = None

    def features(self, images: np.ndarray) -> np.ndarray:
        """Features of a batch.

        Batches of one size give an image the same bits whatever stands beside it; another
        size or device may change the last ones.

        Args:
            images: uint8 (N, S, S, 3), RGB.

        Returns:
            float16 (N, F).
        """
        if images.shape[1] == self._size:
            return self._by_runtime(images)
        return self._by_torch(images)

    def width(self, size: int) -> int:
        """Number of features.

        Args:
            size: pixels a side.

        Raises:
            InputError: the network cannot read images of that size.
        """
        if self.only_size not in (None, size):
            raise InputError(
                f"size={size}: {self.name} with these weights reads pictures of "
                f"{self.only_size} pixels alone; set size: {self.only_size}"
            )
        try:
            features = self._by_torch(np.zeros((1, size, size, 3), dtype=np.uint8))
        except (RuntimeError, AssertionError) as error:
            raise InputError(
                f"size={size}: {self.name} cannot read it ({error}); try 224"
            ) from error
        return int(features.shape[1])

    def _by_runtime(self, images: np.ndarray) -> np.ndarray:
        with self._compiling:
            if self._compiled is None:
                network = nn.Sequential(Normalise(), self.network, nn.Flatten(1)).eval()
                example = np.zeros((1, *images.shape[1:]), dtype=np.uint8)
                self._compiled = CompiledNetwork(network, example)
        with np.errstate(over="ignore"):  # as torch: what is too large becomes infinite
            return self._compiled(images).astype(np.float16)

    def _by_torch(self, images: np.ndarray) -> np.ndarray:
        # torch wants an array that it could write to, and no negative strides.
        pixels = torch.from_numpy(np.require(images, requirements=["C", "W"])).to(self.device)
        with torch.inference_mode(), autocast(self.device):
            outputs = self.network(normalise(pixels))
        features: np.ndarray = outputs.flatten(1).to(torch.float16).cpu().numpy()
        return features


class Normalise(nn.Module):
    """`normalise` as a layer."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Scale pixels."""
        return normalise(pixels)


def normalise(pixels: Tensor) -> Tensor:
    """Scale pixels as torchvision's ImageNet models expect them.

    Args:
        pixels: uint8 (N, S, S, 3), RGB.

    Returns:
        float32 (N, 3, S, S), channels last in memory.
    """
    n, height, width, _ = pixels.shape
    mean = torch.tensor(backbones.IMAGENET_MEAN, device=pixels.device).mul(255)
    std = torch.tensor(backbones.IMAGENET_STD, device=pixels.device).mul(255)
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
    rows: Rows = NOTHING_KEPT,
    threads: int | None = None,
    on_progress: Progress | None = None,
) -> int:
    """Write the features of every file, float16 (N, F).

    The result is the same whatever the number of threads.

    Args:
        backbone: the frozen network.
        pictures: the files; 3 channels.
        path: the .npy file to write.
        mirrored: mirror each image left to right before it is encoded.
        rows: where features are kept, by a recipe of this backbone, size and mirroring.
        threads: default: one a core.
        on_progress: called with rows done and rows in all.

    Returns:
        Of how many files the features were computed.

    Raises:
        InputError: unreadable files (the first five are named), a size that the backbone
            cannot read, features that float16 cannot hold, or no space on the disk.
    """
    width = backbone.width(pictures.size)
    backbone.compile(pictures.size)

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
        return write_rows(
            path,
            pictures,
            compute,
            row=(width,),
            dtype=np.float16,
            batch_size=backbone.batch_size,
            rows=rows,
            threads=threads,
            on_progress=on_progress,
        )


@contextmanager
def _single_thread() -> Iterator[None]:
    """Operators on one thread each: the batches are what runs side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
