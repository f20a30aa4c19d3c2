"""What people ask for: single days, resume, resend, rebuild; and what may be dropped."""

import os
import pwd
import sqlite3
from datetime import timedelta

import pytest

from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.errors import LeaseHeld, UsageError
from mxdeliver.core.model import DeliveryState
from mxdeliver.edge.ledger import FileStage, Ledger
from mxdeliver.edge.ledger.requests import AT_ONCE
from tests.support.evidence import EVIDENCE
from tests.support.ledgers import NOON, TODAY, YESTERDAY, bundle, client, guid, key

LATER = NOON + timedelta(hours=1)
DEADLINE = NOON + timedelta(hours=6)


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path, now=NOON) as opened:
        opened.plan([client()], now=NOON, catch_up_days=7)
        yield opened


def claim(ledger, delivery=None, context="c"):
    return ledger.claim(delivery or key(), now=NOON, context=context, deadline=DEADLINE)


def park(ledger, delivery=None):
    with claim(ledger, delivery) as lease:
        lease.park(now=NOON, error_code="AUTH_FAILED", error="refused")


def fail(ledger, delivery=None, *, sealed=False):
    with claim(ledger, delivery) as lease:
        if sealed:
            lease.sealed(bundle(delivery or key()))
        lease.fail(now=NOON, error_code="INTERNAL", error="bug")


def deliver(ledger, delivery=None):
    delivery = delivery or key()
    with claim(ledger, delivery) as lease:
        lease.sealed(bundle(delivery))
        lease.published({artifact.name: EVIDENCE for artifact in bundle(delivery).files})
        lease.delivered(now=NOON)


def test_a_day_asked_for_gets_its_row_whatever_its_age(ledger):
    old = SnapshotDate(2020, 2, 29)
    [made] = ledger.ensure([client()], old, now=NOON)
    assert (made.key, made.state) == (key(old), DeliveryState.WAITING)
    assert ledger.ensure([client()], old, now=LATER) == [made]
    assert [one.key for one in ledger.ensure([client(2)], old, now=NOON)] == [key(old, number=2)]
    assert ledger.first_seen(guid(2)) == NOON
    assert [d.key for d in ledger.deliveries(day=old)] == [key(old), key(old, number=2)]


def test_days_asked_for_get_their_rows_together_and_keep_the_ones_they_have(ledger):
    old = SnapshotDate(2020, 2, 29)
    [made] = ledger.ensure([client()], old, now=NOON)
    wanted = [(client(), old), (client(), YESTERDAY), (client(2), old)]
    ledger.ask_for(wanted, now=LATER)
    assert [d.key for d in ledger.deliveries()] == [key(old), key(old, number=2), key()]
    assert ledger.get(key(old)) == made
    assert ledger.get(key(old, number=2)).changed_at == LATER


def test_more_days_than_fit_one_commit_are_asked_for_just_the_same(ledger):
    days = [SnapshotDate(2020, 1, 1).following(ahead) for ahead in range(AT_ONCE + 1)]
    ledger.ask_for([(client(2), day) for day in days], now=NOON)
    assert [d.key.snapshot_date for d in ledger.deliveries(client_guids=[guid(2)])] == days


def test_resume_makes_parked_and_failed_days_due_with_a_fresh_deadline(ledger):
    ledger.ensure([client()], TODAY.following(-2), now=NOON)
    park(ledger)
    fail(ledger, key(TODAY.following(-2)))
    assert ledger.resume(client_guid=guid(), day=None, now=LATER) == [
        key(TODAY.following(-2)),
        key(),
    ]
    delivery = ledger.get(key())
    assert (delivery.state, delivery.not_before) == (DeliveryState.WAITING, LATER)
    assert (delivery.deadline, delivery.error_code) == (None, None)
    assert len(ledger.due([client()], now=LATER, contexts={guid(): "c"})) == 2
    with claim(ledger) as lease:
        assert lease.number == 2


def test_resume_of_one_day_leaves_the_others(ledger):
    ledger.ensure([client()], TODAY.following(-2), now=NOON)
    park(ledger)
    park(ledger, key(TODAY.following(-2)))
    assert ledger.resume(client_guid=guid(), day=YESTERDAY, now=LATER) == [key()]
    assert ledger.get(key(TODAY.following(-2))).state is DeliveryState.PARKED
    assert ledger.resume(client_guid=guid(2), day=None, now=LATER) == []


def test_resume_hurries_what_waits_for_a_retry_but_not_what_was_never_tried(ledger):
    assert ledger.resume(client_guid=guid(), day=None, now=NOON) == []
    with claim(ledger) as lease:
        lease.retry(now=NOON, not_before=DEADLINE, error_code="STALLED", error="slow")
    assert ledger.resume(client_guid=guid(), day=None, now=LATER) == [key()]
    assert ledger.get(key()).not_before == LATER


