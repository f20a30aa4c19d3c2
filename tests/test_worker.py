"""Attempts across clients and days: refused logins, waits that keep nobody, errors that stay."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Event

import pytest

from mxdeliver import worker
from mxdeliver.cli import wiring
from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.edge.avro import load_resources
from tests.support.invariants import everyone_watched
from tests.support.openssh import fingerprint, free_port, key_pair, wait_until
from tests.support.outcomes import (
    DAY,
    add_client,
    assert_delivered,
    assert_log_is_valid,
    fill,
    run_day,
    run_due,
    small_deployment,
)
from tests.support.programmable import ProgrammableServer
from tests.support.proxy import Proxy

pytestmark = pytest.mark.xdist_group("running")

OWED = ("--from", str(DAY - timedelta(days=2)), "--to", str(DAY))


@pytest.fixture
def deployment(tmp_path, server):
    made = small_deployment(tmp_path, server)
    with everyone_watched(made):
        yield made
    assert_log_is_valid(made)


def failed_logins(server):
    return server.log().count("Failed password for")


def rows_of(outcome, party):
    return [one for one in outcome.document["deliveries"] if one["client_guid"] == party.guid]


# -- refused logins --------------------------------------------------------------------------------


def test_a_refused_password_is_tried_once_for_all_days_and_clients_that_have_it(deployment, server):
    deployment.document["schedule"] = {"workers": 1}
    party = add_client(deployment, "Refused")
    second = add_client(deployment, "Same account")
    fill(deployment)
    deployment.write_secret("not the password")
    before = failed_logins(server)
    outcome = run_day(deployment, *OWED)
    assert failed_logins(server) == before + 1
    for one in (party, second):
        rows = rows_of(outcome, one)
        assert [row["error_code"] for row in rows] == ["AUTH_FAILED"] * 3
        assert {row["state"] for row in rows} == {"parked"}
        assert len({row["error"] for row in rows}) == 1
    parked = [line for line in deployment.log_lines() if line["event"] == "delivery.parked"]
    assert len(parked) == 6
    assert sum("without a connection" in line["message"] for line in parked) == 5
    earlier = run_day(deployment, "--date", str(DAY - timedelta(days=3)))
    assert failed_logins(server) == before + 1
    assert {row["state"] for row in earlier.document["deliveries"]} == {"parked"}
    deployment.write_secret(server.password)
    changed = run_due(deployment)
    assert changed.status == 0
    assert {row["state"] for row in changed.document["deliveries"]} == {"delivered"}
    assert len(changed.document["deliveries"]) == 8


def test_a_resume_of_one_day_is_a_login_and_one_that_goes_well_frees_the_later_days(
    deployment, server
):
    party = add_client(deployment, "Locked out")
    other = add_client(deployment, "Other password")
    (deployment.folder / "other").touch(mode=0o600)
    (deployment.folder / "other").write_text("not the password either")
    other.entry["sftp"]["password"] = {"file": "other"}
    fill(deployment)
    deployment.write_secret("not the password")
    run_day(deployment)
    before = failed_logins(server)
    resumed = deployment.run("resume", "--client", "Locked out", "--date", str(DAY))
    assert resumed.returncode == 0, resumed.stderr
    assert run_due(deployment).row(party)["state"] == "parked"
    assert failed_logins(server) == before + 1
    deployment.write_secret(server.password)
    assert_delivered(run_due(deployment), party)
    later = run_day(deployment, "--date", str(DAY - timedelta(days=1)))
    assert later.row(party)["state"] == "delivered", "another's wrong password is not its own"
    assert later.row(other)["state"] == "parked"
    assert failed_logins(server) == before + 1


def test_a_server_with_another_host_key_is_connected_to_for_one_day_only(deployment):
    stranger = fingerprint(key_pair("ed25519", passphrase="another")[1])
    party = add_client(deployment, "Stranger", sftp={"host_keys": [stranger]})
    fill(deployment)
    outcome = run_day(deployment, *OWED)
    rows = rows_of(outcome, party)
    assert [row["error_code"] for row in rows] == ["HOSTKEY_MISMATCH"] * 3
    assert [row["attempts"] for row in rows] == [1, 0, 0]


def test_clients_side_by_side_with_one_refused_password_try_it_once_between_them(
    deployment, server
):
    deployment.document["schedule"] = {"workers": 4}
    parties = [add_client(deployment, f"Sharing {letter}") for letter in "abcd"]
    fill(deployment)
    deployment.write_secret("not the password")
    before = failed_logins(server)
    outcome = run_day(deployment)
    assert failed_logins(server) == before + 1
    for party in parties:
        row = outcome.row(party)
        assert (row["state"], row["error_code"]) == ("parked", "AUTH_FAILED")
        assert row["error"].count("Ask the client for the right user name") == 1


def test_a_refusal_that_the_ledger_could_not_be_told_is_no_reason_to_log_in_again(
    deployment, server
):
    add_client(deployment, "Refused", retry={"attempts": 3, "initial": "1s", "maximum": "1s"})
    add_client(deployment, "Same account")
    fill(deployment)
    deployment.write_secret("not the password")
    before = failed_logins(server)
    stop = Event()
    with opened(deployment, stop=stop) as (clients, site):
        with sqlite3.connect(deployment.folder / "state/ledger.db") as other:
            other.execute(
                "create trigger broken before update on deliveries when new.state = 'parked' "
                "begin select raise(abort, 'no'); end"
            )
        other.close()
        days = [SnapshotDate.of(DAY - timedelta(days=ago)) for ago in (2, 1, 0)]
        report = worker.run_days(clients, days, site, catch_up_days=7, places=2, stop=stop)
    assert failed_logins(server) == before + 1
    assert {one.outcome.value for one in report.results.values()} == {"failed"}


def test_a_login_is_tried_once_also_where_the_daemon_learns_of_who_shares_it_meanwhile(
    tmp_path, deployment
):
    judging, judged = Event(), Event()

    async def verdict(_server):
        judging.set()
        await asyncio.to_thread(judged.wait, 60)

    with ProgrammableServer(tmp_path) as account:
        sftp = {"port": account.port, "host_keys": list(account.pins.values())}
        sftp |= {"directory": "/incoming", "username": account.username}
        account.verdict = verdict
        deployment.document["schedule"] = {"workers": 3, "due_after": "0s"}
        deployment.document["defaults"]["active_since"] = str(DAY + timedelta(days=1))
        refused = add_client(deployment, "Refused", sftp=sftp)
        fill(deployment)
        with daemon(deployment):
            assert judging.wait(60)
            sharing = add_client(deployment, "Sharing", sftp=sftp)
            deployment.write()
            wait_until(lambda: sharing.guid in guids(deployment, "bundle.sealed"), "its files", 60)
            # Once more: it has had its time to log in when this one is delivered.
            other = add_client(deployment, "Other")
            deployment.write()
            wait_until(lambda: other.guid in guids(deployment, "delivery.delivered"), "it", 60)
            assert len(account.passwords) == 1, "two logins at once"
            judged.set()
            wait_until(lambda: len(guids(deployment, "delivery.parked")) == 2, "both", 60)
        assert set(guids(deployment, "delivery.parked")) == {refused.guid, sharing.guid}
        assert len(account.passwords) == 1


# -- waits -----------------------------------------------------------------------------------------


def test_days_behind_one_that_is_tried_again_are_said_to_wait_for_it(deployment):
    party = add_client(deployment, "Down", sftp={"port": free_port()})
    fill(deployment)
    outcome = run_day(deployment, *OWED)
    assert [row["attempts"] for row in rows_of(outcome, party)] == [1, 0, 0]
    lines = [line for line in outcome.stderr.splitlines() if "Down" in line]
    assert ["an earlier day of this client" in line for line in lines] == [False, True, True]
    assert "stopped" not in outcome.stderr


@contextmanager
def daemon(deployment):
    process = deployment.start("schedule", "--wake-every", "0.5")
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def guids(deployment, event):
    path = deployment.folder / "logs/deliveries.jsonl"
    lines = deployment.log_lines() if path.exists() else []
    return [one["client_guid"] for one in lines if one["event"] == event]


def test_the_daemon_delivers_to_others_while_one_client_waits_or_takes_its_time(deployment, server):
    deployment.document["schedule"] = {"workers": 2, "due_after": "0s"}
    deployment.document["defaults"]["active_since"] = str(DAY + timedelta(days=1))
    slow_waits = {"attempts": 50, "initial": "90d", "maximum": "90d", "deadline": "360d"}
    corrected = deployment.folder / "corrected"
    corrected.touch(mode=0o600)
    corrected.write_text("not the password")
    with Proxy(server.port) as proxy:
        down = add_client(deployment, "Down", retry=slow_waits, sftp={"port": free_port()})
        held = add_client(deployment, "Held", sftp={"port": proxy.port})
        later = add_client(deployment, "Later", sftp={"password": {"file": corrected.name}})
        fill(deployment)
        proxy.hold.set()
        with daemon(deployment):
            wait_until(lambda: guids(deployment, "delivery.parked"), "the refused login", 60)
            wait_until(lambda: proxy.connections, "the held login", 60)
            corrected.write_text(server.password)
            wait_until(lambda: guids(deployment, "delivery.delivered"), "the corrected one", 60)
            assert guids(deployment, "delivery.delivered") == [later.guid]
            proxy.hold.clear()
            wait_until(lambda: len(guids(deployment, "delivery.delivered")) == 2, "all", 60)
    assert guids(deployment, "delivery.delivered") == [later.guid, held.guid]
    assert guids(deployment, "delivery.retrying").count(down.guid) == 1


def test_the_daemon_takes_up_what_is_corrected_or_added_while_a_delivery_takes_its_time(
    deployment, server
):
    deployment.document["schedule"] = {"workers": 2, "due_after": "0s"}
    deployment.document["defaults"]["active_since"] = str(DAY + timedelta(days=1))
    with Proxy(server.port) as proxy:
        held = add_client(deployment, "Held", sftp={"port": proxy.port})
        wrong = add_client(deployment, "Wrong", sftp={"directory": "/nowhere"})
        fill(deployment, rows=200)
        proxy.hold_after = {1: 12_000}
        with daemon(deployment):
            wait_until(lambda: guids(deployment, "delivery.parked"), "the wrong directory", 60)
            wait_until(lambda: proxy.seen > 12_000, "the held upload", 60)
            wrong.entry["sftp"]["directory"] = str(wrong.directory)
            added = add_client(deployment, "Added")
            deployment.write()
            wait_until(lambda: len(guids(deployment, "delivery.delivered")) == 2, "both", 60)
            assert guids(deployment, "delivery.started").count(held.guid) == 1
            assert held.guid not in guids(deployment, "delivery.delivered")
            proxy.hold_after = {}
            wait_until(lambda: len(guids(deployment, "delivery.delivered")) == 3, "all", 60)
    assert sorted(guids(deployment, "delivery.delivered")) == sorted(
        party.guid for party in (held, wrong, added)
    )


@contextmanager
def opened(deployment, *, stop, clock=wiring.utc_now, chance=0.999):
    """The site and clients of the deployment's configuration, in this process."""
    deployment.write()
    configuration = wiring.load(deployment.config_path)
    with wiring.open_site(
        configuration, resources=load_resources(), run_id="test", stop=stop, clock=clock
    ) as site:
        yield configuration.clients, replace(site, chance=lambda: chance)


