"""Attempts: who holds a delivery, what an attempt writes, and how it ends."""

import signal
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest

from mxdeliver.core.errors import Internal, LeaseHeld, LeaseLost, SpoolCorrupt, StopRequested
from mxdeliver.core.model import DeliveryState, Outcome
from mxdeliver.edge.ledger import FileStage, Ledger, Publishing, ServerProfile
from tests.support.evidence import EVIDENCE
from tests.support.ledgers import (
    NOON,
    YESTERDAY,
    bundle,
    client,
    guid,
    key,
    line_from,
    process,
)

DEADLINE = NOON + timedelta(hours=6)
# Claims the delivery named by the arguments, says how that went and waits for standard input.
CLAIM = """
import sys
from datetime import datetime, UTC, timedelta
from pathlib import Path
from mxdeliver.core.errors import LeaseHeld
from mxdeliver.edge.ledger import Ledger
from tests.support.ledgers import NOON, key
with Ledger.open(Path(sys.argv[1]), now=NOON) as ledger:
    sys.stdout.write("ready\\n"); sys.stdout.flush()
    sys.stdin.readline()
    try:
        with ledger.claim(key(), now=NOON, context="c", deadline=NOON) as lease:
            sys.stdout.write(f"held {lease.token}\\n"); sys.stdout.flush()
            sys.stdin.readline()
    except LeaseHeld as error:
        sys.stdout.write(f"{error.code}\\n"); sys.stdout.flush()
"""


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path, now=NOON) as opened:
        opened.plan([client()], now=NOON, catch_up_days=7)
        yield opened


def claim(ledger, *, now=NOON, context="c", delivery=None):
    return ledger.claim(
        delivery or key(), now=now, context=context, deadline=now + (DEADLINE - NOON)
    )


def go(child):
    child.stdin.write("\n")
    child.stdin.flush()


def publish_all(lease, sealed):
    lease.sealed(sealed)
    *names, manifest = [artifact.name for artifact in sealed.files]
    lease.published(dict.fromkeys(names, EVIDENCE))
    lease.published({manifest: EVIDENCE})


def test_a_killed_run_gives_its_delivery_back_at_once(tmp_path, ledger):
    with process(CLAIM, tmp_path) as child:
        assert line_from(child) == "ready"
        go(child)
        assert line_from(child) == "held 1"
        with pytest.raises(LeaseHeld), claim(ledger):
            pass
        assert ledger.due([client()], now=NOON, contexts={}) == []
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert ledger.get(key()).state is DeliveryState.RUNNING
    assert [delivery.key for delivery in ledger.due([client()], now=NOON, contexts={})] == [key()]
    with claim(ledger) as lease:
        assert (lease.token, lease.number) == (2, 2)
        lease.stopped(now=NOON)
    assert [attempt.number for attempt in ledger.attempts(key())] == [2]


def test_of_processes_that_race_for_a_delivery_one_wins(tmp_path, ledger):
    del ledger
    with process(CLAIM, tmp_path) as one, process(CLAIM, tmp_path) as other:
        assert {line_from(one), line_from(other)} == {"ready"}
        go(one)
        go(other)
        assert {line_from(one), line_from(other)} == {"held 1", "LEASE_HELD"}
        go(one)
        go(other)


