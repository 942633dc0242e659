"""The champion of one MLflow -> the champion of another: run, scores, files, version, alias.

The alias moves last, so that a copy that was killed leaves nothing in use; the same command
completes it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from isdh.artifacts import Workspace, locked
from isdh.errors import InputError
from isdh.params import Params
from isdh.tracking import original
from isdh.tracking.by_hand import require_reason
from isdh.tracking.contest import recorded
from isdh.tracking.original import Original
from isdh.tracking.promotions import Line
from isdh.tracking.registered import Decision, Registered
from isdh.tracking.sending import send
from isdh.tracking.server import connected, faults_told, is_absent, require_answer, shown
from isdh.tracking.versions import cell_of, model_name, weights_of

AGAIN = "the same command"


def copy_champion(
    workspace: Workspace,
    params: Params,
    dataset: str,
    bits: int,
    *,
    to: str,
    reason: str,
    version: int | None = None,
    withdrawn: bool = False,
    dry_run: bool = False,
) -> Decision:
    """Make this MLflow's champion that of another MLflow, with its run, scores and files.

    Args:
        workspace: whose MLflow to copy from, and whose promotion log. Neither data nor models have
            to be there.
        params: whose metric is told in the log.
        dataset: a name.
        bits: the code length.
        to: the other MLflow: the address of a server, or sqlite:/// and the path of its database.
        reason: why; it is logged.
        version: copy this one instead of the champion.
        withdrawn: take it though it was withdrawn, here or there.
        dry_run: decide only; nothing is written.

    Returns:
        What became, or would become, of the other MLflow's alias.

    Raises:
        InputError: one of the two does not answer, denies access or fails, they are the same, no
            champion, no such version, one that was withdrawn, files that are lost or altered, a
            name that is taken there, or somebody else moved the alias there meanwhile.
    """
    require_reason(reason)
    place = _require_place(to)
    name = model_name(dataset, bits)
    with tempfile.TemporaryDirectory() as scratch:
        with connected(workspace, create=False, again=AGAIN) as client:
            source = Registered(client, workspace, name)
            chosen = _chosen(source, version, withdrawn=withdrawn)
            found = original.read(client, chosen, Path(scratch))
        with _reached(to, place) as client, locked(workspace.state("locks", "promote")):
            target = Registered(client, workspace, name, at=place)
            return _copy(target, params, found, reason, withdrawn=withdrawn, dry_run=dry_run)


def _require_place(to: str) -> str:
    """Where the other MLflow lies, as it is logged: without credentials, a path in full.

    Raises:
        InputError: no address of a server, and no database that is there.
    """
    if to.startswith(("http://", "https://")):
        return shown(to).rstrip("/")
    path = to.removeprefix("sqlite:///")
    if path in ("", to):
        raise InputError(
            f"--to={shown(to)}: want the address of an MLflow server, http:// or https://, or "
            "sqlite:/// and the path of its database"
        )
    if is_absent(to):
        raise InputError(
            f"--to={shown(to)}: no such database; `mlflow server --backend-store-uri {shown(to)}` "
            "makes it"
        )
    return f"sqlite:///{Path(str(sqlalchemy.make_url(to).database)).resolve()}"


@contextmanager
def _reached(to: str, place: str) -> Iterator[MlflowClient]:
    """A client of the other MLflow, whose faults and refusals name it."""
    require_answer(to, "--to", "start that server, or name another")
    with faults_told(to, AGAIN):
        try:
            # else MLFLOW_REGISTRY_URI would name the registry of the first
            yield MlflowClient(tracking_uri=to, registry_uri=to)
        except InputError as error:
            raise InputError(f"{place}: {error}") from error


def _chosen(source: Registered, number: int | None, *, withdrawn: bool) -> ModelVersion:
    """The version to copy.

    Raises:
        InputError: there is none, or it was withdrawn.
    """
    version = source.holder if number is None else source.version(str(number))
    if version is None:
        raise InputError(
            f"model {source.name!r}: has no champion in {shown(source.client.tracking_uri)}; run "
            "`isdh promote`, or name a --version"
        )
    if not withdrawn:
        source.require_not_withdrawn(version)
    return version


def _copy(
    target: Registered,
    params: Params,
    found: Original,
    reason: str,
    *,
    withdrawn: bool,
    dry_run: bool,
) -> Decision:
    """Bring the other MLflow's registered model up to a version, and its alias to it.

    Raises:
        InputError: it is the same MLflow, or as `copy_champion`.
    """
    cell, run = cell_of(found.version), found.run.info.run_id
    if run in [other.info.run_id for other in original.runs_of(target.client, cell)]:
        raise InputError(
            f"holds run {run} itself, so it is the same MLflow as {found.place}; name another, or "
            "use `isdh promote --version`"
        )
    before = target.champion
    version = target.versions.get(weights_of(found.version))
    if version and not withdrawn:
        target.require_not_withdrawn(version)
    if not dry_run:
        version = send(target, found, version)
        if str(version.version) == before:
            target.describe(version)  # where a copy was killed before it did
        else:
            target.move(version, _line(params, found, version, reason))
    number = str(version.version) if version else None
    moves = number is None or number != before
    why = reason if moves else "is the champion already"
    return Decision(
        target.name,
        moves,
        "; ".join([why, *target.notes]),
        cell,
        version=number,
        champion=before,
    )


def _line(params: Params, found: Original, version: ModelVersion, reason: str) -> Line:
    """What the log says of a copy."""
    return {
        "action": "copy",
        "by": "hand",
        "version": str(version.version),
        "cell": str(cell_of(version)),
        "weights_sha256": weights_of(version),
        "fingerprint": version.tags.get("isdh.fingerprint"),
        "source": found.source,
        "why": reason,
        "metric": params.champion.metric,
        **recorded(found.version, params.champion.metric),
    }
