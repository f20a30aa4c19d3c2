"""Every owed day once and in order: clock changes, leap day and year end in six zones, hosts asleep."""

from __future__ import annotations

import tempfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxdeliver.core.model import DeliveryState
from mxdeliver.edge.ledger import Ledger
from tests.support.evidence import EVIDENCE
from tests.support.ledgers import bundle, client
from tests.support.openssh import OpenSSHServer
from tests.support.outcomes import add_client, assert_log_is_valid, small_deployment
from tests.support.warehouse import make_warehouse

CATCH_UP_DAYS = 7
DUE_AFTER = timedelta(minutes=75)
ZONES = (
    "UTC",
    "America/New_York",
    "Europe/Berlin",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
)
LEAP_DAY = date(2028, 2, 29)
YEAR_END = date(2027, 12, 31)
CLOCK_CHANGES = {
    "America/New_York": (date(2027, 3, 14), date(2027, 11, 7)),
    "Europe/Berlin": (date(2027, 3, 28), date(2027, 10, 31)),
    "Australia/Lord_Howe": (date(2027, 4, 4), date(2027, 10, 3)),  # by half an hour
}
SPANS = [
    (zone, day) for zone in ZONES for day in (LEAP_DAY, YEAR_END, *CLOCK_CHANGES.get(zone, ()))
]
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where nothing is waited for: each wake-up commits."""


def days_due(zone, first_seen, now):
    """The days that are to be delivered, told without `core.calendar`: by the zone's date back then."""
    first = first_seen.astimezone(ZoneInfo(zone)).date() - timedelta(days=1)
    last = (now - DUE_AFTER).astimezone(ZoneInfo(zone)).date() - timedelta(days=1)
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def test_the_clock_does_change_on_the_days_named_here():
    for zone, changes in CLOCK_CHANGES.items():
        for day in changes:
            midnights = [
                datetime(one.year, one.month, one.day, tzinfo=ZoneInfo(zone)).utcoffset()
                for one in (day, day + timedelta(days=1))
            ]
            assert midnights[0] != midnights[1], (zone, day)


# -- the ledger, woken at any time -----------------------------------------------------------------

GAPS = st.one_of(
    st.integers(1, 90),  # a timer
    st.integers(90, 3 * 24 * 60),  # a host that was down
    st.integers(-20 * 60, -1),  # a clock that is set back
).map(lambda minutes: timedelta(minutes=minutes))


@settings(max_examples=40, deadline=None)
@given(
    span=st.sampled_from(SPANS),
    start=st.integers(-36 * 60, 36 * 60),
    gaps=st.lists(GAPS, min_size=3, max_size=8),
)
def test_whenever_the_ledger_is_asked_each_day_is_delivered_once_oldest_first_and_never_early(
    span, start, gaps
):
    zone, day = span
    here = client(zone=zone)
    began = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(minutes=start)
    moments = [began]
    for gap in gaps:
        moments.append(moments[-1] + gap)
    moments.append(max(moments) + timedelta(days=2))
    delivered, latest = [], began
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        for now in moments:
            if now < latest - timedelta(hours=23):
                continue  # that is CLOCK_INSANE
            latest = max(latest, now)
            with Ledger.open(Path(folder), now=now) as ledger:
                assert ledger.plan([here], now=now, catch_up_days=CATCH_UP_DAYS) == []
                due = ledger.due([here], now=now, contexts={}, catch_up_days=CATCH_UP_DAYS)
                for one in due:
                    assert one.due_at <= now
                    deliver(ledger, one.key, now)
                    delivered.append(one.key.snapshot_date)
                assert delivered == days_due(zone, began, latest)
                assert ledger.missing([here], now=now, catch_up_days=CATCH_UP_DAYS) == []
                known = {one.key.snapshot_date: one.state for one in ledger.deliveries()}
    assert {one for one, state in known.items() if state is DeliveryState.DELIVERED} == {*delivered}
    assert {known[one] for one in known.keys() - {*delivered}} <= {DeliveryState.WAITING}


def deliver(ledger, key, now):
    sealed = bundle(key)
    *names, manifest = [artifact.name for artifact in sealed.files]
    with ledger.claim(key, now=now, context="c", deadline=now + timedelta(hours=6)) as lease:
        lease.sealed(sealed)
        lease.published(dict.fromkeys(names, EVIDENCE))
        lease.published({manifest: EVIDENCE})
        lease.delivered(now=now)


# -- the real program ------------------------------------------------------------------------------


def at(moment):
    """The environment of a program whose clock shows `moment` and goes on from there."""
    return {
        "TZ": "UTC",
        "LD_PRELOAD": "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
        "FAKETIME": moment.strftime("@%Y-%m-%d %H:%M:%S"),
        "DONT_FAKE_MONOTONIC": "1",
    }


@pytest.fixture
def deployment(tmp_path):
    with OpenSSHServer(tmp_path) as server:
        made = small_deployment(tmp_path, server)
        del made.document["defaults"]
        yield made


def test_a_host_down_over_the_leap_day_makes_up_for_it_oldest_first_in_each_clients_zone(
    deployment,
):
    deployment.document["schedule"] = {"workers": 3}
    parties = {
        zone: add_client(deployment, zone, timezone=zone, resources=["tags"])
        for zone in ("America/New_York", "Asia/Kathmandu", "Pacific/Apia")
    }
    make_warehouse(deployment.warehouse, clients=[], days=[], filled=[])
    began = datetime(2028, 2, 28, 12, 30, tzinfo=UTC)
    back = began + timedelta(days=3)
    for now in (began, back, back + timedelta(minutes=15)):
        done = deployment.run("run", environment=at(now))
        assert done.returncode == 0, done.stderr
        for zone, party in parties.items():
            expected = [day.isoformat() for day in days_due(zone, began, now)]
            assert days_in_log(deployment, party) == expected
            assert manifests(party) == expected
    assert "2028-02-29" in manifests(parties["Asia/Kathmandu"])
    assert all(len(days_in_log(deployment, party)) == 4 for party in parties.values())
    assert_log_is_valid(deployment)
    before = deployment.log_lines()
    insane = deployment.run("run", environment=at(began))
    assert insane.returncode != 0
    assert "CLOCK_INSANE" in insane.stderr
    assert "2028-03-02" in insane.stderr
    assert deployment.log_lines() == before


def days_in_log(deployment, party):
    lines = deployment.log_lines()
    return [
        line["snapshot_date"]
        for line in lines
        if line["event"] == "delivery.delivered" and line["client_guid"] == party.guid
    ]


def manifests(party):
    names = [name for name in party.received() if "manifest" in name]
    return sorted(name.split("-manifest")[0][-10:] for name in names)
