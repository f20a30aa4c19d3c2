"""Files that are written under their final names, because a server allows no rename.

Before a file is made, its intention is written down; when the server has made it, that it is ours.
Until it is published it may be partial, and only what is marked here may be removed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select, update

from mxdeliver.core.model import DeliveryKey
from mxdeliver.edge.ledger.leftovers import IS_OF_DAY, day_of
from mxdeliver.edge.ledger.rows import key_of
from mxdeliver.edge.ledger.tables import deliveries, files


class DirectStage(StrEnum):
    """Whether a final name was about to be made, or was made by us, and is not published yet."""

    INTENDED = "intended"
    CREATED = "created"


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfWritten:
    """A final name of the day that may hold a part of what the delivery `key` sealed for it."""

    key: DeliveryKey
    name: str
    created: bool


_HALF_WRITTEN = (
    select(deliveries, files.c.name, files.c.direct)
    .join(files, files.c.delivery_id == deliveries.c.id)
    .where(IS_OF_DAY, files.c.direct.is_not(None))
    .order_by(deliveries.c.revision, files.c.place)
)
_FORGET = (
    update(files)
    .where(
        files.c.delivery_id.in_(select(deliveries.c.id).where(IS_OF_DAY)),
        files.c.name.in_(bindparam("names", expanding=True)),
    )
    .values(direct=None)
)


def half_written(connection: Connection, row: Row[Any]) -> list[HalfWritten]:
    """Give what may lie half-written at the row's destination, by any revision of its day."""
    return [
        HalfWritten(key=key_of(one), name=one.name, created=one.direct == DirectStage.CREATED)
        for one in connection.execute(_HALF_WRITTEN, day_of(row)).all()
    ]


def mark(
    connection: Connection, delivery_id: int, names: Sequence[str], stage: DirectStage | None
) -> None:
    """Note how far the direct writing of these files of a delivery has come."""
    connection.execute(
        update(files)
        .where(files.c.delivery_id == delivery_id, files.c.name.in_(names))
        .values(direct=None if stage is None else stage.value)
    )


def forget(connection: Connection, row: Row[Any], names: Iterable[str]) -> None:
    """Note that nothing half-written lies under these names any more, of any revision of the day."""
    connection.execute(_FORGET, {**day_of(row), "names": list(names)})
