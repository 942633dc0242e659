"""Workspaces for tests: the project's files copied elsewhere, with small parameters."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
SMALL = {
    "datasets": {"digits": "raw/digits"},
    "methods": ["isdh"],
    "bits": [12],
    "seeds": [0],
    "generate": {"seed": 0, "train": 60, "query": 20, "database": 100},
    "dataset": {
        "digits": {
            "source": {"reader": "folder"},
            "inputs": {"kind": "images", "size": 32, "channels": 1},
            "network": {"backbone": "convnet", "batch_norm": True},
            "training": {"epochs": 1, "batch_size": 20},
        }
    },
    "method": {"isdh": {}, "dhn": {}},
    "evaluate": {"cutoffs": [10, None]},
    "champion": {"metric": "ndcg_at_10"},
}


def copy_project(folder: Path, **params: Any) -> Path:
    """Copy what git knows or would add, and write params.yaml: SMALL with some keys replaced.

    Compiled files come along, and modification times, by which Python trusts them.
    """
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listing.stdout.splitlines():
        if (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    for compiled in [*ROOT.glob("flows/__pycache__"), *ROOT.glob("isdh/**/__pycache__")]:
        target = folder / compiled.relative_to(ROOT)
        part = shutil.ignore_patterns("*.pyc.*")  # another process is writing it
        shutil.copytree(compiled, target, ignore=part, dirs_exist_ok=True)
    for made in ("dvc.lock", "promotions.jsonl"):  # by the project's own runs
        (folder / made).unlink(missing_ok=True)
    subprocess.run(["git", "init", "-q", "."], cwd=folder, check=True)
    write_params(folder, **params)
    return folder


def write_params(folder: Path, **params: Any) -> None:
    """Replace params.yaml by SMALL with some keys replaced."""
    (folder / "params.yaml").write_text(yaml.safe_dump({**SMALL, **params}, sort_keys=False))


def environment(**more: str) -> dict[str, str]:
    """That of a person with the environment activated and no server running."""
    inherited: Mapping[str, str] = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "MLFLOW_", "DVC_", "PYTEST_"))
    }
    binaries = str(Path(sys.executable).parent)
    return {
        **inherited,
        "PATH": f"{binaries}{os.pathsep}{inherited['PATH']}",
        "SHELL": "/bin/sh",  # what DVC takes where none is set
        "PREFECT_API_URL": "http://127.0.0.1:9/api",  # where nothing answers
        **more,
    }


def run(folder: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a workspace and keep what it prints."""
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        check=False,
        timeout=590,
    )


def within(seconds: float, find: Callable[[], Any]) -> Any:
    """What is found at last, looking again and again for so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := find()) and time.monotonic() < deadline:
        time.sleep(0.3)
    return found
