"""A lost ledger, made anew from what the spool knows; a damaged one is set aside, never removed.

What was sealed says nothing about what was sent, and a receiver may have taken its files away. So
each file that is read back is in doubt: the next run looks for it on the client's server, and where
it does not lie there as it was sealed, a person decides (DELIVERY_IN_DOUBT). The same holds for a
day that is due and of which the spool has nothing. Nothing is sent twice, and no day is forgotten.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, time
from pathlib import Path

from sqlalchemy import Connection, insert, select, update

from mxdeliver.core.calendar import SnapshotDate, due_at
from mxdeliver.core.errors import (
    DeliveryInDoubt,
    LeaseHeld,
    LedgerCorrupt,
    SpoolCorrupt,
    UsageError,
)
from mxdeliver.core.model import Bundle, Client, Delivery, DeliveryKey, DeliveryState
from mxdeliver.edge.ledger import disk, planning, requests, rows
from mxdeliver.edge.ledger.database import open_database
from mxdeliver.edge.ledger.locks import Locks
from mxdeliver.edge.ledger.tables import clients as clients_table
from mxdeliver.edge.ledger.tables import deliveries, files

_DRAFT = ".ledger.db.rebuilding"
_BUSY_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """The new ledger's deliveries by day and client, and where the damaged files lie now."""

    deliveries: tuple[Delivery, ...]
    set_aside: tuple[Path, ...]


def rebuild(
    state_dir: Path,
    *,
    bundles: Sequence[Bundle],
    damaged: Mapping[DeliveryKey, str],
    clients: Sequence[Client],
    now: datetime,
    catch_up_days: int,
) -> Rebuilt:
    """Make `state_dir/ledger.db` from sealed bundles; killed at any moment there is a whole one or none.

    `damaged` are bundles that cannot be read, with the reason; `clients` are all that are owed days.
    A damaged random key is set aside, too; where that was all, the ledger stays and no deliveries
    are given. Raises UsageError where both are healthy, LedgerVersion for a newer ledger, LeaseHeld
    while a delivery or another rebuild is under way.
    """
    path, draft = state_dir / "ledger.db", state_dir / _DRAFT
    with disk.mapped(state_dir):
        disk.refuse_network(state_dir)
    with _alone(state_dir):
        damaged_key = disk.repair_key(state_dir)
        if _is_healthy(path):
            if damaged_key is None:
                raise UsageError(f"{path} is healthy and stays as it is: there is nothing to do")
            return Rebuilt(deliveries=(), set_aside=(damaged_key,))
        with disk.mapped(draft):
            for leftover in _with_journals(draft):
                leftover.unlink(missing_ok=True)
        database = open_database(draft, spool_has_bundles=False, busy_timeout=_BUSY_SECONDS)
        try:
            with database.write() as connection:
                _read_back(connection, bundles, damaged, clients, now=now)
                _owe(connection, clients, state_dir, now=now, catch_up_days=catch_up_days)
                made = _deliveries(connection)
        finally:
            database.close()
        with disk.mapped(path):
            set_aside = _set_aside(path, now)
            try:
                os.link(draft, path)
            except FileExistsError as error:
                raise LeaseHeld(f"another process has made {path} meanwhile") from error
            finally:
                draft.unlink()
            disk.sync_directory(state_dir)
    if damaged_key is not None:
        set_aside.append(damaged_key)
    return Rebuilt(deliveries=tuple(made), set_aside=tuple(set_aside))


@contextmanager
def _alone(state_dir: Path) -> Iterator[None]:
    """Keep other rebuilds out; LeaseHeld also while a delivery is under way."""
    with disk.mapped(state_dir):
        descriptor = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LeaseHeld(f"another process rebuilds the ledger of {state_dir}") from error
        if busy := Locks(state_dir / "locks").held():
            raise LeaseHeld(
                f"a run is under way with {busy[0]}; stop it, or wait for its end, and rebuild then"
            )
        yield
    finally:
        os.close(descriptor)


def _is_healthy(path: Path) -> bool:
    with disk.mapped(path):
        if not path.exists() or path.stat().st_size == 0:
            return False
    try:
        # A journal beside it is rolled back by this: what a crash left is no damage.
        open_database(path, spool_has_bundles=False, busy_timeout=_BUSY_SECONDS).close()
    except LedgerCorrupt:
        return False
    return True


