"""Two MLflow runs -> what differs between them: parameters, data, code, outputs, scores.

Whether two scores differ by more than chance is told by a paired bootstrap over queries
(significance.py), where both runs were scored on the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from isdh.artifacts import Cell, Workspace
from isdh.errors import InputError, first_five, unknown
from isdh.significance import intervals
from isdh.tracking.per_query import PerQuery, Values, scored_on
from isdh.tracking.records import Record, Source, ask
from isdh.tracking.server import address

Pairs = Mapping[str, tuple[str | None, str | None]]
COMMIT = "mlflow.source.git.commit"


@dataclass(frozen=True)
class Side:
    """One of the two runs.

    Attributes:
        run_id: MLflow's.
        cell: `<dataset>/<method>-<bits>-<seed>`.
        started: of training, unix ms.
        commit: of git, when it was last published; None: not recorded.
        dirty: files differed from that commit; None: not recorded.
    """

    run_id: str
    cell: str
    started: int
    commit: str | None
    dirty: bool | None


@dataclass(frozen=True)
class Score:
    """One metric of both runs; None: a run has no such score, or nothing is told.

    Attributes:
        first, second: means over queries.
        difference: second less first.
        interval: where the mean of the difference lies, at 95 %.
        verdict: 1, 0 or -1: second is higher, level, lower, as the interval lies above 0, holds
            it, or lies below; None: not told, see `Difference.unpaired`.
    """

    first: float | None
    second: float | None
    difference: float | None = None
    interval: tuple[float, float] | None = None
    verdict: int | None = None


@dataclass(frozen=True)
class Difference:
    """What differs between two runs: name -> both values, None where a run has none.

    Attributes:
        first, second: the runs.
        params: of the training.
        data: the digest of the arrays, and DVC's hashes of the files they were made with.
        code: commit, whether files differed from it, and the fingerprint of all that the training
            depends on.
        environment: device, hardware and versions.
        outputs: DVC's hashes of model, codes and scores, `<cell>` for either cell.
        scores: name -> both, all of them.
        unpaired: why no verdict is given; empty: it is.
    """

    first: Side
    second: Side
    params: Pairs
    data: Pairs
    code: Pairs
    environment: Pairs
    outputs: Pairs
    scores: Mapping[str, Score]
    unpaired: str

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return asdict(self)


def diff(workspace: Workspace, first: str, second: str | None = None) -> Difference:
    """What differs between two runs.

    Args:
        workspace: whose MLflow.
        first: a cell, `<dataset>/<method>-<bits>-<seed>`, which stands for its current run; or the
            beginning of a run's id.
        second: likewise; None: `first` is the second, and the run of its cell before it the first.

    Raises:
        InputError: MLflow does not answer; no run or several are meant; there is none before.
    """

    def question(source: Source) -> tuple[Record, Record]:
        one = _find(source, first)
        two = _find(source, second) if second is not None else one
        if second is None:
            one = _before(source, two)
        return source.whole(one.run_id), source.whole(two.run_id)

    one, two = ask(workspace, question)
    files = PerQuery(workspace, address(workspace))
    return between(one, two, files.values(one, one.scored), files.values(two, two.scored))


def _find(source: Source, word: str) -> Record:
    """The run that is meant by a cell, or by the beginning of its id."""
    if "/" in word or "-" in word:
        return _runs(source, Cell.parse(word))[-1]
    records = [each for name in source.datasets() for each in source.records(name, ())]
    found = [record for record in records if record.run_id.startswith(word)]
    if not found:
        raise InputError(
            f"run {word!r}: no run of a cell in MLflow has an id that begins so; want the "
            "beginning of one, or a cell, <dataset>/<method>-<bits>-<seed>"
        )
    if len(found) > 1:
        ids = first_five(record.run_id for record in found)
        raise InputError(f"run {word!r}: {len(found)} ids begin so: {ids}; write more of it")
    return found[0]


def _runs(source: Source, cell: Cell) -> list[Record]:
    """A cell's runs; the current one, published anew last, is the last."""
    found = source.records(cell.dataset, (), cell=cell)
    if not found:
        raise _unknown(source, cell)
    return sorted(found, key=lambda record: record.since)