def test_resume_of_a_named_day_does_not_wait_until_it_is_due(ledger):
    early = NOON - timedelta(hours=11)
    ledger.plan([client(3)], now=early, catch_up_days=7)
    assert ledger.due([client(3)], now=early, contexts={}) == []
    assert ledger.resume(client_guid=guid(3), day=YESTERDAY, now=early) == [key(number=3)]
    assert len(ledger.due([client(3)], now=early, contexts={})) == 1


def test_resume_touches_neither_running_nor_delivered_ones(ledger):
    with claim(ledger) as lease:
        assert ledger.resume(client_guid=guid(), day=YESTERDAY, now=NOON) == []
        lease.stopped(now=NOON)
    deliver(ledger)
    assert ledger.resume(client_guid=guid(), day=YESTERDAY, now=NOON) == []


def test_a_failed_day_asked_for_by_its_date_gets_a_new_deadline(ledger):
    fail(ledger)
    new_deadline = LATER + timedelta(hours=6)
    assert ledger.reopen({key(): new_deadline}, now=LATER) == [key()]
    delivery = ledger.get(key())
    assert (delivery.state, delivery.deadline) == (DeliveryState.WAITING, new_deadline)
    with claim(ledger):
        assert ledger.get(key()).deadline == new_deadline


@pytest.mark.parametrize("state", ["parked", "delivered", "running"])
def test_only_failed_and_waiting_days_are_started_again_by_their_date(ledger, state):
    if state == "parked":
        park(ledger)
    elif state == "delivered":
        deliver(ledger)
    else:
        with claim(ledger):
            pass
    before = ledger.get(key())
    assert ledger.reopen({key(): DEADLINE}, now=LATER) == [key()]
    assert ledger.get(key()) == before
    assert before.state == state


def test_resend_compares_and_sends_the_same_sealed_files(ledger):
    deliver(ledger)
    ledger.resend(key(), now=LATER)
    delivery = ledger.get(key())
    assert (delivery.state, delivery.sealed) == (DeliveryState.WAITING, True)
    assert ledger.bundle(key()) == bundle(key())
    assert {file.state for file in ledger.files(key()).values()} == {FileStage.SEALED}
    assert [d.key for d in ledger.due([client()], now=LATER, contexts={})] == [key()]
    deliver(ledger)
    assert ledger.get(key()).state is DeliveryState.DELIVERED


def test_resend_refuses_what_was_not_delivered_or_is_held(ledger):
    with pytest.raises(UsageError, match="only what was delivered"):
        ledger.resend(key(), now=NOON)
    with claim(ledger), pytest.raises(LeaseHeld):
        ledger.resend(key(), now=NOON)
    with pytest.raises(LeaseHeld):  # its run has died; the next one takes it up
        ledger.resend(key(), now=NOON)


def test_resend_says_when_the_sealed_files_are_gone(ledger):
    deliver(ledger)
    ledger.pruned(key(), now=LATER)
    with pytest.raises(UsageError, match="--rebuild"):
        ledger.resend(key(), now=LATER)


def test_a_rebuild_is_a_new_revision_and_the_old_one_rests(ledger):
    park(ledger)
    second = ledger.new_revision(client(), YESTERDAY, now=LATER)
    assert second == key(revision=2)
    assert ledger.latest(guid(), YESTERDAY).key == second
    assert [d.key for d in ledger.deliveries()] == [second]
    assert [d.key for d in ledger.deliveries(latest_only=False)] == [key(), second]
    assert [d.key for d in ledger.due([client()], now=LATER, contexts={guid(): "n"})] == [second]
    assert ledger.resume(client_guid=guid(), day=None, now=LATER) == []
    with pytest.raises(LeaseHeld, match="later revision"), claim(ledger, context="new"):
        pass
    deliver(ledger, second)
    with pytest.raises(UsageError):
        ledger.resend(key(), now=LATER)


def test_a_rebuild_of_a_day_without_a_row_begins_with_the_first_revision(ledger):
    assert ledger.new_revision(client(), TODAY.following(-5), now=NOON) == key(TODAY.following(-5))
    with claim(ledger), pytest.raises(LeaseHeld):
        ledger.new_revision(client(), YESTERDAY, now=NOON)


