from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from filelock import FileLock

from tests.workspaces import copy_project, run

PATHS_IN_MLFLOW = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A workspace made by plain `dvc repro`, by the first of the processes that run tests."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "made"
    whole = folder.with_name("made.whole")
    with FileLock(folder.with_name("made.lock")):
        if not whole.exists():
            copy_project(folder, methods=["isdh", "dhn"])
            made = run(folder, "dvc", "repro")
            assert made.returncode == 0, made.stderr + made.stdout
            whole.touch()
    return folder


@pytest.fixture(scope="module")
def made(made_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose matrix, isdh and dhn at 12 bits, has been made; the module's own copy."""
    return copy_made(made_once, tmp_path_factory.mktemp("made") / "workspace")


def copy_made(source: Path, target: Path) -> Path:
    """A workspace's copy. MLflow knows its runs' files by their paths: they are the copy's own."""
    shutil.copytree(source, target, symlinks=True)
    with closing(sqlite3.connect(target / "mlflow.db")) as database, database:
        for table, path in PATHS_IN_MLFLOW.items():
            change = f"UPDATE {table} SET {path} = replace({path}, ?, ?)"
            database.execute(change, (source.as_uri(), target.as_uri()))
    return target
