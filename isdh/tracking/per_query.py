"""Runs -> scores query by query: from the file here if it is the run's, else from MLflow.

What cannot be had is left out: a table without some of its marks is still a table.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Collection, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isdh.artifacts import Workspace
from isdh.tracking.projection import SCORES, tag_of
from isdh.tracking.records import Record
from isdh.tracking.server import folder_here

Values = dict[str, NDArray[np.float64]]  # metric -> (Q,)


def scored_on(record: Record) -> Hashable:
    """Which queries a run was scored on, among which pictures and with which labels.

    Values of two runs may be paired, query by query, iff this is equal and not None. DVC's hashes
    of manifest and labels tell it: inputs may differ. Without them the digest of the arrays does.
    """
    folder = f"dvc.data/{record.cell.dataset}"
    hashes = [record.tags.get(f"{folder}/{name}") for name in ("manifest.parquet", "labels.npy")]
    return tuple(hashes) if all(hashes) else record.data


class PerQuery:
    """Reads values per query; a store of artifacts elsewhere that fails once is not asked again.

    One that does not answer is waited for, and would be for each of hundreds of runs.
    """

    def __init__(self, workspace: Workspace, uri: str) -> None:
        """Of a workspace's cells, and the runs of a tracking server or database."""
        self.workspace = workspace
        self.uri = uri
        self.in_reach = True

    def values(self, record: Record, metrics: Collection[str]) -> Values:
        """A run's values of some metrics.

        Returns:
            Metric -> float64 (Q,). Metrics that have none are left out; all are, if the run was
            published without values per query, or they are lost, out of reach or other than those
            that were published.
        """
        return as_values(self.arrays(record, metrics))

    def arrays(self, record: Record, names: Collection[str]) -> dict[str, NDArray[Any]]:
        """Likewise, as they are in the file: also those that are no scores."""
        path = self.workspace.scores(record.cell).with_suffix(".npz")
        digest = record.tags.get(tag_of(SCORES, path.name))
        if digest is None:
            return {}
        content = _read(path, digest) or self._fetch(record, path.name, digest)
        return _arrays(content, names) if content else {}

    def _fetch(self, record: Record, name: str, digest: str) -> bytes | None:
        """A file that is kept with a run; copied only where its store is not of this machine."""
        if folder := folder_here(record.artifacts):
            return _read(folder / SCORES / name, digest)
        if not self.in_reach:
            return None
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        try:
            store: Any = get_artifact_repository(record.artifacts, tracking_uri=self.uri)
            with tempfile.TemporaryDirectory() as scratch:
                return _read(Path(store.download_artifacts(f"{SCORES}/{name}", scratch)), digest)
        except Exception:  # each kind of store has errors of its own
            self.in_reach = False
            return None


def _read(path: Path, digest: str) -> bytes | None:
    """A file's bytes, if they have this sha256."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == digest else None


def _arrays(content: bytes, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """Some arrays of an .npz."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in names if name in arrays}


def as_values(arrays: Mapping[str, NDArray[Any]]) -> Values:
    """Arrays of scores."""
    return {name: np.asarray(array, dtype=np.float64) for name, array in arrays.items()}
