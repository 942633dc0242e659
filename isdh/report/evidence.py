"""The files of today's matrix -> everything the report tells, read and checked."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from isdh import artifacts, metrics
from isdh.artifacts import Cell, Workspace
from isdh.errors import InputError, unknown

if TYPE_CHECKING:
    import pandas as pd

    from isdh.params import Params


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the stages left for one dataset.

    Attributes:
        dataset: its name.
        raw: the folder below which the pictures lie.
        methods, bits, seeds: the axes of the matrix, in the order of params.yaml.
        manifest: one row per picture.
        label_names: one per column of labels.
        labels: bool (N, C).
        statistics: instance similarity and counts, as `preprocess` wrote them.
        scores: cell -> metric -> mean over queries.
        arrays: cell -> metric -> float64 (Q,), and `precision_by_radius`, `recall_by_radius`,
            float64 (bits + 1,).
        histories: cell -> history.json.
        chance: metric -> its expectation under a random ranking.
    """

    dataset: str
    raw: Path
    methods: tuple[str, ...]
    bits: tuple[int, ...]
    seeds: tuple[int, ...]
    manifest: pd.DataFrame
    label_names: tuple[str, ...]
    labels: NDArray[np.bool_]
    statistics: Mapping[str, Any]
    scores: Mapping[Cell, Mapping[str, float]]
    arrays: Mapping[Cell, Mapping[str, NDArray[np.float64]]]
    histories: Mapping[Cell, Mapping[str, Any]]
    chance: Mapping[str, float]

    @property
    def cells(self) -> list[Cell]:
        """Today's matrix, in the order of params.yaml."""
        return list(self.scores)

    @property
    def queries(self) -> NDArray[np.intp]:
        """Rows that are searched with."""
        return np.flatnonzero(self.manifest["split"] == "query")

    @property
    def database(self) -> NDArray[np.intp]:
        """Rows that are searched."""
        return _database(self.manifest)

    def runs(self, method: str, bits: int) -> list[Cell]:
        """One method at one code length: a cell per seed."""
        return [Cell(self.dataset, method, bits, seed) for seed in self.seeds]


def read(workspace: Workspace, params: Params, dataset: str) -> Evidence:
    """Read what the cells in today's matrix left; files of other cells are passed over.

    Raises:
        InputError: an unknown dataset, or a file that is missing or broken.
    """
    if dataset not in params.datasets:
        raise unknown("dataset", dataset, params.datasets)
    cells = params.cells(dataset)
    manifest = _manifest(workspace.manifest(dataset))
    statistics = artifacts.read_json(workspace.data(dataset) / "statistics.json")
    path = workspace.data(dataset) / "labels.npy"
    labels = artifacts.read_array(path, dtype=np.bool_, rows=len(manifest))
    return Evidence(
        dataset=dataset,
        raw=workspace.root / params.datasets[dataset],
        methods=params.methods,
        bits=params.bits,
        seeds=params.seeds,
        manifest=manifest,
        label_names=tuple(statistics["labels"]),
        labels=labels,
        statistics=statistics,
        scores={cell: artifacts.read_json(workspace.scores(cell)) for cell in cells},
        arrays={cell: _arrays(workspace.scores(cell).with_suffix(".npz")) for cell in cells},
        histories={
            cell: artifacts.read_json(workspace.model(cell) / "history.json") for cell in cells
        },
        chance=_chance(manifest, labels, params.evaluate.cutoffs),
    )


def _chance(
    manifest: pd.DataFrame, labels: NDArray[np.bool_], cutoffs: tuple[int | None, ...]
) -> dict[str, float]:
    """Scores of a random ranking: if all codes are equal, the whole database is one tie."""
    query_labels = labels[(manifest["split"] == "query").to_numpy()]
    database_labels = labels[_database(manifest)]
    scores = metrics.evaluate(
        np.zeros((len(query_labels), 1), np.uint8),
        query_labels,
        np.zeros((len(database_labels), 1), np.uint8),
        database_labels,
        bits=8,
        cutoffs=cutoffs,
    )
    return scores.as_dict()


def _database(manifest: pd.DataFrame) -> NDArray[np.intp]:
    return np.flatnonzero((manifest["split"] == "database") | manifest["also_database"])


def _manifest(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise artifacts.missing(path) from None


def _arrays(path: Path) -> dict[str, NDArray[np.float64]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except FileNotFoundError:
        raise artifacts.missing(path) from None
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not NumPy arrays ({error}); {artifacts.REMAKE}") from None
