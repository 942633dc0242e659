"""Candidates -> registered model versions; the alias `champion`, moved by the rule.

A version exists once per distinct weights. The candidate is `challenger` until it is champion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from isdh.artifacts import Cell, Workspace, current_scores, locked, read_json
from isdh.errors import InputError, first_five
from isdh.params import Params
from isdh.tracking import evaluation, provenance, registration
from isdh.tracking.champion import Measured, Standing, Verdict
from isdh.tracking.contest import Contest, Reigning, recorded
from isdh.tracking.publishing import publish
from isdh.tracking.registered import Decision, Registered
from isdh.tracking.server import connected
from isdh.tracking.versions import cell_of, model_name, weights_of


def promote(
    workspace: Workspace,
    params: Params,
    *,
    dry_run: bool = False,
    tell: Callable[[Decision], None] = lambda decision: None,
) -> list[Decision]:
    """Register the candidate of every dataset and code length; move the alias where it is better.

    Args:
        workspace: where models and scores lie.
        params: the matrix and the rule `champion`.
        dry_run: decide only; nothing is written.
        tell: called with each decision as soon as it is carried out.

    Returns:
        A decision for every dataset and code length that has a scored cell.

    Raises:
        InputError: MLflow does not answer, the rule names an unknown score, scores are of other
            data than today's, a name is taken, files are missing or altered, or somebody else moved
            an alias meanwhile. Told when all else is decided.
    """
    decisions: list[Decision] = []
    with (
        connected(workspace, create=not dry_run) as client,
        locked(workspace.state("locks", "promote")),
    ):
        lock = provenance.read_lock(workspace.root)

        def decide(dataset: str, bits: int) -> None:
            cells = [cell for cell in params.cells(dataset) if cell.bits == bits]
            if scored := _scored(workspace, cells, lock):
                registered = Registered(client, workspace, model_name(dataset, bits))
                contest = Contest(workspace, params, dataset, scored, registered)
                decisions.append(_decide(client, workspace, params, contest, dry_run=dry_run))
                tell(decisions[-1])

        _for_each_model(params, decide)
    return decisions


def mend(
    workspace: Workspace, params: Params, tell: Callable[[str], None] = lambda note: None
) -> None:
    """Bring aliases up to the promotion log, and files of champion and challenger to their digests.

    Args:
        workspace: where models and the log lie.
        params: which datasets and code lengths.
        tell: called with what was mended, in words.

    Raises:
        InputError: MLflow does not answer, a name is taken, or files are altered and the model they
            were made of is not here. Told when all else is mended.
    """
    with connected(workspace) as client, locked(workspace.state("locks", "promote")):

        def do(dataset: str, bits: int) -> None:
            registered = Registered(client, workspace, model_name(dataset, bits))
            registered.mend()
            for note in registered.notes:
                tell(f"{registered.name}: {note}")

        _for_each_model(params, do)


def _for_each_model(params: Params, do: Callable[[str, int], None]) -> None:
    """Do something for every dataset and code length; faults are told when all is done."""
    faults: list[str] = []
    for dataset in params.datasets:
        for bits in params.bits:
            try:
                do(dataset, bits)
            except InputError as error:
                faults.append(str(error))
    if faults:
        raise InputError("\n  ".join(dict.fromkeys(faults)))


def _scored(
    workspace: Workspace, cells: Sequence[Cell], lock: provenance.Lock
) -> dict[Cell, dict[str, float]]:
    """The cells whose model is there and was scored, with their scores.

    Raises:
        InputError: some were scored on other data than today's.
    """
    found = {cell: current_scores(workspace, cell) for cell in cells}
    scored = {cell: scores for cell, scores in found.items() if scores}
    if stale := [str(cell) for cell in scored if evaluation.is_stale(lock, cell)]:
        raise InputError(f"{first_five(stale)}: scored on other data than today's; run `dvc repro`")
    return scored


def _decide(
    client: MlflowClient, workspace: Workspace, params: Params, contest: Contest, *, dry_run: bool
) -> Decision:
    """Decide, and unless it is a dry run register the candidate and move the aliases."""
    registered = contest.registered
    if not dry_run:
        registered.mend()
    before = registered.champion
    candidate = contest.candidate()
    if candidate is None:
        reason = f"no method has {contest.rule.min_seeds} scored seeds and a model not withdrawn"
        return Decision(registered.name, False, reason, champion=before)
    verdict, reigning = contest.judge(candidate)
    version = registered.versions.get(contest.weights(candidate.cell))
    if not dry_run:
        version = version or _register(client, workspace, params, contest, candidate)
        _remember(contest, candidate, verdict, reigning)
        _carry_out(contest, candidate, version, verdict, reigning)
    return Decision(
        registered.name,
        verdict.moves,
        "; ".join([verdict.reason, *registered.notes]),
        candidate.cell,
        candidate.means[contest.rule.metric],
        candidate.seeds,
        str(version.version) if version else None,
        before,
    )


def _register(
    client: MlflowClient,
    workspace: Workspace,
    params: Params,
    contest: Contest,
    candidate: Standing,
) -> ModelVersion:
    """Make a version of the candidate's model."""
    cell = candidate.cell
    run = publish(workspace, params, cell)
    tags = {
        "isdh.weights_sha256": contest.weights(cell),
        "isdh.cell": str(cell),
        "isdh.method": cell.method,
        "isdh.fingerprint": str(read_json(workspace.model(cell) / "history.json")["fingerprint"]),
        **contest.tags(candidate.means, candidate.seeds),
    }
    version = registration.register(client, workspace, cell, run=run, tags=tags)
    contest.registered.versions[weights_of(version)] = version
    return version


