"""Files of a cell -> what MLflow is to hold of it. Pure: nothing is asked of MLflow here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isdh.artifacts import Cell, Workspace, current_scores, read_json, sha256
from isdh.params import Params
from isdh.tracking.provenance import Lock, dvc_tags

SCORES = "scores"  # the folder of a run's files where means and values per query lie
LARGEST_WEIGHTS = 16 << 20  # bytes; larger ones stay where DVC has them, named by their hash


@dataclass(frozen=True)
class Point:
    """One value of a training curve: name, value, time in unix ms, epoch."""

    key: str
    value: float
    timestamp: int
    step: int


def tag_of(folder: str, name: str) -> str:
    """The tag that holds the digest of a file in one of a run's folders."""
    return f"isdh.sha256.{folder}/{name}"


@dataclass(frozen=True)
class File:
    """A file to keep with the run, in one of its folders."""

    path: Path
    folder: str
    sha256: str

    @property
    def tag(self) -> str:
        """The tag that holds the digest of the copy in MLflow."""
        return tag_of(self.folder, self.path.name)


@dataclass(frozen=True)
class Projection:
    """What MLflow is to hold of one training of one cell.

    Attributes:
        cell: what was trained.
        fingerprint: of everything the training depends on.
        params: of the training; each is written once.
        points: the training curves.
        scores: name -> mean over queries; empty before evaluation.
        tags: what may change without a new training.
        files: small artifacts.
        data: digest of the inputs, at most 36 characters; None if they are not here.
        start: of training, unix ms; None if no epoch was recorded.
        end: likewise.
    """

    cell: Cell
    fingerprint: str
    params: Mapping[str, str]
    points: tuple[Point, ...]
    scores: Mapping[str, float]
    tags: Mapping[str, str]
    files: tuple[File, ...]
    data: str | None
    start: int | None = field(default=None, compare=False)
    end: int | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """The run's name."""
        return f"{self.cell.method} {self.cell.bits} bits seed {self.cell.seed}"

    @property
    def identity(self) -> dict[str, str]:
        """The tags that find the run."""
        return {"isdh.cell": str(self.cell), "isdh.fingerprint": self.fingerprint}

    @property
    def digest(self) -> str:
        """Equal iff nothing that MLflow is to hold has changed."""
        content = [
            self.identity,
            dict(self.params),
            [(p.key, p.value, p.timestamp, p.step) for p in self.points],
            dict(self.scores),
            dict(self.tags),
            [(file.tag, file.sha256) for file in self.files],
            self.data,
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def of_files(workspace: Workspace, cell: Cell, lock: Lock) -> Projection:
    """What the files of a cell say: training, and scores if they are of this training's model.

    Raises:
        InputError: the model's files are missing or unreadable.
    """
    folder = workspace.model(cell)
    history, card = read_json(folder / "history.json"), read_json(folder / "model.json")
    scores = current_scores(workspace, cell)
    files = [
        File(folder / "model.json", "model", sha256(folder / "model.json")),
        File(folder / "history.json", "model", sha256(folder / "history.json")),
    ]
    weights = folder / "weights.safetensors"
    if weights.exists() and weights.stat().st_size <= LARGEST_WEIGHTS:
        files.append(File(weights, "model", card["weights_sha256"]))
    if scores:
        means = workspace.scores(cell)
        per_query = means.with_suffix(".npz")
        files += [File(path, SCORES, sha256(path)) for path in (means, per_query)]
    sections = {"inputs": card["inputs"], "network": card["network"]}
    return _projection(
        workspace,
        cell,
        history,
        sections,
        scores=scores or {},
        tags=dvc_tags(lock, cell),
        files=tuple(files),
    )


def of_history(
    workspace: Workspace, params: Params, cell: Cell, history: Mapping[str, Any]
) -> Projection:
    """What a training that still runs says; `history` as history.json will hold it, so far."""
    dataset = params.dataset[cell.dataset]
    sections = {"inputs": dataset.inputs.model_dump(), "network": dataset.network.model_dump()}
    return _projection(workspace, cell, history, sections, scores={}, tags={}, files=())


def _projection(
    workspace: Workspace,
    cell: Cell,
    history: Mapping[str, Any],
    sections: Mapping[str, Mapping[str, Any]],
    *,
    scores: Mapping[str, float],
    tags: Mapping[str, str],
    files: tuple[File, ...],
) -> Projection:
    epochs = history["epochs"]
    totals = history.get("totals", {})  # of the whole training, once it has ended
    records = [*epochs[:-1], *[{**last, **totals} for last in epochs[-1:]]]
    parts = {"method": history["method"], "training": history["training"], **sections}
    who = {"method": cell.method, "bits": str(cell.bits), "seed": str(cell.seed)}
    facts = {f"version.{name}": str(v) for name, v in history["versions"].items()}
    facts |= {f"hardware.{name}": str(v) for name, v in history.get("hardware", {}).items()}
    return Projection(
        cell=cell,
        fingerprint=history["fingerprint"],
        params=who | {"training.rows": str(history["rows"])} | _flat(parts),
        points=tuple(point for record in records for point in _points(record)),
        scores=scores,
        tags={
            "mlflow.source.name": "flows/train.py",  # MLflow shows the commit beside it
            "mlflow.source.type": "LOCAL",
            "dataset": cell.dataset,
            **who,
            "device": history["device"],
            **facts,
            **tags,
        },
        files=files,
        data=data_digest(workspace, cell.dataset),
        start=epochs[0]["timestamp"] - round(1000 * epochs[0]["seconds"]) if epochs else None,
        end=epochs[-1]["timestamp"] if epochs else None,
    )


def _flat(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Section and key joined by a dot -> value as JSON, strings bare."""
    return {
        f"{section}.{key}": value if isinstance(value, str) else json.dumps(value)
        for section, values in sections.items()
        for key, value in values.items()
        if (section, key) != ("method", "name")
    }


def _points(record: Mapping[str, float]) -> list[Point]:
    step, timestamp = int(record["epoch"]), int(record["timestamp"])
    names = [name for name in record if name not in {"epoch", "timestamp"}]
    return [Point(name, float(record[name]), timestamp, step) for name in names]


def data_digest(workspace: Workspace, dataset: str) -> str | None:
    """A digest, 32 characters, of the arrays that every cell of a dataset reads."""
    path = workspace.data(dataset) / "inputs.json"
    if not path.exists():
        return None
    arrays = json.dumps(read_json(path)["sha256"], sort_keys=True)
    return hashlib.sha256(arrays.encode()).hexdigest()[:32]
