"""Which of a cell's runs is current, and how MLflow's list of runs tells it from the former ones.

The current run has the bare name. A former one is called `…, until <when>` or, where it was broken
off before it was ever whole, `…, never whole`; the tag `isdh.state` says the same in one word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from isdh.tracking.difference import changes
from isdh.tracking.records import Record

if TYPE_CHECKING:
    from mlflow.entities import Run

STATE, SINCE, NAME = "isdh.state", "isdh.current_since", "mlflow.runName"
NOTE = "mlflow.note.content"  # what MLflow shows as a run's description
LONGEST_NOTE = 5000  # characters that every MLflow takes
SUFFIX = re.compile(r", (until \d{4}-\d\d-\d\d \d\d:\d\d UTC|never whole)$")


def current(runs: Sequence[Run]) -> Run | None:
    """Of one cell's runs, the one whose files are in the workspace: the last published anew."""
    return max(runs, key=since, default=None)


def since(run: Run) -> int:
    """When a run became its cell's current one, unix ms; 0: never."""
    return int(run.data.tags.get(SINCE, 0))


def are_told_apart(runs: Sequence[Run]) -> bool:
    """Whether the current one of a cell's runs is called so, and every other former."""
    latest = current(runs)
    return all(
        run.data.tags.get(STATE) == ("current" if run is latest else "former") for run in runs
    )


def succeeding(run: Run, runs: Sequence[Run], now: int) -> dict[str, str]:
    """The tags that make a run its cell's current one.

    Args:
        run: which.
        runs: the cell's.
        now: unix ms.
    """
    tags = {STATE: "current"}
    if current(runs) is not run or not since(run):
        tags[SINCE] = str(max(now, *(since(other) + 1 for other in runs)))
    if (bare := SUFFIX.sub("", run.info.run_name)) != run.info.run_name:
        tags[NAME] = bare
    return tags


def superseded(run: Run, runs: Sequence[Run], now: int) -> dict[str, str]:
    """The tags that make a run a former one; none, if it is called so already.

    Args:
        run: which.
        runs: the cell's.
        now: unix ms, when it is superseded if no other run has been current after it yet.
    """
    if run.data.tags.get(STATE) == "former":
        return {}
    until = min((since(other) for other in runs if since(other) > since(run)), default=now)
    minute = datetime.fromtimestamp(until / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    suffix = f"until {minute}" if since(run) else "never whole"
    return {NAME: f"{SUFFIX.sub('', run.info.run_name)}, {suffix}", STATE: "former"}


def note(before: Record, after: Record) -> str:
    """What a run tells of itself: what is other than in the cell's run before, old -> new."""
    found = changes(before, after)
    others = {**found["data"], **found["code"], **found["environment"]}
    pairs = [
        *found["params"].items(),
        *((name, each) for name, each in others.items() if all(each)),
    ]
    lines = [f"- `{name}`: {_short(old)} -> {_short(new)}" for name, (old, new) in pairs]
    return "\n".join([f"Against the run before, {before.run_id[:8]}:", "", *lines])[:LONGEST_NOTE]


def _short(value: str | None) -> str:
    """A value, or the beginning of a digest."""
    is_digest = re.fullmatch(r"[0-9a-f]{32,64}", value or "")
    return value[:8] if value and is_digest else str(value or "none")
