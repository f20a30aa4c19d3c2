"""What people ask for, by name, and what is written down about it."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from mxdeliver.core.calendar import SnapshotDate, due_at
from mxdeliver.core.errors import DeliveryInDoubt, LeaseHeld, UsageError, peer_text
from mxdeliver.core.model import Client, DeliveryKey, DeliveryState
from mxdeliver.edge.ledger.planning import see
from mxdeliver.edge.ledger.rows import (
    IN_DOUBT,
    FileStage,
    describe,
    find_latest,
    is_latest,
    key_of,
    new_row,
    require,
    write_down,
)
from mxdeliver.edge.ledger.tables import deliveries, files

AT_ONCE = 500
"""Days asked for that are written in one commit: half a second, for which other processes wait."""
_LONGEST_REASON = 500
_RESUMABLE = (DeliveryState.WAITING, DeliveryState.PARKED, DeliveryState.FAILED)
_WAIT = (
    update(deliveries)
    .where(deliveries.c.id == bindparam("_id"))
    .values(
        state=DeliveryState.WAITING.value,
        not_before=bindparam("now"),
        deadline=bindparam("deadline"),
        requested=True,
        error_code=None,
        error=None,
        changed_at=bindparam("now"),
    )
)


def ensure(connection: Connection, client: Client, day: SnapshotDate, *, now: datetime) -> Row[Any]:
    """Give the latest revision's row, made where there is none."""
    see(connection, client, now)
    row = find_latest(connection, client.guid, day)
    if row is None:
        key = DeliveryKey(client_guid=client.guid, snapshot_date=day)
        due = due_at(day, client.zone, client.due_after)
        connection.execute(insert(deliveries), new_row(key, now=now, due=due, requested=True))
        row = require(connection, key)
    return row


def resume(
    connection: Connection, client_guid: str, day: SnapshotDate | None, *, now: datetime, who: str
) -> list[DeliveryKey]:
    """Make the client's parked and failed deliveries (of one day, or all) due now.

    One that is in doubt only where its day is named: sending it again is a decision of its own.
    """
    query = select(deliveries).where(
        deliveries.c.client_guid == client_guid,
        deliveries.c.state.in_([state.value for state in _RESUMABLE]),
        is_latest,
    )
    if day is not None:
        query = query.where(deliveries.c.snapshot_date == day)
    rows = connection.execute(query.order_by(deliveries.c.snapshot_date)).all()
    return [
        _restart(connection, row, now=now, deadline=None, who=who, what="resume")
        for row in rows
        if day is not None or _is_resumed_unnamed(row)
    ]


def _is_resumed_unnamed(row: Row[Any]) -> bool:
    if row.state == DeliveryState.WAITING:
        return bool(row.attempts)  # what nothing has been tried for yet keeps its time
    return bool(row.error_code != DeliveryInDoubt.code)


def reopen(
    connection: Connection, deadlines: Mapping[DeliveryKey, datetime], *, now: datetime, who: str
) -> list[DeliveryKey]:
    """Make failed (and waiting) deliveries due now, with a new deadline; leave others alone."""
    rows = [(require(connection, key), deadline) for key, deadline in deadlines.items()]
    return [
        _restart(connection, row, now=now, deadline=deadline, who=who, what="run --date")
        if row.state in {DeliveryState.FAILED, DeliveryState.WAITING}
        else key_of(row)
        for row, deadline in rows
    ]


def _restart(
    connection: Connection,
    row: Row[Any],
    *,
    now: datetime,
    deadline: datetime | None,
    who: str,
    what: str,
) -> DeliveryKey:
    key = key_of(row)
    if row.pruned_at is not None:
        # Its sealed bytes are gone, and a revision is never built twice.
        return _next_revision(connection, row, now=now, who=who, what=what)
    if what == "resume" and row.error_code == DeliveryInDoubt.code:
        # A person has decided: what does not lie on the client's server is to be sent.
        _settle_doubt(connection, row)
    _wait(connection, row, now=now, deadline=deadline)
    write_down(connection, key, now=now, who=who, what=what)
    return key


def _settle_doubt(connection: Connection, row: Row[Any]) -> None:
    connection.execute(
        update(files)
        .where(files.c.delivery_id == row.id, files.c.outcome == IN_DOUBT)
        .values(outcome=None)
    )


def _wait(
    connection: Connection, row: Row[Any], *, now: datetime, deadline: datetime | None
) -> None:
    # The attempts keep what went wrong; the row speaks of what comes next.
    connection.execute(_WAIT, {"_id": row.id, "now": now, "deadline": deadline})


