"""Candidates -> registered model versions; the alias `champion`, moved by the rule and logged.

A version exists once per distinct weights. The log is written before the alias is moved: a process
killed between the two leaves a line whose move the next promotion makes without another line.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from isdh.artifacts import Cell, Workspace, current_scores, locked, read_json
from isdh.errors import InputError
from isdh.params import Params
from isdh.tracking import champion, promotions, versions
from isdh.tracking.champion import Standing
from isdh.tracking.projection import data_digest
from isdh.tracking.publishing import publish
from isdh.tracking.server import connected
from isdh.tracking.versions import ALIAS, champion_version, model_name


@dataclass(frozen=True)
class Decision:
    """What became, or would become, of the alias of one registered model.

    Attributes:
        model: the registered model's name.
        moves: the alias moves to the candidate.
        reason: why, with the numbers.
        cell: the candidate; None if no method has enough seeds.
        mean: its mean over seeds.
        seeds: how many.
        version: its version; None if it is not registered (a dry run).
        champion: the version that held the alias before; None: there was none.
    """

    model: str
    moves: bool
    reason: str
    cell: Cell | None = None
    mean: float | None = None
    seeds: int = 0
    version: str | None = None
    champion: str | None = None


def promote(workspace: Workspace, params: Params, *, dry_run: bool = False) -> list[Decision]:
    """Register the candidate of every dataset and code length; move the alias where it is better.

    Args:
        workspace: where models and scores lie.
        params: the matrix and the rule `champion`.
        dry_run: decide only; nothing is written.

    Returns:
        A decision for every dataset and code length that has a scored cell.

    Raises:
        InputError: MLflow does not answer, the rule names an unknown score, or a model's files
            are missing or altered.
    """
    decisions = []
    with (
        connected(workspace, create=not dry_run) as client,
        locked(workspace.state("locks", "promote")),
    ):
        for dataset in params.datasets:
            for bits in params.bits:
                cells = [cell for cell in params.cells(dataset) if cell.bits == bits]
                if scored := _scored(workspace, cells):
                    group = _Group(client, workspace, params, dataset, bits, scored)
                    decisions.append(group.promote(dry_run=dry_run))
    return decisions


def _scored(workspace: Workspace, cells: Sequence[Cell]) -> dict[Cell, dict[str, float]]:
    """The cells whose model is there and was scored, with their scores."""
    found = {cell: current_scores(workspace, cell) for cell in cells}
    return {cell: scores for cell, scores in found.items() if scores}


class _Group:
    """The scored cells of one dataset and code length, and their registered model."""

    def __init__(
        self,
        client: MlflowClient,
        workspace: Workspace,
        params: Params,
        dataset: str,
        bits: int,
        scored: champion.Scored,
    ) -> None:
        self.client = client
        self.workspace = workspace
        self.params = params
        self.rule = params.champion
        self.dataset = dataset
        self.model = model_name(dataset, bits)
        self.standings = champion.standings(scored)
        self.versions = versions.by_weights(client, self.model)
        self.holder = champion_version(client, self.model)

    def promote(self, *, dry_run: bool) -> Decision:
        """Decide, and unless it is a dry run register the candidate and move the alias."""
        candidate = self.candidate()
        holder = str(self.holder.version) if self.holder else None
        if candidate is None:
            reason = f"no method has {self.rule.min_seeds} scored seeds and a model not withdrawn"
            return Decision(self.model, False, reason, champion=holder)
        mean = candidate.means[self.rule.metric]
        moves, reason = self.decide(candidate)
        known = self.versions.get(self.weights(candidate.cell))
        version = str(known.version) if known else None
        if not dry_run:
            version = version or self.register(candidate)
            if moves:
                self.move(candidate, version, reason)
        return Decision(
            self.model, moves, reason, candidate.cell, mean, candidate.seeds, version, holder
        )

    def candidate(self) -> Standing | None:
        """The method with the best mean whose model was not withdrawn."""
        for standing in champion.ranked(self.standings, self.rule):
            version = self.versions.get(self.weights(standing.cell))
            if version is None or "isdh.withdrawn" not in version.tags:
                return standing
        return None

    def weights(self, cell: Cell) -> str:
        """Digest of a cell's weights."""
        return str(read_json(self.workspace.model(cell) / "model.json")["weights_sha256"])

    def decide(self, candidate: Standing) -> tuple[bool, str]:
        """Whether the alias moves, and why."""
        if self.holder is None:
            metric = self.rule.metric
            return True, f"no champion yet; {metric} {candidate.means[metric]:.4f}"
        if self.holder.tags.get("isdh.weights_sha256") == self.weights(candidate.cell):
            return False, "is the champion already"
        moves, reason = champion.takes_over(
            candidate.means[self.rule.metric], self.reigning_mean(), self.rule
        )
        if self.holder.tags.get("isdh.data") != data_digest(self.workspace, self.dataset):
            reason += " (the champion was scored on other data)"
        return moves, reason

    def reigning_mean(self) -> float | None:
        """The champion's mean: today's where its cell is still there, else the recorded one."""
        tags = self.holder.tags if self.holder else {}
        for standing in self.standings:
            same_cell = str(standing.cell) == tags.get("isdh.cell")
            if same_cell and self.weights(standing.cell) == tags.get("isdh.weights_sha256"):
                return standing.means.get(self.rule.metric)
        recorded: dict[str, float] = json.loads(tags.get("isdh.means", "{}"))
        return recorded.get(self.rule.metric)

    def record(self, candidate: Standing) -> dict[str, str]:
        """The tags that say on which numbers a version stands."""
        return {
            "isdh.means": json.dumps(candidate.means),
            "isdh.seeds": str(candidate.seeds),
            "isdh.data": data_digest(self.workspace, self.dataset) or "",
        }

    def register(self, candidate: Standing) -> str:
        """Make a version of the candidate's model."""
        cell = candidate.cell
        run = publish(self.workspace, self.params, cell)
        tags = {
            "isdh.weights_sha256": self.weights(cell),
            "isdh.cell": str(cell),
            "isdh.method": cell.method,
            "isdh.fingerprint": self.fingerprint(cell),
            **self.record(candidate),
        }
        return versions.register(self.client, self.workspace, cell, run=run, tags=tags)

    def fingerprint(self, cell: Cell) -> str:
        """Of everything the cell's training depends on."""
        return str(read_json(self.workspace.model(cell) / "history.json")["fingerprint"])

    def move(self, candidate: Standing, version: str, reason: str) -> None:
        """Log the move, then make it."""
        cell, holder = candidate.cell, str(self.holder.version) if self.holder else None
        for key, value in self.record(candidate).items():
            self.client.set_model_version_tag(self.model, version, key, value)
        last = (promotions.moves(self.workspace, self.model) or [{}])[-1]
        if (last.get("from"), last.get("version")) != (holder, version):
            line = {
                "cell": str(cell),
                "weights_sha256": self.weights(cell),
                "fingerprint": self.fingerprint(cell),
                "data": data_digest(self.workspace, self.dataset),
                "metric": self.rule.metric,
                "direction": self.rule.direction,
                "margin": self.rule.margin,
                "mean": candidate.means[self.rule.metric],
                "seeds": candidate.seeds,
                "champion_mean": self.reigning_mean(),
            }
            move = {"model": self.model, "from": holder, "version": version, "why": reason}
            promotions.append(self.workspace, move | line)
        self.client.set_registered_model_alias(self.model, ALIAS, version)