def run_the_day(clients, site, stop):
    days = [SnapshotDate.of(DAY)]
    return worker.run_days(clients, days, site, catch_up_days=7, places=2, stop=stop)


def test_a_clock_that_is_set_back_holds_no_retry_up(deployment):
    retry = {"attempts": 2, "initial": "6s", "maximum": "6s"}
    party = add_client(deployment, "Down", sftp={"port": free_port()}, retry=retry)
    fill(deployment)
    tried = deployment.folder / "logs/deliveries.jsonl"

    def clock():
        back = tried.exists() and "delivery.retrying" in tried.read_text()
        return datetime.now(UTC) - timedelta(hours=5 if back else 0)

    stop = Event()
    with opened(deployment, stop=stop, clock=clock) as (clients, site):
        report = run_the_day(clients, site, stop)
    assert list(report.attempts.values()) == [2]
    assert party.received() == {}


def test_a_clock_that_is_set_forward_ends_no_attempt_that_is_under_way(deployment):
    party = add_client(deployment, "Sound")
    fill(deployment)
    begun = deployment.folder / "logs/deliveries.jsonl"

    def clock():
        ahead = begun.exists() and "file.built" in begun.read_text()
        return datetime.now(UTC) + timedelta(days=2 if ahead else 0)

    stop = Event()
    with opened(deployment, stop=stop, clock=clock) as (clients, site):
        report = run_the_day(clients, site, stop)
    assert [one.outcome.value for one in report.results.values()] == ["delivered"]
    assert len(party.received()) == 7


