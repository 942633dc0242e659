"""Where MLflow lies and whether it answers; experiments, created once; locks between writers."""

from __future__ import annotations

import http.client
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException

from isdh.artifacts import Workspace, locked
from isdh.errors import InputError

SECONDS_TO_ANSWER = 10.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")
REMEDY = "start that server, or unset MLFLOW_TRACKING_URI to use mlflow.db here"


def address(workspace: Workspace) -> str:
    """The tracking URI: MLFLOW_TRACKING_URI, or else the workspace's own database."""
    here = workspace.root.resolve() / "mlflow.db"
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{here}"


def require_answer(uri: str) -> None:
    """Refuse a server or database that does not answer, within seconds.

    Raises:
        InputError: no answer, or a file that is no database.
    """
    try:
        if uri.startswith("http"):
            _ask(uri)
        elif not _is_absent(uri):
            engine = sqlalchemy.create_engine(uri)
            sqlalchemy.inspect(engine).has_table("experiments")
            engine.dispose()
    except (
        OSError,
        ValueError,  # no URL
        http.client.HTTPException,
        sqlalchemy.exc.SQLAlchemyError,
        ImportError,
    ) as error:
        raise InputError(
            f"MLFLOW_TRACKING_URI={uri}: does not answer ({_first_line(error)}); {REMEDY}"
        ) from None


def _ask(uri: str) -> None:
    parts = urlsplit(uri)
    host, path = parts.netloc.rpartition("@")[2], f"{parts.path.rstrip('/')}/health"
    bare = parts._replace(netloc=host, path=path)
    ask_loopback_directly()
    try:
        urllib.request.urlopen(bare.geturl(), timeout=SECONDS_TO_ANSWER).close()
    except urllib.error.HTTPError as answer:  # any will do: a proxy may know no /health
        answer.close()
    except urllib.error.URLError as error:
        # someone is there; MLflow has settings of its own for whom to trust
        if not isinstance(error.reason, ssl.SSLCertVerificationError):
            raise


def ask_loopback_directly() -> None:
    """Let no proxy of the environment stand between this process and servers of this machine.

    MLflow's client and urllib both read `no_proxy`.
    """
    told = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    names = [name.strip() for name in told.split(",") if name.strip()]
    if "*" not in names:
        names += [name for name in LOOPBACK if name not in names]
        os.environ["no_proxy"] = ",".join(names)


@contextmanager
def connected(workspace: Workspace, *, create: bool = True) -> Iterator[MlflowClient]:
    """A client of the tracking server or database, whose faults are told as InputErrors.

    Args:
        workspace: whose MLflow.
        create: make the local database if there is none.

    Raises:
        InputError: it does not answer, is of another MLflow version, is absent, or fails later,
            or a file cannot be read or written.
    """
    uri = address(workspace)
    if not create and _is_absent(uri):
        raise InputError(f"{uri}: no such database; run `dvc repro`, then `isdh publish`")
    require_answer(uri)
    try:
        with locked(
            workspace.state("locks", "mlflow")
        ):  # two processes may not create one database
            client = MlflowClient(tracking_uri=uri)
        yield client
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError) as error:
        raise InputError(f"MLflow at {uri}: {_first_line(error)}") from error
    except OSError as error:  # of files kept beside the database, or sent to the server
        raise InputError(
            f"MLflow at {uri}: {_first_line(error)}; see to space, rights and network, then run "
            "`isdh publish`"
        ) from error


def _is_absent(uri: str) -> bool:
    database = sqlalchemy.make_url(uri).database if uri.startswith("sqlite:") else None
    return bool(database) and not os.path.exists(str(database))


def _first_line(error: Exception) -> str:
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def as_default(uri: str) -> Iterator[None]:
    """For the calls by which MLflow asks itself, without a client: of this address."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        yield
    finally:
        del os.environ["MLFLOW_TRACKING_URI"]
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def find_experiment(client: MlflowClient, dataset: str) -> str | None:
    """The id of a dataset's experiment, `isdh/<dataset>`, or None.

    Raises:
        InputError: it was deleted in MLflow.
    """
    experiment = client.get_experiment_by_name(f"isdh/{dataset}")
    if experiment is None:
        return None
    number = str(experiment.experiment_id)
    if experiment.lifecycle_stage != "active":
        raise InputError(
            f"experiment 'isdh/{dataset}' is deleted in MLflow; bring it back with "
            f"`mlflow experiments restore --experiment-id {number}`"
        )
    return number


def experiment(client: MlflowClient, workspace: Workspace, dataset: str) -> str:
    """The id of a dataset's experiment, created if absent, whoever else creates it.

    Raises:
        InputError: it was deleted in MLflow.
    """
    if found := find_experiment(client, dataset):
        return found
    uri = address(workspace)
    elsewhere = uri.startswith("http") and urlsplit(uri).hostname not in LOOPBACK
    here = (workspace.root.resolve() / "mlartifacts" / dataset).as_uri()
    try:
        return client.create_experiment(f"isdh/{dataset}", None if elsewhere else here)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return str(find_experiment(client, dataset))


def search(client: MlflowClient, experiment_id: str, query: str = "") -> list[Run]:
    """All active runs of an experiment that match, oldest first."""
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment_id], query, ViewType.ACTIVE_ONLY, 1000, ["start_time ASC"], token
        )
        found += page
        if not (token := page.token):
            return found
