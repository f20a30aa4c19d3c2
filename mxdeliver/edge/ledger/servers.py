"""What a client's server was found to allow, kept from one delivery to the next.

A profile holds for one destination (host, port and directory): at another one, nothing is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, select

from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.edge.ledger.tables import servers


class Publishing(StrEnum):
    """How files get their final names: renamed when whole, or written under them directly."""

    RENAME = "rename"
    DIRECT = "direct"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProfile:
    """What was found at a client's `destination`, and with which `software` there.

    `level` is how far the last delivery's files were verified: "ack" (every answer was good),
    "size" (looked at) or "hash" (contents compared). `sweeps`: files were gone as soon as they lay
    there. `decided_on` is the day on which `publishing` was last found out.
    """

    destination: str
    software: str
    publishing: Publishing
    level: str
    sweeps: bool
    decided_on: SnapshotDate


_IS_OF_CLIENT = servers.c.client_guid == bindparam("client")
_KNOWN, _FORGET = select(servers).where(_IS_OF_CLIENT), delete(servers).where(_IS_OF_CLIENT)


def profile_of(connection: Connection, client_guid: str) -> ServerProfile | None:
    """Give what is known of the client's server, or None."""
    row = connection.execute(_KNOWN, {"client": client_guid}).one_or_none()
    return None if row is None else _profile(row)


def profiles(connection: Connection) -> dict[str, ServerProfile]:
    """Give what is known of every client's server, by client guid."""
    return {row.client_guid: _profile(row) for row in connection.execute(select(servers)).all()}


def keep(connection: Connection, client_guid: str, profile: ServerProfile) -> None:
    """Write a profile in place of the one that was known."""
    connection.execute(_FORGET, {"client": client_guid})
    connection.execute(
        insert(servers),
        {
            "client_guid": client_guid,
            "destination": profile.destination,
            "software": profile.software,
            "publishing": profile.publishing.value,
            "level": profile.level,
            "sweeps": profile.sweeps,
            "decided_on": profile.decided_on,
        },
    )


def _profile(row: Row[Any]) -> ServerProfile:
    return ServerProfile(
        destination=row.destination,
        software=row.software,
        publishing=Publishing(row.publishing),
        level=row.level,
        sweeps=row.sweeps,
        decided_on=row.decided_on,
    )
