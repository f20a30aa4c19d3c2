"""Any story of runs, crashes, clocks, servers and people: each day arrives once and whole.

hypothesis makes the stories; after each of their steps `Watch` checks the invariants I1-I3, I7-I10,
I12, I16 and I17 of reliability.md over the log of all that was ever visible at the clients', and at
the end, with everything healed, what the clients have is what an undisturbed run would have brought.

Bounded and the same each time; for long, at random, with the story that broke something as its output:

    STORIES=1000 STEPS=30 .venv/bin/python -m pytest tests/test_state_machine.py

(a story takes about three seconds; `SHRINK=1` makes the broken one small, which takes minutes).
"""

from __future__ import annotations

import os
import tempfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pysequoia
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mxdeliver.core import naming
from mxdeliver.core.calendar import SnapshotDate, days, is_closed, last_closed
from mxdeliver.core.errors import ClockInsane, DayNotClosed
from mxdeliver.core.model import DailyFile, DeliveryState, EventType, ManifestFile
from tests.support.deployment import key_pair
from tests.support.model_host import CATCH_UP_DAYS, CrashPoint, Host, guid_of
from tests.support.model_remote import ANY, REQUESTS, By, Fault, ModelRemote, Strike, Taking
from tests.support.model_watch import Watch, day_of, digest, same_day
from tests.support.warehouse import make_warehouse

STORIES = int(os.environ.get("STORIES", "20"))
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


def faults() -> st.SearchStrategy[Fault]:
    """Give what may happen at one request of a run."""
    whats = st.sampled_from([one for one in Strike if one is not Strike.HOLD])
    return st.one_of(
        st.builds(Fault, request=st.just(ANY), number=st.integers(1, 45), what=whats),
        st.builds(
            Fault, request=st.sampled_from(REQUESTS[1:]), number=st.integers(1, 5), what=whats
        ),
    )


