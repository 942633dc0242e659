"""Prefect's server, with three faults mended: of the layers between it and SQLite, and of rules.

    python -m flows.server --host 127.0.0.1 --port 4200

The arguments are those of `prefect server start`. SQLAlchemy (2.0.58) closes the cursor of a
statement that has run, and leaves that of one that failed or was cancelled to the garbage
collector. Then, as the server has one thread for all requests, and SQLite one lock for all writers:

- Collected on that thread while its connection waits for the lock, such a cursor waits with it,
  60 s, since SQLite serves a connection one call at a time. Meanwhile no request is answered, and
  whoever has the lock cannot end its transaction.
- Its connection, if closed before it, keeps its transaction and the lock until it is collected.

On a busy machine the first happens within minutes of `make up`. So the cursor is closed at once.

Prefect's scheduler tells nobody of the runs that it makes. The rules of Prefect wait 15 minutes for
that all the same before they look at what such a run did, if it started within 5 minutes: as the
first look of `on-new-data` does after `make up`. So they do not wait for it.

The place that a run holds in its deployment has a lease. A state that is forced, as Cancel is on
Prefect's page, loses the lease's name: the place is given back at the end of the run, and once more
when the lease ends, minutes later, when another run has it. So a forced state keeps the name.
"""

from __future__ import annotations

import sys
from typing import Any

import aiosqlite
from prefect.cli import app

_execute: Any = aiosqlite.Cursor._execute


async def _execute_or_close(cursor: aiosqlite.Cursor, *call: Any, **options: Any) -> Any:
    try:
        return await _execute(cursor, *call, **options)
    except BaseException:
        # By the connection's own thread, after what it is at and before what comes next; nobody
        # waits, since a cancelled task would not.
        cursor._conn._tx.put_nowait((None, cursor._cursor.close))
        raise


def close_failed_cursors() -> None:
    """Have aiosqlite close the cursor of a statement that failed or was cancelled."""
    aiosqlite.Cursor._execute = _execute_or_close  # type: ignore[method-assign,assignment]


def follow_only_what_is_told() -> None:
    """Have no event of a run wait for that of its having been scheduled."""
    from prefect.server.models import events

    is_tight = events._timing_is_tight

    def is_tight_and_told(occurred: Any, before: Any) -> bool:
        return is_tight(occurred, before) and before.type.value != "SCHEDULED"

    events._timing_is_tight = is_tight_and_told  # type: ignore[assignment]


def keep_leases() -> None:
    """Have a forced state keep the lease of the state before it."""
    from prefect.server.orchestration import core_policy as rules

    forced = rules.MinimalFlowPolicy.priority()
    kept = [rules.PreserveDeploymentConcurrencyLeaseId, *forced]
    rules.MinimalFlowPolicy.priority = staticmethod(lambda: kept)  # type: ignore[method-assign]


if __name__ == "__main__":
    close_failed_cursors()
    follow_only_what_is_told()
    keep_leases()
    sys.argv[1:1] = ["server", "start"]
    app()
