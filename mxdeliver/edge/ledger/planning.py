"""Which days the ledger owes to whom, and which of them have left the window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from mxdeliver.core.calendar import SnapshotDate, days, due_at, is_closed, last_closed
from mxdeliver.core.errors import DeadlinePassed
from mxdeliver.core.model import Client, Delivery, DeliveryKey, DeliveryState
from mxdeliver.edge.ledger.contexts import is_changed
from mxdeliver.edge.ledger.locks import Locks
from mxdeliver.edge.ledger.rows import delivery_of, is_latest, key_of, new_row
from mxdeliver.edge.ledger.tables import clients as clients_table
from mxdeliver.edge.ledger.tables import deliveries

UNDELIVERED = (DeliveryState.WAITING, DeliveryState.RUNNING, DeliveryState.PARKED)
_CLIENT = select(clients_table).where(clients_table.c.client_guid == bindparam("client_guid"))


def first_owed(client: Client, first_seen: datetime, catch_up_days: int) -> SnapshotDate:
    """Give the first day that the ledger owes by itself, whether it has closed or not."""
    seen_on = SnapshotDate.of(first_seen.astimezone(client.zone).date())
    active_since = client.active_since or seen_on.following(-1)
    return max(active_since, seen_on.following(-catch_up_days))


def window_start(client: Client, now: datetime, catch_up_days: int) -> SnapshotDate:
    """Give the oldest of the last `catch_up_days` closed days (of one at least)."""
    return last_closed(client.zone, now).following(1 - max(catch_up_days, 1))


def see(connection: Connection, client: Client, now: datetime) -> Row[Any]:
    """Give the client's row, made on the first meeting."""
    named = {"client_guid": client.guid}
    row = connection.execute(_CLIENT, named).one_or_none()
    if row is None:
        connection.execute(insert(clients_table), {**named, "first_seen": now})
        row = connection.execute(_CLIENT, named).one()
    return row


def plan(
    connection: Connection,
    clients: Sequence[Client],
    *,
    locks: Locks,
    now: datetime,
    catch_up_days: int,
) -> list[DeliveryKey]:
    """Make a row for each owed day and fail those that left the window; give the failed ones."""
    failed: list[DeliveryKey] = []
    for client in clients:
        failed += _insert_owed(connection, client, now=now, catch_up_days=catch_up_days)
    failed += _fail_left(connection, clients, locks=locks, now=now, catch_up_days=catch_up_days)
    return sorted(failed, key=lambda key: (key.snapshot_date, key.client_guid))


def _insert_owed(
    connection: Connection, client: Client, *, now: datetime, catch_up_days: int
) -> list[DeliveryKey]:
    seen = see(connection, client, now)
    first = first_owed(client, seen.first_seen, catch_up_days)
    last = last_closed(client.zone, now)
    if first > last or _is_planned(seen, first, last):
        return []
    known = _known_days(connection, client.guid, first, last)
    start = window_start(client, now, catch_up_days)
    rows = [
        _owed_row(client, day, now=now, left=day < start, catch_up_days=catch_up_days)
        for day in days(first, last)
        if day not in known
    ]
    if rows:
        connection.execute(insert(deliveries), rows)
    # Days between an earlier plan and this one would be forgotten if the marks jumped over them.
    connection.execute(
        update(clients_table)
        .where(clients_table.c.client_guid == client.guid)
        .values(planned_from=first, planned_through=last)
    )
    return [
        DeliveryKey(client_guid=client.guid, snapshot_date=day)
        for day in days(first, min(last, start.following(-1)))
        if day not in known
    ]


def _is_planned(seen: Row[Any], first: SnapshotDate, last: SnapshotDate) -> bool:
    return (
        seen.planned_from is not None
        and seen.planned_from <= first
        and last <= seen.planned_through
    )


def _known_days(
    connection: Connection, client_guid: str, first: SnapshotDate, last: SnapshotDate
) -> set[SnapshotDate]:
    return set(
        connection.scalars(
            select(deliveries.c.snapshot_date).where(
                deliveries.c.client_guid == client_guid,
                deliveries.c.snapshot_date.between(first, last),
            )
        )
    )


def _owed_row(
    client: Client, day: SnapshotDate, *, now: datetime, left: bool, catch_up_days: int
) -> dict[str, object]:
    row = new_row(
        DeliveryKey(client_guid=client.guid, snapshot_date=day),
        now=now,
        due=due_at(day, client.zone, client.due_after),
        requested=False,
    )
    if left:
        row |= _failure(
            f"the day was never tried: nothing ran here in the {catch_up_days} days after it"
        )
    return row


def _failure(error: str) -> dict[str, object]:
    return {
        "state": DeliveryState.FAILED.value,
        "error_code": DeadlinePassed.code,
        "error": error,
    }


