"""Connections to SQLite that wait for the locks of others in steps, so that a stop is noticed.

SQLite's own wait ends with its time alone: a signal would be answered when that is over.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

_T = TypeVar("_T")
_STEP = 0.2
_AFTER_STOP = 1.5
"""Seconds that a wait may take once a stop was asked for: what is under way is still written down."""
# Result codes: https://www.sqlite.org/rescode.html; the low byte is the primary code.
BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


def file_at(path: Path) -> tuple[int, int] | None:
    """Tell which file a path names, by device and inode; None where there is none; OSError."""
    try:
        found = os.stat(path)  # noqa: PTH116 - for each transaction
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


class _Cursor(sqlite3.Cursor):
    connection: WaitingConnection

    def execute(self, sql: str, parameters: Any = (), /) -> Self:
        plainly = super().execute
        return self.connection.patiently(lambda: plainly(sql, parameters))


class WaitingConnection(sqlite3.Connection):
    """Begins, reads and commits after at most `seconds`, or soon after `stop` says so.

    isolation_level None: BEGIN is the ledger's alone, the module sends none of its own. `file` is
    what the path named just before: where that was changed meanwhile it differs from what it names.
    """

    def __init__(self, path: Path, *, seconds: float, stop: Callable[[], bool]) -> None:
        step = min(_STEP, seconds)
        self.file = file_at(path)
        super().__init__(path, timeout=step, isolation_level=None, check_same_thread=False)
        self._seconds = seconds
        self._stop = stop

    def cursor(self, factory: Any = _Cursor) -> Any:
        """Give a cursor that waits."""
        return super().cursor(factory)

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """Execute with a cursor that waits: the module's own shortcut makes another one."""
        cursor: sqlite3.Cursor = self.cursor().execute(sql, parameters)
        return cursor

    def commit(self) -> None:
        """Commit; a transaction that met a reader is still whole, and is tried again."""
        self.patiently(super().commit)

    def close(self) -> None:
        """Close, and end the transaction, also where an error's traceback still holds its statement.

        From Python 3.11 on a rollback leaves a statement alone whose rows were read in part: until
        its cursor goes, it keeps writers from committing. So the ledger reads all rows at once.
        """
        with suppress(sqlite3.Error):
            self.rollback()
        super().close()

    def patiently(self, statement: Callable[[], _T]) -> _T:
        """Carry out a statement until nobody's lock is in its way, or the time is over."""
        limit = time.monotonic() + self._seconds
        stopping = False
        while True:
            try:
                return statement()
            except sqlite3.OperationalError as error:
                now = time.monotonic()
                if not stopping and self._stop():
                    stopping, limit = True, min(limit, now + _AFTER_STOP)
                code = getattr(error, "sqlite_errorcode", 0)  # the module's own errors have none
                if code & 0xFF not in BUSY or now >= limit:
                    raise
