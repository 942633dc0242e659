"""promotions.jsonl: every move of the alias `champion`, one JSON object a line, append-only."""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from isdh.artifacts import Workspace, locked
from isdh.tracking.provenance import git_tags


def append(workspace: Workspace, move: Mapping[str, Any]) -> None:
    """Write one move to the end: on disk when this returns.

    Args:
        workspace: whose log.
        move: what moved and why; when, who and the commit are added.
    """
    line = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "who": f"{_user()}@{socket.gethostname()}",
        "commit": git_tags(workspace.root).get("mlflow.source.git.commit"),
        **move,
    }
    path = workspace.root / "promotions.jsonl"
    with locked(workspace.state("locks", "promotions")), path.open("a+b") as stream:
        if stream.tell() and not _ends_in_newline(stream):
            stream.write(b"\n")  # after a line that a dying process left unfinished
        stream.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        return str(os.getuid())


def _ends_in_newline(stream: Any) -> bool:
    stream.seek(-1, os.SEEK_END)
    return bool(stream.read(1) == b"\n")


def moves(workspace: Workspace, model: str) -> list[dict[str, Any]]:
    """The moves of one registered model, oldest first; an unfinished line is passed over."""
    path = workspace.root / "promotions.jsonl"
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            move = json.loads(line)
        except ValueError:
            continue
        if move.get("model") == model:
            found.append(move)
    return found
