"""A DuckDB of a source's own, which may have its database attached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb

from mxdeliver.core.errors import MxdeliverError
from mxdeliver.core.model import EventType
from mxdeliver.edge.sources.files import Files
from mxdeliver.edge.sources.known import Known
from mxdeliver.edge.sources.queries import OwnQuery

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

    def let_go(self) -> None:
        """Detach the database, so that others may write to it; raises what DuckDB does."""
        if self.is_attached:
            self.connection.execute("use memory")
            self.connection.execute(f"detach {_DATABASE}")
            self.is_attached = False
