"""Registered models: one per dataset and code length, a version per distinct weights."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from isdh.artifacts import Cell, Workspace
from isdh.tracking.server import address, as_default, experiment

ALIAS = "champion"
# no such model; no such alias, as the database's store says it
ABSENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}


def model_name(dataset: str, bits: int) -> str:
    """The registered model of a dataset and code length."""
    return f"isdh-{dataset}-{bits}bit"


def champion_version(client: MlflowClient, name: str) -> ModelVersion | None:
    """The version that holds the alias, or None.

    Raises:
        MlflowException: it could not be asked; an unanswered question is no "none".
    """
    try:
        return client.get_model_version_by_alias(name, ALIAS)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        return None


def by_weights(client: MlflowClient, name: str) -> dict[str, ModelVersion]:
    """The versions of a registered model by the digest of their weights."""
    found = client.search_model_versions(f"name = '{name}'")
    return {v.tags["isdh.weights_sha256"]: v for v in found if "isdh.weights_sha256" in v.tags}


def register(
    client: MlflowClient,
    workspace: Workspace,
    cell: Cell,
    *,
    run: str,
    tags: Mapping[str, str],
) -> str:
    """Make a version of a cell's model.

    Args:
        client: of the tracking server.
        workspace: where the model lies.
        cell: whose model.
        run: the id of the cell's run.
        tags: of the version; there from its first moment.

    Returns:
        The version's number.

    Raises:
        InputError: a file of the model is missing or altered.
    """
    name = model_name(cell.dataset, cell.bits)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    model = _log_model(client, workspace, cell, run)
    with as_default(address(workspace)):  # the registry asks for the logged model
        version = client.create_model_version(
            name, f"models:/{model}", run, dict(tags), model_id=model
        )
    return str(version.version)


def _log_model(client: MlflowClient, workspace: Workspace, cell: Cell, run: str) -> str:
    """Keep a cell's model in MLflow, tied to its run and scores; returns the model's id."""
    from mlflow.models import Model

    from isdh.tracking.package import package  # mlflow.pyfunc, which publishing does not need

    number = experiment(client, workspace, cell.dataset)
    logged = client.create_logged_model(number, "encoder", run, {"isdh.cell": str(cell)})
    model_id = str(logged.model_id)
    model = Model(artifact_path=logged.artifact_location, run_id=run, model_id=model_id)
    with tempfile.TemporaryDirectory() as scratch:
        package(workspace, cell, Path(scratch, "model"), model)
        client.log_model_artifacts(model_id, str(Path(scratch, "model")))
    client.finalize_logged_model(model_id, "READY")
    client.log_outputs(run, [LoggedModelOutput(model_id, step=0)])
    client.log_batch(run, metrics=_scores_of_model(client, run, model_id))
    return model_id


def _scores_of_model(client: MlflowClient, run: str, model_id: str) -> list[Metric]:
    """The run's scores once more, point for point, as the model's."""
    names = client.get_run(run).data.tags.get("isdh.scores", "").split()
    points = [client.get_metric_history(run, name)[-1] for name in names]
    return [Metric(p.key, p.value, p.timestamp, p.step, model_id=model_id) for p in points]