def test_of_threads_that_race_for_a_delivery_one_wins(ledger):
    start, end = threading.Barrier(5), threading.Barrier(5)
    outcomes = []

    def race():
        start.wait()
        try:
            with claim(ledger) as lease:
                outcomes.append(f"held {lease.token}")
                end.wait()
        except LeaseHeld as error:
            outcomes.append(error.code)
            end.wait()

    threads = [threading.Thread(target=race) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [*["LEASE_HELD"] * 4, "held 1"]


def test_different_days_are_held_side_by_side(ledger):
    ledger.plan([client(2)], now=NOON, catch_up_days=7)
    with claim(ledger), claim(ledger, delivery=key(number=2)) as other:
        other.check()


def test_a_lease_leaves_no_lock_behind(tmp_path, ledger):
    with claim(ledger) as lease:
        assert len(list((tmp_path / "locks").iterdir())) == 1
        lease.stopped(now=NOON)
    assert list((tmp_path / "locks").iterdir()) == []


def test_a_run_whose_lock_was_taken_away_loses_to_the_next_one(tmp_path, ledger):
    with claim(ledger) as stale:
        (tmp_path / "locks").rename(tmp_path / "restored-from-backup")
        with claim(ledger) as fresh:
            fresh.check()
            for write in (
                stale.check,
                lambda: stale.sealed(bundle(key())),
                lambda: stale.uploading({}),
                lambda: stale.publishing([]),
                lambda: stale.published({}),
                lambda: stale.delivered(now=NOON),
                lambda: stale.retry(now=NOON, not_before=NOON, error_code="X", error="x"),
                lambda: stale.park(now=NOON, error_code="X", error="x"),
                lambda: stale.fail(now=NOON, error_code="X", error="x"),
                lambda: stale.stopped(now=NOON),
            ):
                with pytest.raises(LeaseLost):
                    write()
            fresh.sealed(bundle(key()))
    assert ledger.attempts(key()) == []
    with pytest.raises(LeaseLost):
        fresh.check()


def test_a_lease_ends_with_its_attempt(ledger):
    with claim(ledger) as lease:
        lease.stopped(now=NOON)
        with pytest.raises(LeaseLost):
            lease.fail(now=NOON, error_code="X", error="x")
    assert ledger.get(key()).state is DeliveryState.WAITING


def test_a_delivery_goes_from_waiting_to_delivered(ledger):
    sealed = bundle(key())
    names = [artifact.name for artifact in sealed.files]
    with claim(ledger) as lease:
        running = ledger.get(key())
        assert (running.state, running.attempts) == (DeliveryState.RUNNING, 1)
        assert (running.deadline, running.fingerprint) == (DEADLINE, "c")
        assert (running.sealed, ledger.bundle(key()), ledger.files(key())) == (False, None, {})
        lease.sealed(sealed)
        assert ledger.bundle(key()) == sealed
        assert {file.state for file in ledger.files(key()).values()} == {FileStage.SEALED}
        lease.uploading({name: f".{name}.1-0000000a.part" for name in names})
        lease.publishing(names[:-1])
        assert [file.state for file in ledger.files(key()).values()] == [
            *["publishing"] * 3,
            "uploading",
        ]
        lease.published(dict.fromkeys(names[:-1], EVIDENCE))
        assert ledger.temporaries(key()) == [f".{names[-1]}.1-0000000a.part"]
        lease.publishing(names[-1:])
        lease.published({names[-1]: EVIDENCE})
        lease.delivered(now=NOON + timedelta(minutes=1))
    delivery = ledger.get(key())
    assert delivery.state is DeliveryState.DELIVERED
    assert delivery.delivered_at == NOON + timedelta(minutes=1)
    assert (delivery.files, delivery.records) == (4, 15)
    assert delivery.bytes == sealed.encrypted_size
    assert ledger.files(key())[names[0]].evidence == EVIDENCE
    assert ledger.temporaries(key()) == []
    [attempt] = ledger.attempts(key())
    assert (attempt.number, attempt.outcome, attempt.error_code) == (1, Outcome.DELIVERED, None)
    assert (attempt.started_at, attempt.ended_at) == (NOON, NOON + timedelta(minutes=1))
    with pytest.raises(LeaseHeld), claim(ledger):
        pass


def test_every_temporary_name_is_known_until_it_is_gone(ledger):
    sealed = bundle(key())
    name = sealed.files[0].name
    first, second = f".{name}.1-0000000a.part", f".{name}.2-0000000b.part"
    with claim(ledger) as lease:
        lease.sealed(sealed)
        lease.uploading({name: first})
        lease.retry(now=NOON, not_before=NOON, error_code="STALLED", error="slow")
    with claim(ledger) as lease:
        lease.uploading({name: second})
        assert ledger.temporaries(key()) == [first, second]
        file = ledger.files(key())[name]
        assert (file.temporary, file.earlier_temporaries) == (second, (first,))
        ledger.forget_temporaries(key(), [first, "never heard of"])
        assert ledger.temporaries(key()) == [second]
        lease.published({name: replace(EVIDENCE, outcome="already published")})
        assert ledger.temporaries(key()) == [second]


def test_what_was_sealed_is_written_once(tmp_path, ledger):
    with claim(ledger) as lease:
        lease.sealed(bundle(key()))
        lease.sealed(bundle(key()))
        with pytest.raises(SpoolCorrupt, match="not the one that was sealed"):
            lease.sealed(bundle(key(), salt="other"))
        assert ledger.bundle(key()) == bundle(key())
        with pytest.raises(Internal):
            lease.sealed(bundle(key(number=2)))
        lease.stopped(now=NOON)
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        for statement in (
            "UPDATE files SET encrypted_checksum = 'x'",
            "UPDATE attempts SET outcome = 'delivered'",
            "DELETE FROM attempts",
        ):
            with pytest.raises(sqlite3.IntegrityError):
                database.execute(statement)
    database.close()


def test_what_was_sealed_for_a_destination_is_bound_to_it(ledger):
    name = bundle(key()).files[0].name
    with claim(ledger) as lease:
        lease.sealed(bundle(key()), destination="here")
        assert lease.bound_to("here") == []
        lease.uploading({name: "temporary"})
        assert lease.bound_to("here") == []
        assert lease.bound_to("there") == ["temporary"]
        assert ledger.files(key())[name].state is FileStage.SEALED
        lease.sealed(bundle(key()), destination="here")
        assert lease.bound_to("there") == []


def test_what_was_shown_of_the_server_is_kept_with_the_files_that_showed_it(ledger):
    shown = ServerProfile(
        destination="here",
        software="SSH-2.0-x",
        publishing=Publishing.RENAME,
        level="hash",
        sweeps=False,
        decided_on=YESTERDAY,
    )
    sealed = bundle(key())
    *names, manifest = [artifact.name for artifact in sealed.files]
    with claim(ledger) as lease:
        lease.sealed(sealed)
        with pytest.raises(Internal, match="before the files that it lists"):
            lease.published({manifest: EVIDENCE}, profile=shown)
        assert ledger.servers() == {}
        lease.published(dict.fromkeys(names, EVIDENCE), profile=shown)
        assert ledger.servers() == {key().client_guid: shown}
        lease.published({manifest: EVIDENCE}, profile=replace(shown, level="size"))
    assert ledger.servers() == {key().client_guid: replace(shown, level="size")}


def test_no_temporary_name_is_left_of_files_that_were_moved(ledger):
    sealed = bundle(key())
    first, second = [artifact.name for artifact in sealed.files][:2]
    found = replace(EVIDENCE, outcome="already published")
    with claim(ledger) as lease:
        lease.sealed(sealed)
        lease.uploading({first: "one", second: "two"})
        lease.published({first: found})
        assert ledger.temporaries(key()) == ["one", "two"]
        lease.published({second: found}, moved=True)
        assert ledger.temporaries(key()) == ["one"]


@pytest.mark.parametrize("later", [timedelta(0), timedelta(hours=1)])
def test_an_attempt_knows_when_the_delivery_ends_which_the_first_has_fixed(ledger, later):
    with claim(ledger) as lease:
        assert lease.deadline == DEADLINE
        lease.retry(now=NOON, not_before=NOON, error_code="STALLED", error="slow")
    with claim(ledger, now=NOON + later) as lease:
        assert lease.deadline == DEADLINE


def test_a_seal_that_a_stop_kept_from_the_locked_ledger_is_the_next_attempts_own(tmp_path, ledger):
    stop = threading.Event()
    with (
        closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other,
        Ledger.open(tmp_path, now=NOON, stop=stop.is_set) as stopping,
        claim(stopping) as lease,
    ):
        other.execute("BEGIN EXCLUSIVE")
        stop.set()
        with pytest.raises(StopRequested, match="locked by another process"):
            lease.sealed(bundle(key()))
        other.execute("ROLLBACK")
        lease.stopped(now=NOON)
    assert [one.outcome for one in ledger.attempts(key())] == [Outcome.STOPPED]
    assert ledger.bundle(key()) is None
    with claim(ledger) as lease:
        assert ledger.may_have_sealed(key(), before=lease.number)


def test_an_attempt_that_was_stopped_before_its_seal_explains_no_bundle(ledger):
    with claim(ledger) as lease:
        lease.stopped(now=NOON)
    with claim(ledger) as lease:
        assert not ledger.may_have_sealed(key(), before=lease.number)


def test_nothing_is_published_out_of_order(ledger):
    sealed = bundle(key())
    *_, last, manifest = [artifact.name for artifact in sealed.files]
    with claim(ledger) as lease:
        with pytest.raises(Internal):
            lease.delivered(now=NOON)
        lease.sealed(sealed)
        with pytest.raises(Internal, match="before the files that it lists"):
            lease.published({manifest: EVIDENCE})
        with pytest.raises(Internal, match="not published as a whole"):
            lease.delivered(now=NOON)
        lease.published({last: EVIDENCE})
        with pytest.raises(Internal, match="published already"):
            lease.publishing([last])
        with pytest.raises(Internal, match="has no file"):
            lease.uploading({"other": "temporary"})
        assert ledger.files(key())[manifest].state is FileStage.SEALED


def test_a_manifest_found_in_its_place_is_a_fact_also_before_its_files(ledger):
    sealed = bundle(key())
    *names, manifest = [artifact.name for artifact in sealed.files]
    found = replace(EVIDENCE, outcome="already published")
    with claim(ledger) as lease:
        lease.sealed(sealed)
        lease.published({manifest: found})
        with pytest.raises(Internal, match="not published as a whole"):
            lease.delivered(now=NOON)
        lease.published(dict.fromkeys(names, EVIDENCE))
        lease.delivered(now=NOON)


def test_a_transient_error_waits_for_its_time(ledger):
    again = NOON + timedelta(minutes=10)
    with claim(ledger) as lease:
        lease.retry(now=NOON, not_before=again, error_code="STALLED", error="slow")
    delivery = ledger.get(key())
    assert (delivery.state, delivery.not_before) == (DeliveryState.WAITING, again)
    assert (delivery.error_code, delivery.error) == ("STALLED", "slow")
    assert ledger.due([client()], now=NOON, contexts={guid(): "c"}) == []
    assert ledger.due([client()], now=NOON, contexts={guid(): "changed"}) != []
    assert ledger.due([client()], now=again, contexts={guid(): "c"}) != []
    with claim(ledger, now=again) as lease:
        assert ledger.get(key()).deadline == DEADLINE
        lease.stopped(now=again)
    stopped = ledger.get(key())
    assert (stopped.state, stopped.error_code) == (DeliveryState.WAITING, "STALLED")
    assert [attempt.outcome for attempt in ledger.attempts(key())] == ["retry", "stopped"]
    assert [attempt.error_code for attempt in ledger.attempts(key())] == ["STALLED", None]


def test_the_seconds_of_a_delivery_are_those_of_its_last_attempt_that_ended(ledger):
    def seconds():
        return ledger.deliveries(day=YESTERDAY)[0].seconds

    def wait(lease, ended):
        lease.retry(now=ended, not_before=ended, error_code="STALLED", error="x")

    assert seconds() is None
    with claim(ledger) as lease:
        wait(lease, NOON + timedelta(seconds=5))
    assert seconds() == 5.0
    with ledger.claim(key(), now=NOON, context="c", deadline=DEADLINE, counted=False) as lease:
        wait(lease, NOON + timedelta(minutes=1))
    assert seconds() == 5.0
    with claim(ledger) as lease:
        assert seconds() is None
        wait(lease, NOON + timedelta(milliseconds=250))
    assert seconds() == 0.25
    with claim(ledger) as lease:
        wait(lease, NOON - timedelta(minutes=1))  # the clock was set back
    assert seconds() is None


def test_a_parked_delivery_opens_when_the_client_changes(ledger):
    with claim(ledger) as lease:
        lease.park(now=NOON, error_code="AUTH_FAILED", error="refused")
    assert ledger.get(key()).state is DeliveryState.PARKED
    assert ledger.due([client()], now=NOON, contexts={guid(): "c"}) == []
    assert ledger.due([client()], now=NOON, contexts={}) == []
    with pytest.raises(LeaseHeld, match="parked"), claim(ledger):
        pass
    later = NOON + timedelta(days=3)
    changed = {guid(): "new password"}
    assert len(ledger.due([client()], now=later, contexts=changed, catch_up_days=7)) == 1
    assert ledger.due([client()], now=later, contexts=changed, catch_up_days=2) == []
    with claim(ledger, now=later, context="new password"):
        assert ledger.get(key()).deadline == later + timedelta(hours=6)


def test_a_failed_delivery_is_left_alone_by_runs_and_changes(ledger):
    with claim(ledger) as lease:
        lease.fail(now=NOON, error_code="INTERNAL", error="bug")
    assert ledger.due([client()], now=NOON, contexts={guid(): "new"}) == []
    with pytest.raises(LeaseHeld, match="failed"), claim(ledger, context="new"):
        pass
    assert ledger.attempts(key())[0].outcome is Outcome.FAILED


def test_a_delivered_one_is_left_alone_by_runs_and_changes(ledger):
    with claim(ledger) as lease:
        publish_all(lease, bundle(key()))
        lease.delivered(now=NOON)
    assert ledger.due([client()], now=NOON, contexts={guid(): "new"}) == []


def test_an_unknown_delivery_cannot_be_claimed(ledger):
    with pytest.raises(LookupError), claim(ledger, delivery=key(number=9)):
        pass


def test_an_attempt_whose_builder_died_may_have_sealed(ledger):
    with claim(ledger) as lease:
        lease.retry(now=NOON, not_before=NOON, error_code="BUILDER_DIED", error="it was killed")
    with claim(ledger) as lease:
        assert ledger.may_have_sealed(key(), before=lease.number)
