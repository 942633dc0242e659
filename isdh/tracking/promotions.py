"""promotions.jsonl: what became of registered models, one JSON object a line, append-only.

`action` says what: `promote` and `rollback` move the alias `champion`, `nominate` moves
`challenger`, `evaluate` measures a champion again on other data, `mend` writes altered files again.
`copy` moves the alias of another MLflow, its `target`: no other line has that key, and who reads of
the workspace's own models sees none that has it.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from isdh.artifacts import Workspace, locked
from isdh.tracking.provenance import git_tags

MOVES = ("promote", "rollback")
Line = Mapping[str, Any]


def append(workspace: Workspace, event: Line) -> Line:
    """Write one event to the end: on disk when this returns.

    Args:
        workspace: whose log.
        event: what happened and why; when, who and the commit are added.

    Returns:
        The line as written.
    """
    line = {
        "when": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "who": f"{_user()}@{socket.gethostname()}",
        "commit": git_tags(workspace.root).get("mlflow.source.git.commit"),
        **event,
    }
    path = workspace.root / "promotions.jsonl"
    with locked(workspace.state("locks", "promotions")), path.open("a+b") as stream:
        if stream.tell() and not _ends_in_newline(stream):
            stream.write(b"\n")  # after a line that a dying process left unfinished
        stream.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    return line


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        return str(os.getuid())


def _ends_in_newline(stream: Any) -> bool:
    stream.seek(-1, os.SEEK_END)
    return bool(stream.read(1) == b"\n")


def lines(workspace: Workspace, model: str, target: str | None = None) -> list[Line]:
    """The lines of one registered model, oldest first; an unfinished one is passed over.

    Args:
        workspace: whose log.
        model: its name.
        target: the MLflow it is in, if that is not the workspace's own.
    """
    path = workspace.root / "promotions.jsonl"
    found: list[Line] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and (line.get("model"), line.get("target")) == (model, target):
            found.append({"action": "promote", **line})  # the only one that once was
    return found


def withdrawn(log: Sequence[Line]) -> set[str]:
    """Digests of the weights that were withdrawn and not promoted by hand since."""
    found: set[str] = set()
    for line in log:
        if line["action"] == "rollback":
            found.add(line.get("withdrawn", ""))
        if line["action"] in MOVES:
            found.discard(line.get("weights_sha256", ""))
    return found


def about(log: Sequence[Line], weights: str) -> list[Line]:
    """The lines that tell of one model, by the digest of its weights."""
    return [line for line in log if weights in (line.get("weights_sha256"), line.get("withdrawn"))]


def told(line: Line) -> str:
    """A line for people: when, who, what, why, on which data."""
    what = f"{line['action']}: version {line['version']}"
    if "from" in line:
        what += f" in place of {line['from']}" if line["from"] else ", the first"
    if source := line.get("source"):
        what += f", copied from version {source['version']} in {source['uri']}"
    data = f"; data {line['data']}" if line.get("data") else ""
    return f"{line.get('when')} {line.get('who')}: {what}: {line['why']}{data}"
