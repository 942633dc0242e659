"""MLflow runs -> scores query by query: from the file here if it is the run's, else from MLflow.

What cannot be had is None: a table without some of its marks is still a table.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities import Run
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from numpy.typing import NDArray

from isdh.artifacts import Cell, Workspace
from isdh.tracking.projection import SCORES, tag_of


class PerQuery:
    """Reads values per query; a store of artifacts elsewhere that fails once is not asked again.

    One that does not answer is waited for, and would be for each of hundreds of runs.
    """

    def __init__(self, workspace: Workspace, uri: str) -> None:
        """Of a workspace's cells, and the runs of a tracking server or database."""
        self.workspace = workspace
        self.uri = uri
        self.in_reach = True

    def values(self, run: Run, metric: str) -> NDArray[np.float64] | None:
        """A run's values of a metric: float64 (Q,).

        Returns:
            None if the run was published without values per query, the metric has none, or they
            are lost, out of reach or other than those that were published.
        """
        cell = Cell.parse(run.data.tags["isdh.cell"])
        path = self.workspace.scores(cell).with_suffix(".npz")
        digest = run.data.tags.get(tag_of(SCORES, path.name))
        if digest is None:
            return None
        content = _read(path, digest) or self._fetch(run, path.name, digest)
        return _array(content, metric) if content else None

    def _fetch(self, run: Run, name: str, digest: str) -> bytes | None:
        """A file that is kept with a run; copied only where its store is not of this machine."""
        if not self.in_reach:
            return None
        here = False
        try:
            store: Any = get_artifact_repository(run.info.artifact_uri, tracking_uri=self.uri)
            here = isinstance(store, LocalArtifactRepository)
            if here:
                return _read(Path(store.download_artifacts(f"{SCORES}/{name}")), digest)
            with tempfile.TemporaryDirectory() as scratch:
                return _read(Path(store.download_artifacts(f"{SCORES}/{name}", scratch)), digest)
        except Exception:  # each kind of store has errors of its own
            self.in_reach = here
            return None


def _read(path: Path, digest: str) -> bytes | None:
    """A file's bytes, if they have this sha256."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == digest else None


def _array(content: bytes, name: str) -> NDArray[np.float64] | None:
    """One array of an .npz."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return np.asarray(arrays[name], dtype=np.float64) if name in arrays else None
