"""Retries as policy, on the real program: waits, deadlines, alerts, and servers that do not answer."""

from __future__ import annotations

import json
import signal
from datetime import timedelta
from pathlib import Path

import pytest

from mxdeliver.core.breaker import LIMIT
from tests.support.builders import CORES
from tests.support.deployment import kill
from tests.support.invariants import watched
from tests.support.openssh import OpenSSHServer, wait_until
from tests.support.outcomes import (
    DAY,
    add_client,
    assert_delivered,
    assert_log_is_valid,
    fill,
    next_step,
    run_day,
    run_due,
    small_deployment,
)
from tests.support.proxy import Proxy, black_hole

CLIENTS = 40
WORKERS = 4
AT_ONCE = WORKERS + 2 * min(WORKERS, CORES if CORES > 1 else 0)
"""As many as send, and for each builder one that it builds and one that was built or is the next."""


@pytest.fixture(scope="module", autouse=True)
def swallowed(tmp_path_factory):
    """A run into a black hole: it waits half a minute for connects, beside the other tests."""
    folder = tmp_path_factory.mktemp("swallowed")
    with OpenSSHServer(folder) as sound, black_hole() as port:
        made = small_deployment(folder, sound)
        made.document["schedule"] = {"workers": WORKERS}
        made.document["retry"] = {"attempts": 1, "initial": "1s", "maximum": "60s"}
        made.clients = [
            add_client(made, f"Client {n:02}", resources=["tags"], sftp={"port": port})
            for n in range(CLIENTS)
        ]
        made.other = add_client(made, "Zoe's", resources=["tags"])
        fill(made)
        made.process = made.start("run", "--date", str(DAY), "--json")
        try:
            yield made
        finally:
            if made.process.poll() is None:
                kill(made.process)


@pytest.fixture
def server(tmp_path):
    """A server that does not run yet."""
    return OpenSSHServer(tmp_path)


@pytest.fixture
def deployment(tmp_path, server):
    made = small_deployment(tmp_path, server)
    made.document["retry"] = {"attempts": 3, "initial": "1s", "maximum": "60s"}
    made.document["schedule"] = {"workers": WORKERS}
    yield made
    assert_log_is_valid(made)


def events(deployment, name):
    path = deployment.folder / "logs/deliveries.jsonl"
    lines = deployment.log_lines() if path.exists() else []
    return [line for line in lines if line["event"] == name]


def add_clients(deployment, count):
    return [add_client(deployment, f"Client {n:02}", resources=["tags"]) for n in range(count)]


# -- servers that do not answer --------------------------------------------------------------------


def test_forty_clients_of_a_server_that_refuses_wait_together_and_are_delivered_once_it_is_back(
    deployment, server
):
    parties = add_clients(deployment, CLIENTS)
    fill(deployment)
    dead = run_day(deployment)
    assert dead.status == 75
    rows = [dead.row(party) for party in parties]
    assert {(row["state"], row["error_code"]) for row in rows} == {("waiting", "CONNECT_REFUSED")}
    begun = events(deployment, "delivery.started")
    assert LIMIT <= len(begun) <= AT_ONCE * 3, "as many as have places at once, and no more"
    tried = {line["client_guid"] for line in begun}
    assert {guid for guid in (one.guid for one in parties) if guid not in tried} == {
        row["client_guid"] for row in rows if row["attempts"] == 0
    }
    assert LIMIT <= len(met(deployment)) <= WORKERS * 3, "no more have connected than before"
    untried = [party for party in parties if party.guid not in tried]
    assert len(untried) >= CLIENTS - AT_ONCE
    assert_put_off_and_said_so(deployment, untried)
    with server:
        back = run_day(deployment)
        assert all(len(party.received()) == 4 for party in parties)
    assert back.status == 0, back.stderr
    assert {row["state"] for row in back.document["deliveries"]} == {"delivered"}


