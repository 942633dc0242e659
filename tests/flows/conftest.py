from __future__ import annotations

from pathlib import Path

import pytest

from tests.workspaces import copy_project, run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose matrix, isdh and dhn at 12 bits, has been made by plain `dvc repro`."""
    folder = copy_project(tmp_path_factory.mktemp("made"), methods=["isdh", "dhn"])
    made = run(folder, "dvc", "repro")
    assert made.returncode == 0, made.stderr + made.stdout
    return folder
