"""Rows of the ledger as values, and the questions that several of its parts ask."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    exists,
    insert,
    select,
)

from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.errors import LedgerCorrupt
from mxdeliver.core.model import (
    Artifact,
    Attempt,
    Bundle,
    Delivery,
    DeliveryKey,
    DeliveryState,
    Outcome,
)
from mxdeliver.core.naming import parse_file_name
from mxdeliver.edge.ledger.tables import attempts, deliveries, files, history, temporaries


class FileStage(StrEnum):
    """How far one file of a sealed delivery has come."""

    SEALED = "sealed"
    UPLOADING = "uploading"
    PUBLISHING = "publishing"
    PUBLISHED = "published"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishEvidence:
    """What shows that a file lies whole under its name: how well it was checked, and with whom."""

    level: str
    size: int
    outcome: str
    address: str
    host_key: str
    server: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """One file: its stage, the temporary name of its latest upload, and those of earlier ones."""

    name: str
    state: FileStage
    temporary: str | None = None
    earlier_temporaries: tuple[str, ...] = ()
    evidence: PublishEvidence | None = None
    in_doubt: bool = False
    """It may have been published by a run that this ledger knows nothing of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """What a person asked for, and who."""

    at: datetime
    who: str
    what: str
    key: DeliveryKey


IN_DOUBT = "in doubt"
"""The `outcome` of a file that was read back from the spool, until it is seen or a person decides."""

_newer = deliveries.alias("newer")
is_latest = ~exists().where(
    _newer.c.client_guid == deliveries.c.client_guid,
    _newer.c.snapshot_date == deliveries.c.snapshot_date,
    _newer.c.revision > deliveries.c.revision,
)
"""True for the latest revision of a client's day: the only one that is ever due."""


def key_of(row: Row[Any]) -> DeliveryKey:
    """Give the key of a row of `deliveries`."""
    return DeliveryKey(
        client_guid=row.client_guid, snapshot_date=row.snapshot_date, revision=row.revision
    )


def delivery_of(row: Row[Any]) -> Delivery:
    """Give a row of `deliveries` as a value."""
    return Delivery(
        key=key_of(row),
        state=DeliveryState(row.state),
        due_at=row.due_at,
        not_before=row.not_before,
        deadline=row.deadline,
        attempts=row.attempts,
        sealed=row.sealed,
        delivered_at=row.delivered_at,
        changed_at=row.changed_at,
        error_code=row.error_code,
        error=row.error,
        files=row.files,
        records=row.records,
        bytes=row.bytes,
        fingerprint=row.fingerprint,
    )


def deliveries_of(connection: Connection, query: Select[Any]) -> list[Delivery]:
    """Give what a query of `deliveries` finds, and how long the last attempt of each took."""
    last = and_(
        attempts.c.delivery_id == deliveries.c.id, attempts.c.number == deliveries.c.attempts
    )
    found = query.add_columns(attempts.c.started_at, attempts.c.ended_at).outerjoin(attempts, last)
    return [
        replace(delivery_of(row), seconds=_seconds(row.started_at, row.ended_at))
        for row in connection.execute(found).all()
    ]


def _seconds(started: datetime | None, ended: datetime | None) -> float | None:
    if started is None or ended is None or ended < started:  # the clock was set back meanwhile
        return None
    return round((ended - started).total_seconds(), 3)


# Statements that each delivery repeats many times are put together once.
_BY_KEY = select(deliveries).where(
    deliveries.c.client_guid == bindparam("client_guid"),
    deliveries.c.snapshot_date == bindparam("snapshot_date"),
    deliveries.c.revision == bindparam("revision"),
)
_BY_DAY = (
    select(deliveries)
    .where(
        deliveries.c.client_guid == bindparam("client_guid"),
        deliveries.c.snapshot_date == bindparam("snapshot_date"),
    )
    .order_by(deliveries.c.revision.desc())
    .limit(1)
)
_TEMPORARIES = (
    select(temporaries)
    .where(temporaries.c.delivery_id == bindparam("delivery_id"))
    .order_by(temporaries.c.id)
)
_FILES = (
    select(files).where(files.c.delivery_id == bindparam("delivery_id")).order_by(files.c.place)
)


def find(connection: Connection, key: DeliveryKey) -> Row[Any] | None:
    """Give the delivery's row, or None."""
    values = {
        "client_guid": key.client_guid,
        "snapshot_date": key.snapshot_date,
        "revision": key.revision,
    }
    return connection.execute(_BY_KEY, values).one_or_none()


def require(connection: Connection, key: DeliveryKey) -> Row[Any]:
    """Give the delivery's row; LookupError where the ledger does not know it."""
    row = find(connection, key)
    if row is None:
        raise LookupError(f"the ledger has no {describe(key)}")
    return row


def find_latest(connection: Connection, client_guid: str, day: SnapshotDate) -> Row[Any] | None:
    """Give the row of the day's latest revision, or None."""
    values = {"client_guid": client_guid, "snapshot_date": day}
    return connection.execute(_BY_DAY, values).one_or_none()


def describe(key: DeliveryKey) -> str:
    """Name a delivery for people."""
    revision = f" (revision {key.revision})" if key.revision > 1 else ""
    return f"{key.client_guid} {key.snapshot_date.isoformat()}{revision}"


