"""A damaged ledger: whether it is one, and what can still be read of it.

A run reads little of a ledger and stops at the first value that is none, so here everything is read.
What a damaged ledger says of deliveries is not believed; since when it owed a client days is, because
a day too many is looked at by a person and one too few by nobody.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, Table, select

from mxdeliver.core.calendar import SnapshotDate, last_closed
from mxdeliver.core.errors import LedgerCorrupt
from mxdeliver.core.model import Client
from mxdeliver.edge.ledger import planning, rows, servers
from mxdeliver.edge.ledger.database import Database
from mxdeliver.edge.ledger.tables import deliveries, metadata, parse_moment


def require_whole(database: Database) -> None:
    """Read every page, index and value; LedgerCorrupt for what a run would stumble over."""
    database.examine()
    with database.read() as connection:
        _require_types(connection)
        try:
            _read_as_a_run_does(connection)
        except (ValueError, TypeError) as error:
            raise LedgerCorrupt(f"{database.path} holds a word that it does not know") from error


def _require_types(connection: Connection) -> None:
    """SQLite keeps text in a column of numbers, and the other way round."""
    for table in metadata.sorted_tables:
        with connection.execute(select(table)) as found:  # row by row: a table may be large
            for row in found:
                _require_types_of(row, table)


def _require_types_of(row: Row[Any], table: Table) -> None:
    for column, value in zip(table.columns, row, strict=True):
        if not isinstance(value, column.type.python_type) and (
            value is not None or not column.nullable
        ):
            raise LedgerCorrupt(f"the ledger holds a {table.name}.{column.name} that is none")


def _read_as_a_run_does(connection: Connection) -> None:
    for row in connection.execute(select(deliveries)).all():
        rows.delivery_of(row)
        rows.bundle_of(connection, row)
        rows.file_states(connection, row.id)
        rows.attempts_of(connection, row.id)
    servers.profiles(connection)


def owed_since(
    path: Path, clients: Sequence[Client], *, now: datetime, catch_up_days: int
) -> dict[str, SnapshotDate]:
    """Give the first day that the ledger at `path` owed each client, as far as it can be read.

    The earliest of all that it says counts, but for days to come, which a clock that ran ahead has
    written. A client of whom it says nothing is left out.
    """
    known = {client.guid: client for client in clients}
    found: dict[str, list[SnapshotDate]] = {}
    for guid, seen, planned in _rows_of(
        path, "SELECT client_guid, first_seen, planned_from FROM clients"
    ):
        if guid in known:
            days = found.setdefault(guid, [])
            days += _days(planned)
            days += [
                planning.first_owed(known[guid], moment, catch_up_days)
                for moment in _moments(seen)
                if moment <= now
            ]
    for guid, day in _rows_of(
        path, "SELECT client_guid, snapshot_date FROM deliveries WHERE NOT requested"
    ):
        if guid in known:
            found.setdefault(guid, []).extend(_days(day))
    return {
        guid: min(days)
        for guid, days in found.items()
        if days and min(days) <= last_closed(known[guid].zone, now)
    }


def _rows_of(path: Path, query: str) -> Iterator[tuple[object, ...]]:
    """Give a query's rows up to the first that cannot be read."""
    # Immutable: read as it lies there, without its journal and locks.
    address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    with (
        suppress(sqlite3.Error, UnicodeDecodeError),
        closing(sqlite3.connect(address, uri=True)) as connection,
    ):
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        yield from connection.execute(query)


def _moments(value: object) -> list[datetime]:
    with suppress(ValueError, TypeError):
        return [parse_moment(value)]  # type: ignore[arg-type]  # a damaged one is of any type
    return []


def _days(value: object) -> list[SnapshotDate]:
    with suppress(ValueError, TypeError):
        return [SnapshotDate.parse(value)]  # type: ignore[arg-type]  # as above
    return []
