"""What a failed or cancelled statement leaves behind; a server over SQLite stood still by it."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import time
from pathlib import Path

import aiosqlite
import pytest

from flows import server


@pytest.fixture(autouse=True)
def _mended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiosqlite.Cursor, "_execute", server._execute_or_close)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "prefect.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE numbers (number)")
    connection.close()
    return path


def test_a_failed_cursor_is_collected_without_waiting_for_the_lock(path):
    async def collect() -> float:
        other = sqlite3.connect(path, isolation_level=None)
        connection = await aiosqlite.connect(path, isolation_level=None, timeout=0)
        cursor = await connection.cursor()
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            await cursor.execute("INSERT INTO numbers VALUES (1)")
        await connection.execute("PRAGMA busy_timeout = 6000")
        waiting = asyncio.create_task(_add(connection))
        await asyncio.sleep(0.5)  # until it waits for the lock
        start = time.monotonic()
        del cursor
        gc.collect()
        took = time.monotonic() - start
        other.execute("ROLLBACK")
        await waiting
        await connection.close()
        other.close()
        return took

    assert asyncio.run(collect()) < 3.0


async def _add(connection: aiosqlite.Connection) -> None:
    await connection.execute("INSERT INTO numbers VALUES (2)")


def test_a_cancelled_statement_does_not_keep_the_lock(path):
    async def cancel() -> None:
        connection = await aiosqlite.connect(path, isolation_level=None)
        await connection.execute("BEGIN IMMEDIATE")
        cursor = await connection.cursor()
        statement = "INSERT INTO numbers VALUES (1), (2) RETURNING number"
        running = asyncio.create_task(cursor.execute(statement))
        await asyncio.sleep(0)  # until it is handed over
        running.cancel()
        await asyncio.wait({running})
        assert running.cancelled()
        await connection.close()  # as SQLAlchemy does, while the cursor is still held
        other = sqlite3.connect(path, isolation_level=None, timeout=0)
        other.execute("BEGIN IMMEDIATE")
        other.close()
        del cursor

    asyncio.run(cancel())
