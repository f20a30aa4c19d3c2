"""Attempts, waits and what people ask for: the table of states, on the real program."""

from __future__ import annotations

import json
import signal
from datetime import timedelta

import pytest

from tests.support.deployment import key_pair
from tests.support.invariants import everyone_watched
from tests.support.openssh import free_port, wait_until
from tests.support.outcomes import (
    DAY,
    FILES,
    add_client,
    assert_delivered,
    assert_log_is_valid,
    assert_nothing_arrived,
    fill,
    next_step,
    run_day,
    run_due,
    small_deployment,
)
from tests.support.proxy import Proxy
from tests.support.terminal import run_on_a_terminal

SHORT = {"attempts": 2, "initial": "1s", "maximum": "1s"}
LONG = {"attempts": 1, "initial": "100d", "maximum": "100d", "deadline": "360d"}
"""Waits are drawn from nothing to all of it: so long that no test meets the end of one by chance."""


@pytest.fixture
def deployment(tmp_path, server):
    made = small_deployment(tmp_path, server)
    with everyone_watched(made):
        yield made
    assert_log_is_valid(made)


def resume(deployment, party, *arguments):
    return deployment.run("resume", "--client", party.entry["name"], *arguments)


# -- several clients, and retries within a run -----------------------------------------------------


def test_clients_go_side_by_side_and_one_that_fails_holds_none_up(deployment):
    deployment.document["schedule"] = {"workers": 3}
    parties = [add_client(deployment, f"Client {letter}") for letter in "abcd"]
    dead = add_client(
        deployment, "Dead", sftp={"port": free_port()}, retry={**SHORT, "attempts": 3}
    )
    parked = add_client(deployment, "Parked", sftp={"directory": "/nowhere"})
    fill(deployment)
    outcome = run_day(deployment)
    assert outcome.status == 1
    for party in parties:
        assert_delivered(outcome, party)
    assert outcome.row(dead)["state"] == "waiting"
    assert outcome.row(dead)["attempts"] == 3
    assert outcome.row(parked)["error_code"] == "REMOTE_DIR_MISSING"
    started = {}
    for line in deployment.log_lines():
        if line["event"] in {"delivery.started", "delivery.delivered"}:
            started.setdefault(line["event"], []).append(line["client_guid"])
    assert len(started["delivery.delivered"]) == 4


def test_a_connection_cut_once_is_made_again_in_the_same_run(deployment, server):
    with Proxy(server.port) as proxy:
        party = add_client(deployment, "Cut", sftp={"port": proxy.port}, retry=SHORT)
        fill(deployment, rows=200)

        def cut_once(piece, from_client):
            if from_client and proxy.connections == 1 and proxy.seen > 12_000:
                proxy.cut()
            return piece

        proxy.spoil = cut_once
        outcome = run_day(deployment)
        assert proxy.connections == 2
    assert outcome.status == 0
    assert outcome.row(party)["attempts"] == 2
    assert_delivered(outcome, party)
    events = [line["event"] for line in deployment.log_lines()]
    assert events.count("delivery.retrying") == 1
    assert events.count("bundle.sealed") == 1
    retrying = next(one for one in deployment.log_lines() if one["event"] == "delivery.retrying")
    assert retrying["error_code"] == "CONNECTION_LOST"


# -- retries across runs ---------------------------------------------------------------------------


def test_a_wait_that_outlasts_the_run_is_kept_by_the_ledger(deployment):
    party = add_client(deployment, "Down", sftp={"port": free_port()}, retry=LONG)
    fill(deployment)
    first = run_day(deployment)
    row = first.row(party)
    assert (first.status, row["state"], row["error_code"]) == (75, "waiting", "CONNECT_REFUSED")
    status, document = deployment.run_json("status")
    assert status == 0, "what waits is no trouble"
    assert document["deliveries"][0]["not_before"] == row["retry_at"]
    assert f"will be tried again at {row['retry_at'][:10]}" in next_step(deployment, party)
    assert run_due(deployment).document["deliveries"] == []
    again = run_due(deployment, later="+100d")
    assert again.status == 75
    assert (again.row(party)["attempts"], again.row(party)["state"]) == (1, "waiting")
    assert again.row(party)["retry_at"] > row["retry_at"]


