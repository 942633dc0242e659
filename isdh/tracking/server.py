"""Where MLflow lies and whether it answers; experiments, created once; locks between writers.

MLflow is imported where it is asked: that takes a second or two, which who only reads does without.
"""

from __future__ import annotations

import http.client
import logging
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

import sqlalchemy

from isdh.artifacts import Workspace, locked
from isdh.errors import InputError, Unanswered

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SECONDS_TO_ANSWER = 10.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")
REMEDY = "start that server, or unset MLFLOW_TRACKING_URI to use mlflow.db here"
DENIED = {"UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED"}
# the same, where a store of files says it, or a proxy of its own words
REFUSAL = re.compile(r"\b40[13] client error\b|\bunauthori[sz]ed\b|\bforbidden\b", re.IGNORECASE)

# the client's words where no answer came or all were failures; the reason stands last
UNANSWERED = re.compile(r"^API request to \S+ failed with .*?(?:Caused by |exception )(.*?)\)?$")
BUSY = re.compile(r"database is locked|connection|deadlock", re.IGNORECASE)
FAILED_SQL = re.compile(r"\((?:\w+\.)+\w+\) .*")  # SQLAlchemy's: (driver.Error) message


def address(workspace: Workspace) -> str:
    """The tracking URI: MLFLOW_TRACKING_URI, or else the workspace's own database."""
    here = (workspace.root / "mlflow.db").resolve()
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{here}"


def shown(text: str) -> str:
    """A text with addresses as they may be printed: without what may hold a password.

    >>> shown("MLflow at https://me:secret@host/mlflow: no answer")
    'MLflow at https://host/mlflow: no answer'
    """
    return re.sub(r"(\w://)(?:[^/\s]*@)?([^\s?]*)(?:\?\S*)?", r"\1\2", text)


def folder_here(artifacts: str) -> Path | None:
    """The folder that an artifact URI names, if it is one of this machine."""
    place = urlsplit(artifacts)
    return Path(url2pathname(place.path)) if place.scheme in {"", "file"} else None


