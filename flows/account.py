"""dvc.lock and scores before and after a run -> what was stale, made and promoted, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flows.notices import PROMOTED
from isdh.artifacts import Cell, Workspace, current_scores
from isdh.errors import first_five
from isdh.params import Params
from isdh.tracking.provenance import Lock, read_lock

if TYPE_CHECKING:
    from isdh.tracking import Decision

Changes = Mapping[str, Mapping[str, str]]  # stage -> what it reads or writes -> how that changed


class Account:
    """What stood before a run, to tell what the run did.

    Args:
        workspace: where dvc.lock and scores lie.
        settings: which cells.
    """

    def __init__(self, workspace: Workspace, settings: Params) -> None:
        self.workspace = workspace
        self.settings = settings
        self.cells = [cell for name in settings.datasets for cell in settings.cells(name)]
        self.lock = read_lock(workspace.root)
        self.scores = {cell: current_scores(workspace, cell) or {} for cell in self.cells}

    def made(self) -> dict[str, dict[str, str]]:
        """The stages made since, run or restored, and what had changed of each."""
        return differences(self.lock, read_lock(self.workspace.root))

    def stale(self, still: Changes) -> list[dict[str, str]]:
        """A row a stage that was stale: those made since, and those that are to be made yet.

        Args:
            still: what DVC says of those.
        """
        found = {**self.made(), **still}
        return [
            {"stage": stage, "why": self._why(stage, changes)} for stage, changes in found.items()
        ]

    def _why(self, stage: str, changes: Mapping[str, str]) -> str:
        if "@" in stage and stage not in self.lock:
            return "never made"
        return ", ".join(f"{name} {how}" for name, how in changes.items())

    def scored(self) -> list[dict[str, Any]]:
        """A row a cell that was scored anew: the rule's metric and the mean average precision."""
        made = self.made()
        names = dict.fromkeys([self.settings.champion.metric, "map_at_all"])
        return [
            {
                "dataset": cell.dataset,
                "method": cell.method,
                "bits": cell.bits,
                "seed": cell.seed,
                **_columns(names, self.scores[cell], current_scores(self.workspace, cell) or {}),
                "data": _data(cell, made[cell.address("evaluate")], self.scores[cell]),
            }
            for cell in self.cells
            if cell.address("evaluate") in made
        ]


def differences(before: Lock, after: Lock) -> dict[str, dict[str, str]]:
    """The stages of which dvc.lock holds something else than before, and how that differs.

    >>> old = {"train@a": {"cmd": "x", "deps": [{"path": "in", "md5": "1"}]}}
    >>> new = {"train@a": {"cmd": "x", "deps": [{"path": "in", "md5": "2"}]}}
    >>> differences(old, new)
    {'train@a': {'in': 'modified'}}
    """
    return {
        stage: _difference(_parts(before.get(stage, {})), _parts(entry))
        for stage, entry in after.items()
        if entry != before.get(stage)
    }


def _parts(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage depends on -> hash or value."""
    files = {file["path"]: file.get(file.get("hash", "md5")) for file in entry.get("deps", [])}
    values = [pair for each in entry.get("params", {}).values() for pair in each.items()]
    command = {"command": entry["cmd"]} if "cmd" in entry else {}
    return {**files, **dict(values), **command}


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, str]:
    found = {
        name: "modified" if name in before else "new"
        for name, value in after.items()
        if name not in before or before[name] != value
    }
    return found or {"outputs": "gone or altered"}


def _columns(
    names: Iterable[str], before: Mapping[str, float], after: Mapping[str, float]
) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name in names:
        values = [scores.get(name) for scores in (before, after)]
        lead = None if None in values else values[1] - values[0]  # type: ignore[operator]
        for when, value in zip(("before", "after", "difference"), [*values, lead], strict=True):
            found[f"{name} {when}"] = None if value is None else round(value, 4)
    return found


def _data(cell: Cell, changes: Mapping[str, str], before: Mapping[str, float]) -> str:
    """Whether the scores of before can be compared with those of now."""
    if not before:
        return "no scores before"
    other = any(name.startswith(f"data/{cell.dataset}/") for name in changes)
    return "other than before" if other else "the same"


def outcome(made: Changes, decisions: Sequence[Decision]) -> str:
    """One line for the state of a run; by its first word a promotion is known."""
    moved = [decision for decision in decisions if decision.moves]
    if not moved:
        what = f"{len(made)} stages made" if made else "nothing was stale"
        return f"{what}; no champion moved"
    return PROMOTED + "; ".join(f"{_move(decision)}: {decision.reason}" for decision in moved)


def message(made: Changes, decisions: Sequence[Decision], *, dirty: Sequence[str]) -> str:
    """The message of the commit that holds the record of a run.

    Args:
        made: stages.
        decisions: on champions.
        dirty: files that are other than committed, or not at all.
    """
    moved = [decision for decision in decisions if decision.moves]
    title = f"Pipeline: {len(made)} stages made, {len(moved)} champions moved"
    groups: dict[str, list[str]] = {}
    for stage in made:
        name, _, of = stage.partition("@")
        groups.setdefault(name, []).append(of or name)
    lines = [f"{name}: {_names(of)}" for name, of in groups.items()]
    lines += [f"{_move(decision)}: {decision.reason}" for decision in moved]
    if dirty:
        lines.append(
            f"tree was dirty: {_names(dirty)}; what was made is of these files as they "
            "were then, by the checksums in dvc.lock, and not of this commit's"
        )
    return "\n\n".join([title, "\n".join(lines)]) + "\n"


def _move(decision: Decision) -> str:
    instead = f"in place of {decision.champion}" if decision.champion else "the first"
    return f"{decision.model} version {decision.version}, {instead}"


def _names(values: Iterable[str]) -> str:
    return first_five(values).replace("'", "")
