"""What was found out about a database file, for the next client of the same file.

DuckDB parses and binds a statement each time it is given its text, and twice where rows are to come
as Arrow batches. For a small client that takes as long as to run it, and the next client's statements
are the same but for the client's guid. So they are kept until the file is another one, or was
written (`files`); what would be true of its rows alone, and not of its catalog, is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import duckdb

from mxdeliver.edge.sources.queries import CLIENT_VARIABLE, Relation

T = TypeVar("T")

MOST_TEXTS = 200
"""Days differ by time zone, and their statements with them; beyond so many all are forgotten."""


@dataclass(slots=True, kw_only=True)
class Known:
    """The relations that were looked at, by resource; statements and queries, by their text.

    `_client_guid` is what the connection's variable holds; no file that changes alters that.
    """

    connection: duckdb.DuckDBPyConnection
    relations: dict[str, Relation] = field(default_factory=dict)
    _statements: dict[str, duckdb.Statement] = field(default_factory=dict)
    _queries: dict[str, duckdb.DuckDBPyRelation] = field(default_factory=dict)
    _client_guid: str | None = None

    def statement(self, sql: str) -> duckdb.Statement:
        """Give one statement, parsed."""
        return _kept(self._statements, sql, lambda: self.connection.extract_statements(sql)[0])

    def query(self, sql: str, client_guid: str) -> duckdb.DuckDBPyRelation:
        """Give a query that reads its client from CLIENT_VARIABLE, bound; run it before another one."""
        if self._client_guid != client_guid:
            sets = f"set variable {CLIENT_VARIABLE} = $guid"
            self.connection.execute(sets, {"guid": client_guid})
            self._client_guid = client_guid
        return _kept(self._queries, sql, lambda: self.connection.sql(sql))

    def forget(self) -> None:
        """Forget it all."""
        self.relations.clear()
        self._statements.clear()
        self._queries.clear()


def _kept(kept: dict[str, T], sql: str, make: Callable[[], T]) -> T:
    if sql not in kept:
        if len(kept) >= MOST_TEXTS:
            kept.clear()
        kept[sql] = make()
    return kept[sql]
