"""A lost ledger, made anew from what the spool knows; a damaged one is set aside, never removed.

What was sealed says nothing about what was sent, and a receiver may have taken its files away. So
each file that is read back is in doubt: the next run looks for it on the client's server, and where
it does not lie there as it was sealed, a person decides (DELIVERY_IN_DOUBT). The same holds for a
day that is due and of which the spool has nothing. Nothing is sent twice, and no day of the window is
forgotten: where nothing says any more since when a client is owed days, it is owed all of them.

Killed at any moment, there is the ledger that was there, or the new one, or the file `UNFINISHED`
with which nothing is delivered: it is the new ledger while it is made, and gives its name up at the
instant in which it takes the other's place.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, time
from pathlib import Path

from sqlalchemy import Connection, insert, select, update

from mxdeliver.core.calendar import SnapshotDate, due_at, is_closed
from mxdeliver.core.errors import (
    ClockInsane,
    DeliveryInDoubt,
    LeaseHeld,
    LedgerCorrupt,
    SpoolCorrupt,
    UsageError,
)
from mxdeliver.core.model import Bundle, Client, Delivery, DeliveryKey, DeliveryState
from mxdeliver.edge.ledger import damage, disk, planning, requests, rows
from mxdeliver.edge.ledger.database import open_database, trust_clock
from mxdeliver.edge.ledger.locks import Locks
from mxdeliver.edge.ledger.tables import clients as clients_table
from mxdeliver.edge.ledger.tables import deliveries, files

_BUSY_SECONDS = 20.0
_NOTHING_SEALED = "the ledger was rebuilt, and the spool has nothing of this day"
_NOTHING_KNOWN = (
    f"{_NOTHING_SEALED}; whether the client was owed it cannot be told, as its entry has no "
    "`active_since` and the earlier ledger is gone or unreadable: where it was not, adopt it, too"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """What was made anew, the new ledger's deliveries by day and client, and what was set aside.

    Where the ledger was healthy and only its random key was not, `ledger` is False, and there are
    no deliveries.
    """

    ledger: bool
    key: bool
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
    random: Callable[[int], bytes] = os.urandom,
) -> Rebuilt:
    """Make what is lost or damaged anew: `ledger.db` from sealed bundles, and the random key.

    `damaged` are bundles that cannot be read, with the reason; `clients` are all that are owed days.
    Raises UsageError where both are healthy, LedgerVersion for a newer ledger, LeaseHeld while a
    delivery or another rebuild is under way, ClockInsane where a bundle is of a day to come.
    """
    path, draft = state_dir / "ledger.db", state_dir / disk.UNFINISHED
    with disk.mapped(state_dir):
        disk.refuse_network(state_dir)
    with _alone(state_dir):
        # What was being replaced has lost its journals, without which it may look healthy.
        ledger = _is_being_replaced(path, draft) or not _is_healthy(path, now)
        key = not disk.is_key_sound(state_dir)
        made, set_aside = [], []
        if ledger:
            _trust_clock(bundles, clients, now)
            made = _make(
                draft,
                bundles,
                damaged,
                clients,
                owed=damage.owed_since(path, clients, now=now, catch_up_days=catch_up_days),
                now=now,
                catch_up_days=catch_up_days,
            )
            set_aside += _replace(path, draft, now)
        elif not key and not draft.exists():
            raise UsageError(f"{path} is healthy and stays as it is: there is nothing to do")
        _remove(draft)
        if key:
            set_aside += disk.renew_key(state_dir, random)
    return Rebuilt(ledger=ledger, key=key, deliveries=tuple(made), set_aside=tuple(set_aside))


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


def _is_healthy(path: Path, now: datetime) -> bool:
    """Tell whether a run would take the ledger, whatever it reads of it."""
    with disk.mapped(path):
        if not path.exists() or path.stat().st_size == 0:
            return False
    try:
        # A journal beside it is rolled back by this: what a crash left is no damage.
        database = open_database(path, busy_timeout=_BUSY_SECONDS)
        try:
            damage.require_whole(database)
            trust_clock(database, now)
        finally:
            database.close()
    except (LedgerCorrupt, ClockInsane):
        return False
    return True


def _trust_clock(bundles: Sequence[Bundle], clients: Sequence[Client], now: datetime) -> None:
    """Refuse to work out what is owed by a clock that stands before what was sealed."""
    zones = {client.guid: client.zone for client in clients}
    for bundle in bundles:
        day, zone = bundle.key.snapshot_date, zones.get(bundle.key.client_guid)
        if zone is not None and not is_closed(day, zone, now):
            raise ClockInsane(
                f"the clock says {now.isoformat(timespec='seconds')}, but {rows.describe(bundle.key)} "
                "is sealed already; where the clock is right, move that day's folder out of `spool`"
            )


# -- one file takes another's place ----------------------------------------------------------------


def _with_journals(path: Path) -> list[Path]:
    # A journal that stayed behind would be rolled back into the new file.
    return [path.with_name(f"{path.name}{end}") for end in ("", "-journal", "-wal", "-shm")]


def _empty(draft: Path) -> None:
    """Begin anew what was broken off, without giving its name up for a moment."""
    with disk.mapped(draft):
        for journal in _with_journals(draft)[1:]:
            journal.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            os.truncate(draft, 0)


def _remove(draft: Path) -> None:
    _empty(draft)
    with disk.mapped(draft):
        draft.unlink(missing_ok=True)


def _is_being_replaced(path: Path, draft: Path) -> bool:
    """Tell whether a rebuild was broken off after it gave the damaged ledger a second name."""
    with disk.mapped(path):
        return draft.exists() and path.exists() and path.stat().st_nlink > 1


def _replace(path: Path, draft: Path, now: datetime) -> list[Path]:
    """Put the draft in the ledger's place; give the names that what lay there has from now on."""
    mark = f"damaged-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{os.urandom(4).hex()}"
    moved = []
    with disk.mapped(path):
        ledger, *journals = _with_journals(path)
        with suppress(FileNotFoundError):
            aside = path.with_name(f"{path.name}.{mark}")
            os.link(ledger, aside)
            moved.append(aside)
        disk.sync_directory(path.parent)
        for journal in journals:
            aside = path.with_name(f"{path.name}.{mark}{journal.name.removeprefix(path.name)}")
            with suppress(FileNotFoundError):
                journal.rename(aside)
                moved.append(aside)
        disk.sync_directory(path.parent)
        draft.rename(path)
        disk.sync_directory(path.parent)
    return moved


