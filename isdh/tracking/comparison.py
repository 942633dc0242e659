"""MLflow runs -> a table of cells, and the results table: methods x code lengths, over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pandas as pd
from mlflow import MlflowClient

from isdh.artifacts import Cell, Workspace
from isdh.errors import InputError, unknown
from isdh.tracking.publishing import since
from isdh.tracking.server import connected, find_experiment, search
from isdh.tracking.versions import champion_version, model_name

Direction = Literal["max", "min"]
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
    """

    mean: float
    std: float | None
    seeds: int
    best: bool
    champion: bool


@dataclass(frozen=True)
class Comparison:
    """Methods x code lengths under one metric: method -> bits -> entry."""

    dataset: str
    metric: str
    direction: Direction
    methods: Mapping[str, Mapping[int, Entry]]

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
        return _runs(client, dataset, cells)


def _runs(client: MlflowClient, dataset: str, cells: Collection[Cell] | None) -> pd.DataFrame:
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
        for run in latest.values()
    ]
    table = pd.DataFrame(rows)
    return table.sort_values(["method", "bits", "seed"], ignore_index=True)


def compare(
    workspace: Workspace,
    dataset: str,
    metric: str,
    *,
    direction: Direction = "max",
    cells: Collection[Cell] | None = None,
) -> Comparison:
    """The results table of a dataset under one metric, best and champion marked.

    Args:
        workspace: whose MLflow.
        dataset: a name.
        metric: a score's name.
        direction: which mean is best.
        cells: those to look at; None: all that were ever published.

    Raises:
        InputError: MLflow does not answer, no run has scores, or none has this one.
    """
    with connected(workspace, create=False) as client:
        table = _runs(client, dataset, cells)
        names = [name for name in table.columns if name not in IDENTITY]
        if metric not in names:
            raise unknown("metric", metric, names)
        values: dict[int, dict[str, list[float]]] = {}
        for row in table.dropna(subset=[metric]).to_dict("records"):
            values.setdefault(row["bits"], {}).setdefault(row["method"], []).append(row[metric])
        columns = {
            bits: _column(groups, direction, _champion_method(client, dataset, bits))
            for bits, groups in sorted(values.items())
        }
    methods: dict[str, dict[int, Entry]] = {}
    for bits, entries in columns.items():
        for method, entry in entries.items():
            methods.setdefault(method, {})[bits] = entry
    return Comparison(dataset, metric, direction, methods)


def _column(
    groups: Mapping[str, list[float]], direction: Direction, champion: str | None
) -> dict[str, Entry]:
    """One code length: method -> its seeds' scores, as entries."""
    means = {method: statistics.fmean(group) for method, group in groups.items()}
    best = (max if direction == "max" else min)(means.values())
    return {
        method: Entry(
            mean=means[method],
            std=statistics.stdev(group) if len(group) > 1 else None,
            seeds=len(group),
            best=means[method] == best,
            champion=method == champion,
        )
        for method, group in groups.items()
    }


def _champion_method(client: MlflowClient, dataset: str, bits: int) -> str | None:
    version = champion_version(client, model_name(dataset, bits))
    return version.tags.get("isdh.method") if version else None
