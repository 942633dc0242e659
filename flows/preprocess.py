"""Stage `preprocess`: manifest and pictures -> data/<dataset>/ inputs, labels, statistics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect import flow

from flows import stage
from flows.stage import WORKSPACE
from isdh import manifest, params
from isdh.artifacts import sha256, write_array, write_json
from isdh.settings import Features, Images
from isdh.statistics import describe
from isdh.store import Pictures, build_store


@flow(name="preprocess", flow_run_name="preprocess {dataset}")
async def preprocess(dataset: str) -> None:
    """Decode every picture once, or compute its features; row i is row i of the manifest."""
    settings = params.load()
    inputs = settings.section(dataset).inputs
    rows = manifest.read(WORKSPACE.manifest(dataset))
    root = settings.root(dataset)
    if isinstance(inputs, Features):
        await features(dataset, inputs, rows, root)
    else:
        await images(dataset, inputs, rows, root)
    await labels(dataset, inputs, rows)


@stage.task(name="decode images", retries=2, retry_delay_seconds=10)
async def images(dataset: str, inputs: Images, rows: pd.DataFrame, root: Path) -> None:
    """Write inputs.npy, uint8 (N, S, S, C)."""
    pictures = of(rows, root, inputs.size, inputs.channels)
    await store(dataset, "inputs.npy", pictures, build_store)
    none = np.empty((0, inputs.size, inputs.size, inputs.channels), dtype=np.uint8)
    write_array(WORKSPACE.data(dataset) / "mirrored.npy", none)


@stage.task(name="compute features", retries=2, retry_delay_seconds=10)
async def features(dataset: str, inputs: Features, rows: pd.DataFrame, root: Path) -> None:
    """Write inputs.npy, float16 (N, F), and mirrored.npy, (T, F)."""
    from isdh.device import choose_device  # torch, which pictures alone do not need
    from isdh.features import FeatureBackbone, extract

    backbone = FeatureBackbone.load(
        inputs.backbone, Path(inputs.weights), device=choose_device().type
    )

    def plain(pictures: Pictures, path: Path, **tell: Any) -> None:
        extract(backbone, pictures, path, **tell)

    def mirrored(pictures: Pictures, path: Path, **tell: Any) -> None:
        extract(backbone, pictures, path, mirrored=True, **tell)

    await store(dataset, "inputs.npy", of(rows, root, inputs.size), plain)
    training = rows[rows["split"] == "train"] if inputs.mirrored else rows[:0]
    await store(dataset, "mirrored.npy", of(training, root, inputs.size), mirrored)


def of(rows: pd.DataFrame, root: Path, size: int, channels: int = 3) -> Pictures:
    """The files of some rows."""
    return Pictures(root, list(rows["path"]), list(rows["sha256"]), size, channels)


async def store(dataset: str, name: str, pictures: Pictures, write: Callable[..., None]) -> None:
    """Write one array from pictures, telling the progress."""
    progress = stage.Progress(len(pictures), unit="images")
    path = WORKSPACE.data(dataset) / name
    await stage.aside(lambda: write(pictures, path, on_progress=progress.reach), progress)


@stage.task(name="labels and statistics")
async def labels(dataset: str, inputs: Images | Features, rows: pd.DataFrame) -> None:
    """Write labels.npy, statistics.json and inputs.json, which names the arrays' checksums."""
    folder = WORKSPACE.data(dataset)
    write_array(folder / "labels.npy", manifest.label_matrix(rows))
    write_json(folder / "statistics.json", describe(rows))
    weights = inputs.weights if isinstance(inputs, Features) else None
    card = {
        "inputs": inputs.model_dump(),
        "shape": list(np.load(folder / "inputs.npy", mmap_mode="r").shape[1:]),
        "rows": len(rows),
        "labels": manifest.labels_of(rows),
        "sha256": {
            name: sha256(folder / name) for name in ("inputs.npy", "mirrored.npy", "labels.npy")
        },
        "backbone_sha256": sha256(Path(weights)) if weights else None,
        "start_sha256": sha256(Path(inputs.weights)) if not weights and inputs.weights else None,
    }
    write_json(folder / "inputs.json", card)


if __name__ == "__main__":
    stage.main(preprocess)
