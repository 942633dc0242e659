"""A projection -> what its MLflow run lacks of it: params, points, scores, dataset, files."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from isdh.artifacts import sha256, verify
from isdh.tracking import plots
from isdh.tracking.projection import File, Projection
from isdh.tracking.server import folder_here

DIGEST = "isdh.digest"  # the tag that says that a run holds all of a projection


def write(client: MlflowClient, run: Run, wanted: Projection) -> None:
    """Params, points and scores that the run lacks; the dataset; files that differ; plots."""
    number = run.info.run_id
    whole = bool(run.data.tags.get(DIGEST))
    if whole:
        client.set_tag(number, DIGEST, "")
    params = [Param(k, v) for k, v in wanted.params.items() if k not in run.data.params]
    metrics = _new_points(client, run, wanted) + _new_scores(run, wanted)
    log(client, number, metrics=metrics, params=params)
    if wanted.data and not (run.inputs and run.inputs.dataset_inputs):
        _log_dataset(client, number, wanted.cell.dataset, wanted.data)
    gone = lost(wanted, run)
    for file in wanted.files:
        if not whole or run.data.tags.get(file.tag) != file.sha256 or file in gone:
            verify(file.path, file.sha256)
            client.log_artifact(number, str(file.path), file.folder)
    if (wanted.scores and not whole) or not plots.are_there(wanted, run):
        plots.add(client, run, wanted)


def is_whole(wanted: Projection, run: Run) -> bool:
    """Whether a run that holds a projection still has its files and plots."""
    return not lost(wanted, run) and plots.are_there(wanted, run)


def lost(wanted: Projection, run: Run) -> list[File]:
    """The files whose copy was altered or lost; stores on other machines are not looked at."""
    folder = folder_here(run.info.artifact_uri)
    if folder is None:
        return []
    return [file for file in wanted.files if not _is_there(folder / file.folder, file)]


def _is_there(folder: Path, file: File) -> bool:
    try:
        return sha256(folder / file.path.name) == file.sha256
    except OSError:
        return False


def log(
    client: MlflowClient,
    number: str,
    *,
    metrics: Sequence[Metric] = (),
    params: Sequence[Param] = (),
    tags: Sequence[RunTag] = (),
) -> None:
    """Log in as few transactions as MLflow's limits allow."""
    lots = max(-(-len(metrics) // 800), -(-len(params) // 100), -(-len(tags) // 100))
    for i in range(lots):
        hundred = slice(100 * i, 100 * (i + 1))
        lot = metrics[800 * i : 800 * (i + 1)]
        client.log_batch(number, lot, params[hundred], tags[hundred])


def _new_points(client: MlflowClient, run: Run, wanted: Projection) -> list[Metric]:
    """Points that the run lacks. An epoch that was run again differs only where its values do."""
    names = {point.key for point in wanted.points} & set(run.data.metrics)
    known = {
        (name, metric.step, metric.value)
        for name in names
        for metric in client.get_metric_history(run.info.run_id, name)
    }
    return [
        Metric(point.key, point.value, point.timestamp, point.step)
        for point in wanted.points
        if (point.key, point.step, point.value) not in known
    ]


def _new_scores(run: Run, wanted: Projection) -> list[Metric]:
    """Scores that the run lacks or holds with another value."""
    known = run.data.metrics
    now = time.time_ns() // 1_000_000
    # a first score stands at the end of training; a corrected one must be later to be the latest
    first = wanted.end or run.info.start_time
    return [
        Metric(name, float(value), now if name in known else first, 0)
        for name, value in wanted.scores.items()
        if known.get(name) != value
    ]


def _log_dataset(client: MlflowClient, number: str, name: str, digest: str) -> None:
    source = json.dumps({"uri": f"data/{name}"})
    inputs = [
        DatasetInput(
            Dataset(name, digest, "local", source), [InputTag("mlflow.data.context", "training")]
        )
    ]
    try:
        client.log_inputs(number, inputs)
    except MlflowException:
        # the run of another cell made the dataset's row in the same moment: now it is there
        client.log_inputs(number, inputs)
