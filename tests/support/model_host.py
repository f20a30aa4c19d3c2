"""The sending side of a story that runs in one process: real parts, a clock to turn, and crashes.

    host = Host(folder, remote, warehouse, zones={"one": "UTC"})
    host.run()                                     # as `mxdeliver run`
    host.run(days=[day], crash=CrashPoint(at="commit", number=3))
    host.run()                                     # finds what SIGKILL would have left

A crash copies the state directory at its very moment, breaks all connections, ends the run by an
exception that nothing in the program catches, and puts the copy in the place of what the unwinding
program left behind. What the ledger had not committed is lost, and locks have no holder.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cache
from io import StringIO
from pathlib import Path
from threading import Event, RLock
from typing import Literal
from unittest.mock import patch

import yaml
from sqlalchemy import Engine, event

from mxdeliver.cli import run as run_command
from mxdeliver.cli import wiring
from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.errors import UsageError
from mxdeliver.core.model import Client, Delivery, DeliveryKey, DeliveryState, Resource
from mxdeliver.edge.avro import load_resources
from mxdeliver.edge.ledger import Ledger
from mxdeliver.edge.spool import Spool
from mxdeliver.site import Site
from mxdeliver.worker import Report
from tests.support.deployment import KeyPair, key_pair
from tests.support.model_remote import ModelRemote
from tests.support.warehouse import make_warehouse

CATCH_UP_DAYS = 3
Moment = Literal["log", "commit", "begin", "fsync"]
"""Behind a line of the log; before a commit, a transaction or an fsync."""


class CrashError(BaseException):
    """Ends everything, as SIGKILL would."""


@dataclass(frozen=True, kw_only=True)
class CrashPoint:
    """The process dies at the `number`th such moment of a run."""

    at: Moment
    number: int


class Clock:
    """The wall clock of the host; it stands still but for `now` being set."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        """Give the time."""
        return self.now


class Host:
    """One machine with the program's configuration, state and log under `folder`."""

    def __init__(
        self,
        folder: Path,
        *,
        remote: ModelRemote,
        warehouse: Path,
        clients: Mapping[str, Mapping[str, object]],
        key: KeyPair,
        now: datetime,
    ) -> None:
        self.folder = folder
        self.remote = remote
        self.clock = Clock(now)
        self.source = folder / "warehouse.duckdb"
        self.nonces: set[str] = set()
        """Every nonce of a temporary name that was given out."""
        self.alarms: list[tuple[str, str, str]] = []
        """The (client, day, code) of each `delivery.failed` that was logged."""
        self._state = folder / "state"
        self._warehouse = warehouse
        self._remains = folder / "remains"
        self._crash: CrashPoint | None = None
        self._met: Counter[str] = Counter()
        self._lock = RLock()
        self.is_dead = False
        folder.mkdir()
        (folder / "key.asc").write_bytes(key.public)
        self.password = remote.password
        self.write_password(remote.password)
        self.source_is_there(True)
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(_document(clients, key, remote), sort_keys=False))
        self._configuration = wiring.load(path)
        self.clients = {client.name: client for client in self._configuration.clients}
        with redirect_stderr(StringIO()), self.ledger():
            pass  # says once that the state directory was created

    # -- surroundings --------------------------------------------------------------------------

    def write_password(self, password: str) -> None:
        """Correct the password that is sent."""
        self.password = password
        path = self.folder / "password"
        path.touch(mode=0o600)
        path.write_text(password)

    def source_is_there(self, there: bool) -> None:
        """Let the warehouse be gone or come back."""
        self.source.unlink(missing_ok=True)
        if there:
            os.link(self._warehouse, self.source)

    def copy_ledger(self) -> bytes | None:
        """Give a backup of the ledger."""
        path = self._state / "ledger.db"
        return path.read_bytes() if path.exists() else None

    def restore_ledger(self, backup: bytes) -> None:
        """Put a backup of the ledger in its place."""
        (self._state / "ledger.db").write_bytes(backup)

    def drop_locks(self) -> None:
        """Take the lock files away from whoever holds them: their lease can be taken over."""
        shutil.rmtree(self._state / "locks", ignore_errors=True)

    # -- what people and cron do ---------------------------------------------------------------

    def run(
        self,
        *,
        days: Sequence[SnapshotDate] | None = None,
        clients: Sequence[Client] | None = None,
        crash: CrashPoint | None = None,
        workers: int = 1,
    ) -> Report | None:
        """Do as `mxdeliver run` does, with days or without; None where the process died."""
        with self._crashing(crash):
            return self._run(days, clients, workers)
        return None

    def run_twice_at_once(self) -> None:
        """Let two processes' worth of runs begin at the same time."""
        with self._crashing(None), ThreadPoolExecutor(2) as pool:
            for one in [pool.submit(self._run, None, None, 2) for _ in range(2)]:
                one.result()

    def run_and_be_overtaken(self) -> None:
        """Pause a run where the remote holds it, let another one take its lease, then wake it up."""
        with self._crashing(None), ThreadPoolExecutor(1) as pool:
            paused = pool.submit(self._run, None, None, 1)
            while not self.remote.held.wait(0.005) and not paused.done():
                pass
            self.drop_locks()
            self._run(None, None, 1)
            self.remote.release()
            paused.result()

    def _run(
        self,
        days: Sequence[SnapshotDate] | None,
        clients: Sequence[Client] | None,
        workers: int,
    ) -> Report:
        configuration = replace(self._configuration, workers=workers)
        chosen = wiring.Chosen(
            clients=configuration.clients if clients is None else tuple(clients), broken=()
        )
        stop = Event()
        with self._site(stop) as site:
            return run_command.carry_out(configuration, chosen, days, site, stop)[0]

    def resend(self, client: Client, day: SnapshotDate, *, rebuild: bool) -> bool:
        """Write down what `mxdeliver resend` writes before it runs; False where it refuses."""
        with self.ledger() as (ledger, spool):
            delivery = ledger.latest(client.guid, day)
            if rebuild:
                ledger.new_revision(client, day, now=self.clock())
                return True
            delivered = delivery is not None and delivery.state is DeliveryState.DELIVERED
            if not delivered or delivery is None or spool.bundle(delivery.key) is None:
                return False
            try:
                ledger.resend(delivery.key, now=self.clock())
            except UsageError:
                return False
            return True

    def resume(self, client: Client, day: SnapshotDate | None) -> list[DeliveryKey]:
        """Do as `mxdeliver resume` does."""
        with self.ledger() as (ledger, _):
            return ledger.resume(client_guid=client.guid, day=day, now=self.clock())

    @contextmanager
    def ledger(self) -> Iterator[tuple[Ledger, Spool]]:
        """Open ledger and spool as a command does."""
        with wiring.open_ledger(self._configuration, self.clock()) as (ledger, spool):
            yield ledger, spool

    def deliveries(self) -> list[Delivery]:
        """Give all deliveries, every revision of them."""
        with self.ledger() as (ledger, _):
            return ledger.deliveries(latest_only=False)

    @contextmanager
    def _site(self, stop: Event) -> Iterator[Site]:
        with wiring.open_site(
            self._configuration,
            resources=_resources(),
            run_id="story",
            stop=stop,
            clock=self.clock,
            observer=self._observe,
        ) as site:
            yield replace(site, chance=lambda: 0.5, nonce=self._nonce)

    def _nonce(self) -> str:
        nonce = f"{len(self.nonces):08x}"
        self.nonces.add(nonce)
        return nonce

    def _observe(self, event_name: str, fields: Mapping[str, object]) -> None:
        """Let the time that a run waits for its next attempt pass at once."""
        retry_at = fields.get("retry_at")
        if isinstance(retry_at, datetime):
            self.clock.now = max(self.clock.now, retry_at)
        if event_name == "delivery.failed":
            self.alarms.append(
                (
                    str(fields["client_guid"]),
                    str(fields["snapshot_date"]),
                    str(fields["error_code"]),
                )
            )
        self._meet("log")

    # -- dying ---------------------------------------------------------------------------------

    def die(self) -> None:
        """Keep the state directory as it is at this moment, and break all connections."""
        with self._lock:
            if not self.is_dead:
                shutil.copytree(self._state, self._remains, symlinks=True)
                self.is_dead = True
        self.remote.cut()

    def _meet(self, moment: Moment) -> None:
        with self._lock:
            self._met[moment] += 1
            crash = self._crash
            if crash is not None and crash.at == moment and crash.number == self._met[moment]:
                self.die()
            if self.is_dead:
                raise CrashError

    @contextmanager
    def _crashing(self, crash: CrashPoint | None) -> Iterator[None]:
        """Meet the crash at its moment; what it left is there afterwards."""
        sync = os.fsync

        def on_commit(_: object) -> None:
            self._meet("commit")

        def on_begin(_: object) -> None:
            self._meet("begin")

        def on_sync(descriptor: int) -> None:
            self._meet("fsync")
            sync(descriptor)

        self._crash, self.remote.on_crash = crash, self.die
        self._met.clear()
        event.listen(Engine, "commit", on_commit)
        event.listen(Engine, "begin", on_begin)
        try:
            with patch("os.fsync", on_sync):
                yield
        except CrashError:
            pass
        finally:
            event.remove(Engine, "commit", on_commit)
            event.remove(Engine, "begin", on_begin)
            self._crash = None
            if self.is_dead:
                shutil.rmtree(self._state)
                self._remains.rename(self._state)
                self.is_dead = False


