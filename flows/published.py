"""Whether MLflow was told of all that stands in dvc.lock: a mark beside the other state.

Asking MLflow itself takes seconds; the mark lets a run that finds nothing stale end at once. It
is safe to delete, and `isdh publish` never looks at it.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from isdh.artifacts import Workspace, read_json, write_json
from isdh.errors import InputError
from isdh.params import Params


def mark(workspace: Workspace, params: Params) -> None:
    """Note that everything made so far is published and champions are where the rule wants them."""
    write_json(_path(workspace), {"digest": _digest(workspace, params)})


def is_marked(workspace: Workspace, params: Params) -> bool:
    """Whether nothing has changed since the mark was made."""
    try:
        return bool(read_json(_path(workspace))["digest"] == _digest(workspace, params))
    except InputError:
        return False


def _path(workspace: Workspace) -> Path:
    return workspace.state("published.json")


def _digest(workspace: Workspace, params: Params) -> str:
    address = os.environ.get("MLFLOW_TRACKING_URI")
    lock = workspace.root / "dvc.lock"
    told = {
        "lock": lock.read_text(encoding="utf-8") if lock.exists() else None,
        "cells": [str(cell) for name in params.datasets for cell in params.cells(name)],
        "champion": params.champion.model_dump(),
        "address": address,
        "database": address is not None or (workspace.root / "mlflow.db").exists(),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