def crashes() -> st.SearchStrategy[CrashPoint]:
    """Give where in a run the process may die."""
    return st.one_of(
        st.builds(CrashPoint, at=st.just("log"), number=st.integers(1, 25)),
        st.builds(CrashPoint, at=st.sampled_from(["commit", "begin"]), number=st.integers(1, 70)),
        st.builds(CrashPoint, at=st.just("fsync"), number=st.integers(1, 18)),
    )


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

    @rule(fault=st.none() | faults(), workers=st.sampled_from([1, 2]))
    def run(self, fault: Fault | None, workers: int) -> None:
        dies = fault is not None and fault.what in {Strike.CRASH, Strike.CRASH_AFTER}
        self.expect_trouble(fault)
        report = self.host.run(workers=1 if dies else workers)
        self.watch.excuses.twice |= self.remote.struck
        if report is None:
            self.watch.excuses.logins += 1
        self.ran(whole=report is not None)

    @rule(crash=crashes())
    def run_and_die(self, crash: CrashPoint) -> None:
        self.expect_trouble()
        report = self.host.run(crash=crash)
        if report is None:
            self.watch.excuses.logins += 1
            self.watch.excuses.twice = True
        self.ran(whole=report is not None)

    @rule(name=NAMES | st.none(), ago=AGO, fault=st.none() | faults())
    def run_a_day(self, name: str | None, ago: int, fault: Fault | None) -> None:
        day = self.day(name or "plain", ago)
        clients = None if name is None else [self.host.clients[name]]
        self.expect_trouble(fault)
        try:
            report = self.host.run(days=[day], clients=clients)
        except DayNotClosed:
            return
        self.watch.excuses.twice |= self.remote.struck
        if report is None:
            self.watch.excuses.logins += 1
        self.ran(whole=False)

    @rule()
    def run_twice_at_once(self) -> None:
        self.expect_trouble()
        self.watch.excuses.logins += 1
        self.host.run_twice_at_once()
        self.ran()

    @rule(request=st.sampled_from(REQUESTS), number=st.integers(1, 40))
    def pause_a_run_until_another_has_taken_over(self, request: str, number: int) -> None:
        number = number if request == ANY else (number - 1) % 4 + 1
        self.expect_trouble(Fault(request=request, number=number, what=Strike.HOLD))
        self.watch.excuses.logins += 1
        self.watch.excuses.twice = self.remote.taking is not Taking.NOTHING
        self.host.run_and_be_overtaken()
        self.ran()

    def expect_trouble(self, fault: Fault | None = None) -> None:
        self.remote.begin(fault)
        self.closed = {
            name: last_closed(client.zone, self.host.clock.now)
            for name, client in self.host.clients.items()
        }
        if fault is not None and fault.request in {ANY, "remove"}:
            self.watch.excuses.leftovers |= fault.what in {Strike.FAIL, Strike.DENY}

    # -- people --------------------------------------------------------------------------------

    @rule(name=NAMES, ago=AGO | st.none())
    def resume(self, name: str, ago: int | None) -> None:
        self.host.resume(self.host.clients[name], None if ago is None else self.day(name, ago))
        self.watch.excuses.logins += 1
        self.watch.look()

    @rule(name=NAMES, ago=AGO, rebuild=st.booleans())
    def resend(self, name: str, ago: int, rebuild: bool) -> None:
        client, day = self.host.clients[name], self.day(name, ago)
        if not is_closed(day, client.zone, self.host.clock.now):
            return  # wrong usage
        if self.host.resend(client, day, rebuild=rebuild):
            self.watch.excuses.logins += rebuild  # the refused revision counts no more
            self.watch.look()
            self.expect_trouble()
            self.host.run(days=[day], clients=[client])
            self.ran(whole=False)

    @rule()
    def make_a_backup_of_the_ledger(self) -> None:
        if self.host.deliveries():
            self.backup = self.host.copy_ledger()

    @precondition(lambda self: self.backup is not None)
    @rule()
    def restore_the_backup(self) -> None:
        assert self.backup is not None
        self.host.restore_ledger(self.backup)
        self.watch.forget_what_was_known()
        self.watch.excuses.logins += 1
        self.owed = dict.fromkeys(CLIENTS, FIRST.following(-1))
        self.watch.look()

    @rule(there=st.booleans())
    def lose_or_find_the_source(self, there: bool) -> None:
        self.host.source_is_there(there)

    @rule(right=st.booleans())
    def correct_the_password(self, right: bool) -> None:
        self.host.write_password(self.remote.password if right else "a-wrong-password")

    # -- time ----------------------------------------------------------------------------------

    @precondition(lambda self: self.latest < START + timedelta(days=9))
    @rule(hours=st.sampled_from([0.3, 2, 7, 24, 24, 50]))
    def let_time_pass(self, hours: float) -> None:
        self.host.clock.now += timedelta(hours=hours)

    @rule(hours=st.sampled_from([1, 5, 20]))
    def set_the_clock_back(self, hours: int) -> None:
        self.host.clock.now = max(
            self.host.clock.now - timedelta(hours=hours), self.latest - timedelta(hours=23)
        )

    @rule()
    def run_with_a_clock_that_is_days_behind(self) -> None:
        if not self.host.deliveries():
            return  # nothing tells the time
        right = self.host.clock.now
        self.host.clock.now = self.latest - timedelta(days=30)
        self.remote.begin()
        logins = self.remote.logins
        with pytest.raises(ClockInsane):
            self.host.run()
        self.host.clock.now = right
        assert self.remote.logins == logins
        self.watch.look()

    # -- the client's side -------------------------------------------------------------------------

    @rule(up=st.booleans())
    def shut_or_start_the_server(self, up: bool) -> None:
        self.remote.up = up

    @rule(full=st.booleans())
    def fill_or_empty_the_disk(self, full: bool) -> None:
        self.remote.full = full

    @rule(keeps=st.booleans())
    def forbid_or_allow_removal(self, keeps: bool) -> None:
        self.remote.keeps_removed = keeps
        self.watch.excuses.leftovers |= keeps

    @rule(number=st.integers(1, 3))
    def change_the_password(self, number: int) -> None:
        self.remote.password = f"password-{number}"

    @rule(taking=st.sampled_from(Taking))
    def receive_in_another_way(self, taking: Taking) -> None:
        self.remote.taking = taking

    @rule(name=NAMES)
    def take_everything(self, name: str) -> None:
        for file in self.remote.visible(name):
            if (name, file) not in self.planted:
                self.remote.take(name, file, By.RECEIVER)

    @rule(
        name=NAMES,
        ago=st.integers(-1, 2),
        number=st.integers(0, 3),
        how=st.sampled_from(["other", "size", "equal"]),
    )
    def lay_a_file_there(self, name: str, ago: int, number: int, how: str) -> None:
        day = self.day(name, 0).following(-ago)
        if day < FIRST:
            return
        file = file_names(GUIDS[name], day)[number]
        sealed = self.sealed_content(name, day, file)
        if file in self.remote.visible(name) or file in self.watch.placed:
            return
        content = {"other": b"another file", "size": bytes(len(sealed)), "equal": sealed}[how]
        self.remote.put(name, file, content or b"?")
        self.planted.add((name, file))
        self.watch.look()

    @rule(name=NAMES, nonce=st.sampled_from(["cafecafe", "00000000x"]))
    def hide_a_file_of_their_own_there(self, name: str, nonce: str) -> None:
        file = file_names(GUIDS[name], self.day(name, 0))[0]
        self.remote.put(name, f".{file}.1-{nonce}.part", b"theirs")

    @rule()
    def clear_what_was_laid_there(self) -> None:
        self.clear()
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
        self.remote.up, self.remote.full, self.remote.keeps_removed = True, False, False
        self.remote.taking = Taking.NOTHING
        self.host.write_password(self.remote.password)
        self.host.source_is_there(True)
        self.host.clock.now = self.latest + timedelta(hours=1)
        self.clear()

    def is_settled(self) -> bool:
        self.expect_trouble()
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


@pytest.mark.timeout(0 if IS_DEEP else 300)
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
