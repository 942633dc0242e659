"""A small workspace beside an empty database, for tests of what reads MLflow."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from isdh import cli, params
from isdh.artifacts import Workspace
from isdh.params import Params
from isdh.tracking import server
from tests import synthetic


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without experiments; making one takes seconds, so that tests copy it."""
    root = tmp_path_factory.mktemp("database")
    with server.connected(Workspace(root)):
        return root / "mlflow.db"


@pytest.fixture
def workspace(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Two methods, two code lengths, two seeds: trained and scored, not yet published."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    synthetic.write_workspace(tmp_path)
    return Workspace(tmp_path)


@pytest.fixture
def settings(workspace: Workspace) -> Params:
    return params.load(workspace.root / "params.yaml")


@pytest.fixture
def small(workspace: Workspace) -> Params:
    """One code length, one seed."""
    return synthetic.write_params(workspace.root, bits=[12], seeds=[0])


@pytest.fixture
def isdh(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a command in the workspace; its exit code."""
    monkeypatch.chdir(workspace.root)

    def run(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["isdh", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0)

    return run