def test_a_changed_configuration_does_not_wait(deployment, server):
    party = add_client(deployment, "Down", sftp={"port": free_port()}, retry=LONG)
    fill(deployment)
    assert run_day(deployment).status == 75
    party.entry["sftp"]["port"] = server.port
    changed = run_due(deployment)
    assert changed.status == 0
    assert_delivered(changed, party)


def test_run_with_the_date_does_not_wait_either(deployment):
    party = add_client(deployment, "Down", sftp={"port": free_port()}, retry=LONG)
    fill(deployment)
    assert run_day(deployment).row(party)["attempts"] == 1
    assert run_day(deployment).row(party)["attempts"] == 1


def test_past_its_deadline_a_delivery_has_failed_until_somebody_asks(deployment, server):
    down = {"port": free_port()}
    first = add_client(deployment, "First", sftp=down, retry={**LONG, "deadline": "60s"})
    second = add_client(deployment, "Second", sftp=down, retry={**LONG, "deadline": "60s"})
    fill(deployment)
    outcome = run_day(deployment)
    assert outcome.status == 1
    for party in (first, second):
        row = outcome.row(party)
        assert (row["state"], row["error_code"], row["retry_at"]) == ("failed", "DEADLINE", None)
        assert "not possible by" in row["error"]
        assert "at last CONNECT_REFUSED" in row["error"]
    said = next_step(deployment, first)
    assert f"nothing will be tried until `mxdeliver resume --client First --date {DAY}`" in said
    for party in (first, second):
        party.entry["sftp"]["port"] = server.port
    assert run_due(deployment).document["deliveries"] == [], "a change alone opens nothing failed"
    by_date = run_day(deployment, "--date", str(DAY), "--client", "First")
    assert_delivered(by_date, first)
    assert resume(deployment, second, "--date", str(DAY)).returncode == 0
    assert_delivered(run_due(deployment), second)


def test_a_parked_delivery_is_left_alone_until_it_is_resumed(deployment, server):
    party = add_client(deployment, "Parked")
    party.directory.rename(party.directory.with_suffix(".away"))
    fill(deployment)
    parked = run_day(deployment)
    assert parked.row(party)["error_code"] == "REMOTE_DIR_MISSING"
    party.directory.with_suffix(".away").rename(party.directory)
    logins = server.login_attempts()
    by_hand = run_day(deployment)
    assert (by_hand.status, by_hand.row(party)["state"]) == (1, "parked")
    assert "REMOTE_DIR_MISSING" in by_hand.line(party)
    assert run_due(deployment).document["deliveries"] == []
    assert server.login_attempts() == logins
    done = resume(deployment, party)
    assert (done.returncode, done.stdout.split(":")[0]) == (0, str(DAY))
    assert_delivered(run_due(deployment), party)
    nothing = resume(deployment, party)
    assert nothing.returncode == 1
    assert "is parked or failed" in nothing.stderr


def test_a_day_that_was_never_possible_is_told_once_when_it_leaves_the_window(deployment):
    deployment.document["schedule"] = {"due_after": "0s", "catch_up_days": 2}
    party = add_client(
        deployment, "Down", sftp={"port": free_port()}, active_since=str(DAY), retry=LONG
    )
    fill(deployment)
    first = run_due(deployment)
    assert first.status == 75
    assert "waiting, not tried after CONNECT_REFUSED with an earlier day" in first.stderr
    late = run_due(deployment, later="+2d")
    assert late.status == 1
    failed = [row for row in late.document["deliveries"] if row["state"] == "failed"]
    assert [row["snapshot_date"] for row in failed] == [str(DAY), str(DAY + timedelta(days=1))]
    assert {row["error_code"] for row in failed} == {"DEADLINE"}
    assert (
        "the day was not delivered within 2 days; last error: CONNECT_REFUSED" in failed[0]["error"]
    )
    assert f"mxdeliver: Down, {DAY}: failed, DEADLINE: " in late.stderr
    again = run_due(deployment, later="+2d")
    assert "failed" not in {row["state"] for row in again.document["deliveries"]}
    assert_nothing_arrived(party)


