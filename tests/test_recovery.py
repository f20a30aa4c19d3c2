"""Stopped between any two steps of sending: nothing is lost, nothing foreign touched, no rest stays.

The steps are the real ones, in this process; a crash is an exception that nothing in the program
catches, so that what is behind it does not happen, as after SIGKILL.
"""

from __future__ import annotations

import pytest

from mxdeliver.core.errors import RemoteDenied
from mxdeliver.core.model import Outcome
from mxdeliver.deliver import deliver, needs_new_revision
from mxdeliver.edge.ledger import Lease
from mxdeliver.edge.sftp import Session
from tests.support.attempts import (
    DAY,
    FILES,
    attempt,
    crash,
    one_day,
    rebuild,
    resume,
    site_of,
)
from tests.support.deployment import key_pair
from tests.support.invariants import Circumstances, Watch
from tests.support.traces import Traces
from tests.support.watcher import Watcher


@pytest.fixture
def party(tmp_path, server):
    """A client whose directory, ledger and spool are watched, and checked when the test is over."""
    party = one_day(tmp_path, server)
    party.circumstances = {"secret_key": party.key.secret}
    traces = Traces(party.deployment)
    with Watcher(tmp_path, [party.directory]) as party.watcher:
        watch = Watch(party.watcher, traces)
        party.at_rest = watch.look_at_rest
        yield party
    traces.look()
    assert watch.violations(Circumstances(**party.circumstances)) == []


STEPS = [
    (Lease, "sealed", False, 1),
    (Lease, "sealed", True, 1),
    (Lease, "bound_to", True, 1),
    (Lease, "uploading", False, 1),
    (Lease, "uploading", True, 1),
    (Session, "upload", True, 1),
    (Lease, "publishing", False, 1),
    (Lease, "publishing", True, 1),
    (Session, "rename", True, 1),
    (Lease, "published", False, 1),
    (Lease, "published", True, 1),
    (Lease, "publishing", True, 2),
    (Session, "rename", True, 2),
    (Lease, "published", True, 2),
    (Lease, "delivered", False, 1),
]


@pytest.mark.parametrize(("owner", "name", "after", "call"), STEPS)
def test_a_crash_at_each_step_is_made_up_for(party, monkeypatch, owner, name, after, call):
    crash(party, monkeypatch, owner, name, after=after, call=call)
    assert attempt(party).outcome is Outcome.DELIVERED


@pytest.mark.parametrize("after", [False, True])
def test_a_delivered_day_has_its_line_in_the_log_whenever_the_process_was_killed(
    party, monkeypatch, after
):
    crash(party, monkeypatch, Lease, "delivered", after=after)
    done = party.deployment.run("run", "--date", str(DAY))
    assert done.returncode == 0, done.stderr
    events = [line["event"] for line in party.deployment.log_lines()]
    assert events.count("delivery.delivered") == (1 if after else 2)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("call", "event", "count"), [(1, "file.delivered", FILES - 1), (2, "manifest.delivered", 1)]
)
def test_a_delivered_file_has_its_line_in_the_log_whenever_the_process_was_killed(
    party, monkeypatch, call, event, count, after
):
    crash(party, monkeypatch, Lease, "published", call=call, after=after)
    done = party.deployment.run("run", "--date", str(DAY))
    assert done.returncode == 0, done.stderr
    lines = [line for line in party.deployment.log_lines() if line["event"] == event]
    assert len({line["file_name"] for line in lines}) == count
    assert len(lines) == (count if after else 2 * count)


def test_a_crash_before_the_rename_and_one_behind_the_removal_lose_nothing(party, monkeypatch):
    crash(party, monkeypatch, Lease, "publishing", after=True)
    crash(party, monkeypatch, Session, "remove", after=True)
    assert party.received() == {}
    assert attempt(party).outcome is Outcome.DELIVERED


def test_files_whose_rename_was_refused_are_sent_again(party, monkeypatch):
    def refuse(*_):
        raise RemoteDenied("the server refuses to rename")

    with monkeypatch.context() as patched:
        patched.setattr(Session, "rename", refuse)
        assert attempt(party).error.code == "REMOTE_DENIED"
    for leftover in party.leftovers():
        (party.directory / leftover).unlink()  # as the client's people would tidy up
    resume(party)
    assert attempt(party).outcome is Outcome.DELIVERED


@pytest.mark.parametrize(("step", "call"), [("publishing", 1), ("publishing", 2)])
def test_what_was_sent_elsewhere_is_sent_again_when_the_directory_changed(
    party, monkeypatch, step, call
):
    crash(party, monkeypatch, Lease, step, after=True, call=call)
    other = party.deployment.add_client("Another Name").directory
    del party.deployment.document["clients"][1]
    party.entry["sftp"]["directory"] = str(other)
    party.watcher.also(other)
    party.circumstances["moved"] = True
    assert attempt(party).outcome is Outcome.DELIVERED
    assert len(list(other.iterdir())) == FILES


def test_temporary_files_of_an_earlier_revision_are_removed(party, monkeypatch):
    crash(party, monkeypatch, Session, "upload", after=True)
    assert len(party.leftovers()) == FILES
    another = key_pair(1)
    (party.deployment.folder / "client0.asc").write_bytes(another.public)
    party.entry["pgp"]["fingerprint"] = another.fingerprint
    party.circumstances["secret_key"] = another.secret
    result = attempt(party)
    assert (result.outcome, result.key.revision) == (Outcome.DELIVERED, 2)


def test_a_day_that_is_there_is_delivered_without_a_server(party, monkeypatch):
    crash(party, monkeypatch, Lease, "delivered")
    party.deployment.write_secret("wrong by now")
    assert attempt(party).outcome is Outcome.DELIVERED


def test_a_rebuilt_day_takes_the_place_of_what_was_ours(party, monkeypatch):
    party.circumstances["replaced"] = True
    party.entry["sftp"]["replace"] = "ours"
    crash(party, monkeypatch, Session, "rename", after=True, call=2)
    first = party.received()
    rebuild(party)
    crash(party, monkeypatch, Lease, "uploading", after=True)
    assert party.received() == first  # the old day stays until the new one is uploaded
    assert attempt(party).outcome is Outcome.DELIVERED
    assert all(party.received()[name] != content for name, content in first.items())


def test_a_foreign_file_of_the_same_size_is_not_taken_away(party):
    party.entry["sftp"]["replace"] = "ours"
    assert attempt(party).outcome is Outcome.DELIVERED
    name = f"{party.guid}.{DAY}.users.created.avro.pgp"
    foreign = bytes(len(party.received()[name]))
    party.circumstances = {"delivered": False, "foreign": frozenset({name})}
    (party.directory / name).write_bytes(foreign)
    rebuild(party)
    assert attempt(party).error.code == "REMOTE_CONFLICT"
    assert party.received()[name] == foreign


def test_sending_a_day_again_after_a_key_change_asks_a_person(party):
    assert attempt(party).outcome is Outcome.DELIVERED
    first = party.received()
    another = key_pair(1)
    (party.deployment.folder / "client0.asc").write_bytes(another.public)
    party.entry["pgp"]["fingerprint"] = another.fingerprint
    with site_of(party) as (site, client):
        key = site.ledger.latest(client.guid, DAY).key
        site.ledger.resend(key, now=site.clock())
        assert not needs_new_revision(key, client, site)
        result = deliver(key, client, site)
    assert (result.outcome, result.error.code) == (Outcome.PARKED, "KEY_FINGERPRINT")
    assert "--rebuild" in str(result.error)
    party.circumstances["delivered"] = False
    assert party.received() == first
