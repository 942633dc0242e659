"""Stage `preprocess`: manifest and pictures -> data/<dataset>/ inputs, labels, statistics."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from prefect import flow

from flows import stage
from flows.stage import WORKSPACE
from isdh import manifest, params
from isdh.artifacts import sha256, write_array, write_json
from isdh.duplicates import SIDE
from isdh.rows import Rows, limit, sources, versions
from isdh.settings import Features, Images
from isdh.statistics import describe
from isdh.store import Pictures, build_store

if TYPE_CHECKING:
    from isdh.features import FeatureBackbone

ENCODING = (  # the source that determines features
    "isdh.backbones",
    "isdh.device",
    "isdh.features",
    "isdh.runtime",
)


@flow(name="preprocess", flow_run_name="preprocess {dataset}")
async def preprocess(dataset: str) -> None:
    """Decode every picture once, or compute its features; row i is row i of the manifest."""
    settings = params.load()
    inputs = settings.section(dataset).inputs
    rows = manifest.read(WORKSPACE.manifest(dataset))
    root = settings.root(dataset)
    if isinstance(inputs, Features):
        if not Path(inputs.weights).exists():
            await weights(inputs)
        await features(dataset, inputs, rows, root)
    else:
        await images(dataset, inputs, rows, root)
    await labels(dataset, inputs, rows, await small(dataset, rows, root))


@stage.task(name="fetch weights", retries=2, retry_delay_seconds=10)
async def weights(inputs: Features) -> None:
    """Download the backbone's weights, since no file of them is there."""
    from isdh import backbones

    backbones.fetch(inputs.backbone, Path(inputs.weights))
    stage.say(f"{inputs.weights}: downloaded, the newest that torchvision publishes")


@stage.task(name="decode images", retries=2, retry_delay_seconds=10)
async def images(dataset: str, inputs: Images, rows: pd.DataFrame, root: Path) -> None:
    """Write inputs.npy, uint8 (N, S, S, C)."""
    pictures = of(rows, root, inputs.size, inputs.channels)
    folder = WORKSPACE.data(dataset)
    await store(folder / "inputs.npy", pictures, build_store, pictures.recipe)
    none = np.empty((0, inputs.size, inputs.size, inputs.channels), dtype=np.uint8)
    write_array(folder / "mirrored.npy", none)


@stage.task(name="compute features", retries=2, retry_delay_seconds=10)
async def features(dataset: str, inputs: Features, rows: pd.DataFrame, root: Path) -> None:
    """Write inputs.npy, float16 (N, F), and mirrored.npy, (T, F)."""
    from isdh.device import choose_device  # torch, which pictures alone do not need
    from isdh.features import FeatureBackbone, extract

    path = Path(inputs.weights)
    backbone = FeatureBackbone.load(inputs.backbone, path, device=choose_device().type)
    training = rows[rows["split"] == "train"] if inputs.mirrored else rows[:0]
    for name, some, mirrored in (("inputs.npy", rows, False), ("mirrored.npy", training, True)):
        pictures = of(some, root, inputs.size)
        recipe = {
            **pictures.recipe,
            **encoding(backbone, path),
            "mirrored": mirrored,
        }
        write = partial(extract, backbone, mirrored=mirrored)
        await store(WORKSPACE.data(dataset) / name, pictures, write, recipe)


@stage.task(name="small pictures", retries=2, retry_delay_seconds=10)
async def small(dataset: str, rows: pd.DataFrame, root: Path) -> np.ndarray:
    """What near copies are looked for in: uint8 (N, 32, 32)."""
    pictures = of(rows, root, SIDE, channels=1)
    path = WORKSPACE.state("small", dataset, "small.npy")
    await store(path, pictures, build_store, pictures.recipe)
    pixels: np.ndarray = np.load(path)[..., 0]
    path.unlink()
    return pixels


def of(rows: pd.DataFrame, root: Path, size: int, channels: int = 3) -> Pictures:
    """The files of some rows."""
    return Pictures(root, list(rows["path"]), list(rows["sha256"]), size, channels)


def encoding(backbone: FeatureBackbone, weights: Path) -> dict[str, Any]:
    """All that determines the features of a row, except its pixels and their mirroring.

    Processors with other vector instructions round otherwise, so these are part of it.
    """
    from torch.backends.cpu import get_cpu_capability

    from isdh.device import describe as device_name

    return {
        "backbone": backbone.name,
        "weights": sha256(weights),
        "device": device_name(backbone.device),
        "vectors": get_cpu_capability(),
        "batch_size": backbone.batch_size,
        **versions("numpy", "onnx", "onnxruntime", "onnxscript", "torch", "torchvision"),
        **sources(*ENCODING),
    }


async def store(
    path: Path, pictures: Pictures, write: Callable[..., int], recipe: Mapping[str, Any]
) -> None:
    """Write one array from pictures, telling the progress; rows of before are not made again."""
    progress = stage.Progress(len(pictures), unit="images")
    rows = Rows(WORKSPACE.state("rows"), recipe, limit=limit(os.environ))
    work = partial(write, pictures, path, rows=rows, on_progress=progress.reach)
    made = await stage.aside(work, progress)
    stage.say(f"{path.name}: {made:,} rows made, {len(pictures) - made:,} kept from before")
    if rows.stopped:
        stage.say(f"{path.name}: not all rows are kept for next time: {rows.stopped}")


@stage.task(name="labels and statistics")
async def labels(
    dataset: str, inputs: Images | Features, rows: pd.DataFrame, pixels: np.ndarray
) -> None:
    """Write labels.npy, statistics.json and inputs.json, which names the arrays' checksums."""
    folder = WORKSPACE.data(dataset)
    write_array(folder / "labels.npy", manifest.label_matrix(rows))
    write_json(folder / "statistics.json", describe(rows, pixels))
    frozen = inputs.weights if isinstance(inputs, Features) else None
    card = {
        "inputs": inputs.model_dump(),
        "shape": list(np.load(folder / "inputs.npy", mmap_mode="r").shape[1:]),
        "rows": len(rows),
        "labels": manifest.labels_of(rows),
        "sha256": {
            name: sha256(folder / name) for name in ("inputs.npy", "mirrored.npy", "labels.npy")
        },
        "backbone_sha256": sha256(Path(frozen)) if frozen else None,
        "start_sha256": sha256(Path(inputs.weights)) if not frozen and inputs.weights else None,
    }
    write_json(folder / "inputs.json", card)


if __name__ == "__main__":
    stage.main(preprocess)