def test_the_history_says_who_asked_for_what(tmp_path, ledger):
    deliver(ledger)
    ledger.resend(key(), now=LATER)
    ledger.new_revision(client(), YESTERDAY, now=LATER)
    entries = ledger.history(client_guid=guid())
    assert [(entry.what, entry.key.revision) for entry in entries] == [
        ("resend", 1),
        ("rebuild", 2),
    ]
    assert {entry.who for entry in entries} == {pwd.getpwuid(os.geteuid()).pw_name}
    assert ledger.history() == entries
    assert ledger.history(client_guid=guid(2)) == []
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        for statement in ("UPDATE history SET who = 'nobody'", "DELETE FROM history"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                database.execute(statement)
    database.close()


def test_a_user_without_a_name_is_written_down_by_number(ledger, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 4_123_456)
    ledger.new_revision(client(), YESTERDAY, now=LATER)
    assert ledger.history()[0].who == "4123456"


def test_only_what_is_over_for_long_enough_may_be_dropped(ledger):
    late = NOON + timedelta(days=8)
    for number in (2, 3, 4, 5, 6):
        ledger.ensure([client(number)], YESTERDAY, now=NOON)
    deliver(ledger, key(number=2))
    fail(ledger, key(number=3), sealed=True)
    fail(ledger, key(number=4))  # nothing was sealed, so nothing lies in the spool
    with claim(ledger, key(number=5)) as lease:
        lease.sealed(bundle(key(number=5)))
        lease.park(now=NOON, error_code="AUTH_FAILED", error="refused")
    with claim(ledger, key(number=6)) as lease:
        lease.sealed(bundle(key(number=6)))
        lease.park(now=NOON, error_code="AUTH_FAILED", error="refused")
    ledger.new_revision(client(6), YESTERDAY, now=NOON)
    assert ledger.prunable(now=NOON + timedelta(days=6), retention_days=7) == []
    expected = [key(number=2), key(number=3), key(number=6)]
    assert ledger.prunable(now=late, retention_days=7) == expected
    ledger.pruned(key(number=2), now=late)
    assert ledger.prunable(now=late, retention_days=7) == expected[1:]


def test_pruning_drops_what_is_over_and_nothing_that_was_resumed_meanwhile(ledger):
    late = NOON + timedelta(days=8)
    for number in (2, 3):
        ledger.ensure([client(number)], YESTERDAY, now=NOON)
        fail(ledger, key(number=number), sealed=True)
    dropped = []

    def drop(delivery):
        dropped.append(delivery)

    ledger.resume(client_guid=guid(2), day=None, now=late)
    assert ledger.prune(now=late, retention_days=7, drop=drop) == [key(number=3)]
    assert dropped == [key(number=3)]
    assert ledger.prune(now=late, retention_days=7, drop=drop) == []


def test_a_drop_that_fails_is_tried_again(ledger):
    late = NOON + timedelta(days=8)
    deliver(ledger)

    def fails(delivery):
        raise OSError(str(delivery))

    with pytest.raises(OSError, match="CLT-"):
        ledger.prune(now=late, retention_days=7, drop=fails)
    assert ledger.prune(now=late, retention_days=7, drop=lambda delivery: delivery) == [key()]


def test_a_failed_day_whose_files_were_dropped_comes_back_as_its_next_revision(ledger):
    fail(ledger, sealed=True)
    ledger.pruned(key(), now=LATER)
    assert ledger.resume(client_guid=guid(), day=YESTERDAY, now=LATER) == [key(revision=2)]
    fail(ledger, key(revision=2), sealed=True)
    ledger.pruned(key(revision=2), now=LATER)
    [again] = ledger.reopen({key(revision=2): DEADLINE}, now=LATER)
    assert again == key(revision=3)
    assert ledger.get(again).not_before == LATER


def test_what_the_ledger_never_had_is_none_or_a_lookup_error(ledger):
    unknown = key(number=9)
    assert ledger.get(unknown) is None
    assert ledger.latest(guid(9), YESTERDAY) is None
    for question in (ledger.files, ledger.bundle, ledger.attempts, ledger.temporaries):
        with pytest.raises(LookupError):
            question(unknown)


def test_more_clients_can_be_asked_of_than_a_statement_takes(ledger):
    ledger.ensure([client(number) for number in (1, 1200, 2400)], YESTERDAY, now=NOON)
    found = ledger.deliveries(client_guids=[guid(number) for number in range(2500, 0, -1)])
    assert [one.key.client_guid for one in found] == [guid(1), guid(1200), guid(2400)]
    assert ledger.deliveries(client_guids=[]) == []


def test_a_login_is_lifted_by_a_resume_of_these_clients_alone(ledger):
    ledger.ensure([client(1), client(2)], YESTERDAY, now=NOON)
    with ledger.claim(key(), now=NOON, context="c", deadline=NOON + timedelta(hours=1)) as lease:
        lease.park(now=NOON, error_code="AUTH_FAILED", error="no")
    later = NOON + timedelta(minutes=5)
    assert ledger.lifted_at([guid(1), guid(2)]) is None
    ledger.resume(client_guid=guid(1), day=None, now=later)
    assert ledger.lifted_at([guid(1), guid(2)]) == later
    assert ledger.lifted_at([guid(2)]) is None
