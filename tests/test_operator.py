"""What a person at the keyboard does between the timer's runs, and what they are shown."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.deployment import key_pair, kill
from tests.support.openssh import free_port, wait_until
from tests.support.outcomes import (
    DAY,
    FILES,
    add_client,
    assert_delivered,
    assert_nothing_arrived,
    clock,
    fill,
    next_step,
    run_day,
    run_due,
    small_deployment,
)

LONG = {"attempts": 1, "initial": "100d", "maximum": "100d", "deadline": "360d"}
VARIABLE = "MXDELIVER_TEST_PASSWORD"


@pytest.fixture
def deployment(tmp_path, server):
    return small_deployment(tmp_path, server)


# -- a shell without the timer's environment -------------------------------------------------------


def add_client_with_a_variable(deployment):
    party = add_client(deployment, "First")
    party.entry["sftp"]["password"] = {"env": VARIABLE}
    return party


def failed_logins(server):
    return server.log().count("Failed password")


def test_a_refused_password_is_sent_once_however_often_a_shell_without_it_runs(deployment, server):
    party = add_client_with_a_variable(deployment)
    fill(deployment)
    before = failed_logins(server)
    wrong = {VARIABLE: "goat-wrong-1"}
    deployment.run("run", "--date", str(DAY), environment=wrong)
    assert failed_logins(server) == before + 1
    for environment in ({}, wrong, {}, wrong):
        assert deployment.run("run", environment=environment).returncode == 0
    assert failed_logins(server) == before + 1
    assert deployment.run("run", environment={VARIABLE: server.password}).returncode == 0
    assert len(party.received()) == FILES


def test_a_secret_that_was_missing_is_used_once_it_is_there(deployment, server):
    party = add_client_with_a_variable(deployment)
    fill(deployment)
    assert run_day(deployment).row(party)["error_code"] == "SECRET_MISSING"
    assert deployment.run("run", environment={VARIABLE: server.password}).returncode == 0
    assert len(party.received()) == FILES


# -- files that are none ---------------------------------------------------------------------------


def test_a_pipe_as_a_public_key_stops_its_own_client_only(deployment):
    good = add_client(deployment, "Good")
    piped = add_client(deployment, "Piped")
    fill(deployment)
    path = deployment.folder / piped.entry["pgp"]["public_key"]
    path.unlink()
    os.mkfifo(path)
    outcome = run_day(deployment)
    assert_delivered(outcome, good)
    assert outcome.row(piped)["error_code"] == "KEY_MISSING"
    assert "is not a regular file" in outcome.line(piped)
    assert "is not a regular file" in deployment.run("check").stdout
    path.unlink()
    path.write_bytes(key_pair(0).public)
    assert_delivered(run_due(deployment), piped)


def test_a_huge_file_as_a_public_key_is_refused_without_reading_it_whole(deployment):
    party = add_client(deployment, "First")
    fill(deployment)
    with (deployment.folder / party.entry["pgp"]["public_key"]).open("wb") as file:
        file.truncate(1 << 40)
    outcome = run_day(deployment)
    assert outcome.row(party)["error_code"] == "KEY_PARSE"
    assert "larger than" in outcome.line(party)
    assert_nothing_arrived(party)


# -- what `status` promises ------------------------------------------------------------------------


def test_a_parked_day_outside_the_window_waits_for_resume_alone(deployment):
    deployment.document["schedule"] = {"catch_up_days": 1}
    party = add_client(deployment, "First", sftp={"directory": "/nowhere"})
    fill(deployment)
    assert run_day(deployment).row(party)["state"] == "parked"
    said = next_step(deployment, party)
    assert f"nothing will be tried until `mxdeliver resume --client First --date {DAY}`" in said
    deployment.document["schedule"] = {"catch_up_days": 7}
    assert "until the client's configuration changes or `mxdeliver" in next_step(deployment, party)


def test_a_resend_that_is_parked_is_shown_with_its_error_however_old_its_day_is(deployment):
    party = add_client(deployment, "First")
    fill(deployment)
    assert_delivered(run_day(deployment), party)
    party.entry["sftp"]["directory"] = "/nowhere"
    assert (
        run_day(deployment, "--client", "First", "--date", str(DAY), command="resend").status == 1
    )
    add_client(deployment, "Newer", active_since=str(DAY + timedelta(days=11)))
    later = clock("+10d")
    deployment.run("run", "--client", "Newer", environment=later)
    shown = deployment.run("status", environment=later)
    assert shown.returncode == 1
    assert f"{DAY}  First: parked REMOTE_DIR_MISSING since " in shown.stdout
    assert "/nowhere" in shown.stdout


def test_a_client_whose_entry_is_wrong_is_still_called_by_its_name(deployment):
    party = add_client(deployment, "First")
    fill(deployment)
    assert_delivered(run_day(deployment), party)
    party.entry["sftp"]["port"] = 22
    shown = deployment.run("status").stdout
    assert f"{DAY}  First: delivered " in shown
    assert party.guid not in shown


def test_a_client_that_was_removed_while_parked_is_shown_but_is_no_trouble_for_ever(deployment):
    add_client(deployment, "Good")
    gone = add_client(deployment, "Gone", sftp={"directory": "/nowhere"})
    fill(deployment)
    assert run_day(deployment).row(gone)["state"] == "parked"
    deployment.document["clients"].remove(gone.entry)
    shown = deployment.run("status")
    assert shown.returncode == 0
    assert f"{gone.guid}: nothing will be tried: the configuration has no usable" in shown.stdout
    assert gone.guid in next_step(deployment, gone)
    assert deployment.run("status", "--client", gone.guid).returncode == 0
    assert deployment.run("status", "--client", "CLT-unknown").returncode == 2
    done = deployment.run("resume", "--client", gone.guid)
    assert (done.returncode, done.stderr) == (0, "")
    assert "it waits for a usable entry of the client in the configuration" in done.stdout
    gone.entry["sftp"]["directory"] = str(gone.directory)
    deployment.document["clients"].append(gone.entry)
    assert_delivered(run_due(deployment), gone)


def test_days_that_are_owed_are_missing_before_anything_ran(deployment):
    deployment.document["schedule"] = {"due_after": "0s"}
    today = datetime.now(UTC).date()
    add_client(deployment, "First", active_since=str(today - timedelta(days=3)))
    status, document = deployment.run_json("status")
    missing = [row["snapshot_date"] for row in document["missing"]]
    assert (status, missing) == (1, [str(today - timedelta(days=back)) for back in (3, 2, 1)])
    assert deployment.run("resume", "--client", "First").returncode == 1
    assert not (deployment.folder / "state").exists()


def test_status_says_that_a_changed_secret_is_tried_by_the_next_run_and_writes_nothing(deployment):
    party = add_client(deployment, "First")
    fill(deployment)
    deployment.write_secret("wrong")
    assert run_day(deployment).row(party)["error_code"] == "AUTH_FAILED"
    assert "until the password or key changes or `mxdeliver resume" in next_step(deployment, party)
    deployment.write_secret(deployment.server.password)
    ledger = deployment.folder / "state/ledger.db"
    before = ledger.read_bytes()
    said = next_step(deployment, party)
    assert "secret or schema has changed since, and the next `mxdeliver run` tries it again" in said
    assert "nothing will be tried" not in said
    assert ledger.read_bytes() == before
    assert_delivered(run_due(deployment), party)


def test_status_says_to_the_second_when_a_delivery_is_tried_again_and_until_when(deployment):
    deployment.document["retry"] = LONG
    party = add_client(deployment, "First", sftp={"port": free_port()})
    fill(deployment)
    row = run_day(deployment).row(party)
    said = next_step(deployment, party)
    _, document = deployment.run_json("status")
    (shown,) = document["deliveries"]
    again, deadline = (
        text.replace("T", " ").replace("Z", " UTC") for text in (row["retry_at"], shown["deadline"])
    )
    assert f"waits after CONNECT_REFUSED; will be tried again at {again}, until {deadline}" in said
    party.entry["sftp"]["port"] = free_port()
    assert f"will be tried again by the next run, until {deadline}" in next_step(deployment, party)


def test_status_of_a_day_that_nobody_owes_says_how_it_is_delivered(deployment):
    add_client(deployment, "First", active_since=str(DAY))
    today = datetime.now(UTC).date()
    owed = {
        DAY - timedelta(days=400): False,
        today: True,
        today + timedelta(days=3): True,
    }
    for day, by_itself in owed.items():
        delivers = f"{day} is not owed by itself; `mxdeliver run --date {day}` delivers it"
        said = deployment.run("status", "--date", str(day)).stdout.strip()
        assert said == ("nothing is owed yet" if by_itself else delivers)


def test_status_in_json_gives_the_seconds_of_the_last_attempt(deployment):
    party = add_client(deployment, "First")
    fill(deployment)
    took = run_day(deployment).row(party)["seconds"]
    _, document = deployment.run_json("status")
    (row,) = document["deliveries"]
    assert 0 < row["seconds"] == pytest.approx(took, abs=0.5)


# -- a parked day that is named --------------------------------------------------------------------


def park(deployment, *days):
    """Park the days for a directory that is not there, and name one that is."""
    party = add_client(deployment, "First", sftp={"directory": "/nowhere"})
    fill(deployment)
    for day in days:
        assert run_day(deployment, "--date", str(day)).row(party)["state"] == "parked"
    party.entry["sftp"]["directory"] = deployment.server.remote_path(party.directory)
    return party


def shown_for_the_day(deployment):
    _, document = deployment.run_json("run", "--dry-run", "--date", str(DAY))
    return [row["snapshot_date"] for row in document["deliveries"]]


def test_a_parked_day_that_is_named_opens_by_a_change_within_the_window_alone(deployment, server):
    deployment.document["schedule"] = {"catch_up_days": 1}
    party = park(deployment, DAY)
    logins = server.login_attempts()
    assert shown_for_the_day(deployment) == []
    by_hand = run_day(deployment)
    assert (by_hand.status, by_hand.row(party)["state"]) == (1, "parked")
    assert "not tried again, REMOTE_DIR_MISSING" in by_hand.line(party)
    assert server.login_attempts() == logins
    deployment.document["schedule"] = {"catch_up_days": 7}
    assert shown_for_the_day(deployment) == [str(DAY)]
    assert_delivered(run_day(deployment), party)


def test_a_parked_day_older_than_the_window_opens_by_resume_and_is_named_afterwards(deployment):
    deployment.document["schedule"] = {"catch_up_days": 1}
    party = park(deployment, DAY)
    assert deployment.run("resume", "--client", "First", "--date", str(DAY)).returncode == 0
    assert_delivered(run_day(deployment), party)


def test_a_day_that_is_named_opens_no_other_whose_cause_has_changed(deployment):
    older = DAY - timedelta(days=1)
    party = park(deployment, older, DAY)
    outcome = run_day(deployment)
    assert_delivered(outcome, party)
    assert [row["snapshot_date"] for row in outcome.document["deliveries"]] == [str(DAY)]
    assert f"{older} First: parked REMOTE_DIR_MISSING" in next_step(deployment, party)
    assert run_due(deployment).row(party)["snapshot_date"] == str(older)


# -- what a dry run promises -----------------------------------------------------------------------


def previewed(deployment):
    """Give the days that a dry run shows, having made sure that it changes nothing."""
    ledger = deployment.folder / "state/ledger.db"
    before = ledger.read_bytes() if ledger.exists() else None
    status, document = deployment.run_json("run", "--dry-run")
    assert status == 0
    assert (ledger.read_bytes() if ledger.exists() else None) == before
    return [row["snapshot_date"] for row in document["deliveries"]]


def tried(deployment):
    return [row["snapshot_date"] for row in run_due(deployment).document["deliveries"]]


def test_a_dry_run_of_a_fresh_site_shows_what_the_run_takes_up_and_nothing_after_it(deployment):
    deployment.document["schedule"] = {"due_after": "0s"}
    party = add_client(deployment, "First")
    del deployment.document["defaults"]
    fill(deployment)
    shown = previewed(deployment)
    assert len(shown) == 1
    assert tried(deployment) == shown
    assert previewed(deployment) == tried(deployment) == []
    party.entry["active_since"] = str(DAY)
    assert previewed(deployment) == tried(deployment) == [str(DAY)]


def test_a_dry_run_sees_changes_and_what_somebody_asked_for_as_the_run_does(deployment):
    deployment.document["schedule"] = {"catch_up_days": 1, "due_after": "0s"}
    party = add_client(deployment, "First", sftp={"port": free_port()})
    deployment.document["retry"] = LONG
    fill(deployment)
    assert run_day(deployment).row(party)["state"] == "waiting"
    assert previewed(deployment) == tried(deployment) == []
    party.entry["sftp"]["directory"] = "/elsewhere"
    assert previewed(deployment) == tried(deployment) == [str(DAY)]
    assert previewed(deployment) == []
    assert deployment.run("resume", "--client", "First").returncode == 0
    assert previewed(deployment) == tried(deployment) == [str(DAY)]


# -- what the daemon says --------------------------------------------------------------------------


def test_the_daemon_says_each_of_two_lasting_problems_once_until_it_changes(deployment):
    state = deployment.folder / "state"
    state.mkdir(mode=0o755)
    (state / "in use").touch()
    party = add_client(deployment, "Broken 1", resources=["unheard-of"])
    process = deployment.start("schedule", "--wake-every", "0.1")
    try:
        said = [process.stderr.readline(), process.stderr.readline()]
        assert "Broken 1" in said[0]
        assert "SPOOL_MODE" in said[1]
        for number in (2, 3):
            party.entry["name"] = f"Broken {number}"
            deployment.write()
            said.append(process.stderr.readline())
            assert f"Broken {number}" in said[-1]
        process.terminate()
        assert process.communicate(timeout=30)[1] == ""
        assert process.returncode == 0
    finally:
        kill(process)


def test_the_daemon_logs_deliveries_and_no_runs(deployment):
    party = add_client(deployment, "First", active_since=str(DAY))
    fill(deployment)
    process = deployment.start("schedule", "--wake-every", "0.1")
    try:
        wait_until(lambda: f"{party.guid}.{DAY}-manifest.csv.pgp" in party.received(), 60)
        process.terminate()
        process.communicate(timeout=30)
    finally:
        kill(process)
    events = {line["event"] for line in deployment.log_lines()}
    assert "delivery.started" in events
    assert not {"run.started", "run.finished"} & events
