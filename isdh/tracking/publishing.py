"""Projections -> MLflow runs: one run per cell and fingerprint, written only where it differs.

The tag `isdh.digest` is taken away first and written last: a publish that was killed leaves the run
without it, and the next one finishes the work.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run, RunTag
from mlflow.exceptions import MlflowException

from isdh.artifacts import Cell, Workspace, locked, read_json, tried
from isdh.params import Params
from isdh.tracking import projection, provenance
from isdh.tracking.projection import Projection
from isdh.tracking.records import record_of
from isdh.tracking.server import connected, experiment, search
from isdh.tracking.succession import (
    NOTE,
    are_told_apart,
    current,
    note,
    since,
    succeeding,
    superseded,
)
from isdh.tracking.writing import DIGEST, is_whole, log, write

ATTEMPTS = 3
# what MLflow answers where somebody elsewhere made the same row, or removed the run, meanwhile
CONTESTED = ("BAD_REQUEST", "INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")


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


def mark_broken_off(workspace: Workspace, params: Params) -> None:
    """Call a training KILLED that MLflow calls running, and that no process here is at.

    One on another machine is called running again when it tells its next epochs.

    Raises:
        InputError: MLflow does not answer.
    """
    with connected(workspace) as client:
        for dataset in params.datasets:
            number = experiment(client, workspace, dataset)
            _mark_broken_off(
                client, workspace, search(client, number, "attributes.status = 'RUNNING'")
            )


def _mark_broken_off(client: MlflowClient, workspace: Workspace, runs: Sequence[Run]) -> None:
    for run in runs:
        if run.info.status != "RUNNING" or "isdh.cell" not in run.data.tags:
            continue
        cell = Cell.parse(run.data.tags["isdh.cell"])
        history = workspace.model(cell) / "history.json"
        made = read_json(history)["fingerprint"] if history.exists() else None
        if made == run.data.tags.get("isdh.fingerprint"):
            continue  # trained, and not scored yet
        with tried(workspace.state("locks", f"train-{cell.dataset}-{cell.name}")) as holder:
            if not holder:
                client.set_terminated(run.info.run_id, "KILLED")


def cut_short(workspace: Workspace, run: str, outcome: str) -> None:
    """Tell how a training ended that was not completed.

    Args:
        workspace: whose MLflow.
        run: its id.
        outcome: FAILED or KILLED.

    Raises:
        InputError: MLflow does not answer.
    """
    with connected(workspace) as client:
        client.set_terminated(run, outcome)


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
            _mark_broken_off(client, workspace, known)
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
    if _is_told(wanted, same_cell) and is_whole(wanted, _same(wanted, same_cell)[0]):
        return Published(unchanged=1)
    _upsert(client, workspace, number, wanted)
    return Published(written=1)


def _is_told(wanted: Projection, runs: Sequence[Run]) -> bool:
    """Whether a cell's current run holds all of a projection, and is told from the former ones."""
    run = current(runs)
    tags = run.data.tags if run else {}
    once = len(_same(wanted, runs)) == 1
    return tags.get(DIGEST) == wanted.digest and once and are_told_apart(runs)


def _same(wanted: Projection, runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if wanted.identity.items() <= run.data.tags.items()]


def _upsert(client: MlflowClient, workspace: Workspace, number: str, wanted: Projection) -> str:
    cell = wanted.cell
    with locked(workspace.state("locks", f"publish-{cell.dataset}-{cell.name}")):
        for _ in range(ATTEMPTS - 1):
            try:
                return _bring_up(client, workspace, number, wanted)
            except MlflowException as error:
                if error.error_code not in CONTESTED:
                    raise
        return _bring_up(client, workspace, number, wanted)


def _bring_up(client: MlflowClient, workspace: Workspace, number: str, wanted: Projection) -> str:
    """Have one run hold a projection, as its cell's current one.

    Whoever makes a run looks again whether another machine made one in the same moment; all keep
    the same one, by its id.
    """
    query = f"tags.`isdh.cell` = '{wanted.cell}'"
    runs = search(client, number, query)
    if _is_told(wanted, runs) and is_whole(wanted, _same(wanted, runs)[0]):
        return str(_same(wanted, runs)[0].info.run_id)
    while not _same(wanted, runs):
        client.create_run(number, wanted.start, dict(wanted.identity), wanted.name)
        runs = search(client, number, query)
    run, *doubles = sorted(_same(wanted, runs), key=lambda run: str(run.info.run_id))
    for double in doubles:
        client.delete_run(double.info.run_id)
    write(client, run, wanted)
    others = [other for other in runs if other is not run and other not in doubles]
    _conclude(client, workspace, run, others, wanted)
    return str(run.info.run_id)


def _conclude(
    client: MlflowClient, workspace: Workspace, run: Run, others: Sequence[Run], wanted: Projection
) -> None:
    """State, provenance and, last of all, the digest that says that everything is there."""
    number, now = run.info.run_id, time.time_ns() // 1_000_000
    for other in others:
        _retire(client, other, superseded(other, [run, *others], now))
    if wanted.scores and run.info.status != "FINISHED":
        client.set_terminated(number, "FINISHED", wanted.end)
    elif not wanted.scores and run.info.status != "RUNNING":
        client.update_run(number, "RUNNING")  # trained anew; the scores are of other weights
    tags = {**wanted.tags, **provenance.git_tags(workspace.root)}
    before = current([other for other in others if since(other)])
    if before and not since(run):
        after = replace(record_of(run), tags=run.data.tags | tags, params=wanted.params)
        tags[NOTE] = note(record_of(before), replace(after, data=wanted.data))
    if wanted.scores or "isdh.scores" in run.data.tags:
        tags["isdh.scores"] = " ".join(wanted.scores)
    tags |= succeeding(run, [run, *others], now)
    tags |= {file.tag: file.sha256 for file in wanted.files} | {DIGEST: wanted.digest}
    log(client, number, tags=[RunTag(key, value) for key, value in tags.items()])


def _retire(client: MlflowClient, run: Run, tags: Mapping[str, str]) -> None:
    """Name a run as a former one; one that was not scored by now is not running any more."""
    if tags and run.info.status == "RUNNING":
        client.update_run(run.info.run_id, "KILLED")
    log(client, run.info.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