def _remember(
    contest: Contest, candidate: Standing, verdict: Verdict, reigning: Reigning | None
) -> None:
    """Log and note a champion's numbers where those before were of other data."""
    holder = contest.registered.holder
    if not (holder and reigning and reigning.anew) or contest.is_current(holder):
        return
    line = {
        "action": "evaluate",
        **_line(contest, holder, reigning.measured, verdict),
        "before": recorded(holder, contest.rule.metric),
        "candidate": {
            "cell": str(candidate.cell),
            "weights_sha256": contest.weights(candidate.cell),
            "mean": candidate.means[contest.rule.metric],
            "seeds": candidate.seeds,
        },
    }
    contest.registered.append(line)
    contest.registered.note(holder, contest.tags(reigning.anew, reigning.measured.seeds))
    contest.registered.describe(holder)


def _carry_out(
    contest: Contest,
    candidate: Standing,
    version: ModelVersion,
    verdict: Verdict,
    reigning: Reigning | None,
) -> None:
    """Move the aliases as was decided."""
    registered, holder = contest.registered, contest.registered.holder
    registered.note(version, contest.tags(candidate.means, candidate.seeds))
    line = {
        "action": "promote" if verdict.moves else "nominate",
        **_line(contest, version, contest.measured(candidate), verdict),
        "champion": _numbers(holder, reigning.measured) if holder and reigning else None,
    }
    if verdict.moves:
        registered.promote(version, line)
    elif str(version.version) == registered.champion:
        registered.drop_challenger()
    else:
        registered.nominate(version, line)


def _line(
    contest: Contest, version: ModelVersion, measured: Measured, verdict: Verdict
) -> dict[str, Any]:
    """What the log says of a version: numbers, data, rule, verdict."""
    return {
        "by": "rule",
        **_numbers(version, measured),
        "fingerprint": version.tags.get("isdh.fingerprint"),
        "why": verdict.reason,
        **contest.data,
        **contest.rule.model_dump(),
        "gain": verdict.gain,
        "interval": verdict.interval,
    }


def _numbers(version: ModelVersion, measured: Measured) -> dict[str, Any]:
    return {
        "version": str(version.version),
        "cell": str(cell_of(version)),
        "weights_sha256": weights_of(version),
        "mean": measured.mean,
        "seeds": measured.seeds,
    }
