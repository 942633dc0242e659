"""A registered version -> all that belongs to it, read from its MLflow and verified.

Its files are copied to a folder of this machine; nothing is written to MLflow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Run
from mlflow.entities.model_registry import ModelVersion

from isdh.artifacts import Cell, sha256
from isdh.errors import InputError
from isdh.tracking import plots, registration
from isdh.tracking.projection import File, Point, Projection
from isdh.tracking.records import record_of
from isdh.tracking.registered import WITHDRAWN
from isdh.tracking.server import find_experiment, search, shown
from isdh.tracking.succession import SINCE, STATE
from isdh.tracking.versions import cell_of
from isdh.tracking.writing import DIGEST

FILES = "isdh.sha256."  # how the tags begin that name a run's files
OF_THE_PLACE = (STATE, SINCE, plots.TAG, DIGEST)  # tags that are written anew in another MLflow


@dataclass(frozen=True)
class Original:
    """A version in the MLflow that it is copied from.

    Attributes:
        version: as it is registered.
        run: of its cell and fingerprint.
        projection: what the run holds.
        scores: of the logged model.
        folder: of the model's files.
        place: where that MLflow lies.
    """

    version: ModelVersion
    run: Run
    projection: Projection
    scores: Sequence[Metric]
    folder: Path
    place: str

    @property
    def source(self) -> dict[str, str]:
        """Where a copy comes from."""
        return {
            "uri": self.place,
            "version": str(self.version.version),
            "run": str(self.run.info.run_id),
        }

    @property
    def run_tags(self) -> dict[str, str]:
        """The tags of a copy of the run."""
        tags = self.run.data.tags
        kept = {
            key: tags[key]
            for key in tags
            if key not in OF_THE_PLACE
            and (not key.startswith("mlflow.") or key.startswith("mlflow.source."))
        }
        return {**kept, **self._source_tags}

    @property
    def version_tags(self) -> dict[str, str]:
        """The tags of a copy of the version."""
        tags = self.version.tags
        kept = {key: tags[key] for key in tags if key.startswith("isdh.") and key != WITHDRAWN}
        return {**kept, **self._source_tags}

    @property
    def _source_tags(self) -> dict[str, str]:
        return {f"isdh.source.{key}": value for key, value in self.source.items()}


def read(client: MlflowClient, version: ModelVersion, scratch: Path) -> Original:
    """Read a version, its run and its files.

    Args:
        client: of its MLflow.
        version: which.
        scratch: an empty folder to copy files to.

    Raises:
        InputError: what belongs to it is lost or altered.
    """
    folder = scratch / "model"
    folder.mkdir()
    with registration.opened(client, version, copy=folder):
        (folder / "registered_model_meta").unlink(missing_ok=True)  # has the version's number here
    run = _run(client, version)
    files = tuple(_files(client, run, scratch / "run"))
    model = client.get_logged_model(registration.model_of(version))
    return Original(
        version=version,
        run=run,
        projection=_projection(client, run, files),
        scores=model.metrics or [],
        folder=folder,
        place=shown(client.tracking_uri),
    )


def runs_of(client: MlflowClient, cell: Cell) -> list[Run]:
    """The runs of a cell."""
    number = find_experiment(client, cell.dataset)
    return search(client, number, f"tags.`isdh.cell` = '{cell}'") if number else []


def _run(client: MlflowClient, version: ModelVersion) -> Run:
    """The run of a version's cell and fingerprint; the one it was made of may have been deleted.

    Raises:
        InputError: there is none, or it is not whole.
    """
    cell, fingerprint = cell_of(version), version.tags.get("isdh.fingerprint")
    for run in runs_of(client, cell):
        tags = run.data.tags
        if tags.get("isdh.fingerprint") == fingerprint and tags.get(DIGEST):
            return run
    raise InputError(
        f"model {version.name!r}, version {version.version}: no run of {cell} with fingerprint "
        f"{fingerprint}; run `isdh publish`, which writes it again"
    )


def _files(client: MlflowClient, run: Run, folder: Path) -> Iterator[File]:
    """The files that are kept with a run, copied here.

    Raises:
        InputError: one was altered.
    """
    folder.mkdir()
    number = run.info.run_id
    for key, digest in run.data.tags.items():
        if key.startswith(FILES):
            name = key.removeprefix(FILES)
            path = Path(client.download_artifacts(number, name, str(folder)))
            if (found := sha256(path)) != digest:
                raise InputError(
                    f"run {number}, {name}: sha256 {found}, published was {digest}; run "
                    "`isdh publish`, which writes it again"
                )
            yield File(path, str(Path(name).parent), digest)


def _projection(client: MlflowClient, run: Run, files: tuple[File, ...]) -> Projection:
    """What a run holds: parameters, curves and scores, data and files."""
    number, record = run.info.run_id, record_of(run)
    points = [
        Point(point.key, point.value, point.timestamp, point.step)
        for name in record.metrics
        if not name.startswith("system/")  # the load of that machine
        for point in client.get_metric_history(number, name)
    ]
    return Projection(
        cell=record.cell,
        fingerprint=record.tags["isdh.fingerprint"],
        params=record.params,
        points=tuple(points),
        scores=record.scores,
        tags={},
        files=files,
        data=record.data,
        start=run.info.start_time,
        end=run.info.end_time,
    )