def assert_put_off_and_said_so(deployment, parties):
    why = f"did not answer {LIMIT}"
    retrying = events(deployment, "delivery.retrying")
    ledger = deployment.run_json("status")[1]["deliveries"]
    for party in parties:
        (line,) = (one for one in retrying if one["client_guid"] == party.guid)
        assert line["error_code"] == "CONNECT_REFUSED"
        assert "not tried, because 127.0.0.1:" in line["message"]
        assert "times in a row; at last 127.0.0.1:" in line["message"]
        assert "attempt" not in line
        (row,) = (one for one in ledger if one["client_guid"] == party.guid)
        assert (row["attempts"], row["state"]) == (0, "waiting")
        assert row["not_before"] == line["retry_at"][:19] + "Z"
        assert row["deadline"] is not None
    said = next_step(deployment, parties[0])
    assert "waits after CONNECT_REFUSED; will be tried again" in said
    assert why in said or "times in a row" in said


def test_a_server_that_is_back_during_the_run_gets_everything_in_that_run(deployment, server):
    deployment.document["retry"] = {"attempts": 50, "initial": "2s", "maximum": "2s"}
    add_clients(deployment, 8)
    fill(deployment)
    process = deployment.start("run", "--date", str(DAY), "--json")
    wait_until(
        lambda: put_off(deployment),
        "clients that are put off",
        60,
    )
    with server:
        output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    states = {row["state"] for row in json.loads(output)["deliveries"]}
    assert states == {"delivered"}


def test_the_daemon_remembers_from_one_wake_up_to_the_next_that_a_server_is_dead(
    deployment, server
):
    deployment.document["retry"] = {"attempts": 3, "initial": "2s", "maximum": "4s"}
    deployment.document["schedule"] = {"workers": 2, "due_after": "0s"}
    deployment.document["defaults"]["active_since"] = str(DAY + timedelta(days=1))
    add_clients(deployment, 8)
    fill(deployment)
    process = deployment.start("schedule", "--wake-every", "0.5")
    try:
        wait_until(lambda: len(put_off(deployment)) > 12, "clients that are put off again", 100)
        begun = len(events(deployment, "delivery.started"))
        assert begun < 12, "each of them would have tried as often by itself"
        with server:
            wait_until(
                lambda: len(events(deployment, "delivery.delivered")) == 8, "all of them", 100
            )
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            kill(process)
    assert process.returncode == 0


def met(deployment):
    return [
        one for one in events(deployment, "delivery.retrying") if "not tried" not in one["message"]
    ]


def put_off(deployment):
    return [one for one in events(deployment, "delivery.retrying") if "not tried" in one["message"]]


def test_what_is_put_off_past_its_deadline_has_failed_once_and_said_so_once(deployment):
    waits = {"initial": "100d", "maximum": "100d", "deadline": "1d"}
    deployment.document["retry"] = {"attempts": 1, **waits}
    deployment.document["schedule"] = {"workers": 1}
    parties = add_clients(deployment, 6)
    fill(deployment)
    first = run_day(deployment)
    assert first.status == 1
    failed = events(deployment, "delivery.failed")
    alerts = [(line["client_guid"], line["error_code"]) for line in failed]
    untried = {row["client_guid"] for row in first.document["deliveries"] if not row["attempts"]}
    assert len(untried) == 6 - LIMIT
    assert {(guid, "DEADLINE") for guid in untried} <= set(alerts)
    assert len(set(alerts)) == len(alerts)
    assert run_due(deployment).document["deliveries"] == []
    assert events(deployment, "delivery.failed") == failed, "one alert for each"
    (row,) = (first.row(one) for one in parties if one.guid == min(untried))
    assert "not possible by" in row["error"]
    assert "CONNECT_REFUSED: not tried, because" in row["error"]


