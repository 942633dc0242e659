"""A cell's model <-> the files of a registered version: written, verified, written again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from isdh.artifacts import Cell, Workspace, read_json
from isdh.errors import InputError
from isdh.tracking.server import as_default, experiment, shown
from isdh.tracking.versions import cell_of, model_name, weights_of

if TYPE_CHECKING:
    from isdh.tracking.package import Package


def register(
    client: MlflowClient,
    workspace: Workspace,
    cell: Cell,
    *,
    run: str,
    tags: Mapping[str, str],
) -> ModelVersion:
    """Make a version of a cell's model.

    Args:
        client: of the tracking server.
        workspace: where the model lies.
        cell: whose model.
        run: the id of the cell's run.
        tags: of the version; there from its first moment.

    Raises:
        InputError: a file of the model is missing or altered, or the name is not to be had.
    """
    name = model_name(cell.dataset, cell.bits)
    create(client, name)
    model = _log_model(client, workspace, cell, run)
    return add_version(client, name, model=model, run=run, tags=tags)


def add_version(
    client: MlflowClient, name: str, *, model: str, run: str, tags: Mapping[str, str]
) -> ModelVersion:
    """Make a version of a logged model, whose files are there."""
    with as_default(client.tracking_uri):  # the registry asks for the logged model
        made = client.create_model_version(
            name, f"models:/{model}", run, dict(tags), model_id=model
        )
    versions = json.dumps([{"name": name, "version": str(made.version)}])
    client.set_logged_model_tags(model, {"mlflow.modelVersions": versions})  # its page shows them
    return client.get_model_version(name, str(made.version))


def create(client: MlflowClient, name: str) -> None:
    """Make a registered model unless it is there.

    Raises:
        InputError: the name is a prompt's.
    """
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        try:
            client.get_registered_model(name)
        except MlflowException:
            raise InputError(f"{error.message}; delete it in MLflow's page") from error


def _log_model(client: MlflowClient, workspace: Workspace, cell: Cell, run: str) -> str:
    """Keep a cell's model in MLflow, tied to its run and scores; returns the model's id."""
    number = experiment(client, workspace, cell.dataset)
    logged = create_model(client, number, cell, run, {})
    model_id = str(logged.model_id)
    _put(store_of(client, logged.artifact_location), workspace, cell, run, model_id)
    client.finalize_logged_model(model_id, "READY")
    client.log_outputs(run, [LoggedModelOutput(model_id, step=0)])
    client.log_batch(run, metrics=_scores_of_model(client, run, model_id))
    return model_id


def create_model(
    client: MlflowClient, number: str, cell: Cell, run: str, tags: Mapping[str, str]
) -> LoggedModel:
    """Make an empty logged model, which MLflow's pages show by its cell and its run's params."""
    params = client.get_run(run).data.params
    return client.create_logged_model(
        number, cell.name, run, {"isdh.cell": str(cell), **tags}, params
    )


def _put(store: Any, workspace: Workspace, cell: Cell, run: str, model_id: str) -> None:
    """Write a cell's model to where a logged model's files lie."""
    from mlflow.models import Model

    from isdh.tracking.package import package  # mlflow.pyfunc, which publishing does not need

    model = Model(artifact_path=shown(store.artifact_uri), run_id=run, model_id=model_id)
    with tempfile.TemporaryDirectory() as scratch:
        package(workspace, cell, Path(scratch, "model"), model)
        store.log_artifacts(str(Path(scratch, "model")))


def _scores_of_model(client: MlflowClient, number: str, model_id: str) -> list[Metric]:
    """The run's scores once more, point for point, as the model's on the run's data."""
    run = client.get_run(number)
    points = [
        client.get_metric_history(number, name)[-1]
        for name in run.data.tags.get("isdh.scores", "").split()
    ]
    inputs = run.inputs.dataset_inputs if run.inputs else []
    data = (inputs[0].dataset.name, inputs[0].dataset.digest) if inputs else (None, None)
    return [Metric(p.key, p.value, p.timestamp, p.step, model_id, *data) for p in points]


@contextmanager
def opened(
    client: MlflowClient, version: ModelVersion, *, copy: Path | None = None
) -> Iterator[Package]:
    """A version's files, verified.

    Args:
        client: of the tracking server.
        version: whose.
        copy: an empty folder to copy them to; without one they are copied only where their store
            is not of this machine, and only for now.

    Raises:
        InputError: they are lost, altered, or of another shape.
        MlflowException, OSError: their store is out of reach.
    """
    from isdh.tracking.package import unpack

    store = store_of(client, files_of(client, version))
    with tempfile.TemporaryDirectory() as scratch:
        if isinstance(store, LocalArtifactRepository) and copy is None:
            folder = store.artifact_dir
        else:
            folder = store.download_artifacts("", str(copy or scratch))
        try:
            found = unpack(
                Path(folder), bits=cell_of(version).bits, weights_sha256=weights_of(version)
            )
        except Exception as error:  # each kind of damage has errors of its own
            number, cell = version.version, cell_of(version)
            raise InputError(
                f"model {version.name!r}, version {number}: not as registered in "
                f"{shown(f'{store.artifact_uri}: {error}')}; bring models/{cell} of then back "
                "(git checkout, dvc checkout) and run `isdh publish`, which writes it again, or "
                f"delete version {number} in MLflow's page"
            ) from None
        yield found


def is_here(workspace: Workspace, version: ModelVersion) -> bool:
    """Whether the model that a version was made of lies in its cell's folder."""
    try:
        card = read_json(workspace.model(cell_of(version)) / "model.json")
    except InputError:
        return False
    return bool(card["weights_sha256"] == weights_of(version))


def write_again(client: MlflowClient, workspace: Workspace, version: ModelVersion) -> None:
    """Write a version's files anew, from the model in its cell's folder.

    Raises:
        InputError: a file of that is missing or altered.
    """
    store = store_of(client, files_of(client, version))
    _put(store, workspace, cell_of(version), str(version.run_id), model_of(version))


def model_of(version: ModelVersion) -> str:
    """The id of the logged model that a version is."""
    return str(version.source).removeprefix("models:/")


def files_of(client: MlflowClient, version: ModelVersion) -> str:
    """Where a version's files lie."""
    return str(client.get_model_version_download_uri(version.name, str(version.version)))


def store_of(client: MlflowClient, uri: str) -> Any:
    """The store of files at an address."""
    return get_artifact_repository(uri, tracking_uri=client.tracking_uri)