def new_row(
    key: DeliveryKey, *, now: datetime, due: datetime, requested: bool, **others: object
) -> dict[str, object]:
    """Give the values of a delivery that nothing has been done for yet."""
    return {
        "client_guid": key.client_guid,
        "snapshot_date": key.snapshot_date,
        "revision": key.revision,
        "state": DeliveryState.WAITING.value,
        "due_at": due,
        "not_before": None,
        "deadline": None,
        "requested": requested,
        "token": 0,
        "attempts": 0,
        "sealed": False,
        "files": 0,
        "records": 0,
        "bytes": 0,
        "changed_at": now,
        "error_code": None,
        "error": None,
        **others,
    }


def write_down(
    connection: Connection, key: DeliveryKey, *, now: datetime, who: str, what: str
) -> None:
    """Add to the history what somebody asked for."""
    connection.execute(
        insert(history),
        {
            "at": now,
            "who": who,
            "what": what,
            "client_guid": key.client_guid,
            "snapshot_date": key.snapshot_date,
            "revision": key.revision,
        },
    )


def file_states(connection: Connection, delivery_id: int) -> dict[str, FileState]:
    """Give the delivery's files in the order of sending, by name."""
    given: dict[str, list[str]] = {}
    for row in connection.execute(_TEMPORARIES, {"delivery_id": delivery_id}).all():
        given.setdefault(row.final_name, []).append(row.name)
    return {
        row.name: FileState(
            name=row.name,
            state=FileStage(row.state),
            temporary=row.temporary,
            earlier_temporaries=tuple(
                name for name in given.get(row.name, ()) if name != row.temporary
            ),
            evidence=_evidence_of(row),
            in_doubt=row.outcome == IN_DOUBT,
        )
        for row in file_rows(connection, delivery_id)
    }


def file_rows(connection: Connection, delivery_id: int) -> Sequence[Row[Any]]:
    """Give the rows of the delivery's files in the order of sending."""
    return connection.execute(_FILES, {"delivery_id": delivery_id}).all()


def in_doubt_of(rows: Sequence[Row[Any]]) -> set[str]:
    """Give the names of a delivery's files that may have been sent: see `FileState.in_doubt`."""
    return {row.name for row in rows if row.outcome == IN_DOUBT}


def _evidence_of(row: Row[Any]) -> PublishEvidence | None:
    if row.level is None:
        return None
    return PublishEvidence(
        level=row.level,
        size=row.published_size,
        outcome=row.outcome,
        address=row.address,
        host_key=row.host_key,
        server=row.server,
    )


SEAL_COLUMNS = ("sealed", "key_fingerprints", "files", "records", "bytes")


def seal_values(bundle: Bundle) -> dict[str, object]:
    """Give what a row of `deliveries` holds of its sealed bundle, in SEAL_COLUMNS."""
    return {
        "sealed": True,
        "key_fingerprints": json.dumps(bundle.key_fingerprints),
        "files": len(bundle.files),
        "records": bundle.record_count,
        "bytes": bundle.encrypted_size,
    }


def file_values(
    delivery_id: int, bundle: Bundle, *, in_doubt: bool = False
) -> list[dict[str, object]]:
    """Give the rows of a sealed bundle's files."""
    return [
        {
            "delivery_id": delivery_id,
            "name": artifact.name,
            "place": place,
            "record_count": artifact.record_count,
            "file_size": artifact.file_size,
            "checksum": artifact.checksum,
            "encrypted_file_size": artifact.encrypted_file_size,
            "encrypted_checksum": artifact.encrypted_checksum,
            "state": FileStage.SEALED.value,
            "outcome": IN_DOUBT if in_doubt else None,
        }
        for place, artifact in enumerate(bundle.files)
    ]


def bundle_of(connection: Connection, row: Row[Any]) -> Bundle | None:
    """Give the sealed bundle of a row of `deliveries`; None before the seal."""
    if not row.sealed:
        return None
    try:
        return _bundle(connection, row)
    except (ValueError, TypeError, IndexError) as error:
        raise LedgerCorrupt(
            f"the ledger holds names or keys of {describe(key_of(row))} that are none"
        ) from error


def _bundle(connection: Connection, row: Row[Any]) -> Bundle:
    artifacts = [
        Artifact(
            identity=parse_file_name(file.name),
            name=file.name,
            record_count=file.record_count,
            file_size=file.file_size,
            checksum=file.checksum,
            encrypted_file_size=file.encrypted_file_size,
            encrypted_checksum=file.encrypted_checksum,
        )
        for file in file_rows(connection, row.id)
    ]
    return Bundle(
        key=key_of(row),
        artifacts=tuple(artifacts[:-1]),
        manifest=artifacts[-1],
        key_fingerprints=tuple(json.loads(row.key_fingerprints)),
    )


def attempts_of(connection: Connection, delivery_id: int) -> list[Attempt]:
    """Give the delivery's attempts that came to an end, first to last."""
    rows = connection.execute(
        select(attempts)
        .where(attempts.c.delivery_id == delivery_id, attempts.c.ended_at.is_not(None))
        .order_by(attempts.c.number)
    ).all()
    return [
        Attempt(
            number=row.number,
            started_at=row.started_at,
            ended_at=row.ended_at,
            outcome=Outcome(row.outcome),
            error_code=row.error_code,
            error=row.error,
        )
        for row in rows
    ]
