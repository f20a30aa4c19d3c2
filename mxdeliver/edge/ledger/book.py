"""The ledger itself: opened for one command, shared by its threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Self

from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.model import Attempt, Bundle, Client, Delivery, DeliveryKey, DeliveryState
from mxdeliver.edge.ledger import (
    claims,
    direct,
    disk,
    leftovers,
    listing,
    planning,
    requests,
    rows,
    servers,
)
from mxdeliver.edge.ledger.database import Database, open_database, trust_clock
from mxdeliver.edge.ledger.lease import Lease
from mxdeliver.edge.ledger.locks import Locks
from mxdeliver.edge.ledger.rows import FileState, HistoryEntry
from mxdeliver.edge.ledger.servers import ServerProfile
from mxdeliver.edge.ledger.standing import Standing, standing_of

BUSY_SECONDS = 20.0


class Ledger:
    """All deliveries, as the state directory knows them. Every `now` is an aware time.

    Any method may raise LedgerBusy, LedgerCorrupt, SpoolFull and SpoolIO, StopRequested while it
    waits for a lock; LookupError for a key that the ledger never had.
    """

    def __init__(self, database: Database, *, locks: Locks, secret_key: bytes) -> None:
        self.secret_key = secret_key
        self._database = database
        self._locks = locks

    @classmethod
    @contextmanager
    def open(
        cls,
        state_dir: Path,
        *,
        url: str | None = None,
        now: datetime,
        spool_has_bundles: bool = False,
        busy_timeout: float = BUSY_SECONDS,
        stop: Callable[[], bool] = lambda: False,
        random: Callable[[int], bytes] = os.urandom,
    ) -> Iterator[Self]:
        """Open `state_dir/ledger.db`, made where there is none (mode 0600).

        Raises LedgerMissing (gone, as `spool_has_bundles` or its key shows), LedgerCorrupt,
        LedgerVersion, LedgerBusy after `busy_timeout` seconds, ClockInsane where `now` is more than
        a day behind the last entry, ConfigInvalid for a network file system, SpoolFull, SpoolIO and
        SpoolMode.
        """
        disk.require_place(state_dir, url)
        disk.make_place(state_dir)
        disk.refuse_unfinished(state_dir)
        path, key = state_dir / "ledger.db", state_dir / "ledger.key"
        # Both come after the ledger: where one of them is there and the ledger is not, it was lost.
        witness = state_dir / "spool" if spool_has_bundles else key if key.exists() else None
        database = open_database(path, busy_timeout=busy_timeout, witness=witness, stop=stop)
        try:
            trust_clock(database, now)
            yield cls(
                database,
                locks=Locks(state_dir / "locks"),
                secret_key=disk.secret_key(state_dir, random),
            )
        finally:
            database.close()

    # -- what is owed ----------------------------------------------------------------------------

    def plan(
        self, clients: Sequence[Client], *, now: datetime, catch_up_days: int
    ) -> list[DeliveryKey]:
        """Make a row for each closed day that is owed and has none.

        Gives the keys that became failed (DEADLINE) just now because their day is older than the
        window; each is given once.
        """
        with self._database.write() as connection:
            return planning.plan(
                connection, clients, locks=self._locks, now=now, catch_up_days=catch_up_days
            )

    def due(
        self,
        clients: Sequence[Client],
        *,
        now: datetime,
        contexts: Mapping[str, str],
        catch_up_days: int | None = None,
    ) -> list[Delivery]:
        """Give what is to be delivered now, oldest day first.

        Waiting ones whose time has come or whose context changed; parked ones whose context changed
        (with `catch_up_days`: of days within the window); running ones whose process is gone.
        `contexts` is by client guid; a client without one counts as unchanged.
        """
        with self._database.read() as connection:
            return planning.due(
                connection,
                clients,
                locks=self._locks,
                now=now,
                contexts=contexts,
                catch_up_days=catch_up_days,
            )

    def preview(
        self,
        clients: Sequence[Client],
        *,
        now: datetime,
        contexts: Mapping[str, str],
        catch_up_days: int,
    ) -> list[Delivery]:
        """Give what `plan` and then `due` would give; nothing of it stays written."""
        with self._database.write() as connection:
            planning.plan(
                connection, clients, locks=self._locks, now=now, catch_up_days=catch_up_days
            )
            found = planning.due(
                connection,
                clients,
                locks=self._locks,
                now=now,
                contexts=contexts,
                catch_up_days=catch_up_days,
            )
            connection.rollback()
        return found

    def missing(
        self, clients: Sequence[Client], *, now: datetime, catch_up_days: int
    ) -> list[tuple[str, SnapshotDate]]:
        """Give days that are owed and due but have no row, or whose run has died; oldest first."""
        with self._database.read() as connection:
            return planning.missing(
                connection, clients, locks=self._locks, now=now, catch_up_days=catch_up_days
            )

    def first_seen(self, client_guid: str) -> datetime | None:
        """Give the time at which the ledger first heard of the client."""
        with self._database.read() as connection:
            return planning.first_seen(connection, client_guid)

    # -- what is known ---------------------------------------------------------------------------

    def get(self, key: DeliveryKey) -> Delivery | None:
        """Give the delivery, or None."""
        with self._database.read() as connection:
            row = rows.find(connection, key)
            return None if row is None else rows.delivery_of(row)

    def latest(self, client_guid: str, day: SnapshotDate) -> Delivery | None:
        """Give the day's latest revision, or None."""
        with self._database.read() as connection:
            row = rows.find_latest(connection, client_guid, day)
            return None if row is None else rows.delivery_of(row)

    def deliveries(
        self,
        *,
        client_guids: Collection[str] | None = None,
        day: SnapshotDate | None = None,
        states: Collection[DeliveryState] = tuple(DeliveryState),
        latest_only: bool = True,
    ) -> list[Delivery]:
        """Give deliveries by day, client and revision, with `seconds`; all without a filter."""
        with self._database.read() as connection:
            return listing.deliveries_of(
                connection, client_guids, day=day, states=states, latest_only=latest_only
            )

    def files(self, key: DeliveryKey) -> dict[str, FileState]:
        """Give the sealed delivery's files by name, in the order of sending; {} before the seal."""
        with self._database.read() as connection:
            return rows.file_states(connection, rows.require(connection, key).id)

    def bundle(self, key: DeliveryKey) -> Bundle | None:
        """Give what was sealed; None before the seal."""
        with self._database.read() as connection:
            return rows.bundle_of(connection, rows.require(connection, key))

    def attempts(self, key: DeliveryKey) -> list[Attempt]:
        """Give the attempts that came to an end, first to last."""
        with self._database.read() as connection:
            return rows.attempts_of(connection, rows.require(connection, key).id)

    def history(self, *, client_guid: str | None = None) -> list[HistoryEntry]:
        """Give what people asked for, first to last."""
        with self._database.read() as connection:
            return listing.history_of(connection, client_guid)

    def lifted_at(self, client_guids: Collection[str]) -> datetime | None:
        """Give the latest moment at which one of the clients got a day, or a person resumed one."""
        with self._database.read() as connection:
            return listing.lifted_at(connection, client_guids)

    def servers(self) -> dict[str, ServerProfile]:
        """Give what was found out about each client's server, by client guid."""
        with self._database.read() as connection:
            return servers.profiles(connection)

    def standing(self, key: DeliveryKey) -> Standing:
        """Give what a push must know of all that was done before."""
        with self._database.read() as connection:
            return standing_of(connection, rows.require(connection, key))

    def may_have_sealed(self, key: DeliveryKey, *, before: int) -> bool:
        """Tell whether an attempt of a lower number may have sealed without the ledger's knowing."""
        with self._database.read() as connection:
            return claims.may_have_sealed(connection, rows.require(connection, key), before)

    # -- one attempt -----------------------------------------------------------------------------

    def is_held(self, key: DeliveryKey) -> bool:
        """Tell whether a process is at the delivery's day at this moment."""
        return not self._locks.is_free(key.client_guid, key.snapshot_date)

    @contextmanager
    def claim(
        self,
        key: DeliveryKey,
        *,
        now: datetime,
        context: str,
        deadline: datetime,
        counted: bool = True,
    ) -> Iterator[Lease]:
        """Begin an attempt; `deadline` counts where none runs yet.

        One that is not `counted` only writes down what was decided without trying anything.

        Raises LeaseHeld when somebody else is at it, or was and nothing is left to do. An attempt
        that is not ended inside the `with` leaves the delivery running, to be taken up again.
        """
        with self._locks.hold(key.client_guid, key.snapshot_date) as lock:
            take = partial(claims.take, self._database, key, lock)
            held = take(now=now, context=context, deadline=deadline, counted=counted)
            try:
                yield held
            finally:
                held.close()

    def left_behind(self, client_guid: str, day: SnapshotDate) -> list[leftovers.LeftBehind]:
        """Give what attempts of the day, of any revision and wherever, may have left in part."""
        with self._database.read() as connection:
            return leftovers.left_behind(connection, client_guid, day)

    def temporaries(self, key: DeliveryKey) -> list[str]:
        """Give every temporary name of the day, of any revision, that may lie where it is bound to."""
        with self._database.read() as connection:
            return leftovers.temporaries_of(connection, rows.require(connection, key))

    def forget_temporaries(self, key: DeliveryKey, names: Iterable[str]) -> None:
        """Drop temporary names that are known to be gone from the client's server."""
        with self._database.write() as connection:
            leftovers.forget_temporaries(connection, rows.require(connection, key), names)

    def forget_half_written(self, key: DeliveryKey, names: Iterable[str]) -> None:
        """Note that nothing of ours lies half-written under these names any more."""
        with self._database.write() as connection:
            direct.forget(connection, rows.require(connection, key), names)

    # -- what people ask for ---------------------------------------------------------------------

    def ensure(
        self, clients: Sequence[Client], day: SnapshotDate, *, now: datetime
    ) -> list[Delivery]:
        """Give the day's latest revision of each for `run --date`, made where there is none."""
        with self._database.write() as connection:
            found = [requests.ensure(connection, client, day, now=now) for client in clients]
            return [rows.delivery_of(row) for row in found]

    def ask_for(self, wanted: Sequence[tuple[Client, SnapshotDate]], *, now: datetime) -> None:
        """Make a row for each of these days that has none, many in one commit: as `ensure` does."""
        for first in range(0, len(wanted), requests.AT_ONCE):
            with self._database.write() as connection:
                for client, day in wanted[first : first + requests.AT_ONCE]:
                    requests.ensure(connection, client, day, now=now)

    def resume(
        self, *, client_guid: str, day: SnapshotDate | None, now: datetime
    ) -> list[DeliveryKey]:
        """Make parked and failed deliveries due now, their deadline to start anew.

        Waiting ones too, of the day that is named or tried before; those in doubt where the day is
        named. A failed one whose sealed files were dropped comes back as its next revision.
        """
        with self._database.write() as connection:
            return requests.resume(connection, client_guid, day, now=now, who=requests.who())

    def reopen(
        self, deadlines: Mapping[DeliveryKey, datetime], *, now: datetime
    ) -> list[DeliveryKey]:
        """Make failed and waiting deliveries due now for `run --date`, each with its new deadline.

        Others stay as they are. Gives the keys, the next revision's where sealed files were dropped.
        """
        with self._database.write() as connection:
            return requests.reopen(connection, deadlines, now=now, who=requests.who())

    def new_revision(self, client: Client, day: SnapshotDate, *, now: datetime) -> DeliveryKey:
        """Begin the day anew from the source; LeaseHeld while somebody is at it."""
        with self._locks.hold(client.guid, day), self._database.write() as connection:
            return requests.new_revision(connection, client, day, now=now, who=requests.who())

    def resend(self, key: DeliveryKey, *, now: datetime) -> None:
        """Make a delivered day due again with the same sealed files.

        Raises UsageError when it is not delivered or its sealed files were dropped, LeaseHeld while
        somebody is at it.
        """
        with (
            self._locks.hold(key.client_guid, key.snapshot_date),
            self._database.write() as connection,
        ):
            requests.resend(connection, key, now=now, who=requests.who())

    def adopt(
        self,
        client_guid: str,
        day: SnapshotDate,
        *,
        client: Client | None,
        reason: str,
        now: datetime,
    ) -> Delivery:
        """Write down that a person vouches for the day: it counts as delivered, nothing is sent.

        Raises UsageError where it is delivered already, LeaseHeld while somebody is at it,
        LookupError without a `client` for a day that the ledger never had.
        """
        with self._locks.hold(client_guid, day), self._database.write() as connection:
            who = requests.who()
            row = requests.adopt(
                connection, client_guid, day, client=client, reason=reason, now=now, who=who
            )
            return rows.delivery_of(row)

    # -- what may go -----------------------------------------------------------------------------

    def prunable(self, *, now: datetime, retention_days: int) -> list[DeliveryKey]:
        """Give deliveries whose sealed files may go: delivered, failed or replaced long enough ago."""
        before = now - timedelta(days=retention_days)
        with self._database.read() as connection:
            return [rows.key_of(row) for row in requests.prunable(connection, before=before)]

    def pruned(self, key: DeliveryKey, *, now: datetime) -> None:
        """Write down that the sealed files are gone; `prunable` names them no more."""
        with self._database.write() as connection:
            requests.mark_pruned(connection, key, now=now)

    def prune(
        self, *, now: datetime, retention_days: int, drop: Callable[[DeliveryKey], object]
    ) -> list[DeliveryKey]:
        """Call `drop` for each delivery that is prunable, while nobody can start it again.

        Gives the keys dropped. `drop` must not mind a delivery that it dropped before.
        """
        before = now - timedelta(days=retention_days)
        dropped = []
        for key in self.prunable(now=now, retention_days=retention_days):
            # `resume` needs the same transaction: it comes before, or finds the files gone.
            with self._database.write() as connection:
                if key in map(rows.key_of, requests.prunable(connection, before=before)):
                    drop(key)
                    requests.mark_pruned(connection, key, now=now)
                    dropped.append(key)
        return dropped