def _with_journals(path: Path) -> list[Path]:
    # A journal that stayed behind would be rolled back into the new file.
    return [path.with_name(f"{path.name}{end}") for end in ("", "-journal", "-wal", "-shm")]


def _set_aside(path: Path, now: datetime) -> list[Path]:
    mark = f"damaged-{now.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}"
    moved = []
    for file in _with_journals(path):
        end = file.name.removeprefix(path.name)
        aside = path.with_name(f"{path.name}.{mark}{end}")
        with suppress(FileNotFoundError):
            file.rename(aside)
            moved.append(aside)
    return moved


# -- what the spool knows --------------------------------------------------------------------------


def _read_back(
    connection: Connection,
    bundles: Sequence[Bundle],
    damaged: Mapping[DeliveryKey, str],
    clients: Sequence[Client],
    *,
    now: datetime,
) -> None:
    known = {client.guid: client for client in clients}
    for bundle in bundles:
        values = _row(bundle.key, known.get(bundle.key.client_guid), now)
        connection.execute(insert(deliveries).values({**values, **rows.seal_values(bundle)}))
        number = rows.require(connection, bundle.key).id
        connection.execute(insert(files), rows.file_values(number, bundle, in_doubt=True))
    for key, reason in damaged.items():
        failure = {
            "state": DeliveryState.FAILED.value,
            "error_code": SpoolCorrupt.code,
            "error": SpoolCorrupt(reason).explain(),
        }
        values = _row(key, known.get(key.client_guid), now)
        connection.execute(insert(deliveries).values({**values, **failure}))
    for key in (*(bundle.key for bundle in bundles), *damaged):
        rows.write_down(connection, key, now=now, who=requests.who(), what="ledger rebuild")


def _row(key: DeliveryKey, client: Client | None, now: datetime) -> dict[str, object]:
    due = now if client is None else due_at(key.snapshot_date, client.zone, client.due_after)
    # As if a person had asked for it: its age alone does not make it fail before it was looked for.
    return rows.new_row(key, now=now, due=due, requested=True)


# -- what else is owed -----------------------------------------------------------------------------


def _owe(
    connection: Connection,
    clients: Sequence[Client],
    state_dir: Path,
    *,
    now: datetime,
    catch_up_days: int,
) -> None:
    """Make a row for each other day of the window; what is due already is in doubt."""
    for client in clients:
        seen = _seen(connection, client, now, catch_up_days)
        connection.execute(insert(clients_table).values(client_guid=client.guid, first_seen=seen))
    locks = Locks(state_dir / "locks")
    planning.plan(connection, clients, locks=locks, now=now, catch_up_days=catch_up_days)
    doubt = DeliveryInDoubt("the ledger was rebuilt, and the spool has nothing of this day")
    connection.execute(
        update(deliveries)
        .where(
            ~deliveries.c.requested,
            deliveries.c.state == DeliveryState.WAITING.value,
            deliveries.c.due_at <= now,
        )
        .values(state=DeliveryState.PARKED.value, error_code=doubt.code, error=doubt.explain())
    )


def _seen(connection: Connection, client: Client, now: datetime, catch_up_days: int) -> datetime:
    """Give the time since when the client is owed days by the new ledger.

    Without `active_since` nobody knows it any more; the oldest bundle of the window is from then
    or later, and the days behind it are owed.
    """
    query = select(deliveries.c.snapshot_date).where(deliveries.c.client_guid == client.guid)
    start = planning.window_start(client, now, catch_up_days)
    sealed = [day for day in connection.scalars(query) if day >= start]
    if client.active_since is not None or not sealed:
        return now
    following: SnapshotDate = min(sealed).following()
    noon = datetime.combine(following, time(12), tzinfo=client.zone)
    return min(now, noon.astimezone(UTC))


def _deliveries(connection: Connection) -> list[Delivery]:
    query = select(deliveries).where(rows.is_latest)
    return [
        rows.delivery_of(row)
        for row in connection.execute(
            query.order_by(deliveries.c.snapshot_date, deliveries.c.client_guid)
        )
    ]