# -- a key that changes ----------------------------------------------------------------------------


def test_a_new_key_before_anything_was_sent_makes_a_new_revision(deployment, server):
    party = add_client(deployment, "Rotating", sftp={"port": free_port()}, retry=LONG)
    fill(deployment)
    assert run_day(deployment).row(party)["revision"] == 1
    rotated = key_pair(1)
    (deployment.folder / party.entry["pgp"]["public_key"]).write_bytes(rotated.public)
    party.entry["pgp"]["fingerprint"] = rotated.fingerprint
    party.entry["sftp"]["port"] = server.port
    outcome = run_due(deployment)
    assert_delivered(outcome, party)
    assert outcome.row(party)["revision"] == 2
    party.key = rotated
    assert len(party.decrypted()) == FILES


# -- stopping, and several at once -----------------------------------------------------------------


def test_sigterm_ends_a_run_within_ten_seconds_with_nothing_half_done(deployment, server):
    with Proxy(server.port) as proxy:
        party = add_client(deployment, "Stopped", sftp={"port": proxy.port})
        fill(deployment, rows=200)

        def hold(piece, from_client):
            if from_client and proxy.seen > 12_000:
                proxy.hold.set()
            return piece

        proxy.spoil = hold
        process = deployment.start("run", "--date", str(DAY), "--json")
        wait_until(proxy.hold.is_set, "the upload to be under way")
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=10)
        assert process.returncode == 75, errors
        assert party.received() == {}
        row = json.loads(output)["deliveries"][0]
        assert row["state"] == "waiting"
        proxy.spoil = None
        proxy.hold.clear()
        again = run_due(deployment)
    assert again.status == 0
    assert_delivered(again, party)


def test_sigterm_ends_the_wait_between_two_attempts(deployment):
    retry = {"attempts": 3, "initial": "90d", "maximum": "90d", "deadline": "360d"}
    party = add_client(deployment, "Waiting", sftp={"port": free_port()}, retry=retry)
    fill(deployment)
    process = deployment.start("run", "--date", str(DAY))
    log = deployment.folder / "logs/deliveries.jsonl"
    wait_until(lambda: log.exists() and "delivery.retrying" in log.read_text(), "a failed attempt")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 75
    assert "waiting, CONNECT_REFUSED" in errors
    assert "waits after CONNECT_REFUSED" in next_step(deployment, party)


def test_sigterm_between_files_being_built_leaves_nothing_in_the_spool(deployment):
    party = add_client(deployment, "Stopped", resources="standard")
    fill(deployment, rows=2000)
    process = deployment.start("run", "--date", str(DAY))
    log = deployment.folder / "logs/deliveries.jsonl"
    wait_until(lambda: log.exists() and "file.built" in log.read_text(), "the first file")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 75, errors
    assert "Stopped" in errors
    assert not list((deployment.folder / "state/spool").rglob("*.pgp"))
    assert_nothing_arrived(party)
    assert run_due(deployment).row(party)["state"] == "delivered"


