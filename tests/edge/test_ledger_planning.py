"""Which days are owed, when, and what becomes of those that were not delivered."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from mxdeliver.core.calendar import SnapshotDate, days
from mxdeliver.core.model import DeliveryState
from mxdeliver.edge.ledger import Ledger
from tests.support.ledgers import NOON, TODAY, YESTERDAY, client, guid, key

WEEK = 7


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path, now=NOON - timedelta(days=400)) as opened:
        yield opened


def days_known(ledger, number=1):
    return [
        delivery.key.snapshot_date for delivery in ledger.deliveries(client_guids=[guid(number)])
    ]


def states(ledger):
    return {
        delivery.key.snapshot_date: (delivery.state, delivery.error_code)
        for delivery in ledger.deliveries()
    }


def settle(ledger, delivery_key, ending, now, *, context="c"):
    with ledger.claim(
        delivery_key, now=now, context=context, deadline=now + timedelta(hours=6)
    ) as lease:
        ending(lease)


def test_a_new_client_is_owed_the_day_before_it_was_first_seen(ledger):
    assert ledger.plan([client()], now=NOON, catch_up_days=WEEK) == []
    assert days_known(ledger) == [YESTERDAY]
    assert ledger.first_seen(guid()) == NOON
    assert ledger.first_seen(guid(2)) is None


def test_active_since_is_reached_back_to_no_further_than_the_catch_up_days(ledger):
    ledger.plan([client(active_since=SnapshotDate(2020, 1, 1))], now=NOON, catch_up_days=WEEK)
    assert days_known(ledger) == list(days(SnapshotDate(2026, 3, 3), YESTERDAY))


def test_active_since_in_the_future_owes_nothing_until_then(ledger):
    later = client(active_since=TODAY.following(2))
    ledger.plan([later], now=NOON, catch_up_days=WEEK)
    ledger.plan([later], now=NOON + timedelta(days=2), catch_up_days=WEEK)
    assert days_known(ledger) == []
    ledger.plan([later], now=NOON + timedelta(days=3), catch_up_days=WEEK)
    assert days_known(ledger) == [TODAY.following(2)]


def test_planning_again_changes_nothing(ledger):
    ledger.plan([client()], now=NOON, catch_up_days=WEEK)
    before = ledger.deliveries()
    assert ledger.plan([client()], now=NOON, catch_up_days=WEEK) == []
    assert ledger.deliveries() == before


def test_a_host_down_for_three_days_makes_up_for_each_of_them_oldest_first(ledger):
    ledger.plan([client()], now=NOON, catch_up_days=WEEK)
    back = NOON + timedelta(days=3)
    assert ledger.plan([client()], now=back, catch_up_days=WEEK) == []
    due = ledger.due([client()], now=back, contexts={})
    assert [delivery.key.snapshot_date for delivery in due] == list(
        days(YESTERDAY, YESTERDAY.following(3))
    )


def test_a_host_down_for_thirty_days_forgets_no_day_and_fails_the_older_ones_once(ledger):
    ledger.plan([client()], now=NOON, catch_up_days=WEEK)
    back = NOON + timedelta(days=30)
    failed = ledger.plan([client()], now=back, catch_up_days=WEEK)
    last = YESTERDAY.following(30)
    assert days_known(ledger) == list(days(YESTERDAY, last))
    assert [entry.snapshot_date for entry in failed] == list(days(YESTERDAY, last.following(-7)))
    assert {states(ledger)[entry.snapshot_date] for entry in failed} == {
        (DeliveryState.FAILED, "DEADLINE")
    }
    due = ledger.due([client()], now=back, contexts={})
    assert [delivery.key.snapshot_date for delivery in due] == list(days(last.following(-6), last))
    assert ledger.plan([client()], now=back, catch_up_days=WEEK) == []
    assert ledger.missing([client()], now=back, catch_up_days=WEEK) == []


def test_a_parked_day_that_leaves_the_window_fails_and_keeps_its_last_error(ledger):
    ledger.plan([client()], now=NOON, catch_up_days=WEEK)
    settle(
        ledger,
        key(),
        lambda lease: lease.park(now=NOON, error_code="AUTH_FAILED", error="no"),
        NOON,
    )
    assert ledger.plan([client()], now=NOON + timedelta(days=6), catch_up_days=WEEK) == []
    assert ledger.plan([client()], now=NOON + timedelta(days=7), catch_up_days=WEEK) == [key()]
    delivery = ledger.get(key())
    assert (delivery.state, delivery.error_code) == (DeliveryState.FAILED, "DEADLINE")
    assert delivery.error.endswith("last error: AUTH_FAILED: no")


def test_what_a_person_asked_for_does_not_fail_by_its_age(ledger):
    old = SnapshotDate(2026, 1, 2)
    ledger.ensure([client()], old, now=NOON)
    ledger.plan([client()], now=NOON, catch_up_days=WEEK)
    late = NOON + timedelta(days=7)
    assert ledger.plan([client()], now=late, catch_up_days=WEEK) == [key()]
    assert ledger.resume(client_guid=guid(), day=YESTERDAY, now=late) == [key()]
    assert ledger.plan([client()], now=late, catch_up_days=WEEK) == []
    assert ledger.get(key(old)).state is DeliveryState.WAITING
    assert ledger.get(key()).state is DeliveryState.WAITING


def test_a_dead_run_that_leaves_the_window_fails_but_a_live_one_goes_on(ledger):
    ledger.plan([client(), client(2)], now=NOON, catch_up_days=WEEK)
    late = NOON + timedelta(days=8)
    with ledger.claim(key(), now=NOON, context="c", deadline=NOON):
        pass  # nothing is written at the end, as when the process is killed
    with ledger.claim(key(number=2), now=NOON, context="c", deadline=NOON):
        failed = ledger.plan([client(), client(2)], now=late, catch_up_days=WEEK)
        assert key() in failed
        assert ledger.get(key(number=2)).state is DeliveryState.RUNNING


def test_a_day_that_failed_before_it_left_the_window_keeps_its_own_error(ledger):
    ledger.plan([client()], now=NOON, catch_up_days=WEEK)
    settle(
        ledger, key(), lambda lease: lease.fail(now=NOON, error_code="INTERNAL", error="bug"), NOON
    )
    assert ledger.plan([client()], now=NOON + timedelta(days=20), catch_up_days=WEEK) != []
    assert ledger.get(key()).error_code == "INTERNAL"


def test_a_closed_day_waits_until_it_is_due(ledger):
    early = datetime(2026, 3, 10, 1, 14, 59, tzinfo=UTC)
    ledger.plan([client()], now=early, catch_up_days=WEEK)
    assert ledger.get(key()).due_at == datetime(2026, 3, 10, 1, 15, tzinfo=UTC)
    assert ledger.due([client()], now=early, contexts={guid(): "new"}) == []
    on_time = early + timedelta(seconds=1)
    assert [d.key for d in ledger.due([client()], now=on_time, contexts={})] == [key()]


def test_a_day_that_has_not_ended_is_not_due_whoever_asked_for_it(ledger):
    west = client(zone="America/Los_Angeles")
    ledger.new_revision(west, TODAY, now=NOON)
    midnight = NOON.replace(hour=0) + timedelta(days=1)
    for now in (NOON, midnight, midnight + timedelta(hours=6, minutes=59)):
        assert ledger.due([west], now=now, contexts={guid(): "new"}) == []
    ended = midnight + timedelta(hours=7)
    assert [d.key for d in ledger.due([west], now=ended, contexts={})] == [key(TODAY)]


def test_days_of_clients_that_were_not_chosen_stay_where_they_are(ledger):
    both = [client(1), client(2)]
    ledger.plan(both, now=NOON, catch_up_days=WEEK)
    assert [d.key for d in ledger.due([client(2)], now=NOON, contexts={})] == [key(number=2)]
    late = NOON + timedelta(days=9)
    ledger.plan([client(2)], now=late, catch_up_days=WEEK)
    assert ledger.get(key()).state is DeliveryState.WAITING


def test_the_same_day_of_several_clients_comes_oldest_day_first(ledger):
    ledger.plan([client(2), client(1)], now=NOON, catch_up_days=WEEK)
    late = NOON + timedelta(days=1)
    ledger.plan([client(2), client(1)], now=late, catch_up_days=WEEK)
    due = [d.key for d in ledger.due([client(2), client(1)], now=late, contexts={})]
    assert due == [key(), key(number=2), key(TODAY), key(TODAY, number=2)]


@pytest.mark.parametrize(
    ("zone", "first", "count"),
    [
        ("America/New_York", datetime(2026, 3, 6, 12, tzinfo=UTC), 6),  # 8 March has 23 hours
        ("America/New_York", datetime(2026, 10, 30, 12, tzinfo=UTC), 6),  # 1 November has 25
        ("America/Havana", datetime(2026, 3, 6, 12, tzinfo=UTC), 6),  # the gap is at midnight
        ("Asia/Kathmandu", datetime(2028, 2, 27, 12, tzinfo=UTC), 5),  # 29 February
        ("Pacific/Kiritimati", datetime(2026, 12, 29, 12, tzinfo=UTC), 6),  # year end, UTC+14
        ("Pacific/Pago_Pago", datetime(2026, 12, 29, 12, tzinfo=UTC), 6),  # UTC-11
    ],
)
def test_each_day_of_the_clients_zone_is_planned_once(ledger, zone, first, count):
    here = client(zone=zone)
    now = first
    while now < first + timedelta(days=count):
        ledger.plan([here], now=now, catch_up_days=WEEK)
        now += timedelta(hours=2, minutes=30)
    seen_on = SnapshotDate.of(first.astimezone(ZoneInfo(zone)).date())
    closed = SnapshotDate.of(
        (now - timedelta(hours=2, minutes=30)).astimezone(ZoneInfo(zone)).date()
    ).following(-1)
    assert days_known(ledger) == list(days(seen_on.following(-1), closed))
    assert len(days_known(ledger)) >= count
    starts = [delivery.due_at for delivery in ledger.deliveries()]
    assert all(
        timedelta(hours=23) <= later - earlier <= timedelta(hours=25)
        for earlier, later in pairwise(starts)
    )


def test_a_day_that_nobody_planned_is_missing_once_it_is_due(ledger):
    assert ledger.missing([client()], now=NOON, catch_up_days=WEEK) == [(guid(), YESTERDAY)]
    before = datetime(2026, 3, 10, 1, tzinfo=UTC)
    assert ledger.missing([client()], now=before, catch_up_days=WEEK) == []
    ledger.plan([client()], now=NOON, catch_up_days=WEEK)
    assert ledger.missing([client()], now=NOON, catch_up_days=WEEK) == []
    later = NOON + timedelta(days=2)
    assert ledger.missing([client()], now=later, catch_up_days=WEEK) == [
        (guid(), TODAY),
        (guid(), TODAY.following()),
    ]
    unborn = client(2, active_since=TODAY.following(5))
    assert ledger.missing([unborn], now=NOON, catch_up_days=WEEK) == []


def test_a_day_whose_run_died_is_missing_until_somebody_takes_it_up(ledger):
    ledger.plan([client()], now=NOON, catch_up_days=WEEK)
    with ledger.claim(key(), now=NOON, context="c", deadline=NOON):
        assert ledger.missing([client()], now=NOON, catch_up_days=WEEK) == []
    assert ledger.missing([client()], now=NOON, catch_up_days=WEEK) == [(guid(), YESTERDAY)]
    assert ledger.missing([client(2)], now=NOON, catch_up_days=WEEK)[0][0] == guid(2)


def test_a_client_that_was_active_earlier_than_thought_is_owed_those_days_too(ledger):
    ledger.plan([client()], now=NOON, catch_up_days=WEEK)
    earlier = client(active_since=YESTERDAY.following(-2))
    assert len(ledger.missing([earlier], now=NOON, catch_up_days=WEEK)) == 2
    ledger.plan([earlier], now=NOON, catch_up_days=WEEK)
    assert days_known(ledger) == list(days(YESTERDAY.following(-2), YESTERDAY))


def test_a_window_of_no_days_still_delivers_the_latest(ledger):
    ledger.plan([client()], now=NOON, catch_up_days=0)
    ledger.plan([client()], now=NOON + timedelta(days=1), catch_up_days=0)
    assert [d.key for d in ledger.due([client()], now=NOON + timedelta(days=1), contexts={})] == [
        key(TODAY)
    ]