# -- what the spool knows --------------------------------------------------------------------------


def _make(
    draft: Path,
    bundles: Sequence[Bundle],
    damaged: Mapping[DeliveryKey, str],
    clients: Sequence[Client],
    *,
    owed: Mapping[str, SnapshotDate],
    now: datetime,
    catch_up_days: int,
) -> list[Delivery]:
    """Make a ledger at `draft`; `owed` is since when, as far as the damaged one says."""
    _empty(draft)
    database = open_database(draft, busy_timeout=_BUSY_SECONDS)
    try:
        with database.write() as connection:
            _read_back(connection, bundles, damaged, clients, now=now)
            _owe(
                connection,
                clients,
                owed,
                locks=Locks(draft.parent / "locks"),
                now=now,
                catch_up_days=catch_up_days,
            )
            return _deliveries(connection)
    finally:
        database.close()


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
    owed: Mapping[str, SnapshotDate],
    *,
    locks: Locks,
    now: datetime,
    catch_up_days: int,
) -> None:
    """Make a row for each other day of the window; what is due already is in doubt."""
    sealed = _sealed_days(connection)
    for client in clients:
        seen = _seen(client, owed.get(client.guid), sealed, now=now, catch_up_days=catch_up_days)
        connection.execute(insert(clients_table).values(client_guid=client.guid, first_seen=seen))
    for guid in sealed.keys() - {client.guid for client in clients}:  # no longer configured
        connection.execute(insert(clients_table).values(client_guid=guid, first_seen=now))
    planning.plan(connection, clients, locks=locks, now=now, catch_up_days=catch_up_days)
    for client in clients:
        known = client.active_since is not None or client.guid in owed
        doubt = DeliveryInDoubt(_NOTHING_SEALED if known else _NOTHING_KNOWN)
        connection.execute(
            update(deliveries)
            .where(
                deliveries.c.client_guid == client.guid,
                ~deliveries.c.requested,
                deliveries.c.state == DeliveryState.WAITING.value,
                deliveries.c.due_at <= now,
            )
            .values(
                state=DeliveryState.PARKED.value,
                requested=True,  # its age alone decides nothing
                error_code=doubt.code,
                error=doubt.explain(),
            )
        )


def _sealed_days(connection: Connection) -> dict[str, list[SnapshotDate]]:
    found: dict[str, list[SnapshotDate]] = {}
    for guid, day in connection.execute(
        select(deliveries.c.client_guid, deliveries.c.snapshot_date)
    ).all():
        found.setdefault(guid, []).append(day)
    return found


def _seen(
    client: Client,
    owed: SnapshotDate | None,
    sealed: Mapping[str, Sequence[SnapshotDate]],
    *,
    now: datetime,
    catch_up_days: int,
) -> datetime:
    """Give the time since when the client is owed days by the new ledger.

    By it `planning` finds the first one: that of `active_since`, or the earliest that is known of,
    and where nothing is known the whole window. What is older has failed, and was said to have.
    """
    if client.active_since is not None:
        return now
    first = planning.window_start(client, now, catch_up_days)
    if owed is not None:
        first = max(first, min([owed, *sealed.get(client.guid, ())]))
    noon = datetime.combine(first.following(), time(12), tzinfo=client.zone)
    return min(now, noon.astimezone(UTC))


def _deliveries(connection: Connection) -> list[Delivery]:
    query = select(deliveries).where(rows.is_latest)
    return [
        rows.delivery_of(row)
        for row in connection.execute(
            query.order_by(deliveries.c.snapshot_date, deliveries.c.client_guid)
        ).all()
    ]
