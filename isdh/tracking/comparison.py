"""MLflow runs -> a table of cells, and the results table: methods x code lengths, over seeds.

Which differences mean something is told by a paired bootstrap over queries (significance.py).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from isdh.artifacts import Cell, Workspace
from isdh.errors import InputError, unknown
from isdh.significance import Direction, Standing, standings
from isdh.tracking.per_query import PerQuery, Values, as_values, scored_on
from isdh.tracking.records import Record, Source, ask
from isdh.tracking.server import address

if TYPE_CHECKING:
    import pandas as pd

REFERENCE = "isdh"


@dataclass(frozen=True)
class Selection:
    """Which cells to look at; an empty axis stands for all of it."""

    methods: tuple[str, ...] = ()
    bits: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()

    def of(self, cells: Iterable[Cell]) -> list[Cell]:
        """Those of some cells that are meant.

        Raises:
            InputError: a method, code length or seed that none of them has.
        """
        chosen = list(cells)
        for axis, wanted in (("method", self.methods), ("bits", self.bits), ("seed", self.seeds)):
            known = {getattr(cell, axis) for cell in chosen}
            for value in wanted:
                if value not in known:
                    raise unknown(axis, str(value), map(str, known))
        axes = (self.methods, self.bits, self.seeds)
        return [
            cell
            for cell in chosen
            if all(
                not wanted or value in wanted
                for wanted, value in zip(axes, (cell.method, cell.bits, cell.seed), strict=True)
            )
        ]


@dataclass(frozen=True)
class Entry:
    """One method at one code length.

    Attributes:
        mean: over seeds.
        std: of the sample of seeds; None for a single seed.
        seeds: how many.
        best: no other method has a better mean at this code length.
        champion: the registered model that is in use was trained by this method.
        level: not the best, but its difference from the best is within chance: the 95 % interval
            of a paired bootstrap over queries holds 0. None: not known, for want of values
            per query of this method and of the best on the same queries.
        against: 1, 0 or -1: by the same test better than the comparison's reference, level with
            it, or worse. None: not known, likewise, or the reference is not in the table.
    """

    mean: float
    std: float | None
    seeds: int
    best: bool
    champion: bool
    level: bool | None = None
    against: int | None = None


@dataclass(frozen=True)
class Comparison:
    """Methods x code lengths under one metric.

    Attributes:
        dataset, metric: what is compared, and by which score.
        direction: which mean is best.
        methods: method -> bits -> entry.
        reference: the method that each is told to be better or worse than.
    """

    dataset: str
    metric: str
    direction: Direction
    methods: Mapping[str, Mapping[int, Entry]]
    reference: str

    @property
    def bits(self) -> list[int]:
        """The code lengths that have an entry, ascending."""
        return sorted({bits for entries in self.methods.values() for bits in entries})

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return asdict(self)


def runs(workspace: Workspace, dataset: str, cells: Collection[Cell] | None = None) -> pd.DataFrame:
    """The scored cells of a dataset, from MLflow: of each cell the run published anew last.

    Args:
        workspace: whose MLflow.
        dataset: a name.
        cells: those to look at; None: all that were ever published.

    Returns:
        A row per cell: run_id, dataset, method, bits, seed, fingerprint, started, then scores.

    Raises:
        InputError: MLflow does not answer, or no run has scores.
    """
    import pandas as pd

    records = ask(workspace, lambda source: source.records(dataset))
    return pd.DataFrame(
        {
            "run_id": record.run_id,
            "dataset": dataset,
            "method": cell.method,
            "bits": cell.bits,
            "seed": cell.seed,
            "fingerprint": record.tags["isdh.fingerprint"],
            "started": pd.Timestamp(record.started, unit="ms", tz="UTC"),
            **record.scores,
        }
        for cell, record in _latest(dataset, records, cells, Selection()).items()
    )


def _latest(
    dataset: str,
    records: Sequence[Record],
    cells: Collection[Cell] | None,
    only: Selection,
) -> dict[Cell, Record]:
    """Of each cell that is meant and has scores the run published anew last, in order."""
    scored = sorted((each for each in records if each.scored), key=lambda each: each.since)
    latest = {record.cell: record for record in scored}
    known = latest if cells is None else cells
    wanted = only.of(known) if known else []
    found = {cell: latest[cell] for cell in sorted(wanted) if cell in latest}
    if not found:
        others = ", of the cells asked for" if scored else ""
        raise InputError(
            f"no scored run of dataset {dataset!r} in MLflow{others}; run `dvc repro`, then "
            "`isdh publish`"
        )
    return found


def compare(
    workspace: Workspace,
    dataset: str,
    metric: str,
    *,
    direction: Direction = "max",
    cells: Collection[Cell] | None = None,
    only: Selection = Selection(),
    reference: str = REFERENCE,
) -> Comparison:
    """The results table of a dataset under one metric: `comparisons` of one."""
    metrics = {metric: direction}
    (found,) = comparisons(workspace, dataset, metrics, cells=cells, only=only, reference=reference)
    return found


def comparisons(
    workspace: Workspace,
    dataset: str,
    metrics: Mapping[str, Direction],
    *,
    cells: Collection[Cell] | None = None,
    only: Selection = Selection(),
    reference: str = REFERENCE,
) -> list[Comparison]:
    """The results table of a dataset under each metric, with best, champion and what is level.

    Args:
        workspace: whose MLflow.
        dataset: a name.
        metrics: a score's name -> which mean is best.
        cells: those to look at; None: all that were ever published.
        only: of these, which to look at.
        reference: the method to tell better and worse from.

    Raises:
        InputError: MLflow does not answer, no run has scores, none has one of these metrics, or
            a value is selected that no cell has.
    """
    found = gather(workspace, dataset, metrics, cells=cells, only=only)
    return tabulate(found, dataset, metrics, reference)


@dataclass(frozen=True, eq=False)
class ScoredRun:
    """A run that is compared.

    Attributes:
        record: what MLflow holds of it.
        values: metric -> score of each query.
        more: other arrays of its file that were asked for.
    """

    record: Record
    values: Values
    more: Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Gathered:
    """All that a dataset's comparisons are made of.

    Attributes:
        runs: of each cell the current one.
        champions: code length -> method of the registered model that is in use.
    """

    runs: Mapping[Cell, ScoredRun]
    champions: Mapping[int, str]


def gather(
    workspace: Workspace,
    dataset: str,
    metrics: Collection[str],
    *,
    cells: Collection[Cell] | None,
    only: Selection,
    also: Collection[str] = (),
    arrays: Collection[str] = (),
) -> Gathered:
    """Read what `comparisons` compares; besides some metrics that are no scores, and other arrays.

    Raises:
        InputError: as `comparisons`.
    """

    def question(source: Source) -> tuple[dict[Cell, Record], dict[int, str]]:
        found = _latest(dataset, source.records(dataset, [*metrics, *also]), cells, only)
        return found, source.champions(dataset, {cell.bits for cell in found})

    found, champions = ask(workspace, question)
    known = {name for record in found.values() for name in record.scored}
    for metric in metrics:
        if metric not in known:
            raise unknown("metric", metric, known)
    files = PerQuery(workspace, address(workspace))
    runs = {}
    for cell, record in found.items():
        held = files.arrays(record, [*metrics, *arrays])
        more = {name: held.pop(name) for name in arrays if name in held}
        runs[cell] = ScoredRun(record, as_values(held), more)
    return Gathered(runs, champions)


def tabulate(
    found: Gathered, dataset: str, metrics: Mapping[str, Direction], reference: str
) -> list[Comparison]:
    """The results table under each metric."""
    with threadpool_limits(1):  # the products are small: threads would wait for one another
        return [
            Comparison(
                dataset,
                metric,
                direction,
                _table(found.runs, metric, direction, reference, found.champions),
                reference,
            )
            for metric, direction in metrics.items()
        ]


def _table(
    runs: Mapping[Cell, ScoredRun],
    metric: str,
    direction: Direction,
    reference: str,
    champions: Mapping[int, str],
) -> dict[str, dict[int, Entry]]:
    """Method -> bits -> entry, of the runs that have this score."""
    methods: dict[str, dict[int, Entry]] = {}
    for bits, groups in columns(runs, metric).items():
        for method, standing in _column(groups, metric, direction, reference).items():
            methods.setdefault(method, {})[bits] = Entry(
                mean=standing.mean,
                std=standing.deviation,
                seeds=len(groups[method]),
                best=standing.best,
                champion=method == champions.get(bits),
                level=standing.level,
                against=standing.against,
            )
    return methods


def columns(runs: Mapping[Cell, ScoredRun], metric: str) -> dict[int, dict[str, list[ScoredRun]]]:
    """Bits, ascending -> method -> its runs that have this score, one a seed."""
    found: dict[int, dict[str, list[ScoredRun]]] = {}
    for cell, run in runs.items():
        if not math.isnan(run.record.scores.get(metric, math.nan)):
            found.setdefault(cell.bits, {}).setdefault(cell.method, []).append(run)
    return dict(sorted(found.items()))


def _column(
    groups: Mapping[str, Sequence[ScoredRun]], metric: str, direction: Direction, reference: str
) -> dict[str, Standing]:
    """The methods at one code length; what was not scored on the same queries is not paired."""
    scores = {
        method: [run.record.scores[metric] for run in seeds] for method, seeds in groups.items()
    }
    values, queries = per_query(groups, metric)

    def among(other: str) -> dict[str, Standing]:
        """With the values of the methods that were scored on the same queries as another one."""
        same = {name: row for name, row in values.items() if queries[name] == queries.get(other)}
        return standings(scores, same, reference=reference, direction=direction)

    found = standings(scores, {}, reference=reference, direction=direction)
    leader = next(method for method, standing in found.items() if standing.best)
    beside_best = among(leader)
    if queries.get(leader) == queries.get(reference):
        return beside_best
    beside_reference = among(reference)
    return {
        method: replace(standing, against=beside_reference[method].against)
        for method, standing in beside_best.items()
    }


def per_query(
    groups: Mapping[str, Sequence[ScoredRun]], metric: str
) -> tuple[dict[str, NDArray[np.float64]], dict[str, Hashable]]:
    """Method -> float64 (S, Q), and -> which queries these are, where all its seeds agree."""
    values, queries = {}, {}
    for method, seeds in groups.items():
        rows = [run.values[metric] for run in seeds if metric in run.values]
        of_seeds = {scored_on(run.record) for run in seeds}
        if len(rows) == len(seeds) and len({row.shape for row in rows}) == len(of_seeds) == 1:
            (key,) = of_seeds
            if key is not None:
                values[method], queries[method] = np.array(rows), key
    return values, queries
