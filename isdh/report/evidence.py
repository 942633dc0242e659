"""The files of today's matrix -> everything the report tells, read and checked."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from isdh import artifacts, manifest
from isdh.artifacts import Cell, Workspace
from isdh.chance import chance
from isdh.errors import InputError, unknown
from isdh.report import vocabulary

if TYPE_CHECKING:
    from isdh.params import Params

# what an archive holds beside scores and curves
_NO_SCORES = {"weights_sha256", "query_labels", "label_names", "database_size"}


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the stages left for one dataset.

    Attributes:
        dataset: its name.
        raw: the folder below which the pictures lie.
        methods, bits, seeds: the axes of the matrix, in the order of params.yaml.
        images, paths: ids and paths below `raw`, one per row of the manifest.
        queries: rows that are searched with.
        database: rows that are searched.
        also_trained: how many of those are training rows.
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
    images: tuple[str, ...]
    paths: tuple[str, ...]
    queries: NDArray[np.int64]
    database: NDArray[np.int64]
    also_trained: int
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
    frame = manifest.read(workspace.manifest(dataset))
    folder = workspace.data(dataset)
    labels = artifacts.read_array(folder / "labels.npy", dtype=np.bool_, rows=len(frame))
    statistics = artifacts.read_json(folder / "statistics.json")
    scores = {cell: artifacts.read_json(workspace.scores(cell)) for cell in cells}
    arrays = {cell: _arrays(workspace.scores(cell).with_suffix(".npz")) for cell in cells}
    histories = {
        cell: artifacts.read_json(workspace.model(cell) / "history.json") for cell in cells
    }
    queries, database = manifest.query_rows(frame), manifest.database_rows(frame)
    return Evidence(
        dataset=dataset,
        raw=workspace.root / params.datasets[dataset],
        methods=params.methods,
        bits=params.bits,
        seeds=params.seeds,
        images=tuple(frame["image"]),
        paths=tuple(frame["path"]),
        queries=queries,
        database=database,
        also_trained=int(frame["also_database"].sum()),
        label_names=tuple(manifest.labels_of(frame)),
        labels=labels,
        statistics=statistics,
        scores=scores,
        arrays=arrays,
        histories=histories,
        chance=chance(
            labels[queries], labels[database], cutoffs=vocabulary.cutoffs(scores[cells[0]])
        ),
    )


def _arrays(path: Path) -> dict[str, NDArray[np.float64]]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive if name not in _NO_SCORES}
    except FileNotFoundError:
        raise artifacts.missing(path) from None
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not NumPy arrays ({error}); {artifacts.REMAKE}") from None