def _fail_left(
    connection: Connection,
    clients: Sequence[Client],
    *,
    locks: Locks,
    now: datetime,
    catch_up_days: int,
) -> list[DeliveryKey]:
    starts = {client.guid: window_start(client, now, catch_up_days) for client in clients}
    failed = []
    for row in undelivered(connection):
        start = starts.get(row.client_guid)
        if start is None or row.snapshot_date >= start or row.requested:
            continue
        if row.state == DeliveryState.RUNNING and not locks.is_free(
            row.client_guid, row.snapshot_date
        ):
            continue
        last_error = f"; last error: {row.error_code}: {row.error}" if row.error_code else ""
        error = f"the day was not delivered within {catch_up_days} days{last_error}"
        connection.execute(
            update(deliveries)
            .where(deliveries.c.id == row.id)
            .values(
                **_failure(error), not_before=None, changed_at=now, token=deliveries.c.token + 1
            )
        )
        failed.append(key_of(row))
    return failed


def undelivered(connection: Connection) -> Sequence[Row[Any]]:
    """Give the rows of the latest revisions that are neither delivered nor failed, oldest first."""
    return connection.execute(
        select(deliveries)
        .where(deliveries.c.state.in_([state.value for state in UNDELIVERED]), is_latest)
        .order_by(deliveries.c.snapshot_date, deliveries.c.client_guid)
    ).all()


def due(
    connection: Connection,
    clients: Sequence[Client],
    *,
    locks: Locks,
    now: datetime,
    contexts: Mapping[str, str],
    catch_up_days: int | None,
) -> list[Delivery]:
    """Give what is to be delivered now, oldest day first."""
    chosen = {client.guid: client for client in clients}
    return [
        delivery_of(row)
        for row in undelivered(connection)
        if row.client_guid in chosen
        and _is_due(
            row,
            client=chosen[row.client_guid],
            locks=locks,
            now=now,
            context=contexts.get(row.client_guid),
            catch_up_days=catch_up_days,
        )
    ]


def _is_due(
    row: Row[Any],
    *,
    client: Client,
    locks: Locks,
    now: datetime,
    context: str | None,
    catch_up_days: int | None,
) -> bool:
    if not is_closed(row.snapshot_date, client.zone, now):
        return False
    if row.state == DeliveryState.RUNNING:
        return locks.is_free(row.client_guid, row.snapshot_date)
    if row.state == DeliveryState.PARKED:
        return opens_by_change(
            delivery_of(row), client, now=now, context=context, catch_up_days=catch_up_days
        )
    changed = is_changed(row.fingerprint, context, row.error_code)
    return changed or bool((row.not_before or row.due_at) <= now)


def opens_by_change(
    parked: Delivery,
    client: Client,
    *,
    now: datetime,
    context: str | None,
    catch_up_days: int | None,
) -> bool:
    """Tell whether a run, of whatever kind, may try what is parked again: it waits for a change.

    Only within the window, where one is given; an older day waits for a person.
    """
    if catch_up_days is not None and parked.key.snapshot_date < window_start(
        client, now, catch_up_days
    ):
        return False
    return is_changed(parked.fingerprint, context, parked.error_code)


def first_seen(connection: Connection, client_guid: str) -> datetime | None:
    """Give the time at which the ledger first heard of the client."""
    known = clients_table.c
    return connection.scalar(select(known.first_seen).where(known.client_guid == client_guid))


def owed_at_first_sight(
    clients: Sequence[Client], *, now: datetime, catch_up_days: int
) -> list[tuple[str, SnapshotDate]]:
    """Give the days, owed and due, of clients that no ledger has heard of; oldest first."""
    owed = [
        (client.guid, day)
        for client in clients
        for day in days(
            max(first_owed(client, now, catch_up_days), window_start(client, now, catch_up_days)),
            last_closed(client.zone, now),
        )
        if due_at(day, client.zone, client.due_after) <= now
    ]
    return sorted(owed, key=lambda entry: (entry[1], entry[0]))


def missing(
    connection: Connection,
    clients: Sequence[Client],
    *,
    locks: Locks,
    now: datetime,
    catch_up_days: int,
) -> list[tuple[str, SnapshotDate]]:
    """Give the days that are owed and due and of which nothing is known, or whose run has died."""
    seen = {row.client_guid: row for row in connection.execute(select(clients_table)).all()}
    gone: list[tuple[str, SnapshotDate]] = []
    for client in clients:
        row = seen.get(client.guid)
        first = first_owed(client, row.first_seen if row else now, catch_up_days)
        last = last_closed(client.zone, now)
        if first > last or (row and _is_planned(row, first, last)):
            continue
        known = _known_days(connection, client.guid, first, last)
        gone += [
            (client.guid, day)
            for day in days(first, last)
            if day not in known and due_at(day, client.zone, client.due_after) <= now
        ]
    chosen = {client.guid for client in clients}
    gone += [
        (row.client_guid, row.snapshot_date)
        for row in undelivered(connection)
        if row.state == DeliveryState.RUNNING
        and row.client_guid in chosen
        and locks.is_free(row.client_guid, row.snapshot_date)
    ]
    return sorted(gone, key=lambda entry: (entry[1], entry[0]))