def require_answer(uri: str, name: str = "MLFLOW_TRACKING_URI", remedy: str = REMEDY) -> None:
    """Refuse a server or database that does not answer, within seconds.

    Args:
        uri: its address.
        name: where that was given.
        remedy: what to do.

    Raises:
        InputError: no answer, or a file that is no database.
    """
    try:
        if uri.startswith("http"):
            _ask(uri)
        elif not is_absent(uri):
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
        raise Unanswered(
            f"{name}={shown(uri)}: does not answer ({_first_line(error)}); {remedy}"
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
def connected(
    workspace: Workspace, *, create: bool = True, again: str = "`isdh publish`"
) -> Iterator[MlflowClient]:
    """A client of the tracking server or database, whose faults are told as InputErrors.

    Args:
        workspace: whose MLflow.
        create: make the local database if there is none.
        again: what to run when a fault is mended.

    Raises:
        InputError: it does not answer, is of another MLflow version, is absent, or fails later,
            or a file cannot be read or written.
    """
    uri = address(workspace)
    if not create:
        require_database(uri)
    require_answer(uri)
    with faults_told(uri, again):
        from mlflow import MlflowClient

        # it would log a traceback of what is told here in a line
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        with locked(
            workspace.state("locks", "mlflow")
        ):  # two processes may not create one database
            client = MlflowClient(tracking_uri=uri)
        yield client


@contextmanager
def faults_told(uri: str, again: str) -> Iterator[None]:
    """Faults of MLflow as InputErrors that name it, without a password.

    Args:
        uri: its address.
        again: what to run when a fault is mended.

    Raises:
        InputError: access is denied, MLflow or its database fails, or a file cannot be read or
            written.
    """
    from mlflow.exceptions import MlflowException

    told = InputError
    try:
        yield
    except BrokenPipeError:  # who read what is printed has seen enough; of sockets requests tells
        raise
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        fault = f"MLflow at {shown(uri)}: {_first_line(error)}"
        if is_denied(error):
            fault += (
                "; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
                "MLFLOW_TRACKING_TOKEN, to those of somebody who may do this there"
            )
        elif isinstance(error, OSError):  # of files kept beside the database, or sent to the server
            fault += f"; see to space, rights and network, then run {again}"
        elif why := UNANSWERED.match(_first_line(error)):
            told = Unanswered
            fault = (
                f"MLflow at {shown(uri)}: does not answer any more ({why[1]}); see to that server "
                f"and its log, then run {again}"
            )
        elif sql := FAILED_SQL.search(shown(str(error))):
            told = Unanswered if BUSY.search(sql[0]) else InputError
            fault = (
                f"MLflow at {shown(uri)}: {sql[0]}; see to its database and that one's disk, then "
                f"run {again}"
            )
        # the error's own text has the address in full
        raise told(fault) from (error if uri == shown(uri) else None)


def require_access(workspace: Workspace) -> None:
    """Refuse a tracking server that wants other credentials.

    Raises:
        InputError: it does, or does not answer.
    """
    with connected(workspace, create=False) as client:
        client.search_experiments(max_results=1)


def is_denied(error: Exception) -> bool:
    """Whether an error of MLflow's client says that the server wants other credentials."""
    return getattr(error, "error_code", None) in DENIED or bool(REFUSAL.search(str(error)))


def require_database(uri: str) -> None:
    """Refuse a database file that is not there, rather than make it.

    Raises:
        InputError: no such file.
    """
    if is_absent(uri):
        raise InputError(f"{shown(uri)}: no such database; run `dvc repro`, then `isdh publish`")


def is_absent(uri: str) -> bool:
    """Whether an address names a database file that is not there."""
    database = sqlalchemy.make_url(uri).database if uri.startswith("sqlite:") else None
    return bool(database) and not os.path.exists(str(database))


def _first_line(error: Exception) -> str:
    if isinstance(error, urllib.error.URLError):
        return shown(str(error.reason))
    lines = shown(str(error)).splitlines() or [type(error).__name__]
    # of a download MLflow says what failed and why on the two lines after the first
    return " ".join(lines[:3]) if lines[0].endswith(":") else lines[0]


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
        raise deleted(dataset, number)
    return number


def deleted(dataset: str, number: str) -> InputError:
    """The error for a dataset whose experiment was deleted in MLflow."""
    return InputError(
        f"experiment 'isdh/{dataset}' is deleted in MLflow; bring it back with "
        f"`mlflow experiments restore --experiment-id {number}`"
    )


def experiment(client: MlflowClient, workspace: Workspace, dataset: str) -> str:
    """The id of a dataset's experiment, created if absent, whoever else creates it.

    Raises:
        InputError: it was deleted in MLflow.
    """
    uri = address(workspace)
    elsewhere = uri.startswith("http") and urlsplit(uri).hostname not in LOOPBACK
    here = (workspace.root / "mlartifacts").resolve() / dataset
    return experiment_at(client, dataset, None if elsewhere else here.as_uri())


def experiment_at(client: MlflowClient, dataset: str, location: str | None) -> str:
    """Likewise; where it is created, its files lie there, or where the server keeps them.

    Raises:
        InputError: it was deleted in MLflow.
    """
    from mlflow.exceptions import MlflowException

    if found := find_experiment(client, dataset):
        return found
    try:
        return client.create_experiment(f"isdh/{dataset}", location)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return str(find_experiment(client, dataset))


def search(client: MlflowClient, experiment_id: str, query: str = "") -> list[Run]:
    """All active runs of an experiment that match, oldest first."""
    from mlflow.entities import ViewType

    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment_id], query, ViewType.ACTIVE_ONLY, 1000, ["start_time ASC"], token
        )
        found += page
        if not (token := page.token):
            return found
