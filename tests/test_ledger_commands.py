"""A ledger that was lost, damaged or restored from a backup, and days that a person vouches for."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.edge.spool import Spool
from tests.support.deployment import key_pair
from tests.support.invariants import watched
from tests.support.ledgers import process
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
from tests.support.preloaded import Preloaded, Stop

USER = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture(scope="module")
def program():
    with Preloaded() as loaded:
        yield loaded


@pytest.fixture
def deployment(tmp_path, server, program):
    made = small_deployment(tmp_path, server)
    made.program = program
    yield made
    assert_log_is_valid(made)


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory, server):
    """Records of two clients, made once."""
    made = small_deployment(tmp_path_factory.mktemp("warehouse"), server)
    add_client(made, "First")
    add_client(made, "Second")
    fill(made)
    return made.warehouse


@pytest.fixture
def party(deployment, warehouse):
    shutil.copy(warehouse, deployment.warehouse)
    return add_client(deployment, "First")


def ledger_of(deployment):
    return deployment.folder / "state/ledger.db"


def written(party):
    """Give what tells one writing of a file from another."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in party.directory.iterdir()
    }


def unreachable(party):
    """Let the client's server be down."""
    party.entry["sftp"]["port"] = 1


def reachable(party):
    party.entry["sftp"]["port"] = party.deployment_port


def seal_only(deployment, party):
    """Make a run that seals the day and reaches no server."""
    party.deployment_port = party.entry["sftp"]["port"]
    unreachable(party)
    outcome = run_day(deployment)
    assert outcome.row(party)["error_code"] == "CONNECT_REFUSED"
    reachable(party)


def rebuild(deployment):
    status, document = deployment.run_json("ledger", "rebuild")
    assert status == 0, document
    return document


def adopt(deployment, *arguments, client="First"):
    return deployment.run_json("adopt", "--client", client, "--date", str(DAY), *arguments)


# -- ledger rebuild --------------------------------------------------------------------------------


def test_without_its_ledger_nothing_is_sent_and_the_remedy_is_a_rebuild(deployment, party):
    assert_delivered(run_day(deployment), party)
    ledger_of(deployment).unlink()
    before = written(party)
    done = deployment.run("run")
    assert done.returncode == 1
    assert done.stderr.startswith("mxdeliver: LEDGER_MISSING: ")
    assert "`mxdeliver ledger rebuild`" in done.stderr
    assert not ledger_of(deployment).exists()
    assert written(party) == before


@pytest.mark.parametrize("loss", ["missing", "empty", "not a database", "zeroed page"])
def test_a_rebuilt_ledger_finds_what_was_delivered_and_sends_nothing_twice(deployment, party, loss):
    path = ledger_of(deployment)
    with watched(deployment, party) as watch:
        watch.ran(deployment.run("run", "--date", str(DAY)))
        before = written(party)
        content = path.read_bytes()
        damaged = {
            "missing": None,
            "empty": b"",
            "not a database": b"something else" * 400,
            "zeroed page": content[:4096] + bytes(4096) + content[8192:],
        }[loss]
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        refused = deployment.run("run", "--date", str(DAY))
        assert refused.returncode == 1
        assert "LEDGER_MISSING: " in refused.stderr or "LEDGER_CORRUPT: " in refused.stderr
        document = rebuild(deployment)
        watch.look_at_rest()
        again = watch.ran(deployment.run("run"))
        assert (again.returncode, again.stderr) == (0, "")
    (row,) = document["deliveries"]
    assert (row["state"], row["files"], row["records"]) == ("waiting", FILES, 9)
    set_aside = [Path(one).read_bytes() for one in document["set_aside"]]
    assert set_aside == ([] if damaged is None else [damaged])
    assert path.stat().st_mode & 0o777 == 0o600
    assert written(party) == before
    assert deployment.run("status").returncode == 0
    outcome = run_day(deployment)
    assert_delivered(outcome, party)
    assert outcome.row(party)["attempts"] == 0


