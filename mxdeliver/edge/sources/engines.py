"""DuckDBs, and those that nobody uses at the moment, with the database attached for a little longer.

As long as a DuckDB has a database attached, nobody else can open it to write. One client's day comes
right behind another's, or not for hours.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock, Timer

import duckdb

from mxdeliver.core.errors import MxdeliverError
from mxdeliver.core.model import EventType
from mxdeliver.edge.sources.files import Files
from mxdeliver.edge.sources.known import Known
from mxdeliver.edge.sources.queries import OwnQuery

LINGER_SECONDS = 0.5
"""A database is let go when nobody has come for so long, and before twice as long."""

_DATABASE = "warehouse"


@dataclass(slots=True, kw_only=True, eq=False)
class Engine:
    """A DuckDB that may reach the source's files alone, its settings locked.

    `database` is the file itself, behind any links. Own queries and views have absolute file names;
    or what is wrong with each. What is attached, and `known`, is true of the `files` as they were
    last remembered.
    """

    database: str | None
    connection: duckdb.DuckDBPyConnection
    files: Files
    known: Known
    own_queries: Mapping[tuple[str, EventType], OwnQuery | MxdeliverError]
    views: Mapping[str, str | MxdeliverError]
    patterns: frozenset[str]
    is_attached: bool = False

    def attach(self) -> None:
        """Attach the database read-only, if there is one and it is not; raises what DuckDB does."""
        if self.database is None or self.is_attached:
            return
        path = "'" + self.database.replace("'", "''") + "'"
        self.connection.execute(f"attach {path} as {_DATABASE} (read_only, type duckdb)")
        self.is_attached = True
        self.connection.execute(f"use {_DATABASE}")

    def let_go(self) -> bool:
        """Detach the database, so that others may write to it; or end, and tell so."""
        if not self.is_attached:
            return True
        try:
            self.connection.execute("use memory")
            self.connection.execute(f"detach {_DATABASE}")
        except duckdb.Error:
            self.connection.close()
            return False
        self.is_attached = False
        return True


class Resting:
    """The DuckDBs that were put here and not taken again. May be used from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._engines: list[tuple[float, Engine]] = []
        self._clock: Timer | None = None

    def put(self, engine: Engine) -> None:
        """Let one rest; its database is let go in a while."""
        with self._lock:
            self._engines.append((time.monotonic(), engine))
            if self._clock is None:
                self._look_later()

    def take(self) -> Engine | None:
        """Give the one that came last; None where there is none."""
        with self._lock:
            return self._engines.pop()[1] if self._engines else None

    def _look_later(self) -> None:
        self._clock = Timer(LINGER_SECONDS, self._look)
        self._clock.daemon = True
        self._clock.start()

    def _look(self) -> None:
        with self._lock:
            long_ago = time.monotonic() - LINGER_SECONDS
            self._engines = [
                (since, engine)
                for since, engine in self._engines
                if since > long_ago or engine.let_go()
            ]
            self._clock = None
            if any(engine.is_attached for _, engine in self._engines):
                self._look_later()
