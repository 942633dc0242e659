"""A scored run's plots: drawn from its files, unless the run has those of the same files."""

from __future__ import annotations

import hashlib

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Run

from isdh.artifacts import read_json
from isdh.tracking import run_plots
from isdh.tracking.projection import File, Projection
from isdh.tracking.server import folder_here

FOLDER = "plots"  # of the run's files
TAG = "isdh.plots"  # a digest of what they were drawn from, then their names


def are_there(wanted: Projection, run: Run) -> bool:
    """Whether a run has its plots, or is to have none; stores elsewhere are not looked at."""
    sources = _sources(wanted)
    if not sources:
        return True
    digest, *names = (run.data.tags.get(TAG) or "-").split()
    folder = folder_here(run.info.artifact_uri)
    return digest == _digest(sources) and (
        folder is None or all((folder / FOLDER / name).is_file() for name in names)
    )


def add(client: MlflowClient, run: Run, wanted: Projection) -> None:
    """Draw a run's plots and keep them with it."""
    history, values = _sources(wanted)
    with np.load(values.path, allow_pickle=False) as arrays:
        names = {name: f"{name}_by_radius" for name in ("precision", "recall")}
        held = {name: arrays[key] for name, key in names.items() if key in arrays}
    drawn = run_plots.draw(read_json(history.path)["epochs"], held if len(held) == 2 else {})
    for name, document in drawn.items():
        client.log_text(run.info.run_id, document, f"{FOLDER}/{name}")
    client.set_tag(run.info.run_id, TAG, " ".join([_digest([history, values]), *drawn]))


def _sources(wanted: Projection) -> list[File]:
    """History, then values per query and curves; nothing before evaluation."""
    history = [file for file in wanted.files if file.path.name == "history.json"]
    values = [file for file in wanted.files if file.path.suffix == ".npz"]
    return [*history, *values] if history and values else []


def _digest(sources: list[File]) -> str:
    content = [str(run_plots.VERSION), *[file.sha256 for file in sources]]
    return hashlib.sha256(" ".join(content).encode()).hexdigest()
