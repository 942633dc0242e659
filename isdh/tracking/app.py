"""MLflow's server with one answer more: of runs, only what `isdh compare` needs.

    mlflow server --app-name isdh ...

MLflow's search makes an object of every value of every run: seconds for a thousand. A server that
was started so reads its database as `database.py` does on the machine where it lies.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import sqlalchemy
from fastapi import HTTPException, Response
from fastapi.routing import APIRoute
from mlflow.server.fastapi_app import app
from mlflow.server.handlers import _get_tracking_store

from isdh.artifacts import Cell
from isdh.errors import InputError
from isdh.tracking.database import Database
from isdh.tracking.records import PATH

__all__ = ["app"]


def records(dataset: str, metrics: str | None = None, cell: str | None = None) -> Response:
    """As `Database.records` gives them; metrics are separated by commas.

    Raises:
        HTTPException: 501: MLflow's store is no database, or its tables are others; 400: bad input.
    """
    names = None if metrics is None else [name for name in metrics.split(",") if name]
    try:
        only = Cell.parse(cell) if cell else None
        store: Any = _get_tracking_store()
        with store.engine.connect() as connection:
            found = Database(connection).records(dataset, names, cell=only)
    except InputError as error:
        raise HTTPException(400, str(error)) from None
    except (AttributeError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise HTTPException(501, str(error)) from None
    told = json.dumps([asdict(record) for record in found])  # with NaN, which Python reads
    return Response(told, media_type="application/json")


# before MLflow's own, the last of which takes every path
app.router.routes.insert(0, APIRoute(PATH, records))
