"""DVC's own locks of paths: which processes have them; those of dead ones taken away.

DVC keeps them in a file. It takes a process for alive whose number another one has by now, as after
a restart of the machine, and refuses a file in whose writing it was killed. Either would stop every
later run.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import psutil

from isdh.artifacts import Workspace, tried

RWLOCK = Workspace().root / ".dvc" / "tmp" / "rwlock"


def dvc_at_work() -> list[str]:
    """The processes that have paths locked, e.g. `process 123 (dvc repro)`."""
    try:
        return _alive()
    except ValueError:  # it is being written
        return ["dvc"]


def clear_dead_locks() -> None:
    """Remove the file if nobody is left who locked a path."""
    if not RWLOCK.exists():
        return
    with tried(RWLOCK.with_name("rwlock.lock")) as holder:  # as DVC does while it changes the file
        if holder:
            return
        try:
            is_dead = not _alive()
        except ValueError:
            is_dead = True
        if is_dead:
            RWLOCK.unlink(missing_ok=True)


def _alive() -> list[str]:
    try:
        content: dict[str, Any] = json.loads(RWLOCK.read_bytes())
        written = RWLOCK.stat().st_mtime
    except FileNotFoundError:
        return []
    entries = [entry for each in content.get("read", {}).values() for entry in each]
    entries += [entry for entry in content.get("write", {}).values() if entry]
    return sorted(
        {
            f"process {entry['pid']} ({entry['cmd']})"
            for entry in entries
            if _started(entry["pid"]) <= written
        }
    )


def _started(process: int) -> float:
    """When a process started, in seconds of the epoch; infinity if there is none."""
    with suppress(psutil.Error):
        return float(psutil.Process(process).create_time())
    return float("inf")
