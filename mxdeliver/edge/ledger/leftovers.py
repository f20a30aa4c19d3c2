"""What attempts of a day, of any revision, may have left in part on the client's server.

Temporary names are handed out before a file is made, and dropped when they are known to be gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, select, true

from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.edge.ledger.tables import deliveries, files, temporaries


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftBehind:
    """A file that may lie in part at a destination: under its `final` name or a temporary one."""

    name: str
    destination: str
    final: bool


IS_OF_DAY = and_(
    deliveries.c.client_guid == bindparam("client_guid"),
    deliveries.c.snapshot_date == bindparam("snapshot_date"),
    deliveries.c.destination.is_not_distinct_from(bindparam("destination")),
)
"""True for deliveries of any revision of a row's day, at the same destination: see `day_of`."""
_HANDED_OUT = temporaries.c.delivery_id.in_(select(deliveries.c.id).where(IS_OF_DAY))
_TEMPORARIES = select(temporaries.c.name).where(_HANDED_OUT).order_by(temporaries.c.id)
_IS_NAMED = temporaries.c.name.in_(bindparam("names", expanding=True))
_FORGET_OF_DAY = delete(temporaries).where(_HANDED_OUT, _IS_NAMED)
_FORGET = delete(temporaries).where(
    temporaries.c.delivery_id == bindparam("delivery_id"), _IS_NAMED
)


def day_of(row: Row[Any]) -> dict[str, object]:
    """Give the values that `IS_OF_DAY` compares, of a row of `deliveries`."""
    return {
        "client_guid": row.client_guid,
        "snapshot_date": row.snapshot_date,
        "destination": row.destination,
    }


def temporaries_of(connection: Connection, row: Row[Any]) -> list[str]:
    """Give the temporary names of the day that are not known to be gone."""
    return list(connection.scalars(_TEMPORARIES, day_of(row)))


def forget_temporaries(connection: Connection, row: Row[Any], names: Iterable[str]) -> None:
    """Drop temporary names of the day that are known to be gone from the server."""
    connection.execute(_FORGET_OF_DAY, {**day_of(row), "names": list(names)})


def forget(connection: Connection, delivery_id: int, names: Iterable[str]) -> None:
    """Drop temporary names of one delivery that are known to be gone from the server."""
    connection.execute(_FORGET, {"delivery_id": delivery_id, "names": list(names)})


def left_behind(connection: Connection, client_guid: str, day: SnapshotDate) -> list[LeftBehind]:
    """Give what may lie in part of any revision of the day, final names first."""
    of_day = and_(deliveries.c.client_guid == client_guid, deliveries.c.snapshot_date == day)
    found = [
        select(deliveries.c.destination, table.c.name)
        .join(table, table.c.delivery_id == deliveries.c.id)
        .where(of_day, condition)
        .order_by(table.c.name)
        for table, condition in ((files, files.c.direct.is_not(None)), (temporaries, true()))
    ]
    return [
        LeftBehind(name=row.name, destination=row.destination or "", final=final)
        for query, final in zip(found, (True, False), strict=True)
        for row in connection.execute(query).all()
    ]