@pytest.mark.usefixtures("party")
def test_a_healthy_ledger_is_refused_and_stays_as_it_is(deployment):
    run_day(deployment)
    before = ledger_of(deployment).read_bytes()
    done = deployment.run("ledger", "rebuild")
    assert done.returncode == 2
    assert f"{ledger_of(deployment)} is healthy and stays as it is" in done.stderr
    assert ledger_of(deployment).read_bytes() == before


@pytest.mark.usefixtures("party")
def test_a_newer_ledger_is_not_rebuilt(deployment):
    run_day(deployment)
    path = ledger_of(deployment)
    content = bytearray(path.read_bytes())
    content[60:64] = (99).to_bytes(
        4, "big"
    )  # user_version: https://www.sqlite.org/fileformat2.html
    path.write_bytes(content)
    for command in (["run"], ["ledger", "rebuild"]):
        done = deployment.run(*command)
        assert done.returncode == 1
        assert "mxdeliver: LEDGER_VERSION: " in done.stderr
        assert path.read_bytes() == bytes(content)


@pytest.mark.parametrize("content", [None, b"short"])
def test_where_only_the_ledgers_key_is_lost_nothing_else_is_said_to_be_made_anew(
    deployment, party, content
):
    assert_delivered(run_day(deployment), party)
    key = deployment.folder / "state/ledger.key"
    before = ledger_of(deployment).read_bytes()

    def lose_key():
        key.unlink()
        if content is not None:
            key.write_bytes(content)
            key.chmod(0o600)
            assert "LEDGER_CORRUPT" in deployment.run("run").stderr

    lose_key()
    document = rebuild(deployment)
    assert (document["rebuilt"], document["key_renewed"]) == (False, True)
    assert len(document["set_aside"]) == (0 if content is None else 1)
    lose_key()
    done = deployment.run("ledger", "rebuild")
    assert f"{ledger_of(deployment)} is healthy and stays as it is" in done.stdout
    assert "ledger.key: a new random key" in done.stdout
    assert ledger_of(deployment).read_bytes() == before
    events = [line["event"] for line in deployment.log_lines()]
    assert events.count("ledger.key_renewed") == 2
    assert "ledger.rebuilt" not in events
    assert deployment.run("run").returncode == 0


def test_a_rebuild_that_was_broken_off_is_named_by_every_command_until_it_is_asked_for_again(
    deployment, party
):
    assert_delivered(run_day(deployment), party)
    begun = deployment.folder / "state/ledger.db.rebuilding"
    begun.touch()
    for command in ("run", "status"):
        done = deployment.run(command)
        assert done.returncode == 1
        assert f"LEDGER_CORRUPT: {begun}: a rebuild is under way, or was broken off" in done.stderr
    done = deployment.run("ledger", "rebuild")
    assert "is healthy and stays as it is; what an earlier rebuild had begun is" in done.stdout
    assert not begun.exists()
    assert deployment.run("status").returncode == 0


def test_files_that_the_client_has_taken_are_not_sent_again(deployment, party):
    assert_delivered(run_day(deployment), party)
    ledger_of(deployment).unlink()
    for path in party.directory.iterdir():
        path.unlink()
    rebuild(deployment)
    outcome = run_due(deployment)
    assert outcome.status == 1
    row = outcome.row(party)
    assert (row["state"], row["error_code"]) == ("parked", "DELIVERY_IN_DOUBT")
    assert f"{FILES} of the {FILES} files" in row["error"]
    assert_nothing_arrived(party)
    assert "`mxdeliver adopt --client First --date" in next_step(deployment, party)
    assert run_due(deployment).document["deliveries"] == []
    assert_nothing_arrived(party)
    status, row = adopt(deployment, "--reason", "Ms Doe confirmed it by telephone")
    assert (status, row["state"]) == (0, "delivered")
    assert run_day(deployment).status == 0
    assert_nothing_arrived(party)


