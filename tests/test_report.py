"""A small workspace as the stages leave it -> the page that a colleague is shown."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from isdh import artifacts, codes, metrics, report
from isdh.artifacts import Cell, Workspace
from isdh.errors import InputError
from isdh.params import Params
from isdh.report import tables, vocabulary
from isdh.report.evidence import read
from isdh.report.gallery import NEIGHBOURS, QUERIES, gallery
from isdh.settings import Evaluate

DATASET = "shapes"
LABELS = ("sky & sea", "<b>tree</b>", 'a "quote"', "dog", "night")


@dataclass(frozen=True)
class Sizes:
    """How large a synthetic workspace is."""

    train: int = 24
    query: int = 13
    database: int = 40
    side: int = 16
    labels: tuple[str, ...] = LABELS


def settings(methods: tuple[str, ...], bits: tuple[int, ...], seeds: tuple[int, ...]) -> Params:
    """The parameters that the report reads; what concerns other stages is left out."""
    return Params.model_construct(
        datasets={DATASET: f"raw/{DATASET}"},
        methods=methods,
        bits=bits,
        seeds=seeds,
        evaluate=Evaluate(cutoffs=(10, 20, None)),
    )


def write_workspace(root: Path, params: Params, sizes: Sizes = Sizes()) -> Workspace:
    """Pictures, manifest, statistics, and codes, scores and histories of each cell."""
    rng = np.random.default_rng(0)
    workspace = Workspace(root)
    count = sizes.train + sizes.query + sizes.database
    labels = rng.random((count, len(sizes.labels))) < 2.2 / len(sizes.labels)
    labels[np.arange(count), rng.integers(len(sizes.labels), size=count)] = True
    splits = np.repeat(["train", "query", "database"], [sizes.train, sizes.query, sizes.database])
    manifest = pd.DataFrame(
        {
            "image": [f"image {row}" for row in range(count)],
            "path": [f"pictures/{row}.png" for row in range(count)],
            "split": splits,
            "also_database": (splits == "train") & (np.arange(count) % 2 == 0),
            "sha256": "",
        }
        | dict(zip(sizes.labels, labels.T, strict=True))
    )
    workspace.data(DATASET).mkdir(parents=True)
    manifest.to_parquet(workspace.manifest(DATASET))
    artifacts.write_array(workspace.data(DATASET) / "labels.npy", labels)
    write_pictures(workspace.raw(DATASET), labels, sizes.side, rng)
    searched = (manifest["split"] == "database") | manifest["also_database"]
    statistics = {
        "rows": {"train": sizes.train, "query": sizes.query, "database": int(searched.sum())},
        "unlabelled": 3,
        "labels": dict(zip(sizes.labels, labels.sum(axis=0).tolist(), strict=True)),
        "labels_per_image": float(labels.sum(axis=1).mean()),
        "pairs": {"none": 0.25, "some": 0.65, "all": 0.1},
        "similarity": {
            "edges": np.linspace(0, 1, 21).tolist(),
            "share": (np.hanning(20) / np.hanning(20).sum()).tolist(),
        },
    }
    artifacts.write_json(workspace.data(DATASET) / "statistics.json", statistics)
    for cell in params.cells(DATASET):
        write_cell(workspace, params, cell, labels, manifest)
    return workspace


def write_pictures(folder: Path, labels: np.ndarray, side: int, rng: np.random.Generator) -> None:
    (folder / "pictures").mkdir(parents=True)
    colors = rng.integers(40, 255, size=(labels.shape[1], 3))
    for row, present in enumerate(labels):
        pixels = rng.integers(0, 40, size=(side, side, 3))
        for label in np.flatnonzero(present):
            x, y = rng.integers(0, side // 2, size=2)
            pixels[y : y + side // 3, x : x + side // 3] = colors[label]
        picture = Image.fromarray(pixels.astype(np.uint8))
        picture.save(folder / "pictures" / f"{row}.png")


def write_cell(
    workspace: Workspace, params: Params, cell: Cell, labels: np.ndarray, manifest: pd.DataFrame
) -> None:
    """One cell whose codes follow the labels, the later methods of the list less closely."""
    noise = 1 + 0.5 * params.methods.index(cell.method)
    rng = np.random.default_rng([cell.bits, cell.seed, params.methods.index(cell.method)])
    outputs = (labels - labels.mean(axis=0)) @ rng.normal(size=(labels.shape[1], cell.bits))
    packed = codes.pack(outputs + noise * rng.normal(size=outputs.shape))
    artifacts.write_codes(workspace.codes(cell), packed, bits=cell.bits)
    query = (manifest["split"] == "query").to_numpy()
    searched = ((manifest["split"] == "database") | manifest["also_database"]).to_numpy()
    scores = metrics.evaluate(
        packed[query],
        labels[query],
        packed[searched],
        labels[searched],
        bits=cell.bits,
        cutoffs=params.evaluate.cutoffs,
    )
    artifacts.write_json(workspace.scores(cell), scores.as_dict())
    with artifacts.replacing(workspace.scores(cell).with_suffix(".npz")) as stream:
        np.savez(
            stream,
            precision_by_radius=scores.precision_by_radius,
            recall_by_radius=scores.recall_by_radius,
            **scores.per_query,
        )
    epochs = [
        {"epoch": epoch, "timestamp": 0, "loss": noise / epoch + 0.1 * rng.random(), "seconds": 1.5}
        for epoch in range(1, 9)
    ]
    history = {
        "fingerprint": "0",
        "method": {"name": cell.method, "gamma": 10.0},
        "training": {"epochs": 8, "batch_size": 64},
        "seconds": 12.0,
        "epochs": epochs,
    }
    artifacts.write_json(workspace.model(cell) / "history.json", history)
