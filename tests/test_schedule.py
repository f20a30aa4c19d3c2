"""The daemon: each day once, whatever the clock does; stopped and started again it makes up."""

from __future__ import annotations

import logging
import os
import signal
import threading
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from threading import Event

import pytest

from mxdeliver.cli import wiring
from mxdeliver.cli.schedule import Alarm
from tests.support.deployment import Deployment
from tests.support.openssh import OpenSSHServer, wait_until
from tests.support.warehouse import make_warehouse

ZONE = "Europe/Berlin"
DAYS = [date(2027, 3, day) for day in range(24, 31)]  # clocks go forward on 2027-03-28


@pytest.fixture
def server(tmp_path):
    with OpenSSHServer(tmp_path) as running:
        yield running


@pytest.fixture
def party(tmp_path, server):
    deployment = Deployment(tmp_path, server)
    party = deployment.add_client(resources=["users"], timezone=ZONE, active_since="2027-03-26")
    make_warehouse(
        deployment.warehouse, clients=[party.guid], days=DAYS, rows=3, filled=["users"], zone=ZONE
    )
    party.deployment = deployment
    return party


class Clock:
    """The program's clock, moved by the test through libfaketime's timestamp file."""

    def __init__(self, folder):
        self.path = folder / "clock"

    def set(self, moment):
        text = moment.astimezone(UTC).strftime("@%Y-%m-%d %H:%M:%S")
        temporary = self.path.with_suffix(".new")
        temporary.write_text(text)
        temporary.rename(self.path)

    def environment(self):
        return {
            **os.environ,
            "TZ": "UTC",
            "LD_PRELOAD": "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
            "FAKETIME_TIMESTAMP_FILE": str(self.path),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }


@contextmanager
def daemon(deployment, clock):
    process = deployment.start("schedule", "--wake-every", "0.3", environment=clock.environment())
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0
        assert [line for line in errors.splitlines() if "created" not in line] == []
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def manifests(party):
    return sorted(
        name.split("-manifest")[0][-10:] for name in party.received() if "manifest" in name
    )


def delivered(deployment):
    """The days that the log calls delivered: the server shows a manifest a moment earlier."""
    path = deployment.folder / "logs/deliveries.jsonl"
    lines = deployment.log_lines() if path.exists() else []
    return [one["snapshot_date"] for one in lines if one["event"] == "delivery.delivered"]


def test_days_are_delivered_once_over_a_change_to_daylight_saving_time(tmp_path, party):
    deployment = party.deployment
    clock = Clock(tmp_path)
    clock.set(datetime(2027, 3, 27, 0, 30, tzinfo=UTC))
    with daemon(deployment, clock):
        wait_until(lambda: delivered(deployment) == ["2027-03-26"], "the first day", 60)
        # midnight of the 29th in Berlin is 22:00 UTC since the change, and 75 minutes are waited
        for moment, expected in (
            ("2027-03-27T23:30:00", 1),  # the 27th ended at 23:00 UTC, but is not due yet
            ("2027-03-28T00:16:00", 2),
            ("2027-03-28T01:00:00", 2),  # the change itself
            ("2027-03-28T23:10:00", 2),
            ("2027-03-28T23:16:00", 3),
            ("2027-03-29T23:20:00", 4),
        ):
            clock.set(datetime.fromisoformat(moment).replace(tzinfo=UTC))
            wait_until(
                lambda count=expected: len(delivered(deployment)) == count, f"day {expected}", 60
            )
    assert manifests(party) == [f"2027-03-{day}" for day in (26, 27, 28, 29)]
    assert delivered(deployment) == manifests(party)
    assert len(party.received()) == 4 * 4


def test_stopped_and_started_again_it_makes_up_for_what_it_missed(tmp_path, party):
    deployment = party.deployment
    clock = Clock(tmp_path)
    clock.set(datetime(2027, 3, 27, 0, 30, tzinfo=UTC))
    with daemon(deployment, clock):
        wait_until(lambda: len(delivered(deployment)) == 1, "the first day", 60)
    clock.set(datetime(2027, 3, 27, 0, 30, tzinfo=UTC) + timedelta(days=3))
    with daemon(deployment, clock), daemon(deployment, clock):
        wait_until(lambda: len(delivered(deployment)) == 4, "the days that were missed", 60)
    # Two daemons write their lines as they come to it.
    assert sorted(delivered(deployment)) == [f"2027-03-{day}" for day in range(26, 30)]


def test_an_alarm_asked_for_at_once_is_never_lost(caplog):
    stop, rung = Event(), []

    def wake():
        rung.append(None)
        if len(rung) == 300:
            stop.set()
        return wiring.utc_now()

    Alarm(wake, stop, every=timedelta(seconds=20)).keep()
    assert len(rung) == 300
    assert [record.getMessage() for record in caplog.records] == []


class _NoThreadOnce(logging.Handler):
    """Lets the next thread's start fail, as on a host without memory for its stack.

    From APScheduler's word that it has the first alarm to its word that it could not start it.
    """

    def __init__(self):
        super().__init__()
        self.failures = 0

    def emit(self, record):
        if record.msg.startswith("Added job") and not self.failures:
            threading.stack_size(1 << 47)  # all of the address space
        elif record.msg.startswith("Error submitting job"):
            threading.stack_size(0)
            self.failures += 1


def test_an_alarm_that_could_not_be_started_is_set_again():
    stop, rung = Event(), []

    def wake():
        rung.append(None)
        if len(rung) == 3:
            stop.set()

    hurdle, logger = _NoThreadOnce(), logging.getLogger("apscheduler.scheduler")
    level = logger.level
    logger.addHandler(hurdle)
    logger.setLevel(logging.INFO)
    # An alarm that is lost would be waited for without an end.
    guard = threading.Timer(20, stop.set)
    guard.start()
    try:
        Alarm(wake, stop, every=timedelta(seconds=0.1)).keep()
    finally:
        guard.cancel()
        threading.stack_size(0)
        logger.removeHandler(hurdle)
        logger.setLevel(level)
    assert (hurdle.failures, len(rung)) == (1, 3)
