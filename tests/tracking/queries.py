"""What tests of comparisons share: scores with values per query, and MLflow asked directly."""

from __future__ import annotations

import sqlite3
from typing import Any

import numpy as np
from mlflow import MlflowClient

from isdh.artifacts import Cell, Workspace, read_json, replacing
from isdh.tracking import server
from tests import synthetic


def client(workspace: Workspace) -> MlflowClient:
    return MlflowClient(tracking_uri=server.address(workspace))


def runs(workspace: Workspace) -> list[Any]:
    mlflow = client(workspace)
    number = server.find_experiment(mlflow, "digits")
    return server.search(mlflow, str(number))


def dump(workspace: Workspace) -> list[str]:
    """Everything that the database holds."""
    connection = sqlite3.connect(workspace.root / "mlflow.db")
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


def run_of(workspace: Workspace, cell: Cell) -> str:
    """The id of a cell's only run."""
    (found,) = [run for run in runs(workspace) if run.data.tags["isdh.cell"] == str(cell)]
    return str(found.info.run_id)


def score_queries(workspace: Workspace, cell: Cell, values: np.ndarray, **arrays: Any) -> None:
    """Scores of the model that is there, with their values per query, and what else is given."""
    synthetic.write_scores(workspace, cell, ndcg_at_100=float(values.mean()))
    model = read_json(workspace.model(cell) / "model.json")
    with replacing(workspace.scores(cell).with_suffix(".npz")) as stream:
        np.savez(stream, weights_sha256=model["weights_sha256"], ndcg_at_100=values, **arrays)