def new_revision(
    connection: Connection, client: Client, day: SnapshotDate, *, now: datetime, who: str
) -> DeliveryKey:
    """Begin the day anew from the source, under the day's lock; the older revision rests."""
    see(connection, client, now)
    latest = find_latest(connection, client.guid, day)
    if latest is None:
        row = ensure(connection, client, day, now=now)
        return _restart(connection, row, now=now, deadline=None, who=who, what="rebuild")
    return _next_revision(connection, latest, now=now, who=who, what="rebuild")


def _next_revision(
    connection: Connection, row: Row[Any], *, now: datetime, who: str, what: str
) -> DeliveryKey:
    key = DeliveryKey(
        client_guid=row.client_guid, snapshot_date=row.snapshot_date, revision=row.revision + 1
    )
    values = new_row(key, now=now, due=row.due_at, requested=True)
    connection.execute(insert(deliveries), {**values, "not_before": now})
    write_down(connection, key, now=now, who=who, what=what)
    return key


def resend(connection: Connection, key: DeliveryKey, *, now: datetime, who: str) -> None:
    """Make a delivered day due again with the bytes that were sealed, under the day's lock."""
    row = require(connection, key)
    latest = find_latest(connection, key.client_guid, key.snapshot_date)
    if row.state == DeliveryState.RUNNING:
        raise LeaseHeld(f"{describe(key)}: another run is at this delivery")
    if row.state != DeliveryState.DELIVERED or latest is None or latest.id != row.id:
        raise UsageError(f"{describe(key)} is {row.state}; only what was delivered is sent again")
    if row.pruned_at is not None:
        raise UsageError(
            f"the sealed files of {describe(key)} were dropped after `retention_days`; "
            "`mxdeliver resend --rebuild` builds the day again from the source"
        )
    connection.execute(
        update(files).where(files.c.delivery_id == row.id).values(state=FileStage.SEALED.value)
    )
    _settle_doubt(connection, row)
    _wait(connection, row, now=now, deadline=None)
    write_down(connection, key, now=now, who=who, what="resend")


def adopt(
    connection: Connection,
    client_guid: str,
    day: SnapshotDate,
    *,
    client: Client | None,
    reason: str,
    now: datetime,
    who: str,
) -> Row[Any]:
    """Take a person's word that the client has the day, under the day's lock.

    Without a `client` (it has left the configuration) the ledger must know the day: LookupError.
    There is no evidence, so files are not marked published, and `delivered_at` stays empty: only
    what is adopted has none.
    """
    row = find_latest(connection, client_guid, day)
    if row is None and client is not None:
        row = ensure(connection, client, day, now=now)
    if row is None:
        raise LookupError(f"the ledger has no {client_guid} {day.isoformat()}")
    if row.state == DeliveryState.DELIVERED:
        raise UsageError(f"{describe(key_of(row))} is delivered already; there is nothing to adopt")
    connection.execute(
        update(deliveries)
        .where(deliveries.c.id == row.id)
        .values(
            state=DeliveryState.DELIVERED.value,
            # A run that was stopped for long and wakes up now finds that it has lost its lease.
            token=deliveries.c.token + 1,
            not_before=None,
            delivered_at=None,
            error_code=None,
            error=None,
            changed_at=now,
        )
    )
    what = f"adopt: {peer_text(reason, _LONGEST_REASON)}" if reason else "adopt"
    write_down(connection, key_of(row), now=now, who=who, what=what)
    return require(connection, key_of(row))


def prunable(connection: Connection, *, before: datetime) -> Sequence[Row[Any]]:
    """Give sealed deliveries that came to their end before then, or whose place was taken."""
    ended = deliveries.c.state.in_([DeliveryState.DELIVERED.value, DeliveryState.FAILED.value])
    return connection.execute(
        select(deliveries)
        .where(
            deliveries.c.sealed,
            deliveries.c.pruned_at.is_(None),
            deliveries.c.changed_at < before,
            (ended | ~is_latest) & (deliveries.c.state != DeliveryState.RUNNING.value),
        )
        .order_by(deliveries.c.snapshot_date, deliveries.c.client_guid, deliveries.c.revision)
    ).all()


def mark_pruned(connection: Connection, key: DeliveryKey, *, now: datetime) -> None:
    """Write down that the delivery's sealed files are gone."""
    connection.execute(
        update(deliveries)
        .where(deliveries.c.id == require(connection, key).id)
        .values(pruned_at=now)
    )


def who() -> str:
    """Give the user that the process runs as, and through sudo(8) the person behind it."""
    user = os.geteuid()
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        name = str(user)
    person = peer_text(os.environ.get("SUDO_USER", ""), 32)
    return f"{name} for {person}" if person and person != name else name
