"""What MLflow holds -> records of runs: from a database by SQL, else through MLflow's client.

MLflow's search makes an object of every value of every run: seconds for a thousand, after more for
its imports. Where the address is a database it is therefore read for what is needed alone, and a
server that was started with `--app-name isdh` is asked to do so (app.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import sqlalchemy

from isdh.artifacts import Cell, Workspace
from isdh.tracking.server import (
    address,
    connected,
    find_experiment,
    require_answer,
    require_database,
    search,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PREFIX = "isdh/"  # of the experiments' names
PATH = "/isdh/records"  # of a server that answers for records (app.py)
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Record:
    """What MLflow holds of one run of one cell, as far as it was asked for.

    Attributes:
        run_id: MLflow's.
        started: unix ms.
        artifacts: where its files are kept.
        tags: by name.
        data: digest of the data it was trained on; None: not recorded.
        metrics: name -> latest value.
        params: of its training.
    """

    run_id: str
    started: int
    artifacts: str
    tags: Mapping[str, str]
    data: str | None
    metrics: Mapping[str, float]
    params: Mapping[str, str]

    @property
    def cell(self) -> Cell:
        """What was trained."""
        return Cell.parse(self.tags["isdh.cell"])

    @property
    def scored(self) -> list[str]:
        """The names of its scores; none before evaluation."""
        return self.tags.get("isdh.scores", "").split()

    @property
    def scores(self) -> dict[str, float]:
        """Name -> mean over queries; training curves are none."""
        return {name: self.metrics[name] for name in self.scored if name in self.metrics}

    @property
    def since(self) -> int:
        """When it became its cell's current run, unix ms; 0: never."""
        return int(self.tags.get("isdh.current_since", 0))


class Source(Protocol):
    """Whatever answers for MLflow; nothing is written."""

    def datasets(self) -> list[str]:
        """Those that have an experiment."""

    def records(
        self, dataset: str, metrics: Collection[str] | None = None, *, cell: Cell | None = None
    ) -> list[Record]:
        """The runs of a dataset's cells, or of one, with some metrics or all; no params."""

    def whole(self, run_id: str) -> Record:
        """All of one run."""

    def champions(self, dataset: str, bits: Collection[int]) -> dict[int, str]:
        """Code length -> method of the registered model that is in use, where there is one."""


def ask(workspace: Workspace, question: Callable[[Source], Answer]) -> Answer:
    """Put a question to a workspace's MLflow.

    Args:
        workspace: whose.
        question: may be put twice.

    Raises:
        InputError: MLflow does not answer, or is absent.
    """
    from isdh.tracking.database import opened

    uri = address(workspace)
    require_database(uri)
    require_answer(uri)
    if not uri.startswith("http") and "MLFLOW_REGISTRY_URI" not in os.environ:
        try:
            with opened(uri) as database:
                return question(database)
        except sqlalchemy.exc.SQLAlchemyError:
            pass  # another MLflow's tables: it can read them itself, or says what is amiss
    with connected(workspace, create=False) as client:
        return question(Served(client))


class Served:
    """Answers through MLflow's client."""

    def __init__(self, client: MlflowClient) -> None:
        """Of a tracking server or database."""
        self.client = client

    def datasets(self) -> list[str]:
        """Those that have an experiment."""
        found = self.client.search_experiments(filter_string=f"name LIKE '{PREFIX}%'")
        return sorted(experiment.name.removeprefix(PREFIX) for experiment in found)

    def records(
        self, dataset: str, metrics: Collection[str] | None = None, *, cell: Cell | None = None
    ) -> list[Record]:
        """The runs of a dataset's cells, or of one; all of them whole where MLflow is searched."""
        told = self._told(dataset, metrics, cell)
        if told is not None:
            return [Record(**each) for each in told]
        number = find_experiment(self.client, dataset)
        query = f"tags.`isdh.cell` = '{cell}'" if cell else ""
        found = search(self.client, number, query) if number else []
        return [record_of(run) for run in found if "isdh.cell" in run.data.tags]

    def _told(
        self, dataset: str, metrics: Collection[str] | None, cell: Cell | None
    ) -> list[dict[str, Any]] | None:
        """What the server answers for records; None: it is MLflow's own, or cannot."""
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        if not self.client.tracking_uri.startswith("http"):
            return None
        question = {"dataset": dataset, "cell": str(cell or "")}
        if metrics is not None:
            question["metrics"] = ",".join(metrics)
        access = get_default_host_creds(self.client.tracking_uri)  # type: ignore[no-untyped-call]
        answer = http_request(  # type: ignore[no-untyped-call]
            access, PATH, "GET", params=question, raise_on_status=False
        )
        if answer.status_code != 200 or "json" not in answer.headers.get("Content-Type", ""):
            return None
        told: list[dict[str, Any]] = answer.json()
        return told

    def whole(self, run_id: str) -> Record:
        """All of one run."""
        return record_of(self.client.get_run(run_id))

    def champions(self, dataset: str, bits: Collection[int]) -> dict[int, str]:
        """Code length -> method of the registered model that is in use, where there is one."""
        from isdh.tracking.versions import champion_version, model_name

        found = {
            length: champion_version(self.client, model_name(dataset, length)) for length in bits
        }
        return {
            length: version.tags["isdh.method"]
            for length, version in found.items()
            if version and "isdh.method" in version.tags
        }


def record_of(run: Run) -> Record:
    """All that MLflow gives of a run."""
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return Record(
        run_id=run.info.run_id,
        started=run.info.start_time,
        artifacts=run.info.artifact_uri,
        tags=run.data.tags,
        data=inputs[0].dataset.digest if inputs else None,
        metrics=run.data.metrics,
        params=run.data.params,
    )