def test_what_was_sealed_and_never_sent_is_sent_after_a_person_has_decided(deployment, party):
    seal_only(deployment, party)
    spooled = {
        path.name: path.read_bytes() for path in (deployment.folder / "state").rglob("*.pgp")
    }
    ledger_of(deployment).unlink()
    rebuild(deployment)
    assert run_due(deployment).row(party)["error_code"] == "DELIVERY_IN_DOUBT"
    assert_nothing_arrived(party)
    unnamed = deployment.run("resume", "--client", "First")
    assert unnamed.returncode == 1
    assert f"{DAY}: in doubt, stays parked; `--date {DAY}` where" in unnamed.stdout
    assert run_due(deployment).document["deliveries"] == []
    assert_nothing_arrived(party)
    assert deployment.run("resume", "--client", "First", "--date", str(DAY)).returncode == 0
    again = run_due(deployment)
    assert again.status == 0
    assert_delivered(again, party)
    assert party.received() == spooled


def test_resume_decides_nothing_before_the_server_was_looked_at(deployment, party):
    assert_delivered(run_day(deployment), party)
    ledger_of(deployment).unlink()
    for path in party.directory.iterdir():
        path.unlink()
    rebuild(deployment)
    deployment.write_secret("wrong")
    assert run_due(deployment).row(party)["error_code"] == "AUTH_FAILED"
    deployment.run("resume", "--client", "First")
    deployment.write_secret(deployment.server.password)
    assert run_due(deployment).row(party)["error_code"] == "DELIVERY_IN_DOUBT"
    assert_nothing_arrived(party)


def test_a_key_that_changed_since_does_not_have_a_day_sealed_anew(deployment, party):
    assert_delivered(run_day(deployment), party)
    before = written(party)
    ledger_of(deployment).unlink()
    rebuild(deployment)
    another = key_pair(1)
    (deployment.folder / "client0.asc").write_bytes(another.public)
    party.entry["pgp"]["fingerprint"] = another.fingerprint
    again = run_due(deployment)
    assert (again.status, again.row(party)["revision"]) == (0, 1)
    assert written(party) == before


def test_days_that_are_owed_and_not_in_the_spool_are_in_doubt_by_name(deployment, party):
    run_day(deployment)
    party.entry["active_since"] = str(DAY - timedelta(days=2))
    other = add_client(deployment, "Second", active_since=str(DAY))
    ledger_of(deployment).unlink()
    document = rebuild(deployment)
    states = {
        (row["client_guid"], row["snapshot_date"]): (row["state"], row["error_code"])
        for row in document["deliveries"]
    }
    doubt = ("parked", "DELIVERY_IN_DOUBT")
    assert states == {
        (party.guid, str(DAY - timedelta(days=2))): doubt,
        (party.guid, str(DAY - timedelta(days=1))): doubt,
        (party.guid, str(DAY)): ("waiting", None),
        (party.guid, str(DAY + timedelta(days=1))): doubt,
        (other.guid, str(DAY)): doubt,
        (other.guid, str(DAY + timedelta(days=1))): doubt,
    } or states == _before_due(states, {party.guid, other.guid})
    run_due(deployment)
    assert_nothing_arrived(other)
    assert deployment.run("resume", "--client", "Second", "--date", str(DAY)).returncode == 0
    outcome = run_due(deployment)
    assert_delivered(outcome, other)


def _before_due(states, guids):
    """Between midnight and the time that it is due, yesterday is no day in doubt."""
    yesterday = str(DAY + timedelta(days=1))
    return states | {(guid, yesterday): ("waiting", None) for guid in guids}