def _unknown(source: Source, cell: Cell) -> InputError:
    """The error for a cell that has no run."""
    cells = {str(record.cell) for record in source.records(cell.dataset, ())}
    if not cells:
        return unknown("dataset", cell.dataset, source.datasets())
    nearest = get_close_matches(str(cell), cells, n=1)
    hint = f"did you mean {nearest[0]!r}? Else run" if nearest else "run"
    return InputError(f"cell '{cell}': no run in MLflow; {hint} `dvc repro`, then `isdh publish`")


def _before(source: Source, record: Record) -> Record:
    """The run of the same cell that was current before."""
    runs = _runs(source, record.cell)
    place = [other.run_id for other in runs].index(record.run_id)
    if place == 0:
        raise InputError(
            f"run {record.run_id[:8]} of {record.cell}: MLflow has no run of this cell before it; "
            "name two runs or cells"
        )
    return runs[place - 1]


def between(one: Record, two: Record, values_one: Values, values_two: Values) -> Difference:
    """What differs between two runs, given all of them and their values per query."""
    unpaired = _unpaired(one, two)
    found = {} if unpaired else _intervals(values_one, values_two)
    if not (unpaired or found):
        unpaired = (
            "there are no values of the same queries; `isdh publish` adds them from files here"
        )
    return Difference(
        first=_side(one),
        second=_side(two),
        scores=_scores(one, two, found),
        unpaired=unpaired,
        **changes(one, two),
    )


def _side(record: Record) -> Side:
    dirty = record.tags.get("git.dirty")
    return Side(
        run_id=record.run_id,
        cell=str(record.cell),
        started=record.started,
        commit=record.tags.get(COMMIT),
        dirty=None if dirty is None else dirty == "true",
    )


def changes(one: Record, two: Record) -> dict[str, Pairs]:
    """What differs but for the scores: field of `Difference` -> name -> both values."""
    first, second = _sections(one), _sections(two)
    return {name: _different(first[name], second[name]) for name in first}


def _sections(record: Record) -> dict[str, dict[str, str]]:
    """Field of `Difference` -> name -> value."""
    sections: dict[str, dict[str, str]] = {
        "params": dict(record.params),
        "data": {"digest": record.data} if record.data else {},
        "code": {"fingerprint": record.tags["isdh.fingerprint"]},
        "environment": {},
        "outputs": {},
    }
    cell = record.cell
    for tag, value in record.tags.items():
        name = tag.removeprefix("dvc.")
        if tag.startswith("dvc.data/"):
            sections["data"][name.replace(f"/{cell.dataset}/", "/<dataset>/")] = value
        elif tag.startswith("dvc."):
            sections["outputs"][name.replace(str(cell), "<cell>")] = value
        elif tag in {COMMIT, "git.dirty"}:
            sections["code"][{COMMIT: "commit", "git.dirty": "dirty"}[tag]] = value
        elif tag == "device" or tag.startswith(("version.", "hardware.")):
            sections["environment"][tag] = value
    return sections


def _different(one: Mapping[str, str], two: Mapping[str, str]) -> Pairs:
    pairs = {name: (one.get(name), two.get(name)) for name in (*one, *two)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _unpaired(one: Record, two: Record) -> str:
    """Why values of two runs may not be paired; empty: they may."""
    queries = scored_on(one), scored_on(two)
    if not (one.scored and two.scored):
        return "not both runs are scored"
    if None in queries:
        return "it is not recorded on which data both were scored"
    return "" if queries[0] == queries[1] else "they were scored on other data"


def _intervals(one: Values, two: Values) -> dict[str, tuple[float, float]]:
    """Metric -> where the mean of second less first lies, where that can be told."""
    differences = {
        name: two[name] - row
        for name, row in one.items()
        if name in two and two[name].shape == row.shape and len(row) > 1
    }
    finite = {name: row for name, row in differences.items() if np.isfinite(row).all()}
    if not finite:
        return {}
    with threadpool_limits(1):  # as in comparison.py
        found = intervals(np.stack(list(finite.values())))
    return {
        name: (float(low), float(high)) for name, (low, high) in zip(finite, found, strict=True)
    }


def _scores(one: Record, two: Record, found: Mapping[str, tuple[float, float]]) -> dict[str, Score]:
    scores = {}
    for name in dict.fromkeys([*one.scores, *two.scores]):
        first, second, interval = one.scores.get(name), two.scores.get(name), found.get(name)
        scores[name] = Score(
            first,
            second,
            None if first is None or second is None else second - first,
            interval,
            None if interval is None else int(interval[0] > 0) - int(interval[1] < 0),
        )
    return scores
