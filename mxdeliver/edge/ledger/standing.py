"""What a push must know of all that was done for its day before, of one state of the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row

from mxdeliver.edge.ledger import direct, leftovers, rows, servers


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a delivery's files are, what may lie at its destination in part, what is known of it.

    `files` are by name, in the order of sending. `temporaries` and `half_written` are of any revision
    of the day, at the destination that the delivery is bound to; `server` is the client's.
    """

    files: Mapping[str, rows.FileState]
    temporaries: Sequence[str]
    half_written: Sequence[direct.HalfWritten]
    server: servers.ServerProfile | None


def standing_of(connection: Connection, row: Row[Any]) -> Standing:
    """Give the standing of a row of `deliveries`."""
    return Standing(
        files=rows.file_states(connection, row.id),
        temporaries=leftovers.temporaries_of(connection, row),
        half_written=direct.half_written(connection, row),
        server=servers.profile_of(connection, row.client_guid),
    )
