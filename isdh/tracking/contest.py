"""The scored cells of one dataset and code length, and their registered model -> a verdict.

What is compared was scored on the same data by the same protocol: a champion that is not among
today's cells is evaluated again, from its registered weights. Nothing is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow.entities.model_registry import ModelVersion

from isdh.artifacts import Cell, Workspace, read_json
from isdh.params import Params
from isdh.tracking import champion, evaluation, registration
from isdh.tracking.champion import Measured, Standing, Verdict
from isdh.tracking.evaluation import IncomparableError
from isdh.tracking.projection import data_digest
from isdh.tracking.registered import Registered
from isdh.tracking.versions import weights_of


@dataclass(frozen=True, eq=False)
class Reigning:
    """What a champion scores today.

    Attributes:
        measured: under the rule's metric.
        anew: all its means, if its registered weights were scored for this.
    """

    measured: Measured
    anew: Mapping[str, float] | None = None


class Contest:
    """Who might take the alias, from whom, and whether.

    Args:
        workspace: where models and scores lie.
        params: the rule `champion`, and what is scored.
        dataset: a name.
        scored: its cells of one code length -> their scores.
        registered: their registered model.
    """

    def __init__(
        self,
        workspace: Workspace,
        params: Params,
        dataset: str,
        scored: champion.Scored,
        registered: Registered,
    ) -> None:
        self.workspace = workspace
        self.params = params
        self.rule = params.champion
        self.dataset = dataset
        self.scored = scored
        self.registered = registered
        self.standings = champion.standings(scored)
        self.data = {
            "data": data_digest(workspace, dataset),
            "protocol": evaluation.protocol(workspace, params, dataset),
        }

    def candidate(self) -> Standing | None:
        """The method with the best mean whose model was not withdrawn."""
        for standing in champion.ranked(self.standings, self.rule):
            if self.weights(standing.cell) not in self.registered.withdrawn:
                return standing
        return None

    def weights(self, cell: Cell) -> str:
        """Digest of a cell's weights."""
        return str(read_json(self.workspace.model(cell) / "model.json")["weights_sha256"])

    def judge(self, candidate: Standing) -> tuple[Verdict, Reigning | None]:
        """Whether the champion's alias moves, and what the champion scores if that was asked.

        Raises:
            InputError: the champion's registered files are altered.
        """
        holder = self.registered.holder
        score = f"{self.rule.metric} {candidate.means[self.rule.metric]:.4f}"
        if holder is None:
            return Verdict(True, f"no champion yet; {score}"), None
        if weights_of(holder) in self.registered.withdrawn:
            reason = f"version {holder.version}, the champion, was withdrawn; {score}"
            return Verdict(True, reason), None
        if weights_of(holder) == self.weights(candidate.cell):
            return Verdict(False, "is the champion already"), None
        try:
            reigning = self._reigning(holder)
        except IncomparableError as error:
            reason = (
                f"{score}; the champion cannot be evaluated on today's data: {error}; "
                "`isdh promote --version` decides by hand"
            )
            return Verdict(False, reason), None
        found = champion.judge(self.measured(candidate), reigning.measured, self.rule)
        if reigning.anew is None:
            return found, reigning
        note = "the champion's by its one registered model, evaluated again"
        if not self.is_current(holder):
            then = recorded(holder, self.rule.metric)
            mean = "not scored" if then["mean"] is None else f"{then['mean']:.4f}"
            note += f"; on the data of then {mean}, seeds: {then['seeds']}"
        reason = f"{found.reason} ({note})"
        return Verdict(found.moves, reason, found.gain, found.interval), reigning

    def _reigning(self, holder: ModelVersion) -> Reigning:
        """What the champion scores today: its method, if that is among the cells, else itself."""
        metric = self.rule.metric
        for standing in self.standings:
            ours = weights_of(holder) in map(self.weights, self._cells(standing))
            if ours and metric in standing.means:
                return Reigning(self.measured(standing))
        with registration.opened(self.registered.client, holder) as package:
            scores = evaluation.measure(self.workspace, self.params, self.dataset, package)
        means = scores.as_dict()
        return Reigning(Measured(means[metric], 1, scores.per_query[metric]), means)

    def _cells(self, standing: Standing) -> list[Cell]:
        return [cell for cell in self.scored if cell.method == standing.cell.method]

    def measured(self, standing: Standing) -> Measured:
        """What a method of today scores."""
        metric = self.rule.metric
        values = evaluation.per_query(self.workspace, self._cells(standing), metric)
        return Measured(standing.means[metric], standing.seeds, values)

    def is_current(self, version: ModelVersion) -> bool:
        """Whether the numbers that a version stands on are of today's data and protocol."""
        return version.tags.get("isdh.protocol") == (self.data["protocol"] or "")

    def tags(self, means: Mapping[str, float], seeds: int) -> dict[str, str]:
        """The tags that say on which numbers a version stands."""
        return {
            "isdh.means": json.dumps(dict(means)),
            "isdh.seeds": str(seeds),
            **{f"isdh.{key}": value or "" for key, value in self.data.items()},
        }


def recorded(version: ModelVersion, metric: str) -> dict[str, Any]:
    """The numbers that a version stands on, from its tags."""
    tags = version.tags
    return {
        "mean": json.loads(tags.get("isdh.means", "{}")).get(metric),
        "seeds": int(tags.get("isdh.seeds", 0)),
        "data": tags.get("isdh.data"),
        "protocol": tags.get("isdh.protocol"),
    }