# -- errors that stay with their client ------------------------------------------------------------


def test_an_error_of_the_ledger_about_one_client_stops_no_other(deployment):
    parties = [add_client(deployment, name) for name in ("One", "Two")]
    fill(deployment)
    stop = Event()
    with opened(deployment, stop=stop) as (clients, site):
        with sqlite3.connect(deployment.folder / "state/ledger.db") as other:
            other.execute(
                "create trigger broken before insert on attempts when "
                f"new.delivery_id = (select id from deliveries where client_guid = "
                f"'{parties[0].guid}') begin select raise(abort, 'no') ; end"
            )
        other.close()
        report = run_the_day(clients, site, stop)
        assert {one.outcome.value for one in report.results.values()} == {"failed", "delivered"}
    lines = [line for line in deployment.log_lines() if line["event"] == "delivery.failed"]
    assert [line["client_guid"] for line in lines] == [parties[0].guid]
    assert len(parties[1].received()) > 0


class Exhausted:
    """A source whose stream ends in an error that no source raises on purpose."""

    def __init__(self, error):
        self._error = error

    @contextmanager
    def snapshot(self):
        yield self

    def stream(self, *_):
        yield from ()
        raise self._error

    def interrupt(self):
        """Nothing runs."""


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("maximum recursion depth")])
def test_a_thread_that_runs_out_of_memory_or_depth_fails_its_client_alone(deployment, error):
    deployment.document["sources"]["exhausted"] = dict(deployment.document["sources"]["warehouse"])
    broken = add_client(deployment, "Exhausted", source="exhausted")
    sound = add_client(deployment, "Sound")
    fill(deployment)
    stop = Event()
    with opened(deployment, stop=stop) as (clients, site):

        def source(name):
            return Exhausted(error) if name == "exhausted" else site.source(name)

        report = run_the_day(clients, replace(site, source=source, builders=None), stop)
    outcomes = {key.client_guid: result for key, result in report.results.items()}
    assert outcomes[sound.guid].outcome.value == "delivered"
    assert outcomes[broken.guid].error.code == "INTERNAL"
    assert type(error).__name__ in str(outcomes[broken.guid].error)
    assert not list((deployment.folder / "state/spool").glob(f"*{broken.guid}*/*.pgp"))
