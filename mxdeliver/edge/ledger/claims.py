"""The beginning of an attempt: who may start one, and what is written down about it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, exists, insert, or_, select, update

from mxdeliver.core.errors import LeaseHeld
from mxdeliver.core.model import DeliveryKey, DeliveryState
from mxdeliver.edge.ledger.contexts import is_changed
from mxdeliver.edge.ledger.database import Database
from mxdeliver.edge.ledger.lease import Lease
from mxdeliver.edge.ledger.rows import describe, find_latest, require
from mxdeliver.edge.ledger.tables import attempts, deliveries

_WHERE_A_SEAL_IS_LOST = ("SPOOL_", "LEDGER_", "INTERNAL", "BUILDER_")
_UNSAID = or_(
    attempts.c.ended_at.is_(None),
    *(attempts.c.error_code.startswith(code, autoescape=True) for code in _WHERE_A_SEAL_IS_LOST),
)
_MAY_HAVE_SEALED = select(
    exists().where(
        attempts.c.delivery_id == bindparam("delivery_id"),
        attempts.c.number < bindparam("before"),
        _UNSAID,
    )
)
_BEGIN = (
    update(deliveries)
    .where(deliveries.c.id == bindparam("_id"))
    .values(
        not_before=None,
        **{
            name: bindparam(name)
            for name in ("state", "token", "attempts", "deadline", "fingerprint", "changed_at")
        },
    )
)


def take(
    database: Database,
    key: DeliveryKey,
    lock: int,
    *,
    now: datetime,
    context: str,
    deadline: datetime,
    counted: bool = True,
) -> Lease:
    """Begin an attempt, under the day's lock; LeaseHeld where there is nothing to begin.

    That is the case where another run was faster: it has delivered, failed or parked the day (the
    latter in the same context), or a later revision has taken its place.
    """
    with database.write() as connection:
        row = require(connection, key)
        latest = find_latest(connection, key.client_guid, key.snapshot_date)
        if latest is None or latest.id != row.id:
            raise LeaseHeld(f"{describe(key)}: a later revision has taken its place")
        parked = row.state == DeliveryState.PARKED
        if row.state not in {DeliveryState.WAITING, DeliveryState.RUNNING} and not (
            parked and is_changed(row.fingerprint, context, row.error_code)
        ):
            raise LeaseHeld(f"{describe(key)} is {row.state} by now")
        token, number = row.token + 1, row.attempts + 1
        # What was parked waited for a change, not for time to pass: its deadline starts anew.
        kept = None if parked else row.deadline
        deadline = kept or deadline
        connection.execute(
            _BEGIN,
            {
                "_id": row.id,
                "state": DeliveryState.RUNNING.value,
                "token": token,
                "attempts": number if counted else row.attempts,
                "deadline": deadline,
                "fingerprint": context,
                "changed_at": now,
            },
        )
        if counted:
            begun = {"delivery_id": row.id, "number": number, "token": token, "started_at": now}
            connection.execute(insert(attempts), begun)
    return Lease(
        database,
        key,
        lock=lock,
        delivery_id=row.id,
        token=token,
        number=number,
        deadline=deadline,
        was_sealed=row.sealed,
    )


def may_have_sealed(connection: Connection, row: Row[Any], before: int) -> bool:
    """Tell whether an attempt numbered below `before` may have sealed and not come to say so.

    That is one that died, and one that ended at the disk, the ledger or a bug, or was stopped while
    the ledger was locked. Any other would have said so before it met its error.
    """
    return bool(connection.scalar(_MAY_HAVE_SEALED, {"delivery_id": row.id, "before": before}))
