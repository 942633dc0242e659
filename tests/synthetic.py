"""A small workspace as the stages leave it, for tests of what reads it: no training, no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from isdh import params
from isdh.artifacts import Cell, Workspace, read_json, replacing, sha256, write_json
from isdh.settings import Network

STARTED = 1_700_000_000_000  # unix ms


def write_params(root: Path, **changes: Any) -> params.Params:
    """A params.yaml of two methods, two code lengths, two seeds; top-level keys may be changed."""
    content = {
        "datasets": {"digits": "raw/digits"},
        "methods": ["isdh", "dhn"],
        "bits": [12, 24],
        "seeds": [0, 1],
        "dataset": {
            "digits": {
                "source": {"reader": "folder", "table": "labels.csv"},
                "inputs": {"kind": "images", "size": 32, "channels": 1},
                "network": {"backbone": "convnet"},
                "training": {"epochs": 3},
            }
        },
        "generate": {"seed": 0},
        "method": {"isdh": {}, "dhn": {}},
        "evaluate": {"cutoffs": [100, None]},
        "champion": {"metric": "ndcg_at_100"},
        **changes,
    }
    path = root / "params.yaml"
    path.write_text(json.dumps(content))  # JSON is YAML
    return params.load(path)


def write_data(workspace: Workspace, dataset: str = "digits", *, version: str = "1") -> None:
    """The card of the preprocessed inputs; another version stands for other data."""
    digests = {name: version * 64 for name in ("inputs.npy", "mirrored.npy", "labels.npy")}
    card = {"shape": [32, 32, 1], "rows": 40, "labels": ["one", "two"], "sha256": digests}
    write_json(workspace.data(dataset) / "inputs.json", card)


def history(cell: Cell, *, fingerprint: str = "f" * 64, epochs: int = 3) -> dict[str, Any]:
    """What history.json holds after so many epochs."""
    records = [
        {
            "epoch": epoch,
            "timestamp": STARTED + 1000 * epoch,
            "loss": 1.0 / epoch,
            "pairwise": 0.5 / epoch,
            "learning_rate": 0.001,
            "seconds": 0.9,
        }
        for epoch in range(1, epochs + 1)
    ]
    return {
        "fingerprint": fingerprint,
        "method": {"name": cell.method, "alpha": 0.1},
        "training": {"epochs": 3, "learning_rate": 0.001, "schedule": "cosine"},
        "rows": 20,
        "device": "cpu",
        "hardware": {"processor": "x86", "cores": 2, "memory_bytes": 1 << 34},
        "versions": {"python": "3.11.7", "torch": "2.9.0", "numpy": "2.3.0"},
        "totals": {"training_seconds": 0.9 * epochs, "peak_memory_bytes": 1 << 28},
        "epochs": records,
    }


def write_model(
    workspace: Workspace, cell: Cell, *, fingerprint: str = "f" * 64, weights: str = ""
) -> None:
    """A model's folder; weights are some text, by default the cell's name."""
    folder = workspace.model(cell)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.safetensors").write_text(weights or str(cell))
    card = {
        "bits": cell.bits,
        "inputs": {"kind": "images", "size": 32, "channels": 1, "weights": None},
        "network": Network(backbone="convnet").model_dump(),
        "input_shape": [32, 32, 1],
        "labels": ["one", "two"],
        "head": None,
        "weights_sha256": sha256(folder / "weights.safetensors"),
        "backbone_sha256": None,
    }
    write_json(folder / "model.json", card)
    write_json(folder / "history.json", history(cell, fingerprint=fingerprint))


def write_scores(workspace: Workspace, cell: Cell, **scores: float) -> None:
    """Scores of the model that is there; those not given follow from the code length and seed."""
    usual: Mapping[str, float] = {
        "map_at_all": 0.5 + cell.bits / 1000 + cell.seed / 100,
        "ndcg_at_100": 0.6 + cell.bits / 1000 + cell.seed / 100,
        "queries_without_relevant": 0,
    }
    write_json(workspace.scores(cell), {**usual, **scores})
    model = read_json(workspace.model(cell) / "model.json")
    with replacing(workspace.scores(cell).with_suffix(".npz")) as stream:
        np.savez(stream, allow_pickle=False, weights_sha256=model["weights_sha256"])


def write_workspace(root: Path, **changes: Any) -> tuple[Workspace, params.Params]:
    """Data, models and scores of every cell of the matrix."""
    workspace, settings = Workspace(root), write_params(root, **changes)
    for dataset in settings.datasets:
        write_data(workspace, dataset)
        for cell in settings.cells(dataset):
            write_model(workspace, cell)
            write_scores(workspace, cell)
    return workspace, settings
