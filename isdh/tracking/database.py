"""The tables of an MLflow database -> records of runs, by SQL that reads only; no MLflow needed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Select, TableClause, and_, column, or_, select, table

from isdh.artifacts import Cell
from isdh.tracking.records import PREFIX, Record
from isdh.tracking.server import deleted
from isdh.tracking.versions import ALIAS, model_name

NEEDED = ("isdh.%", "dvc.data/%")  # the tags of a record that is not whole


def _table(name: str, *columns: str) -> TableClause:
    return table(name, *map(column, columns))


EXPERIMENTS = _table("experiments", "experiment_id", "name", "lifecycle_stage")
RUNS = _table("runs", "run_uuid", "experiment_id", "lifecycle_stage", "start_time", "artifact_uri")
TAGS = _table("tags", "run_uuid", "key", "value")
PARAMS = _table("params", "run_uuid", "key", "value")
METRICS = _table("latest_metrics", "run_uuid", "key", "value", "is_nan")
INPUTS = _table("inputs", "source_type", "source_id", "destination_type", "destination_id")
DATASETS = _table("datasets", "dataset_uuid", "digest")
ALIASES = _table("registered_model_aliases", "name", "version", "alias")
VERSION_TAGS = _table("model_version_tags", "name", "version", "key", "value")


@contextmanager
def opened(uri: str) -> Iterator[Database]:
    """The database at an address.

    Raises:
        SQLAlchemyError: it does not answer, or its tables are others.
    """
    engine = sqlalchemy.create_engine(uri)
    try:
        with engine.connect() as connection:
            yield Database(connection)
    finally:
        engine.dispose()


class Database:
    """Answers as `records.Source`."""

    def __init__(self, connection: Connection) -> None:
        """Of an open database."""
        self.connection = connection

    def datasets(self) -> list[str]:
        """Those that have an experiment."""
        active = EXPERIMENTS.c.lifecycle_stage == "active"
        names = select(EXPERIMENTS.c.name).where(active, EXPERIMENTS.c.name.like(f"{PREFIX}%"))
        return sorted(name.removeprefix(PREFIX) for (name,) in self.connection.execute(names))

    def records(
        self, dataset: str, metrics: Collection[str] | None = None, *, cell: Cell | None = None
    ) -> list[Record]:
        """The runs of a dataset's cells, or of one, with some metrics or all; no params."""
        number = self._experiment(dataset)
        if number is None:
            return []
        active = and_(RUNS.c.experiment_id == number, RUNS.c.lifecycle_stage == "active")
        if cell:
            same = and_(TAGS.c.key == "isdh.cell", TAGS.c.value == str(cell))
            active = and_(active, RUNS.c.run_uuid.in_(select(TAGS.c.run_uuid).where(same)))
        names = METRICS.c.key.in_(metrics) if metrics is not None else sqlalchemy.true()
        return self._records(
            active,
            tags=select(TAGS).where(or_(*[TAGS.c.key.like(some) for some in NEEDED])),
            metrics=select(METRICS).where(names),
        )

    def whole(self, run_id: str) -> Record:
        """All of one run."""
        (record,) = self._records(
            RUNS.c.run_uuid == run_id,
            tags=select(TAGS),
            metrics=select(METRICS),
            params=select(PARAMS),
        )
        return record

    def champions(self, dataset: str, bits: Collection[int]) -> dict[int, str]:
        """Code length -> method of the registered model that is in use, where there is one."""
        lengths = {model_name(dataset, length): length for length in bits}
        same = and_(
            VERSION_TAGS.c.name == ALIASES.c.name, VERSION_TAGS.c.version == ALIASES.c.version
        )
        methods = (
            select(ALIASES.c.name, VERSION_TAGS.c.value)
            .join_from(ALIASES, VERSION_TAGS, same)
            .where(ALIASES.c.alias == ALIAS, VERSION_TAGS.c.key == "isdh.method")
            .where(ALIASES.c.name.in_(lengths))
        )
        return {lengths[name]: method for name, method in self.connection.execute(methods)}

    def _experiment(self, dataset: str) -> int | None:
        """The number of a dataset's experiment.

        Raises:
            MultipleResultsFound: several workspaces of MLflow have one; it may know which is meant.
        """
        found = self.connection.execute(
            select(EXPERIMENTS).where(EXPERIMENTS.c.name == f"{PREFIX}{dataset}")
        ).one_or_none()
        if found and found.lifecycle_stage != "active":
            raise deleted(dataset, str(found.experiment_id))
        return found.experiment_id if found else None

    def _records(
        self,
        which: sqlalchemy.ColumnElement[bool],
        *,
        tags: Select[Any],
        metrics: Select[Any],
        params: Select[Any] | None = None,
    ) -> list[Record]:
        """The runs that are meant, with the values that are asked for."""
        ids = select(RUNS.c.run_uuid).where(which)
        told = self._by_run(tags.where(TAGS.c.run_uuid.in_(ids)))
        values = self._by_run(metrics.where(METRICS.c.run_uuid.in_(ids)))
        settings = (
            self._by_run(params.where(PARAMS.c.run_uuid.in_(ids))) if params is not None else {}
        )
        digests = (
            select(INPUTS.c.destination_id, DATASETS.c.digest)
            .join_from(INPUTS, DATASETS, DATASETS.c.dataset_uuid == INPUTS.c.source_id)
            .where(INPUTS.c.source_type == "DATASET", INPUTS.c.destination_type == "RUN")
            .where(INPUTS.c.destination_id.in_(ids))
        )
        data = dict(tuple(row) for row in self.connection.execute(digests))
        return [
            Record(
                run_id=run.run_uuid,
                started=run.start_time,
                artifacts=run.artifact_uri,
                tags=told[run.run_uuid],
                data=data.get(run.run_uuid),
                metrics=values.get(run.run_uuid, {}),
                params=settings.get(run.run_uuid, {}),
            )
            for run in self.connection.execute(select(RUNS).where(which))
            if "isdh.cell" in told.get(run.run_uuid, {})
        ]

    def _by_run(self, values: Select[Any]) -> dict[str, dict[str, Any]]:
        """Run -> name -> value, of a table of values."""
        found: dict[str, dict[str, Any]] = {}
        for run, key, value, *is_nan in self.connection.execute(values):
            found.setdefault(run, {})[key] = float("nan") if any(is_nan) else value
        return found