def test_where_all_of_the_state_is_gone_a_rebuild_keeps_everything_from_being_sent_again(
    deployment, party
):
    party.entry["active_since"] = str(DAY)
    assert_delivered(run_day(deployment), party)
    shutil.rmtree(deployment.folder / "state")
    for path in party.directory.iterdir():
        path.unlink()
    done = deployment.run("ledger", "rebuild")
    assert done.stderr == f"mxdeliver: created {deployment.folder / 'state'}\n"
    assert f"{DAY}  First: parked DELIVERY_IN_DOUBT" in done.stdout
    run_day(deployment)
    assert_nothing_arrived(party)


def test_an_unreadable_bundle_is_failed_by_name_and_keeps_no_other_from_being_read(
    deployment, party
):
    other = add_client(deployment, "Second")
    run_day(deployment)
    (bundle,) = (deployment.folder / "state/spool").glob(f"{party.guid}*")
    (bundle / "bundle.json").write_text("{")
    ledger_of(deployment).unlink()
    before = written(party), written(other)
    rows = {row["client_guid"]: row for row in rebuild(deployment)["deliveries"]}
    assert (rows[party.guid]["state"], rows[party.guid]["error_code"]) == (
        "failed",
        "SPOOL_CORRUPT",
    )
    assert_delivered(run_due(deployment), other)
    assert (written(party), written(other)) == before
    assert adopt(deployment)[0] == 0
    assert deployment.run("status").returncode == 0


@pytest.mark.usefixtures("party")
def test_a_wrong_entry_in_the_configuration_is_corrected_first(deployment):
    run_day(deployment)
    ledger_of(deployment).unlink()
    broken = add_client(deployment, "Broken", sftp={"port": 22})
    status, document = deployment.run_json("ledger", "rebuild")
    assert (status, document["error"]["code"]) == (78, "CONFIG_INVALID")
    assert document["error"]["problems"][0]["code"] == "PORT_NOT_ALLOWED"
    assert not ledger_of(deployment).exists()
    assert_nothing_arrived(broken)


def test_nothing_is_rebuilt_while_a_run_is_at_a_delivery(deployment, party):
    run_day(deployment)
    ledger_of(deployment).unlink()
    hold = (
        "import sys; from pathlib import Path; from mxdeliver.edge.ledger.locks import Locks\n"
        "from mxdeliver.core.calendar import SnapshotDate\n"
        "with Locks(Path(sys.argv[1])).hold(sys.argv[2], SnapshotDate.parse(sys.argv[3])):\n"
        "    print('held', flush=True); sys.stdin.readline()"
    )
    with process(hold, deployment.folder / "state/locks", party.guid, str(DAY)) as child:
        assert child.stdout.readline() == "held\n"
        done = deployment.run("ledger", "rebuild")
        assert done.returncode == 75
        assert f"a run is under way with {party.guid} {DAY}" in done.stderr
    assert rebuild(deployment)["deliveries"][0]["state"] == "waiting"


def test_a_rebuild_says_on_a_terminal_and_in_the_log_what_it_did(deployment, party):
    run_day(deployment)
    ledger_of(deployment).unlink()
    party.entry["active_since"] = str(DAY - timedelta(days=1))
    done = deployment.run("ledger", "rebuild")
    assert f"{ledger_of(deployment)}: made anew from 1 sealed bundles" in done.stdout
    assert f"{DAY}  First: the next `mxdeliver run` looks for it" in done.stdout
    assert f"{DAY - timedelta(days=1)}  First: parked DELIVERY_IN_DOUBT: " in done.stdout
    lines = [line for line in deployment.log_lines() if line["event"] != "delivery.delivered"]
    (rebuilt,) = [line["message"] for line in lines if line["event"] == "ledger.rebuilt"]
    assert rebuilt.endswith(" deliveries; set aside: nothing")
    assert [line["error_code"] for line in lines if line["event"] == "delivery.parked"][0] == (  # noqa: RUF015
        "DELIVERY_IN_DOUBT"
    )


# -- restored from a backup ------------------------------------------------------------------------