def test_a_run_tells_by_its_exit_status_of_what_another_is_at(deployment):
    party = add_client(deployment, "Under way", resources="standard")
    fill(deployment, rows=2000)
    process = deployment.start("run", "--date", str(DAY))
    log = deployment.folder / "logs/deliveries.jsonl"
    wait_until(lambda: log.exists() and "file.built" in log.read_text(), "the first file")
    process.send_signal(signal.SIGSTOP)
    try:
        done = deployment.run("run")
        assert (done.returncode, done.stdout, done.stderr) == (75, "", "")
        status, document = deployment.run_json("run")
        (row,) = document["deliveries"]
        assert (status, row["state"], row["attempts"]) == (75, "running", 0)
        assert next_step(deployment, party).endswith("under way")
        _, _, shown = run_on_a_terminal(deployment, "run")
        assert f"Under way, {DAY}: running, another process is at it\r\n" in shown
        assert_nothing_arrived(party)
        days = ("--from", str(DAY), "--to", str(DAY + timedelta(days=1)))
        assert (
            deployment.run("run", *days)
            .stderr.splitlines()[-1]
            .endswith(
                "waiting, not tried while another process is at an earlier day of this client"
            )
        )
    finally:
        process.kill()
        process.communicate()
    interrupted = "interrupted, its process is gone; the next `mxdeliver run` goes on with it"
    assert f"{DAY} Under way: {interrupted}" in next_step(deployment, party)
    rows = run_due(deployment).document["deliveries"]
    assert [row["state"] for row in rows] == ["delivered", "delivered"]


def test_nobody_is_said_to_be_at_the_delivery_of_a_run_that_is_gone(deployment):
    party = add_client(deployment, "Interrupted", resources="standard")
    fill(deployment, rows=2000)
    process = deployment.start("run", "--date", str(DAY))
    log = deployment.folder / "logs/deliveries.jsonl"
    wait_until(lambda: log.exists() and "file.built" in log.read_text(), "the first file")
    process.kill()
    process.communicate()
    party.entry |= {"sftp": {**party.entry["sftp"], "port": free_port()}, "retry": LONG}
    before = str(DAY - timedelta(days=1))
    assert run_day(deployment, "--date", before).row(party)["state"] == "waiting"
    # behind a day that waits, a run leaves alone what nobody is at, as any other day
    due = run_due(deployment)
    assert (due.status, due.document["deliveries"], due.stderr) == (0, [], "")
    done = deployment.run("run", "--from", before, "--to", str(DAY))
    assert done.returncode == 75
    assert done.stderr.splitlines()[-1] == (
        f"mxdeliver: Interrupted, {DAY}: interrupted, not tried after CONNECT_REFUSED with an "
        "earlier day of this client"
    )
    # also in a cron mail
    assert resume(deployment, party, "--date", before).returncode == 0
    done = deployment.run("run")
    assert (done.returncode, len(done.stderr.splitlines())) == (75, 2), done.stderr
    assert f"{DAY}: interrupted, not tried after" in done.stderr


def test_five_runs_and_a_daemon_at_once_deliver_once(deployment):
    parties = [add_client(deployment, f"Client {letter}") for letter in "ab"]
    fill(deployment)
    daemon = deployment.start("schedule", "--wake-every", "0.1")
    processes = [deployment.start("run", "--date", str(DAY), "--json") for _ in range(5)]
    documents = []
    for process in processes:
        output, errors = process.communicate(timeout=100)
        assert process.returncode in {0, 75}, errors
        documents.append(json.loads(output))
    wait_until(lambda: delivered(deployment) == {party.guid for party in parties}, "both", 100)
    daemon.send_signal(signal.SIGTERM)
    daemon.communicate(timeout=30)
    assert daemon.returncode == 0
    assert all(len(document["deliveries"]) == 2 for document in documents)
    lines = deployment.log_lines()
    for party in parties:
        own = [line["event"] for line in lines if line.get("client_guid") == party.guid]
        assert own.count("delivery.delivered") == own.count("manifest.delivered") == 1
        assert own.count("file.delivered") == FILES - 1
        assert len(party.received()) == FILES
        assert party.leftovers() == []
    assert run_day(deployment).status == 0


def delivered(deployment):
    return {
        line["client_guid"]
        for line in deployment.log_lines()
        if line["event"] == "delivery.delivered"
    }