DAY = SnapshotDate.of(date.today() + timedelta(days=7))  # noqa: DTZ011 - behind the key's birthday
"""The one day that `small_host` owes."""


def small_host(folder: Path, remote: ModelRemote) -> Host:
    """Make a host with one client, called "first", which owes it `DAY` and may replace its own."""
    warehouse = folder / "warehouse.duckdb"
    make_warehouse(warehouse, clients=[guid_of(0)], days=[DAY], rows=2, filled=["users"])
    return Host(
        folder / "host",
        remote=remote,
        warehouse=warehouse,
        clients={"first": {"active_since": DAY, "replace": "ours"}},
        key=key_pair(),
        now=datetime(DAY.year, DAY.month, DAY.day, 6, tzinfo=UTC) + timedelta(days=1),
    )


@cache
def _resources() -> Mapping[str, Resource]:
    return load_resources()


def _document(
    clients: Mapping[str, Mapping[str, object]], key: KeyPair, remote: ModelRemote
) -> dict[str, object]:
    return {
        "version": 1,
        "state_dir": "state",
        "delivery_log": "deliveries.jsonl",
        "schedule": {"catch_up_days": CATCH_UP_DAYS},
        "sources": {"warehouse": {"type": "duckdb", "database": "warehouse.duckdb"}},
        "retry": {"attempts": 3},
        "defaults": {"source": "warehouse", "resources": ["users"]},
        "clients": [
            {
                "name": name,
                "guid": guid_of(number),
                "timezone": entry.get("timezone", "UTC"),
                "active_since": str(entry["active_since"]),
                "pgp": {"public_key": "key.asc", "fingerprint": key.fingerprint},
                "sftp": {
                    "host": "127.0.0.1",
                    "port": remote.port,
                    "username": "someone",
                    "password": {"file": "password"},
                    "host_keys": [remote.pin],
                    "allowed_ips": ["127.0.0.1"],
                    "directory": f"/{name}",
                    "replace": entry.get("replace", "never"),
                },
            }
            for number, (name, entry) in enumerate(clients.items())
        ],
    }


def guid_of(number: int) -> str:
    """Give the `number`th client's guid."""
    return f"CLT-{number:08d}-2d2e-6a5d-f2b5-c7dad42ef184"