def test_a_ledger_restored_from_before_the_delivery_sends_nothing_twice(deployment, party):
    assert deployment.run("run").returncode == 0
    backup = ledger_of(deployment).read_bytes()
    assert_delivered(run_day(deployment), party)
    before = written(party)
    ledger_of(deployment).write_bytes(backup)
    again = run_day(deployment)
    assert again.status == 0
    assert_delivered(again, party)
    assert written(party) == before


def test_a_restored_ledger_asks_where_the_client_has_taken_the_files(deployment, party):
    assert deployment.run("run").returncode == 0
    backup = ledger_of(deployment).read_bytes()
    assert_delivered(run_day(deployment), party)
    for path in party.directory.iterdir():
        path.unlink()
    ledger_of(deployment).write_bytes(backup)
    again = run_day(deployment)
    assert (again.status, again.row(party)["error_code"]) == (1, "DELIVERY_IN_DOUBT")
    assert_nothing_arrived(party)


def test_a_restored_ledger_whose_attempts_sealed_nothing_asks_as_well(deployment, party):
    aside = deployment.warehouse.rename(deployment.folder / "aside")
    assert run_day(deployment).row(party)["error_code"] == "SOURCE_UNAVAILABLE"
    backup = ledger_of(deployment).read_bytes()
    aside.rename(deployment.warehouse)
    assert_delivered(run_day(deployment), party)
    for path in party.directory.iterdir():
        path.unlink()
    ledger_of(deployment).write_bytes(backup)
    again = run_day(deployment)
    assert (again.status, again.row(party)["error_code"]) == (1, "DELIVERY_IN_DOUBT")
    assert_nothing_arrived(party)


def test_a_seal_that_the_ledger_could_not_be_told_of_is_gone_on_with(deployment, party):
    deployment.write()
    command = deployment.command("run", "--date", str(DAY))
    at = Stop("mxdeliver.edge.ledger:Lease.sealed")
    assert deployment.program.run(command, stop=at).returncode == -9
    deployment.write_secret("wrong")
    assert run_day(deployment).row(party)["error_code"] == "AUTH_FAILED"
    deployment.write_secret(deployment.server.password)
    assert_delivered(run_due(deployment), party)


def test_a_restored_ledger_takes_up_the_later_revision_that_the_spool_knows(deployment, party):
    seal_only(deployment, party)
    backup = ledger_of(deployment).read_bytes()
    another = key_pair(1)
    (deployment.folder / "client0.asc").write_bytes(another.public)
    party.entry["pgp"]["fingerprint"] = another.fingerprint
    outcome = run_day(deployment)
    assert outcome.row(party)["revision"] == 2
    before = written(party)
    ledger_of(deployment).write_bytes(backup)
    again = run_day(deployment)
    assert (again.status, again.row(party)["revision"]) == (0, 2)
    assert_delivered(again, party)
    assert written(party) == before


def test_a_rebuild_of_the_day_is_from_the_source_also_with_a_restored_ledger(deployment, party):
    party.entry["sftp"]["replace"] = "ours"
    assert_delivered(run_day(deployment), party)
    backup = ledger_of(deployment).read_bytes()
    resend = ("resend", "--client", "First", "--date", str(DAY), "--rebuild", "--json")
    assert deployment.run(*resend).returncode == 0
    second = party.received()
    ledger_of(deployment).write_bytes(backup)
    done = deployment.run(*resend)
    (row,) = json.loads(done.stdout)["deliveries"]
    assert row["revision"] == 3
    assert set(party.received().items()).isdisjoint(second.items()) or row["state"] == "parked"


def test_a_day_that_neither_spool_nor_ledger_knows_is_a_conflict_until_it_is_adopted(
    deployment, party
):
    assert_delivered(run_day(deployment), party)
    before = written(party)
    shutil.rmtree(deployment.folder / "state")
    conflict = run_day(deployment)
    assert (conflict.status, conflict.row(party)["error_code"]) == (1, "REMOTE_CONFLICT")
    error = conflict.row(party)["error"]
    assert "`mxdeliver adopt` writes that down" in error
    assert f"; {FILES} names are in the way, also {party.guid}.{DAY}." in error
    assert f" and {FILES - 4} more. " in error
    assert written(party) == before
    assert adopt(deployment)[0] == 0
    assert run_day(deployment).status == 0
    assert written(party) == before


