"""The alias `champion`, moved by a person: to a version, or back. Logged with the reason."""

from __future__ import annotations

from dataclasses import replace

from mlflow.entities.model_registry import ModelVersion

from isdh.artifacts import Workspace, locked
from isdh.errors import InputError
from isdh.params import Params
from isdh.tracking.contest import recorded
from isdh.tracking.registered import Decision, Registered
from isdh.tracking.server import connected
from isdh.tracking.versions import cell_of, model_name, weights_of


def promote_version(
    workspace: Workspace,
    params: Params,
    dataset: str,
    bits: int,
    version: int,
    *,
    reason: str,
    withdrawn: bool = False,
    dry_run: bool = False,
) -> Decision:
    """Make a registered version the champion.

    Args:
        workspace: whose MLflow and promotion log.
        params: whose metric is told in the log.
        dataset: a name.
        bits: the code length.
        version: the version's number.
        reason: why; it is logged.
        withdrawn: take it though it was withdrawn.
        dry_run: decide only; nothing is written.

    Raises:
        InputError: MLflow does not answer, no reason, no such version, one that was withdrawn, one
            whose files are altered, or somebody else moved the alias meanwhile.
    """
    require_reason(reason)
    with connected(workspace, create=False) as client, locked(workspace.state("locks", "promote")):
        registered = Registered(client, workspace, model_name(dataset, bits))
        target = registered.version(str(version))
        if str(version) == registered.champion:
            return _decision(registered, target, "is the champion already", moves=False)
        if not withdrawn:
            registered.require_not_withdrawn(target)
        return _move(registered, params, target, "promote", reason, dry_run=dry_run)


def rollback(
    workspace: Workspace,
    params: Params,
    dataset: str,
    bits: int,
    *,
    reason: str,
    dry_run: bool = False,
) -> Decision:
    """Withdraw a champion: the alias goes to the one before, and the rule never brings it back.

    Args:
        workspace: whose MLflow and promotion log.
        params: whose metric is told in the log.
        dataset: a name.
        bits: the code length.
        reason: why; it is logged.
        dry_run: decide only; nothing is written.

    Raises:
        InputError: MLflow does not answer, no reason, no champion, none before it, one before it
            whose files are altered, or somebody else moved the alias meanwhile.
    """
    require_reason(reason)
    with connected(workspace, create=False) as client, locked(workspace.state("locks", "promote")):
        registered = Registered(client, workspace, model_name(dataset, bits))
        if registered.holder is None:
            raise InputError(f"model {registered.name!r}: has no champion; run `isdh promote`")
        target = registered.before()
        return _move(registered, params, target, "rollback", reason, dry_run=dry_run)


def require_reason(reason: str) -> None:
    """Refuse a move without a reason.

    Raises:
        InputError: there is none.
    """
    if not reason.strip():
        raise InputError(f"reason={reason!r}: it is logged for those who come after; say why")


def _move(
    registered: Registered,
    params: Params,
    target: ModelVersion,
    action: str,
    reason: str,
    *,
    dry_run: bool,
) -> Decision:
    """Move the alias as a person wishes; logged with the numbers that the version stands on."""
    decision = _decision(registered, target, reason, moves=True)
    if not dry_run:
        line = {
            "action": action,
            "by": "hand",
            "version": str(target.version),
            "cell": str(cell_of(target)),
            "weights_sha256": weights_of(target),
            "why": reason,
            "metric": params.champion.metric,
            **recorded(target, params.champion.metric),
        }
        registered.promote(target, line)
    return replace(decision, reason="; ".join([reason, *registered.notes]))


def _decision(
    registered: Registered, target: ModelVersion, reason: str, *, moves: bool
) -> Decision:
    return Decision(
        registered.name,
        moves,
        reason,
        cell_of(target),
        version=str(target.version),
        champion=registered.champion,
    )
