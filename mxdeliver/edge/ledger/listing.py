"""What the ledger knows of many deliveries, or of many clients, at once."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from operator import attrgetter

from sqlalchemy import Connection, case, func, select

from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.model import Delivery, DeliveryState
from mxdeliver.edge.ledger import rows
from mxdeliver.edge.ledger.rows import HistoryEntry
from mxdeliver.edge.ledger.tables import deliveries, history

_CLIENTS_AT_ONCE = 1000
"""SQLite takes 32,766 values with a statement, and PostgreSQL 65,535."""


def deliveries_of(
    connection: Connection,
    client_guids: Collection[str] | None,
    *,
    day: SnapshotDate | None,
    states: Collection[DeliveryState],
    latest_only: bool,
) -> list[Delivery]:
    """Give deliveries by day, client and revision, with `seconds`."""
    query = select(deliveries).order_by(
        deliveries.c.snapshot_date, deliveries.c.client_guid, deliveries.c.revision
    )
    if len(states) < len(DeliveryState):
        query = query.where(deliveries.c.state.in_([state.value for state in states]))
    if day is not None:
        query = query.where(deliveries.c.snapshot_date == day)
    if latest_only:
        query = query.where(rows.is_latest)
    if client_guids is None:
        return rows.deliveries_of(connection, query)
    found = [
        one
        for some in _at_once(client_guids)
        for one in rows.deliveries_of(connection, query.where(deliveries.c.client_guid.in_(some)))
    ]
    return sorted(found, key=attrgetter("key.snapshot_date", "key.client_guid", "key.revision"))


def lifted_at(connection: Connection, client_guids: Collection[str]) -> datetime | None:
    """Give the latest moment at which one of the clients got a day, or a person resumed one."""
    moments = [
        connection.scalar(select(func.max(moment)).where(client_guid.in_(some)))
        for some in _at_once(client_guids)
        for client_guid, moment in (
            (deliveries.c.client_guid, deliveries.c.delivered_at),
            (history.c.client_guid, case((history.c.what == "resume", history.c.at))),
        )
    ]
    return max((moment for moment in moments if moment is not None), default=None)


def history_of(connection: Connection, client_guid: str | None) -> list[HistoryEntry]:
    """Give what people asked for, first to last."""
    query = select(history).order_by(history.c.id)
    if client_guid is not None:
        query = query.where(history.c.client_guid == client_guid)
    return [
        HistoryEntry(at=row.at, who=row.who, what=row.what, key=rows.key_of(row))
        for row in connection.execute(query).all()
    ]


def _at_once(client_guids: Collection[str]) -> Iterator[list[str]]:
    """Give clients in groups that a statement may name."""
    guids = list(client_guids)
    for start in range(0, len(guids), _CLIENTS_AT_ONCE):
        yield guids[start : start + _CLIENTS_AT_ONCE]
