"""Any story of runs, crashes, clocks, servers and people: each day arrives once and whole.

hypothesis makes the stories; after each of their steps `Watch` checks the invariants I1-I3, I7-I10,
I12, I16 and I17 of reliability.md over the log of all that was ever visible at the clients', and at
the end, with everything healed, what the clients have is what an undisturbed run would have brought.

Six stories, the same each time; `make stories` tells a thousand at random, three seconds each
(`STORIES=5000 STEPS=40 make stories`: more, and longer). There a story that broke something is
shown as it is; `SHRINK=1` makes it small, which takes minutes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pysequoia
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from mxdeliver.core import naming
from mxdeliver.core.calendar import SnapshotDate, days, is_closed, last_closed
from mxdeliver.core.errors import ClockInsane, DayNotClosed
from mxdeliver.core.model import Client, DailyFile, DeliveryState, EventType, ManifestFile
from mxdeliver.worker import Report
from tests.support.deployment import key_pair
from tests.support.model_host import CATCH_UP_DAYS, CrashPoint, Host, guid_of
from tests.support.model_remote import ANY, REQUESTS, By, Fault, ModelRemote, Strike, Taking
from tests.support.model_watch import Watch, day_of, digest, same_day
from tests.support.warehouse import make_warehouse

STORIES = int(os.environ.get("STORIES", "6"))
STEPS = int(os.environ.get("STEPS", "12"))
IS_DEEP = "STORIES" in os.environ
SHRINKS = not IS_DEEP or "SHRINK" in os.environ

FIRST = SnapshotDate.of(date.today() + timedelta(days=7))  # noqa: DTZ011 - behind the key's birthday
LAST = FIRST.following(20)
START = datetime(FIRST.year, FIRST.month, FIRST.day, 6, 30, tzinfo=UTC) + timedelta(days=1)
CLIENTS = {
    "plain": {"active_since": FIRST},
    "ours": {"active_since": FIRST, "replace": "ours", "timezone": "America/New_York"},
}
GUIDS = {name: guid_of(number) for number, name in enumerate(CLIENTS)}


class World:
    """What all stories share: the remote, the records, the key, and what they come to."""

    def __init__(self, folder: Path, remote: ModelRemote) -> None:
        self.folder = folder
        self.remote = remote
        self.warehouse = folder / "warehouse.duckdb"
        make_warehouse(
            self.warehouse,
            clients=list(GUIDS.values()),
            days=list(days(FIRST, LAST)),
            rows=3,
            filled=["users"],
        )
        self._decryptor = pysequoia.Tsk.from_bytes(key_pair().secret).decryptor()
        self._expected: dict[tuple[str, str], dict[str, bytes]] = {}

    def host(self) -> Host:
        """Make a host that has never run, and empty the clients' folders."""
        self.remote.clear()
        self.remote.password = "the-first-password"
        return Host(
            Path(tempfile.mkdtemp(dir=self.folder)) / "host",
            remote=self.remote,
            warehouse=self.warehouse,
            clients=CLIENTS,
            key=key_pair(),
            now=START,
        )

    def expected(self, name: str, day: SnapshotDate) -> dict[str, bytes]:
        """Give a day as an undisturbed run brings it, decrypted."""
        key = (name, str(day))
        if key not in self._expected:
            with ModelRemote() as remote:
                one = Host(
                    Path(tempfile.mkdtemp(dir=self.folder)) / "undisturbed",
                    remote=remote,
                    warehouse=self.warehouse,
                    clients=CLIENTS,
                    key=key_pair(),
                    now=START + timedelta(days=30),
                )
                one.run(days=[day], clients=[one.clients[name]])
                self._expected[key] = self.decrypted(remote.visible(name))
        return self._expected[key]

    def decrypted(self, files: dict[str, bytes]) -> dict[str, bytes]:
        """Decrypt with Sequoia, which no part of the program uses."""
        return {
            name: pysequoia.decrypt(content, decryptor=self._decryptor).bytes
            for name, content in files.items()
        }


def faults(*whats: Strike) -> st.SearchStrategy[Fault]:
    """Give what may happen at one request of a run."""
    chosen = st.sampled_from(whats or [one for one in Strike if one not in NOT_MENDED])
    requests = st.sampled_from([*REQUESTS[1:], "open", "rename", "rename", "rename"])
    return st.one_of(
        st.builds(Fault, request=requests, number=st.integers(1, 4), what=chosen),
        st.builds(Fault, request=st.just(ANY), number=st.integers(1, 45), what=chosen),
    )


def crashes() -> st.SearchStrategy[CrashPoint]:
    """Give where in a run the process may die."""
    return st.one_of(
        st.builds(CrashPoint, at=st.just("log"), number=st.integers(1, 25)),
        st.builds(CrashPoint, at=st.sampled_from(["commit", "begin"]), number=st.integers(1, 70)),
        st.builds(CrashPoint, at=st.just("fsync"), number=st.integers(1, 18)),
    )


