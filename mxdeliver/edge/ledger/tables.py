"""The ledger's tables. A change here needs a migration beside it and the next `SCHEMA_VERSION`.

Times are UTC as text of one width and days are `YYYY-MM-DD`, so that they sort as they read and a
person with any database browser understands them.
"""

from __future__ import annotations

from datetime import UTC, date, datetime

from sqlalchemy import (
    DDL,
    Boolean,
    CheckConstraint,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    event,
)
from sqlalchemy.types import TypeDecorator

from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.errors import LedgerCorrupt

SCHEMA_VERSION = 2
"""What `user_version` says; the migration of the same number leads here."""


def parse_moment(text: str) -> datetime:
    """Read a point in time as it is written here; ValueError or TypeError for anything else."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a point in time has a zone")
    return moment


class Moment(TypeDecorator[datetime]):
    """An aware datetime as `2026-01-02T03:04:05.000006Z`."""

    impl = String(27)
    cache_ok = True

    @property
    def python_type(self) -> type[datetime]:
        """What is read."""
        return datetime

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        """Write a point in time; ValueError for one without a zone."""
        del dialect
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("the ledger keeps points in time, not local times")
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"

    def process_result_value(self, value: str | None, dialect: Dialect) -> datetime | None:
        """Read a point in time."""
        del dialect
        try:
            return None if value is None else parse_moment(value)
        except (ValueError, TypeError) as error:
            raise LedgerCorrupt("the ledger holds a time that is none") from error


class Day(TypeDecorator[SnapshotDate]):
    """A snapshot date as `2026-01-02`."""

    impl = String(10)
    cache_ok = True

    @property
    def python_type(self) -> type[SnapshotDate]:
        """What is read."""
        return SnapshotDate

    def process_bind_param(self, value: date | None, dialect: Dialect) -> str | None:
        """Write a day."""
        del dialect
        return None if value is None else value.isoformat()

    def process_result_value(self, value: str | None, dialect: Dialect) -> SnapshotDate | None:
        """Read a day."""
        del dialect
        try:
            return None if value is None else SnapshotDate.parse(value)
        except (ValueError, TypeError) as error:
            raise LedgerCorrupt("the ledger holds a day that is none") from error


metadata = MetaData()

clients = Table(
    "clients",
    metadata,
    Column("client_guid", Text, primary_key=True),
    Column("first_seen", Moment, nullable=False),
    # Every day from `planned_from` through `planned_through` has its row.
    Column("planned_from", Day),
    Column("planned_through", Day),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("client_guid", Text, nullable=False),
    Column("snapshot_date", Day, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("due_at", Moment, nullable=False),
    Column("not_before", Moment),
    Column("deadline", Moment),
    # A person asked for it: its day's age alone does not make it fail.
    Column("requested", Boolean, nullable=False),
    Column("token", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("fingerprint", Text),
    Column("sealed", Boolean, nullable=False),
    Column("key_fingerprints", Text),
    # The server and directory that the files' progress is about.
    Column("destination", Text),
    Column("files", Integer, nullable=False),
    Column("records", Integer, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("delivered_at", Moment),
    Column("changed_at", Moment, nullable=False),
    Column("pruned_at", Moment),
    Column("error_code", Text),
    Column("error", Text),
    UniqueConstraint("client_guid", "snapshot_date", "revision", name="one_row_per_revision"),
    CheckConstraint(
        "state in ('waiting', 'running', 'parked', 'failed', 'delivered')", name="known_state"
    ),
)
Index("deliveries_by_state", deliveries.c.state)
Index("deliveries_by_change", deliveries.c.changed_at)

files = Table(
    "files",
    metadata,
    Column("delivery_id", ForeignKey("deliveries.id"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("place", Integer, nullable=False),
    Column("record_count", Integer, nullable=False),
    Column("file_size", Integer, nullable=False),
    Column("checksum", Text, nullable=False),
    Column("encrypted_file_size", Integer, nullable=False),
    Column("encrypted_checksum", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("temporary", Text),
    # The evidence of publishing.
    Column("level", Text),
    Column("published_size", Integer),
    Column("outcome", Text),
    Column("address", Text),
    Column("host_key", Text),
    Column("server", Text),
    # Where the final name itself is written: 'intended', then 'created' until it is published.
    Column("direct", Text),
    CheckConstraint(
        "state in ('sealed', 'uploading', 'publishing', 'published')", name="known_file_state"
    ),
)

temporaries = Table(
    "temporaries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("delivery_id", ForeignKey("deliveries.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("final_name", Text, nullable=False),
    UniqueConstraint("delivery_id", "name", name="one_row_per_temporary"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("delivery_id", ForeignKey("deliveries.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("token", Integer, nullable=False),
    Column("started_at", Moment, nullable=False),
    # Empty for an attempt that is under way or whose process was killed.
    Column("ended_at", Moment),
    Column("outcome", Text),
    Column("error_code", Text),
    Column("error", Text),
)

# What each client's server was found to allow, at the destination that is named.
servers = Table(
    "servers",
    metadata,
    Column("client_guid", Text, primary_key=True),
    Column("destination", Text, nullable=False),
    Column("software", Text, nullable=False),
    Column("publishing", Text, nullable=False),
    Column("level", Text, nullable=False),
    Column("sweeps", Boolean, nullable=False),
    Column("decided_on", Day, nullable=False),
    CheckConstraint("publishing in ('rename', 'direct')", name="known_publishing"),
)

history = Table(
    "history",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Moment, nullable=False),
    Column("who", Text, nullable=False),
    Column("what", Text, nullable=False),
    Column("client_guid", Text, nullable=False),
    Column("snapshot_date", Day, nullable=False),
    Column("revision", Integer, nullable=False),
)

# What happened stays written: the database itself refuses to change it.
TRIGGERS = (
    (
        "CREATE TRIGGER sealed_is_write_once BEFORE UPDATE OF name, record_count, file_size, checksum,"
        " encrypted_file_size, encrypted_checksum ON files"
        " BEGIN SELECT RAISE(ABORT, 'sealed values are written once'); END"
    ),
    (
        "CREATE TRIGGER attempts_end_once BEFORE UPDATE ON attempts WHEN OLD.ended_at IS NOT NULL"
        " BEGIN SELECT RAISE(ABORT, 'attempts are append-only'); END"
    ),
    (
        "CREATE TRIGGER attempts_stay BEFORE DELETE ON attempts"
        " BEGIN SELECT RAISE(ABORT, 'attempts are append-only'); END"
    ),
    (
        "CREATE TRIGGER history_unchanged BEFORE UPDATE ON history"
        " BEGIN SELECT RAISE(ABORT, 'history is append-only'); END"
    ),
    (
        "CREATE TRIGGER history_stays BEFORE DELETE ON history"
        " BEGIN SELECT RAISE(ABORT, 'history is append-only'); END"
    ),
)
for _trigger in TRIGGERS:
    _statement = DDL(_trigger)  # type: ignore[no-untyped-call]  # SQLAlchemy left it untyped
    event.listen(metadata, "after_create", _statement.execute_if(dialect="sqlite"))
