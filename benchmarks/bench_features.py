"""Frozen backbones on one core: torchvision as it comes, ours by torch, ours by ONNX Runtime.

    PYTHONPATH=. python benchmarks/bench_features.py
        [--weights FILE --pictures FOLDER [--model FOLDER]]

Images a second of CPU time, medians, on random pixels and random weights. With a file of
MobileNetV2's weights and a folder of JPEGs: by how much the features of torch and of ONNX Runtime
differ; with a trained model's folder besides: how many bits of the codes differ, and how far from
zero the outputs of these bits are.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import record
from torch.fx.experimental.optimization import fuse

from isdh import backbones, models
from isdh.features import FeatureBackbone, normalise
from isdh.images import decode

CASES = (("mobilenet_v2", 128), ("mobilenet_v2", 224), ("resnet50", 224), ("vit_b_32", 224))
BATCHES = (1, 16, 64)
ROUNDS = 5
PICTURES = 2000


def rate(compute: Callable[[], Any], images: int) -> float:
    """Images a second of CPU time: the median round after one to warm up."""
    compute()
    seconds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        compute()
        seconds.append(time.process_time() - start)
    return round(images / statistics.median(seconds), 1)


def speed(name: str, size: int) -> dict[str, Any]:
    """One backbone at one size."""
    body, _ = backbones.without_classifier(backbones.untrained(name).eval())
    body.requires_grad_(False)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (max(BATCHES), size, size, 3), dtype=np.uint8)

    def eager(batch: np.ndarray) -> torch.Tensor:
        with torch.inference_mode():
            answer: torch.Tensor = body(normalise(torch.from_numpy(batch)).contiguous())
        return answer

    found: dict[str, Any] = {"backbone": name, "size": size}
    found["torchvision"] = {n: rate(lambda n=n: eager(images[:n]), n) for n in BATCHES}
    ours = FeatureBackbone(name, fuse(body).requires_grad_(False), torch.device("cpu"))
    found["torch"] = {n: rate(lambda n=n: ours.features(images[:n]), n) for n in BATCHES}
    ours.compile(size)
    start = time.perf_counter()
    ours.features(images[:1])
    found["seconds_to_compile"] = round(time.perf_counter() - start, 1)
    found["onnxruntime"] = rate(lambda: ours.features(images[:16]), 16)
    return found


def agreement(weights: Path, folder: Path, model: Path | None) -> dict[str, Any]:
    """Features of real pictures by both, and the bits of a trained model's codes."""
    paths = sorted(folder.glob("*.jpg"))[:PICTURES]
    images = np.stack([decode(path.read_bytes(), size=128, channels=3) for path in paths])
    backbone = FeatureBackbone.load("mobilenet_v2", weights)
    by_torch = np.concatenate(
        [backbone.features(images[i : i + 16]) for i in range(0, len(images), 16)]
    )
    backbone.compile(128)
    by_runtime = backbone.features(images)
    step = np.spacing(np.maximum(np.abs(by_torch), np.abs(by_runtime)))
    steps = np.abs(by_torch.astype("f4") - by_runtime.astype("f4")) / step.astype("f4")
    found: dict[str, Any] = {
        "pictures": len(images),
        "features_that_differ": float((steps > 0).mean()),
        "most_float16_steps": float(steps.max()),
    }
    if model is not None:
        network = models.load(model).eval()
        with torch.inference_mode():
            first, second = (
                network(torch.from_numpy(rows)).float().numpy() for rows in (by_torch, by_runtime)
            )
        flipped = (first > 0) != (second > 0)
        found["bits"] = int(flipped.size)
        found["bits_that_differ"] = int(flipped.sum())
        found["largest_output_of_these"] = float(np.abs(first[flipped]).max(initial=0))
        found["largest_output"] = float(np.abs(first).max())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="MobileNetV2's state_dict")
    parser.add_argument("--pictures", type=Path, help="a folder of JPEGs")
    parser.add_argument("--model", type=Path, help="a model folder trained on such features")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    if options.weights and options.pictures:
        figures["agreement"] = agreement(options.weights, options.pictures, options.model)
        print(figures["agreement"])
    figures["images_per_cpu_second"] = []
    for name, size in CASES:
        found = speed(name, size)
        print(found)
        figures["images_per_cpu_second"].append(found)
    record("features", packages=("torch", "torchvision", "onnxruntime"), **figures)


if __name__ == "__main__":
    main()
