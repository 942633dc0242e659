"""Prefect's server, with a fault of the layers between it and SQLite mended.

    python -m flows.server --host 127.0.0.1 --port 4200

The arguments are those of `prefect server start`. SQLAlchemy (2.0.58) closes the cursor of a
statement that has run, and leaves that of one that failed or was cancelled to the garbage
collector. Then, as the server has one thread for all requests, and SQLite one lock for all writers:

- Collected on that thread while its connection waits for the lock, such a cursor waits with it,
  60 s, since SQLite serves a connection one call at a time. Meanwhile no request is answered, and
  whoever has the lock cannot end its transaction.
- Its connection, if closed before it, keeps its transaction and the lock until it is collected.

On a busy machine the first happens within minutes of `make up`. So the cursor is closed at once.
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


if __name__ == "__main__":
    close_failed_cursors()
    sys.argv[1:1] = ["server", "start"]
    app()