def test_a_delivery_that_is_under_way_at_its_deadline_has_failed_with_one_alert(deployment, server):
    deployment.document["retry"] = {"attempts": 3, "initial": "1s", "maximum": "1s"}
    with server, Proxy(server.port) as proxy:
        party = add_client(
            deployment, "Endless", sftp={"port": proxy.port}, retry={"deadline": "2s"}
        )
        fill(deployment, rows=200)
        proxy.hold_after = {1: 12_000}
        with watched(deployment, party):
            outcome = run_day(deployment)
            row = outcome.row(party)
            assert (outcome.status, row["state"], row["error_code"]) == (1, "failed", "DEADLINE")
            assert "the time for this delivery is over while it was under way" in row["error"]
            assert party.received() == {}
            assert run_due(deployment).document["deliveries"] == []
            (alert,) = events(deployment, "delivery.failed")
            assert alert["error_code"] == "DEADLINE"
            proxy.hold_after = {}
            party.entry["retry"]["deadline"] = "6h"
            assert_delivered(run_day(deployment), party)
    order = [line["event"] for line in deployment.log_lines()]
    assert order.index("bundle.sealed") < order.index("connection.opened"), "built, then connected"


# -- what waits for a person -----------------------------------------------------------------------


def test_what_is_parked_is_tried_once_and_opens_by_itself_when_what_it_waits_for_has_changed(
    deployment, server, tmp_path
):
    shipped = (Path(__file__).parents[1] / "schemas/budgets.avsc").read_text()
    ours = tmp_path / "own/budgets.avsc"
    ours.parent.mkdir()
    ours.write_text(
        shipped.replace('"fields": [', '"fields": [{"name": "mood", "type": "string"},')
    )
    deployment.document["schemas"] = ["own/"]
    (tmp_path / "wrong").touch(mode=0o600)
    (tmp_path / "wrong").write_text("not the password")
    key = add_client(deployment, "Key")
    refused = add_client(deployment, "Secret", sftp={"password": {"file": "wrong"}})
    lost = add_client(deployment, "Configuration", sftp={"directory": "/nowhere"})
    strange = add_client(deployment, "Schema", resources=["budgets"])
    right_key = (tmp_path / key.entry["pgp"]["public_key"]).read_bytes()
    (tmp_path / key.entry["pgp"]["public_key"]).write_bytes(b"no key")
    fill(deployment)
    with server:
        first = run_day(deployment)
        assert first.status == 1
        parked = {
            key: "KEY_PARSE",
            refused: "AUTH_FAILED",
            lost: "REMOTE_DIR_MISSING",
            strange: "SOURCE_SCHEMA",
        }
        for party, code in parked.items():
            row = first.row(party)
            assert (row["state"], row["error_code"], row["attempts"]) == ("parked", code, 1)
        assert run_due(deployment).document["deliveries"] == []
        by_date = run_day(deployment)
        assert (by_date.status, {row["attempts"] for row in by_date.document["deliveries"]}) == (
            1,
            {0},
        )
        (tmp_path / key.entry["pgp"]["public_key"]).write_bytes(right_key)
        (tmp_path / "wrong").write_text(server.password)
        lost.entry["sftp"]["directory"] = str(lost.directory)
        ours.write_text(shipped)
        opened = run_due(deployment)
        assert opened.status == 0, opened.stderr
        assert {row["state"] for row in opened.document["deliveries"]} == {"delivered"}
        assert len(opened.document["deliveries"]) == len(parked)
    alerts = [line["client_guid"] for line in events(deployment, "delivery.parked")]
    assert sorted(alerts) == sorted(party.guid for party in parked)


# -- and half a minute later -----------------------------------------------------------------------


def test_a_black_hole_costs_one_clients_time_and_nothing_of_another_servers_clients(swallowed):
    output, errors = swallowed.process.communicate(timeout=100)
    assert swallowed.process.returncode == 75, errors
    rows = {row["client_guid"]: row for row in json.loads(output)["deliveries"]}
    assert rows[swallowed.other.guid]["state"] == "delivered"
    dead = [rows[party.guid] for party in swallowed.clients]
    assert {(row["state"], row["error_code"]) for row in dead} == {("waiting", "CONNECT_TIMEOUT")}
    # A connect takes 15 seconds: without the breaker ten would follow each other at each place.
    assert len(events(swallowed, "delivery.started")) <= 1 + AT_ONCE + LIMIT - 1
    assert len(met(swallowed)) <= WORKERS + LIMIT - 1
    assert len(put_off(swallowed)) >= CLIENTS - WORKERS - LIMIT + 1
    assert_log_is_valid(swallowed)