NOT_MENDED = {Strike.HOLD, Strike.CRASH, Strike.CRASH_AFTER}
TROUBLES = [
    None,
    "the server is down",
    "the disk is full",
    "nothing can be removed",
    "the source is gone",
    "the password is refused",
]
HOURS = st.sampled_from([0, 0, 0.3, 7, 24, 24])
NAMES = st.sampled_from(sorted(CLIENTS))
AGO = st.integers(0, 3)


class Stories(RuleBasedStateMachine):
    """One story: a host, two clients, and whatever befalls them."""

    world: World

    @initialize()
    def begin(self) -> None:
        self.host = self.world.host()
        self.remote = self.world.remote
        self.watch = Watch(self.host, self.remote)
        self.planted: set[tuple[str, str]] = set()
        self.backup: bytes | None = None
        self.latest = self.host.clock.now
        self.owed = dict.fromkeys(CLIENTS, FIRST.following(-1))

    def day(self, name: str, ago: int) -> SnapshotDate:
        closed = last_closed(self.host.clients[name].zone, self.host.clock.now)
        return max(FIRST, closed.following(-ago))

    def ran(self, *, whole: bool = True) -> None:
        """Check what a run has left; `whole`: it came to its end and was asked for all that is due."""
        self.latest = max(self.latest, self.host.clock.now)
        deliveries = self.watch.look()
        for name, client in self.host.clients.items():
            known = {
                one.key.snapshot_date for one in deliveries if one.key.client_guid == client.guid
            }
            if whole:
                self.owed[name] = max(self.owed[name], self.closed[name])
            missing = set(days(self.first_owed(name), self.owed[name])) - known
            assert not missing, f"I10: {name} has no row for {missing}"

    def first_owed(self, name: str) -> SnapshotDate:
        """Give the first day of the client that is owed at all (design, section 8)."""
        client = self.host.clients[name]
        with self.host.ledger() as (ledger, _):
            seen = ledger.first_seen(client.guid) or self.latest
        seen_on = SnapshotDate.of(seen.astimezone(client.zone).date())
        return max(FIRST, seen_on.following(-CATCH_UP_DAYS))

    # -- runs ----------------------------------------------------------------------------------

    @rule(hours=HOURS, trouble=st.sampled_from(TROUBLES), workers=st.sampled_from([1, 2]))
    def run(self, hours: float, trouble: str | None, workers: int) -> None:
        self.let_time_pass(hours)
        self.expect()
        with self.in_trouble(trouble):
            self.host.run(workers=workers)
            self.ran()

    @rule(hours=HOURS, fault=faults())
    def run_into_a_fault(self, hours: float, fault: Fault) -> None:
        self.let_time_pass(hours)
        self.expect(fault)
        self.ended(self.host.run())

    @rule(hours=HOURS, fault=faults(Strike.CRASH, Strike.CRASH_AFTER))
    def run_and_die_while_sending(self, hours: float, fault: Fault) -> None:
        self.run_into_a_fault(hours, fault)

    @rule(hours=HOURS, crash=crashes())
    def run_and_die(self, hours: float, crash: CrashPoint) -> None:
        self.let_time_pass(hours)
        self.expect()
        self.ended(self.host.run(crash=crash))

    @rule(name=NAMES | st.none(), ago=AGO, fault=st.none() | faults())
    def run_a_day(self, name: str | None, ago: int, fault: Fault | None) -> None:
        day = self.day(name or "plain", ago)
        clients = None if name is None else [self.host.clients[name]]
        self.expect(fault)
        with suppress(DayNotClosed):
            self.ended(self.host.run(days=[day], clients=clients), whole=False)

    @rule(hours=HOURS)
    def run_twice_at_once(self, hours: float) -> None:
        self.let_time_pass(hours)
        self.expect()
        self.watch.excuses.logins += 1
        self.host.run_twice_at_once()
        self.ran()

    @rule(
        hours=HOURS,
        request=st.sampled_from(["open", "write", "close", "lstat", "rename", "remove"]),
        number=st.integers(1, 5),
    )
    def pause_a_run_until_another_has_taken_over(
        self, hours: float, request: str, number: int
    ) -> None:
        self.let_time_pass(hours)
        self.expect(Fault(request=request, number=number, what=Strike.HOLD))
        self.watch.excuses.logins += 1
        self.watch.excuses.twice = self.remote.taking is not Taking.NOTHING
        self.host.run_and_be_overtaken()
        self.ran()

    def let_time_pass(self, hours: float) -> None:
        if self.latest < START + timedelta(days=9):
            self.host.clock.now += timedelta(hours=hours)

    def expect(self, fault: Fault | None = None) -> None:
        """Begin a run."""
        self.remote.begin(fault)
        self.closed = {
            name: last_closed(client.zone, self.host.clock.now)
            for name, client in self.host.clients.items()
        }

    def ended(self, report: Report | None, *, whole: bool = True) -> None:
        """Look at what a run with a fault has left; None is one that died."""
        fault = self.remote.fault
        if self.remote.struck or report is None:
            self.watch.excuses.twice = True
        if fault is not None and self.remote.struck and fault.request in {ANY, "remove"}:
            self.watch.excuses.leftovers = fault.what in {Strike.FAIL, Strike.DENY}
        if report is None:
            self.watch.excuses.logins += 1
        self.ran(whole=whole and report is not None)

    @contextmanager
    def in_trouble(self, trouble: str | None) -> Iterator[None]:
        """Let something be wrong for one run."""
        remote, password = self.remote, self.remote.password
        remote.up = trouble != "the server is down"
        remote.full = trouble == "the disk is full"
        remote.keeps_removed = trouble == "nothing can be removed"
        self.watch.excuses.leftovers = remote.keeps_removed
        self.host.source_is_there(trouble != "the source is gone")
        if trouble == "the password is refused":
            remote.password = "another password"
        yield
        remote.up, remote.full, remote.keeps_removed = True, False, False
        self.host.source_is_there(True)
        remote.password = password

    # -- everything else -----------------------------------------------------------------------

    @rule(
        what=st.sampled_from(
            ["resume", "resume", "resend", "rebuild", "backup", "restore", "login"]
        ),
        name=NAMES,
        ago=AGO,
    )
    def let_people_act(self, what: str, name: str, ago: int) -> None:
        client, day = self.host.clients[name], self.day(name, ago)
        if what == "resume":
            self.host.resume(client, day if ago else None)
            self.watch.excuses.logins += 1
        elif what == "login":
            self.remote.password = f"password-{ago}"
            self.host.write_password(self.remote.password)
        elif what == "backup" and self.host.deliveries():
            self.backup = self.host.copy_ledger()
        elif what == "restore" and self.backup is not None:
            self.restore(self.backup)
        elif what in {"resend", "rebuild"}:
            self.send_again(client, day, rebuild=what == "rebuild")
        self.watch.look()

    def send_again(self, client: Client, day: SnapshotDate, *, rebuild: bool) -> None:
        if not is_closed(day, client.zone, self.host.clock.now):
            return  # wrong usage
        if self.host.resend(client, day, rebuild=rebuild):
            self.watch.excuses.logins += rebuild  # the refused revision counts no more
            self.watch.look()
            self.expect()
            self.host.run(days=[day], clients=[client])
            self.ran(whole=False)

    def restore(self, backup: bytes) -> None:
        self.host.restore_ledger(backup)
        self.watch.forget_what_was_known()
        self.watch.excuses.logins += 1
        self.watch.excuses.leftovers = True
        self.owed = dict.fromkeys(CLIENTS, FIRST.following(-1))

    @rule(hours=st.sampled_from([1, 5, 20]))
    def set_the_clock_back(self, hours: int) -> None:
        self.host.clock.now = max(
            self.host.clock.now - timedelta(hours=hours), self.latest - timedelta(hours=23)
        )
        if self.host.deliveries():
            self.run_with_a_clock_that_is_days_behind()

    def run_with_a_clock_that_is_days_behind(self) -> None:
        right = self.host.clock.now
        self.host.clock.now = self.latest - timedelta(days=30)
        self.remote.begin()
        logins = self.remote.logins
        with pytest.raises(ClockInsane):
            self.host.run()
        self.host.clock.now = right
        assert self.remote.logins == logins
        self.watch.look()

    @rule(taking=st.none() | st.sampled_from(Taking), name=NAMES)
    def receive(self, taking: Taking | None, name: str) -> None:
        if taking is not None:
            self.remote.taking = taking
            return
        for file in self.remote.visible(name):
            if (name, file) not in self.planted:
                self.remote.take(name, file, By.RECEIVER)

    @rule(
        name=NAMES,
        ahead=st.integers(0, 1),
        number=st.integers(0, 3),
        how=st.sampled_from(["other", "size", "equal", "hidden", "cleared"]),
    )
    def lay_a_file_there(self, name: str, ahead: int, number: int, how: str) -> None:
        day = self.day(name, 0).following(ahead)
        file = file_names(GUIDS[name], day)[number]
        if how == "cleared":
            self.clear()
        elif how == "hidden":
            self.remote.put(name, f".{file}.1-cafecafe.part", b"theirs")
        elif file not in self.remote.visible(name) and file not in self.watch.placed:
            sealed = self.sealed_content(name, day, file)
            content = {"other": b"another file", "size": bytes(len(sealed)), "equal": sealed}[how]
            self.remote.put(name, file, content or b"?")
            self.planted.add((name, file))
        self.watch.look()

    def clear(self) -> None:
        for name, file in sorted(self.planted):
            if file in self.remote.visible(name) and not self.is_ours(name, file):
                self.remote.take(name, file, By.STRANGER)
        self.planted.clear()

    def is_ours(self, name: str, file: str) -> bool:
        """Tell whether what lies there is what the latest revision sealed."""
        keys = [key for key in self.watch.sealed if same_day(key, day_of(file))]
        content = digest(self.remote.visible(name)[file])
        with self.host.ledger() as (ledger, _):
            latest = ledger.latest(*day_of_key(file))
        return any(
            self.watch.sealed[key][file] == content
            for key in keys
            if latest is None or key == latest.key
        )

    def sealed_content(self, name: str, day: SnapshotDate, file: str) -> bytes:
        with self.host.ledger() as (ledger, spool):
            latest = ledger.latest(GUIDS[name], day)
            bundle = None if latest is None else spool.bundle(latest.key)
            if latest is None or bundle is None:
                return b""
            artifact = next(one for one in bundle.files if one.name == file)
            with spool.read(latest.key, artifact) as stream:
                return stream.read()

    # -- the end -------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "host"):
            return
        self.heal()
        for _ in range(12):
            if self.is_settled():
                break
            self.work_through_it()
        else:
            raise AssertionError(
                [one for one in self.watch.look() if one.state is not DeliveryState.DELIVERED]
            )
        before = len(self.remote.changes), self.remote.logins
        self.remote.begin()
        self.host.run()
        assert (len(self.remote.changes), self.remote.logins) == before, "I9: nothing was due"
        self.check_the_end()

    def heal(self) -> None:
        self.remote.begin()
        self.remote.taking = Taking.NOTHING
        self.host.clock.now = self.latest + timedelta(hours=1)
        self.clear()

    def is_settled(self) -> bool:
        self.expect()
        self.host.run()
        self.ran()
        return all(one.state is DeliveryState.DELIVERED for one in self.watch.look())

    def work_through_it(self) -> None:
        """Do what `status` would ask people for."""
        for one in self.watch.look():
            name = self.watch.folder_of((one.key.client_guid, str(one.key.snapshot_date)))
            if one.error_code == "REMOTE_CONFLICT":
                for file in self.remote.visible(name):
                    if same_day(one.key, day_of(file)) and not self.is_ours(name, file):
                        self.remote.take(name, file, By.STRANGER)
            if one.state is not DeliveryState.DELIVERED:
                self.host.resume(self.host.clients[name], one.key.snapshot_date)
        self.watch.look()
        self.host.clock.now += timedelta(minutes=5)

    def check_the_end(self) -> None:
        deliveries = self.watch.look()
        assert deliveries
        for one in deliveries:
            day = one.key.client_guid, str(one.key.snapshot_date)
            name = self.watch.folder_of(day)
            files = {
                file: content for file, content in self.watch.placed.items() if day_of(file) == day
            }
            revisions = [key for key, sealed in self.watch.sealed.items() if sealed == files]
            assert revisions, f"{day}: what came is of no one revision"
            contents = {
                change.name: change.after
                for change in self.remote.changes
                if change.after is not None and files.get(change.name) == digest(change.after)
            }
            assert self.world.decrypted(contents) == self.world.expected(
                name, one.key.snapshot_date
            )


def file_names(guid: str, day: SnapshotDate) -> list[str]:
    """Give the final names of a day, the manifest last."""
    daily = [
        DailyFile(client_guid=guid, snapshot_date=day, resource="users", event=event)
        for event in EventType
    ]
    manifest = ManifestFile(client_guid=guid, snapshot_date=day)
    return [naming.file_name(one, ".avro.pgp") for one in (*daily, manifest)]


def day_of_key(file: str) -> tuple[str, SnapshotDate]:
    """Give the client's guid and the day that a final name is about."""
    identity = naming.parse_file_name(file)
    return identity.client_guid, identity.snapshot_date


@pytest.mark.timeout(0 if IS_DEEP else 600)
def test_whatever_happens_each_day_arrives_once_and_whole(tmp_path):
    with ModelRemote() as remote:

        class Told(Stories):
            world = World(tmp_path, remote)

        run_state_machine_as_test(
            Told,
            settings=settings(
                max_examples=STORIES,
                stateful_step_count=STEPS,
                deadline=None,
                derandomize=not IS_DEEP,
                print_blob=False,
                phases=list(Phase) if SHRINKS else [Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
