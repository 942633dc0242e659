"""Projections -> MLflow runs: one run per cell and fingerprint, written only where it differs.

The tag `isdh.digest` is written last: a publish that was killed leaves the run without it, and the
next one finishes the work.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from isdh.artifacts import Cell, Workspace, locked, verify
from isdh.params import Params
from isdh.tracking import projection, provenance
from isdh.tracking.projection import Projection
from isdh.tracking.server import connected, experiment, search


@dataclass(frozen=True)
class Published:
    """How many cells were written, were up to date, or are not there yet."""

    written: int = 0
    unchanged: int = 0
    missing: int = 0

    def __add__(self, other: Published) -> Published:
        return Published(
            self.written + other.written,
            self.unchanged + other.unchanged,
            self.missing + other.missing,
        )


def prepare(workspace: Workspace, params: Params) -> None:
    """Make the database and the experiments, before many processes ask for them at once.

    Raises:
        InputError: MLflow does not answer.
    """
    with connected(workspace) as client:
        for dataset in params.datasets:
            experiment(client, workspace, dataset)


def publish(
    workspace: Workspace,
    params: Params,
    cell: Cell,
    history: Mapping[str, Any] | None = None,
    *,
    entries: provenance.Lock | None = None,
) -> str:
    """Write one cell to MLflow as its files stand; nothing is written if nothing has changed.

    Args:
        workspace: where the files lie.
        params: today's.
        cell: what to publish; its model's files must be there, unless `history` is given.
        history: while training: what history.json will hold, with the epochs so far.
        entries: of the cell's stages, where dvc.lock does not hold them yet.

    Returns:
        The id of the run of this cell and this fingerprint.

    Raises:
        InputError: MLflow does not answer, or the model's files are missing or unreadable.
    """
    if history is None:
        lock = provenance.lock_of(workspace.root, cell, entries or {})
        wanted = projection.of_files(workspace, cell, lock)
    else:
        wanted = projection.of_history(workspace, params, cell, history)
    with connected(workspace) as client:
        return _upsert(client, workspace, experiment(client, workspace, cell.dataset), wanted)


def publish_all(workspace: Workspace, params: Params) -> Published:
    """Write every cell of today's matrix whose model is there.

    Raises:
        InputError: MLflow does not answer, or a file is unreadable.
    """
    lock = provenance.read_lock(workspace.root)
    total = Published()
    with connected(workspace) as client:
        for dataset in params.datasets:
            number = experiment(client, workspace, dataset)
            known = search(client, number)
            for cell in params.cells(dataset):
                total += _publish_present(client, workspace, cell, number, known, lock)
    return total


def _publish_present(
    client: MlflowClient,
    workspace: Workspace,
    cell: Cell,
    number: str,
    known: Sequence[Run],
    lock: provenance.Lock,
) -> Published:
    if not (workspace.model(cell) / "history.json").exists():
        return Published(missing=1)
    wanted = projection.of_files(workspace, cell, lock)
    same_cell = [run for run in known if run.data.tags.get("isdh.cell") == str(cell)]
    if _is_told(wanted, same_cell):
        return Published(unchanged=1)
    _upsert(client, workspace, number, wanted)
    return Published(written=1)


def _is_told(wanted: Projection, runs: Sequence[Run]) -> bool:
    """Whether a cell's current run holds all of a projection."""
    run = current(runs)
    tags = run.data.tags if run else {}
    return tags.get("isdh.digest") == wanted.digest and len(_same(wanted, runs)) == 1


def _same(wanted: Projection, runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if wanted.identity.items() <= run.data.tags.items()]


def current(runs: Sequence[Run]) -> Run | None:
    """Of one cell's runs, the one whose files are in the workspace: the last published anew."""
    return max(runs, key=since, default=None)


def since(run: Run) -> int:
    """When a run became its cell's current one, unix ms; 0: never."""
    return int(run.data.tags.get("isdh.current_since", 0))


def _upsert(client: MlflowClient, workspace: Workspace, number: str, wanted: Projection) -> str:
    cell = wanted.cell
    with locked(workspace.state("locks", f"publish-{cell.dataset}-{cell.name}")):
        runs = search(client, number, f"tags.`isdh.cell` = '{cell}'")
        if _is_told(wanted, runs):
            return str(_same(wanted, runs)[0].info.run_id)
        same = sorted(_same(wanted, runs), key=lambda run: str(run.info.run_id))
        for double in same[1:]:  # from another machine, in the same moment
            client.delete_run(double.info.run_id)
        run = same[0] if same else _create(client, number, wanted)
        _write(client, run, wanted)
        _conclude(client, workspace, run, wanted, latest=max(map(since, runs), default=0))
        return str(run.info.run_id)


def _create(client: MlflowClient, number: str, wanted: Projection) -> Run:
    return client.create_run(number, wanted.start, dict(wanted.identity), wanted.name)


def _write(client: MlflowClient, run: Run, wanted: Projection) -> None:
    """Params, points and scores that the run lacks; the dataset; files that differ."""
    number = run.info.run_id
    params = [Param(k, v) for k, v in wanted.params.items() if k not in run.data.params]
    metrics = _new_points(client, run, wanted) + _new_scores(run, wanted)
    _log(client, number, metrics=metrics, params=params)
    if wanted.data and not (run.inputs and run.inputs.dataset_inputs):
        _log_dataset(client, number, wanted.cell.dataset, wanted.data)
    for file in wanted.files:
        if run.data.tags.get(file.tag) != file.sha256:
            verify(file.path, file.sha256)
            client.log_artifact(number, str(file.path), file.folder)


def _log(
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


def _conclude(
    client: MlflowClient, workspace: Workspace, run: Run, wanted: Projection, *, latest: int
) -> None:
    """State, provenance and, last of all, the digest that says that everything is there."""
    number = run.info.run_id
    if wanted.scores and run.info.status != "FINISHED":
        client.set_terminated(number, "FINISHED", wanted.end)
    elif not wanted.scores and run.info.status == "FINISHED":
        client.update_run(number, "RUNNING")  # trained anew; the scores are of other weights
    tags = {**wanted.tags, **provenance.git_tags(workspace.root)}
    if wanted.scores or "isdh.scores" in run.data.tags:
        tags["isdh.scores"] = " ".join(wanted.scores)
    if since(run) < latest or latest == 0:
        tags["isdh.current_since"] = str(max(time.time_ns() // 1_000_000, latest + 1))
    tags |= {file.tag: file.sha256 for file in wanted.files} | {"isdh.digest": wanted.digest}
    _log(client, number, tags=[RunTag(key, value) for key, value in tags.items()])
