"""MLflow runs -> a table of cells, and the results table: methods x code lengths, over seeds.

Which differences mean something is told by a paired bootstrap over queries (significance.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from numpy.typing import NDArray

from isdh.artifacts import Cell, Workspace
from isdh.errors import InputError, unknown
from isdh.significance import Direction, standings
from isdh.tracking.per_query import PerQuery
from isdh.tracking.publishing import since
from isdh.tracking.server import address, connected, find_experiment, search
from isdh.tracking.versions import champion_version, model_name

REFERENCE = "isdh"
Seed = tuple[float, NDArray[np.float64] | None]  # a run's score, and the same per query, (Q,)
IDENTITY = ("run_id", "dataset", "method", "bits", "seed", "fingerprint", "started")


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
            of a paired bootstrap over queries holds 0. None: not known, for want of values per
            query of this method or of the best.
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
    with connected(workspace, create=False) as client:
        return _table(dataset, _latest(client, dataset, cells))


def _latest(client: MlflowClient, dataset: str, cells: Collection[Cell] | None) -> list[Run]:
    """Of each cell that has scores the run published anew last."""
    number = find_experiment(client, dataset)
    found = search(client, number) if number else []
    scored = sorted((run for run in found if run.data.tags.get("isdh.scores")), key=since)
    latest = {run.data.tags["isdh.cell"]: run for run in scored}
    if cells is not None:
        latest = {str(cell): latest[str(cell)] for cell in cells if str(cell) in latest}
    if not latest:
        others = ", of the cells asked for" if scored else ""
        raise InputError(
            f"no scored run of dataset {dataset!r} in MLflow{others}; run `dvc repro`, then "
            "`isdh publish`"
        )
    return sorted(latest.values(), key=lambda run: Cell.parse(run.data.tags["isdh.cell"]))


def _table(dataset: str, found: Sequence[Run]) -> pd.DataFrame:
    rows = [
        {
            "run_id": run.info.run_id,
            "dataset": dataset,
            "method": run.data.tags["method"],
            "bits": int(run.data.tags["bits"]),
            "seed": int(run.data.tags["seed"]),
            "fingerprint": run.data.tags["isdh.fingerprint"],
            "started": pd.Timestamp(run.info.start_time, unit="ms", tz="UTC"),
            **{name: run.data.metrics[name] for name in run.data.tags["isdh.scores"].split()},
        }
        for run in found
    ]
    return pd.DataFrame(rows)


def compare(
    workspace: Workspace,
    dataset: str,
    metric: str,
    *,
    direction: Direction = "max",
    cells: Collection[Cell] | None = None,
    reference: str = REFERENCE,
) -> Comparison:
    """The results table of a dataset under one metric, with best, champion and what is level.

    Args:
        workspace: whose MLflow.
        dataset: a name.
        metric: a score's name.
        direction: which mean is best.
        cells: those to look at; None: all that were ever published.
        reference: the method to tell better and worse from.

    Raises:
        InputError: MLflow does not answer, no run has scores, or none has this one.
    """
    with connected(workspace, create=False) as client:
        found = _latest(client, dataset, cells)
        table = _table(dataset, found)
        names = [name for name in table.columns if name not in IDENTITY]
        if metric not in names:
            raise unknown("metric", metric, names)
        per_query = PerQuery(workspace, address(workspace))
        columns: dict[int, dict[str, list[Seed]]] = {}
        for run, row in zip(found, table.to_dict("records"), strict=True):
            if not np.isnan(row[metric]):
                seed = (row[metric], per_query.values(run, metric))
                columns.setdefault(row["bits"], {}).setdefault(row["method"], []).append(seed)
        methods: dict[str, dict[int, Entry]] = {}
        for bits, groups in sorted(columns.items()):
            champion = _champion_method(client, dataset, bits)
            for method, entry in _column(groups, reference, direction, champion).items():
                methods.setdefault(method, {})[bits] = entry
    return Comparison(dataset, metric, direction, methods, reference)


def _column(
    groups: Mapping[str, Sequence[Seed]],
    reference: str,
    direction: Direction,
    champion: str | None,
) -> dict[str, Entry]:
    """One code length: method -> its seeds' scores, as entries."""
    scores = {method: [score for score, _ in seeds] for method, seeds in groups.items()}
    values = {}
    for method, seeds in groups.items():
        known = [row for _, row in seeds if row is not None]
        if len(known) == len(seeds) and len({row.shape for row in known}) == 1:
            values[method] = np.array(known)
    found = standings(scores, values, reference=reference, direction=direction)
    return {
        method: Entry(
            mean=standing.mean,
            std=standing.deviation,
            seeds=len(scores[method]),
            best=standing.best,
            champion=method == champion,
            level=standing.level,
            against=standing.against,
        )
        for method, standing in found.items()
    }


def _champion_method(client: MlflowClient, dataset: str, bits: int) -> str | None:
    version = champion_version(client, model_name(dataset, bits))
    return version.tags.get("isdh.method") if version else None
