"""Where files come from: the git commit, and the hashes that DVC knows them by."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from isdh.artifacts import Cell, Workspace, read_json, write_json

WRITTEN_BY_RUNS = ("dvc.lock", "promotions.jsonl", "raw/*.dvc")
STAGES = ("train", "encode", "evaluate")  # of one cell, in the order they run
Lock = Mapping[str, Any]  # name of a stage -> its entry in dvc.lock


def git_tags(root: Path) -> dict[str, str]:
    """The commit, under the key that MLflow shows, and whether files differ from it.

    What a run itself writes does not count: dvc.lock, promotions.jsonl, and of new pictures the
    raw/*.dvc. A copy tells of what it is a copy of. Empty outside of a git repository.
    """
    if (origin := _origin(root)).exists():
        return {name: str(value) for name, value in read_json(origin).items()}
    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        return {}
    others = [f":(exclude,top){name}" for name in WRITTEN_BY_RUNS]
    changes = _git(root, "status", "--porcelain", "--", ".", *others)
    return {"mlflow.source.git.commit": commit, "git.dirty": "true" if changes else "false"}


def note_origin(root: Path, copy: Path) -> None:
    """Have the copy of a workspace's code tell where that came from."""
    write_json(_origin(copy), git_tags(root))


def _origin(root: Path) -> Path:
    return Workspace(root).state("origin.json")


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:  # git is not installed
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def read_lock(root: Path) -> Lock:
    """The stages of dvc.lock; none where it is absent, unreadable or half-written.

    DVC writes the file in place, so that any beginning of it may be seen. One that ends with a
    whole entry cannot be told from a lock of fewer stages. The next publish tells what is missing.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast
    try:
        text = (root / "dvc.lock").read_text(encoding="utf-8")
        if not text.endswith("\n"):  # the last line, maybe a hash, is not whole
            return {}
        stages = dict(yaml.load(text, Loader=loader)["stages"])
        paths = [file["path"] for entry in stages.values() for file in _files(entry)]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        return {}
    return stages if all(isinstance(path, str) for path in paths) else {}


def lock_of(root: Path, cell: Cell, entries: Lock) -> Lock:
    """The entries of a cell's stages: those given, the others from dvc.lock."""
    if all(cell.address(stage) in entries for stage in STAGES):
        return entries
    return {**read_lock(root), **entries}


def _files(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*entry.get("deps", []), *entry.get("outs", [])]


def dvc_tags(lock: Lock, cell: Cell) -> dict[str, str]:
    """DVC's hashes of the data that a cell was trained on and of what its stages wrote.

    While a stage runs, its entry and those of the stages after it tell of the last run: they are
    left out.

    Returns:
        `dvc.<path>` -> hash.
    """
    running = os.environ.get("DVC_STAGE", "").split(":")[-1].split("@")[0]
    told = STAGES[: STAGES.index(running)] if running in STAGES else STAGES
    entries = [lock.get(cell.address(stage), {}) for stage in told]
    files = [file for entry in entries for file in entry.get("outs", [])]
    if entries:
        data = f"data/{cell.dataset}/"
        files += [file for file in entries[0].get("deps", []) if file["path"].startswith(data)]
    hashes = {file["path"]: file.get(file.get("hash", "md5")) for file in files}
    return {f"dvc.{path}": digest for path, digest in hashes.items() if digest}