def rollback(workspace: Workspace, dataset: str, bits: int) -> Decision:
    """Withdraw a champion: the alias goes to the one before, and no promotion brings it back.

    Args:
        workspace: whose MLflow and promotion log.
        dataset: a name.
        bits: the code length.

    Raises:
        InputError: MLflow does not answer, or there is no champion, or none before it.
    """
    name = model_name(dataset, bits)
    with connected(workspace, create=False) as client, locked(workspace.state("locks", "promote")):
        holder = champion_version(client, name)
        if holder is None:
            raise InputError(f"model {name!r}: has no champion; run `isdh promote`")
        before = _before(client, workspace, name, str(holder.version))
        version = str(before.version)
        reason = f"version {holder.version} was withdrawn"
        cell = before.tags["isdh.cell"]
        move = {"model": name, "from": str(holder.version), "version": version, "why": reason}
        client.set_model_version_tag(name, holder.version, "isdh.withdrawn", "true")
        promotions.append(workspace, move | {"cell": cell})
        client.set_registered_model_alias(name, ALIAS, version)
    return Decision(
        name, True, reason, Cell.parse(cell), version=version, champion=str(holder.version)
    )


def _before(client: MlflowClient, workspace: Workspace, name: str, holder: str) -> ModelVersion:
    """The last version that held the alias before and was not withdrawn."""
    usable = {
        str(v.version): v
        for v in versions.by_weights(client, name).values()
        if "isdh.withdrawn" not in v.tags and str(v.version) != holder
    }
    for move in reversed(promotions.moves(workspace, name)):
        if move["version"] in usable:
            return usable[move["version"]]
    raise InputError(f"model {name!r}: no champion before version {holder} to go back to")
