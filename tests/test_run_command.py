"""What `run` and `status` print and return, and what a dry run leaves untouched."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests.support.deployment import key_pair
from tests.support.openssh import free_port
from tests.support.outcomes import (
    DAY,
    FILES,
    add_client,
    assert_delivered,
    assert_log_is_valid,
    assert_nothing_arrived,
    fill,
    run_day,
    run_due,
    small_deployment,
)

ROW = {
    "client_guid", "snapshot_date", "revision", "state", "files", "records", "bytes", "attempts",
    "seconds", "error_code", "error", "retry_at",
}  # fmt: skip
STATUS_ROW = ROW | {"due_at", "not_before", "deadline", "delivered_at"}


@pytest.fixture
def deployment(tmp_path, server):
    return small_deployment(tmp_path, server)


# -- several days ----------------------------------------------------------------------------------


def test_days_are_delivered_from_first_to_last_and_those_not_over_named_as_skipped(deployment):
    ahead = add_client(deployment, "Ahead", timezone="Pacific/Kiritimati")
    behind = add_client(deployment, "Behind", timezone="Etc/GMT+12")
    fill(deployment)
    # 26 hours apart: what ended last in the one zone has not ended in the other
    last = datetime.now(ZoneInfo("Pacific/Kiritimati")).date() - timedelta(days=1)
    first = last - timedelta(days=2)
    status, document = deployment.run_json("run", "--from", str(first), "--to", str(last))
    assert status == 0
    assert document.keys() == {"run_id", "deliveries", "skipped", "broken"}
    assert all(row.keys() == ROW for row in document["deliveries"])
    days = {
        party.guid: [
            row["snapshot_date"]
            for row in document["deliveries"]
            if row["client_guid"] == party.guid
        ]
        for party in (ahead, behind)
    }
    every = [str(first + timedelta(days=n)) for n in range(3)]
    skipped = [one["snapshot_date"] for one in document["skipped"]]
    assert {one["client_guid"] for one in document["skipped"]} == {behind.guid}
    assert days[ahead.guid] == every
    assert skipped
    assert days[behind.guid] + skipped == every
    assert len(ahead.received()) == 3 * FILES
    done = deployment.run("run", "--date", str(last))
    assert done.returncode == 0
    assert f"Behind, {last}: skipped, the day has not ended in Etc/GMT+12" in done.stderr


# -- dry run ---------------------------------------------------------------------------------------


def test_a_dry_run_touches_neither_source_nor_network_nor_state(deployment, server):
    party = add_client(deployment, "First")
    logged = server.log()
    status, document = deployment.run_json("run", "--date", str(DAY), "--dry-run")
    assert status == 0
    (row,) = document["deliveries"]
    assert (row["client_guid"], row["snapshot_date"]) == (party.guid, str(DAY))
    assert row["fingerprint"] == key_pair(0).fingerprint
    assert row["server"] == f"127.0.0.1:{server.port}"
    assert row["files"][0] == f"{party.guid}.{DAY}.users.created.avro.pgp"
    assert len(row["files"]) == FILES
    assert row["files"][-1] == f"{party.guid}.{DAY}-manifest.csv.pgp"
    assert server.log() == logged
    assert not (deployment.folder / "state").exists()
    assert not (deployment.folder / "logs").exists()
    (deployment.folder / "client0.asc").unlink()
    done = deployment.run("run", "--date", str(DAY), "--dry-run")
    assert done.returncode == 1
    assert "First: KEY_MISSING: " in done.stderr
    party.entry["sftp"]["port"] = 22
    add_client(deployment, "Second")
    (deployment.folder / "client1.asc").unlink()
    done = deployment.run("run", "--date", str(DAY), "--dry-run")
    assert done.returncode == 78, "what is wrong in the configuration counts for more"
    assert "Second: KEY_MISSING: " in done.stderr


def test_a_dry_run_leaves_out_what_is_delivered(deployment):
    party = add_client(deployment, "First")
    fill(deployment)
    assert_delivered(run_day(deployment), party)
    ledger = (deployment.folder / "state/ledger.db").read_bytes()
    log = deployment.log_lines()
    status, document = deployment.run_json("run", "--date", str(DAY), "--dry-run")
    assert (status, document["deliveries"]) == (0, [])
    assert (deployment.folder / "state/ledger.db").read_bytes() == ledger
    assert deployment.log_lines() == log
    assert_log_is_valid(deployment)


# -- status ----------------------------------------------------------------------------------------


def test_status_before_anything_ran_says_so_and_creates_nothing(deployment):
    add_client(deployment, "First")
    done = deployment.run("status")
    assert (done.returncode, done.stdout) == (0, "nothing is owed yet\n")
    status, document = deployment.run_json("status")
    nothing = {"deliveries": [], "missing": [], "broken": [], "servers": []}
    assert (status, document) == (0, nothing)
    assert not (deployment.folder / "state").exists()


def test_status_shows_every_state_and_ends_with_1_while_a_person_is_needed(deployment):
    good = add_client(deployment, "Good")
    down = add_client(
        deployment, "Down", sftp={"port": free_port()},
        retry={"initial": "100d", "maximum": "100d", "deadline": "360d"},
    )  # fmt: skip
    parked = add_client(deployment, "Parked", sftp={"directory": "/nowhere"})
    fill(deployment)
    assert run_day(deployment).status == 1
    status, document = deployment.run_json("status")
    assert status == 1
    assert document["missing"] == []
    rows = {row["client_guid"]: row for row in document["deliveries"]}
    assert all(row.keys() == STATUS_ROW for row in rows.values())
    states = [rows[party.guid]["state"] for party in (good, down, parked)]
    assert states == ["delivered", "waiting", "parked"]
    delivered = rows[good.guid]
    assert (delivered["files"], delivered["attempts"], delivered["records"]) == (FILES, 1, 9)
    assert delivered["delivered_at"].endswith("Z")
    due = datetime.combine(DAY + timedelta(days=1), datetime.min.time()) + timedelta(minutes=75)
    assert delivered["due_at"] == due.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert rows[down.guid]["retry_at"] == rows[down.guid]["not_before"] is not None
    assert rows[down.guid]["delivered_at"] is None
    shown = deployment.run("status").stdout
    assert f"{DAY}  Good: delivered " in shown
    assert f"{DAY}  Down: waits after CONNECT_REFUSED; will be tried again at " in shown
    assert f"{DAY}  Parked: parked REMOTE_DIR_MISSING since " in shown
    for options, expected in [
        (("--client", "Good"), 0),
        (("--client", "Down"), 0),
        (("--client", "Parked"), 1),
        (("--date", "2026-01-01"), 0),
    ]:
        assert deployment.run("status", *options).returncode == expected, options


def test_status_names_days_that_are_owed_and_that_nobody_took_up(deployment):
    deployment.document["schedule"] = {"due_after": "0s"}
    party = add_client(deployment, "First", active_since=str(DAY))
    fill(deployment)
    assert_delivered(run_day(deployment), party)
    status, document = deployment.run_json("status")
    assert status == 1
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date()
    expected = {"client_guid": party.guid, "snapshot_date": str(yesterday)}
    assert document["missing"] == [expected]
    assert (
        f"{yesterday}  First: missing; the next `mxdeliver run`" in deployment.run("status").stdout
    )
    assert [row["snapshot_date"] for row in run_due(deployment).document["deliveries"]] == [
        str(yesterday)
    ]
    assert deployment.run("status").returncode == 0


# -- the log and the streams -----------------------------------------------------------------------


def test_success_is_silent_and_the_second_run_too(deployment):
    add_client(deployment, "First")
    fill(deployment)
    first = deployment.run("run", "--date", str(DAY))
    state = deployment.folder / "state"
    assert (first.returncode, first.stdout) == (0, "")
    assert first.stderr == f"mxdeliver: created {state}\n"
    second = deployment.run("run", "--date", str(DAY))
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert_log_is_valid(deployment)


def test_a_log_of_a_dash_goes_to_standard_output_and_beside_json_to_standard_error(deployment):
    deployment.document["delivery_log"] = "-"
    add_client(deployment, "First")
    fill(deployment)
    done = deployment.run("run", "--date", str(DAY))
    assert done.returncode == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [lines[at]["message"] for at in (0, -1)] == ["1 client", "1 of 1 delivered"]
    events = [line["event"] for line in lines]
    assert events[0] == "run.started"
    assert events[-1] == "run.finished"
    assert "manifest.delivered" in events
    beside = deployment.run("run", "--date", str(DAY), "--json")
    assert len(json.loads(beside.stdout)["deliveries"]) == 1
    events = [json.loads(line)["event"] for line in beside.stderr.splitlines()]
    assert events == ["run.started", "run.finished"]
    assert not (deployment.folder / "logs").exists()


def test_a_run_of_chosen_clients_leaves_the_others_alone(deployment):
    first = add_client(deployment, "First")
    second = add_client(deployment, "Second Bank")
    fill(deployment)
    outcome = run_day(deployment, "--date", str(DAY), "--client", "Second Bank")
    assert outcome.status == 0
    assert_delivered(outcome, second)
    assert len(outcome.document["deliveries"]) == 1
    assert_nothing_arrived(first)
