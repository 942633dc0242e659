"""A version of one MLflow -> run, logged model and version of another; only what lacks is written.

Files are read back and compared before there is a version of them. What a killed process left is
found by its tags and gone on with.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Metric, Run, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.utils import credentials, rest_utils

from isdh.artifacts import sha256
from isdh.errors import InputError
from isdh.tracking import registration
from isdh.tracking.original import Original, runs_of
from isdh.tracking.registered import Registered
from isdh.tracking.server import experiment_at, shown
from isdh.tracking.succession import succeeding, superseded
from isdh.tracking.versions import weights_of
from isdh.tracking.writing import DIGEST, is_whole, log, write


def send(target: Registered, original: Original, version: ModelVersion | None) -> ModelVersion:
    """The version of the target, made if it is not there, with all that belongs to it.

    Args:
        target: the registered model of the other MLflow.
        original: what is copied.
        version: of the target, with the same weights; None: there is none.

    Raises:
        InputError: the name is a prompt's, or files do not arrive as they were sent.
    """
    client = target.client
    registration.create(client, target.name)
    number = _experiment(client, original.projection.cell.dataset)
    run = _send_run(client, number, original)
    if version is None:
        model = _model(client, original, number, run)
        _send_files(client, original, model, run)
        client.finalize_logged_model(model, "READY")
        _tie(client, original, model, run)
        version = registration.add_version(
            client, target.name, model=model, run=run, tags=original.version_tags
        )
        target.versions[weights_of(version)] = version
        return version
    run, model = str(version.run_id), registration.model_of(version)
    try:
        with registration.opened(client, version):
            pass
    except InputError:
        _send_files(client, original, model, run)
        target.notes.append(f"version {version.version} was not as registered, written again")
    _tie(client, original, model, run)
    target.note(version, original.version_tags)
    return version


def _experiment(client: MlflowClient, dataset: str) -> str:
    """The id of a dataset's experiment; where files lie is the server's to say."""
    uri = client.tracking_uri
    if uri.startswith("http"):
        return experiment_at(client, dataset, None)
    folder = Path(str(sqlalchemy.make_url(uri).database)).resolve().parent
    return experiment_at(client, dataset, (folder / "mlartifacts" / dataset).as_uri())


def _send_run(client: MlflowClient, number: str, original: Original) -> str:
    """The id of the run of this cell and fingerprint.

    Where it lacks something it becomes its cell's current one, as if it were published anew.
    """
    wanted, tags = original.projection, original.run_tags
    runs = runs_of(client, wanted.cell)
    same = [run for run in runs if wanted.identity.items() <= run.data.tags.items()]
    run = (
        same[0]
        if same
        else client.create_run(number, wanted.start, dict(wanted.identity), wanted.name)
    )
    digest = original.run.data.tags[DIGEST]
    behind = run.data.tags.get(DIGEST) != digest or not is_whole(wanted, run)
    if behind:
        write(client, run, wanted)
        if run.info.status != "FINISHED":
            client.set_terminated(run.info.run_id, "FINISHED", wanted.end)
        others = [other for other in runs if other is not run]
        now = time.time_ns() // 1_000_000
        for other in others:
            _tag(client, other, superseded(other, [run, *others], now))
        tags |= succeeding(run, [run, *others], now)
    _tag(client, run, tags)
    if behind:
        client.set_tag(run.info.run_id, DIGEST, digest)
    return str(run.info.run_id)


def _tag(client: MlflowClient, run: Run, tags: Mapping[str, str]) -> None:
    """Write a run's tags where they differ from those it was found with."""
    fresh = [RunTag(key, value) for key, value in tags.items() if run.data.tags.get(key) != value]
    log(client, run.info.run_id, tags=fresh)


def _model(client: MlflowClient, original: Original, number: str, run: str) -> str:
    """The id of the logged model to send files to: one that a killed copy left, or a new one."""
    weights = weights_of(original.version)
    query = f"tags.`isdh.weights_sha256` = '{weights}'"
    for found in client.search_logged_models([number], query):
        if found.source_run_id == run:
            return str(found.model_id)
    cell, tags = original.projection.cell, {"isdh.weights_sha256": weights}
    return str(registration.create_model(client, number, cell, run, tags).model_id)


def _send_files(client: MlflowClient, original: Original, model: str, run: str) -> None:
    """Write the files of a logged model, read them back, and compare.

    Raises:
        InputError: they differ, or the server does not see them.
    """
    from mlflow.models import Model

    location = client.get_logged_model(model).artifact_location
    store = registration.store_of(client, location)
    described = Model.load(str(original.folder))
    described.artifact_path, described.run_id, described.model_id = location, run, model
    described.save(original.folder / "MLmodel")
    store.log_artifacts(str(original.folder))
    sent = _digests(original.folder)
    with tempfile.TemporaryDirectory() as scratch:
        arrived = _digests(Path(store.download_artifacts("", scratch)))
    for name, digest in sorted(sent.items()):
        if arrived.get(name) != digest:
            raise InputError(
                f"{shown(location)}: {name} was sent with sha256 {digest} and came back with "
                f"{arrived.get(name)}; see to the store of files there, then run the same command"
            )
    if client.tracking_uri.startswith("http") and isinstance(store, LocalArtifactRepository):
        _require_seen(client, model, location)


def _digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): sha256(path) for path in files}


def _require_seen(client: MlflowClient, model: str, location: str) -> None:
    """Refuse files that were written to a folder which is not of the server's machine.

    MLflow's client would look into the folder itself: only the server can say what it sees.

    Raises:
        InputError: it does not see them.
    """
    ask: Any = rest_utils.http_request_safe  # without types, as the next
    login: Any = credentials.get_default_host_creds
    path = f"/api/2.0/mlflow/logged-models/{model}/artifacts/directories"
    answer = ask(login(client.tracking_uri), path, "GET")
    if "MLmodel" not in [file["path"] for file in answer.json().get("files", [])]:
        raise InputError(
            f"{location}: a folder of this machine, which the server does not see; run the command "
            "on the server's machine, or rename the experiment there, so that the next copy makes "
            "one whose files the server keeps"
        )


def _tie(client: MlflowClient, original: Original, model: str, run: str) -> None:
    """Tie a logged model to its run and its scores, as far as it is not."""
    outputs = client.get_run(run).outputs
    if model not in [output.model_id for output in (outputs.model_outputs if outputs else [])]:
        client.log_outputs(run, [LoggedModelOutput(model, step=0)])
    known = {_point(metric) for metric in client.get_logged_model(model).metrics or []}
    fresh = [
        Metric(*_point(metric), model, metric.dataset_name, metric.dataset_digest)
        for metric in original.scores
        if _point(metric) not in known
    ]
    log(client, run, metrics=fresh)


def _point(metric: Metric) -> tuple[str, float, int, int]:
    return metric.key, metric.value, metric.timestamp, metric.step
