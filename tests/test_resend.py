"""A delivered day again: the same bytes, or a new revision; what lies there is replaced only by leave."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.support.outcomes import (
    DAY,
    FILES,
    add_client,
    assert_delivered,
    assert_log_is_valid,
    clock,
    fill,
    run_day,
    run_due,
    small_deployment,
)


@pytest.fixture
def deployment(tmp_path, server):
    made = small_deployment(tmp_path, server)
    yield made
    assert_log_is_valid(made)


@pytest.fixture
def party(deployment):
    added = add_client(deployment, "First")
    fill(deployment)
    assert_delivered(run_day(deployment), added)
    return added


def resend(deployment, *arguments):
    chosen = ("--client", "First", "--date", str(DAY), *arguments)
    return run_day(deployment, *chosen, command="resend")


def written(party):
    return {path.name: path.stat().st_mtime_ns for path in party.directory.iterdir()}


def test_what_is_there_and_equal_is_left_alone_and_what_is_gone_comes_back_the_same(
    deployment, party
):
    before, times = party.received(), written(party)
    again = resend(deployment)
    assert again.status == 0
    assert_delivered(again, party)
    assert (again.row(party)["revision"], again.row(party)["attempts"]) == (1, 1)
    assert (party.received(), written(party)) == (before, times)
    gone = party.directory / f"{party.guid}.{DAY}.users.updated.avro.pgp"
    gone.unlink()
    assert_delivered(resend(deployment), party)
    assert party.received() == before
    assert {name for name, time in written(party).items() if time != times[name]} == {gone.name}


def test_what_the_client_changed_is_not_replaced_by_a_resend(deployment, party):
    changed = party.directory / f"{party.guid}.{DAY}.users.updated.avro.pgp"
    changed.write_bytes(b"the client's own")
    before = party.received()
    again = resend(deployment)
    assert again.status == 1
    assert again.row(party)["error_code"] == "REMOTE_CONFLICT"
    assert party.received() == before


def test_a_rebuild_replaces_nothing_without_leave_and_what_is_ours_with_it(deployment, party):
    before = party.received()
    refused = resend(deployment, "--rebuild")
    assert refused.status == 1
    row = refused.row(party)
    assert (row["revision"], row["state"], row["error_code"]) == (2, "parked", "REMOTE_CONFLICT")
    assert party.received() == before
    assert party.leftovers() == []
    party.entry["sftp"]["replace"] = "ours"
    replaced = resend(deployment, "--rebuild")
    assert replaced.status == 0
    assert replaced.row(party)["revision"] == 3
    assert_delivered(replaced, party)
    after = party.received()
    assert after.keys() == before.keys()
    assert all(after[name] != before[name] for name in before)


def test_with_leave_a_file_that_is_not_ours_still_stays(deployment, party):
    party.entry["sftp"]["replace"] = "ours"
    foreign = party.directory / f"{party.guid}.{DAY}.users.updated.avro.pgp"
    foreign.write_bytes(b"the client's own")
    before = party.received()
    refused = resend(deployment, "--rebuild")
    assert (refused.status, refused.row(party)["error_code"]) == (1, "REMOTE_CONFLICT")
    assert party.received() == before


def test_only_a_delivered_day_is_sent_again(deployment, party):
    done = deployment.run("resend", "--client", "First", "--date", "2026-01-01")
    assert done.returncode == 1
    assert "not known; only a delivered day is sent again" in done.stderr
    assert len(party.received()) == FILES


@pytest.mark.usefixtures("party")
@pytest.mark.parametrize("arguments", [(), ("--rebuild",)], ids=" ".join)
def test_a_day_that_has_not_ended_is_refused_and_leaves_no_trace_in_the_ledger(
    deployment, arguments
):
    tomorrow = str(datetime.now(UTC).date() + timedelta(days=1))
    done = deployment.run("resend", "--client", "First", "--date", tomorrow, *arguments)
    assert done.returncode == 2
    assert "DAY_NOT_CLOSED" in done.stderr
    assert deployment.run_json("status", "--date", tomorrow)[1]["deliveries"] == []
    assert run_due(deployment).document["deliveries"] == []


def test_past_their_retention_sealed_files_are_dropped_and_only_a_rebuild_helps(deployment, party):
    spool = deployment.folder / "state/spool"
    assert len(list(spool.rglob("*.pgp"))) == FILES
    none = deployment.run("prune")
    assert (none.returncode, none.stdout) == (0, "0 bundles dropped\n")
    dropped = deployment.run("prune", environment=clock("+8d"))
    assert (dropped.returncode, dropped.stdout) == (0, "1 bundle dropped\n")
    assert list(spool.rglob("*.pgp")) == []
    assert len(party.received()) == FILES
    environment = clock("+8d")
    done = deployment.run(
        "resend", "--client", "First", "--date", str(DAY), environment=environment
    )
    assert done.returncode == 1
    assert "past `retention_days` and gone; --rebuild makes them anew" in done.stderr
    assert run_due(deployment, later="+8d").document["deliveries"] == []
