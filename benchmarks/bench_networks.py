"""Every classification network of torchvision as a frozen backbone, beside torchvision itself.

    PYTHONPATH=. python benchmarks/bench_networks.py [NAME ...]

Each network has random weights, in a file as torchvision publishes it, and reads three random
pictures of the size that its newest weights are made for. torchvision builds it as it does for
these weights. Ours, by ONNX Runtime, is a process by itself: whether its features are those of
torchvision, by how much they differ, CPU seconds to compile, and the most memory it took.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torchvision
from PIL import Image
from record import record
from torch import Tensor, nn
from torchvision.models._api import WeightsEnum

from isdh.features import FeatureBackbone

IMAGES = 3


def published(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """The network as torchvision builds it for its newest weights, and the entries of these."""
    states = []

    def load(network: nn.Module, _: Any) -> None:
        states.append(network.state_dict())

    with (
        mock.patch.object(WeightsEnum, "get_state_dict", return_value={}),
        mock.patch.object(nn.Module, "load_state_dict", load),
    ):
        network = torchvision.models.get_model(name, weights="DEFAULT")
    return network, states[0]


def vary(network: nn.Module, pixels: Tensor) -> None:
    """Values by which features depend on the pictures and on every parameter."""
    for key, parameter in network.named_parameters():
        if key.endswith("bias"):
            nn.init.uniform_(parameter, -0.1, 0.1)
        elif parameter.ndim == 1 or parameter.std() < 1e-3:
            nn.init.uniform_(parameter, 0.5, 1.5)
    layers = list(network.modules())
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    if not any(isinstance(layer, (nn.BatchNorm2d, nn.LayerNorm)) for layer in layers):
        for layer in layers:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                layer.register_forward_hook(standardise)
    network.train()(pixels)
    network.eval()
    for layer in layers:
        layer._forward_hooks.clear()


def standardise(layer: nn.Conv2d | nn.Linear, _: Any, outputs: Tensor) -> Tensor:
    """Scale weights by what they make: one ReLU after another, all pictures would look alike."""
    std, mean = torch.std_mean(outputs, dim=(0, *range(2, outputs.ndim)), keepdim=True)
    layer.weight.div_(std.view(-1, *[1] * (layer.weight.ndim - 1)))
    layer.bias.sub_(mean.flatten()).div_(std.flatten())
    return (outputs - mean) / std


def expected(network: nn.Module, pixels: Tensor) -> Tensor:
    """What the last layer with weights reads, or for SqueezeNet, would give as the identity."""
    if isinstance(network, torchvision.models.SqueezeNet):
        network.classifier[1] = nn.Identity()
        features: Tensor = network(pixels)
        return features
    *_, last = (layer for layer in network.modules() if isinstance(layer, nn.Linear))
    read: list[Tensor] = []
    last.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    classes = network(pixels)
    assert torch.equal(last(read[0]), classes)
    return read[0]


@torch.no_grad()
def prepare(name: str, folder: Path) -> int:
    """Write the network's weights, pictures and what torchvision makes of them; their size."""
    torch.manual_seed(0)
    network, state = published(name)
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    [size] = preset.crop_size
    coarse = np.random.default_rng(0).integers(0, 256, (IMAGES, 14, 14, 3), dtype=np.uint8)
    images = np.stack([Image.fromarray(image).resize((size, size)) for image in coarse])
    pixels = torch.stack([torchvision.transforms.functional.to_tensor(image) for image in images])
    pixels = torchvision.transforms.functional.normalize(pixels, preset.mean, preset.std)
    vary(network, pixels)
    torch.save(state, folder / "weights.pth")
    np.save(folder / "images.npy", images)
    np.save(folder / "expected.npy", expected(network, pixels).numpy())
    return size


def ours(name: str, folder: Path) -> dict[str, Any]:
    """Load and compile the network, and compare its features with those expected."""
    images, wanted = np.load(folder / "images.npy"), np.load(folder / "expected.npy")
    backbone = FeatureBackbone.load(name, folder / "weights.pth")
    size = images.shape[1]
    assert backbone.width(size) == wanted.shape[1]
    backbone.compile(size)
    start = time.process_time()
    backbone.features(images[:1])
    seconds = time.process_time() - start
    found = backbone.features(images).astype(np.float32)
    largest = float(np.abs(wanted).max())
    return {
        "features": wanted.shape[1],
        "equal": bool(np.allclose(found, wanted, rtol=2e-3, atol=1e-3 * largest)),
        "largest_feature": round(largest, 3),
        "spread_between_pictures": round(float(wanted.std(axis=0).max() / largest), 3),
        "differ": float((found != wanted.astype(np.float16)).mean().round(4)),
        "largest_difference": float(f"{np.abs(found - wanted).max() / largest:.1e}"),
        "cpu_seconds_to_compile": round(seconds, 1),
        "gigabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 1),
    }


def compare(name: str) -> dict[str, Any]:
    """One network, ours in a process by itself."""
    with tempfile.TemporaryDirectory() as folder:
        size = prepare(name, Path(folder))
        command = [sys.executable, __file__, "--ours", folder, name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"network": name, "size": size, "error": done.stderr[-2000:]}
    return {"network": name, "size": size, **json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--ours", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        print(json.dumps(ours(options.names[0], options.ours)))
        return
    networks = []
    for name in options.names or torchvision.models.list_models(module=torchvision.models):
        networks.append(compare(name))
        print(json.dumps(networks[-1]), flush=True)
    packages = ("onnx", "onnxruntime", "onnxscript", "torch", "torchvision")
    record("networks", packages=packages, networks=networks)


if __name__ == "__main__":
    main()
