"""A cell -> the fingerprint of everything its training depends on, as dvc.yaml lists it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from isdh.artifacts import Cell, Workspace, read_json, sha256
from isdh.params import Params


def fingerprint(workspace: Workspace, params: Params, cell: Cell, *, device: str) -> str:
    """Name a training by its inputs: equal fingerprints, equal results on equal machines.

    Args:
        workspace: where the files lie.
        params: today's.
        cell: what is trained.
        device: "cpu" or "cuda".

    Returns:
        64 hex digits over: the dependencies and params keys of the stage `train`, the cell, the
        versions of torch and NumPy, and the kind of device.
    """
    dataset = params.section(cell.dataset)
    arrays = read_json(workspace.data(cell.dataset) / "inputs.json")["sha256"]
    content = {
        "cell": str(cell),
        "files": {
            str(path): arrays.get(path.name) or sha256(workspace.root / path)
            for path in dependencies(workspace.root / "dvc.yaml", cell)
        },
        "network": dataset.network.model_dump(),
        "training": params.training(cell.dataset, cell.method).model_dump(),
        "method": params.hyper(cell.dataset, cell.method),
        "versions": [torch.__version__, np.__version__],
        "device": device,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def dependencies(graph: Path, cell: Cell) -> list[Path]:
    """The files that the stage `train` of a cell depends on, as dvc.yaml lists them."""
    stages: dict[str, Any] = yaml.safe_load(graph.read_text(encoding="utf-8"))["stages"]
    paths = stages["train"]["deps"]
    for key in ("dataset", "method"):
        paths = [path.replace(f"${{item.{key}}}", getattr(cell, key)) for path in paths]
    return [Path(path) for path in paths]