# -- adopt -----------------------------------------------------------------------------------------


def test_an_adopted_day_is_delivered_for_good_with_who_when_and_why(deployment, party):
    status, row = adopt(deployment, "--reason", "sent by mail;\n\x1b[31mMs Doe")
    assert status == 0
    assert (row["state"], row["delivered_at"], row["error_code"]) == ("delivered", None, None)
    assert run_day(deployment).row(party)["attempts"] == 0
    assert run_due(deployment).document["deliveries"] == []
    assert_nothing_arrived(party)
    assert "a person vouches that the client has it" in next_step(deployment, party)
    (line,) = (one for one in deployment.log_lines() if one["event"] == "delivery.adopted")
    assert line["client_guid"] == party.guid
    assert f"as {USER} vouches" in line["message"]
    assert history(deployment) == [(USER, "adopt: sent by mail;\\n\\x1b[31mMs Doe")]


def history(deployment):
    with closing(sqlite3.connect(ledger_of(deployment))) as database:
        return database.execute("SELECT who, what FROM history").fetchall()


def test_what_is_delivered_running_or_not_over_is_not_adopted(deployment, party):
    assert_delivered(run_day(deployment), party)
    status, document = adopt(deployment, client=party.guid)
    assert (status, document["error"]["code"]) == (1, "USAGE")
    said = f"First has {DAY} already: it is delivered; nothing to adopt"
    assert document["error"]["message"] == said
    today = str(SnapshotDate.of(DAY).following(2))
    status, document = deployment.run_json("adopt", "--client", "First", "--date", today)
    assert (status, document["error"]["code"]) == (2, "DAY_NOT_CLOSED")
    assert "adopt" not in str(history(deployment))


def test_nobody_adopts_a_day_that_a_run_is_at(deployment, party):
    run_day(deployment, "--client", "First", "--from", str(DAY), "--to", str(DAY))
    hold = (
        "import sys; from pathlib import Path; from mxdeliver.edge.ledger.locks import Locks\n"
        "from mxdeliver.core.calendar import SnapshotDate\n"
        "with Locks(Path(sys.argv[1])).hold(sys.argv[2], SnapshotDate.parse(sys.argv[3])):\n"
        "    print('held', flush=True); sys.stdin.readline()"
    )
    with process(hold, deployment.folder / "state/locks", party.guid, str(DAY)) as child:
        assert child.stdout.readline() == "held\n"
        status, document = adopt(deployment)
        assert (status, document["error"]["code"]) == (75, "LEASE_HELD")


def test_an_unknown_client_and_an_unknown_day_of_a_removed_one_are_refused(deployment, party):
    seal_only(deployment, party)
    deployment.document["clients"] = []
    add_client(deployment, "Other")
    earlier = str(DAY - timedelta(days=1))
    done = deployment.run("adopt", "--client", party.guid, "--date", earlier)
    assert done.returncode == 1
    assert f"the ledger knows nothing of {party.guid}, {earlier}" in done.stderr
    done = deployment.run("adopt", "--client", party.guid, "--date", str(DAY))
    assert done.returncode == 0
    assert deployment.run("adopt", "--client", "Nobody", "--date", str(DAY)).returncode == 2


def test_an_adopted_day_can_still_be_sent_when_somebody_asks(deployment, party):
    seal_only(deployment, party)
    spool = Spool(deployment.folder / "state")
    assert len(spool.sealed_keys()) == 1
    assert adopt(deployment)[0] == 0
    again = run_day(deployment, "--client", "First", "--date", str(DAY), command="resend")
    assert_delivered(again, party)
