"""Sending step by step: what is written down when, what is logged, and what an error leaves."""

from __future__ import annotations

from datetime import timedelta
from hashlib import sha256

import asyncssh
import pytest

from mxdeliver.core.errors import (
    ConnectionLost,
    LeaseLost,
    RemoteConflict,
    RemoteDirectoryMissing,
    RemoteFailure,
    RemoteFull,
    RemoteVerify,
    SpoolCorrupt,
    StopRequested,
)
from mxdeliver.core.model import DeliveryState
from mxdeliver.core.naming import temporary_name
from mxdeliver.edge.ledger import FileStage, Lease, Publishing
from mxdeliver.edge.sftp import Session
from tests.support.ledgers import NOON, TODAY, contents, key
from tests.support.programmable import ProgrammableServer, hash_answer
from tests.support.pushing import deny, final, names

SEALED, UPLOADING = FileStage.SEALED, FileStage.UPLOADING
PUBLISHING, PUBLISHED = FileStage.PUBLISHING, FileStage.PUBLISHED


@pytest.fixture
def server(tmp_path):
    with ProgrammableServer(tmp_path) as running:
        yield running


# -- what is written down --------------------------------------------------------------------------


def test_each_step_is_in_the_ledger_before_the_server_is_asked_for_it(sender, server):
    steps = []

    def step(*_):
        temporaries = sender.ledger.temporaries(key())
        steps.append((server.operations[-1], sender.stages(), len(temporaries)))

    server.hooks["open"] = server.hooks["rename"] = step
    sender.push()
    daily = len(names()) - 1
    assert steps == [
        *[("open", [UPLOADING] * 4, 4)] * 4,
        *[("rename", [PUBLISHING] * daily + [UPLOADING], 4)] * daily,
        ("rename", [PUBLISHED] * daily + [PUBLISHING], 1),
    ]
    assert sender.stages() == [PUBLISHED] * 4
    assert sender.ledger.temporaries(key()) == []
    assert sender.received() == contents(key())
    assert sender.leftovers() == []


def test_temporary_names_tell_the_file_the_lease_and_a_nonce(sender, monkeypatch):
    sender.crash(monkeypatch, Lease, "publishing")
    given = [one.temporary for one in sender.files().values()]
    assert given == [
        temporary_name(name, token=1, nonce=f"{number:08x}")
        for number, name in enumerate(names(), 1)
    ]
    assert sender.leftovers() == sorted(given)


def test_after_a_rename_that_was_answered_with_a_failure_no_temporary_name_is_left(sender, server):
    def fail(*_):
        raise asyncssh.SFTPFailure("strange")

    server.hooks["after rename"] = fail
    sender.push()
    assert sender.evidence() == [("already published", "size")] * 4
    assert sender.ledger.temporaries(key()) == []


def test_where_the_server_computes_hashes_they_are_compared(sender, server):
    server.file_hash = lambda path: hash_answer(
        sha256((server.root / path.decode()[1:]).read_bytes()).digest()
    )
    sender.push()
    assert sender.evidence() == [("renamed", "hash")] * 4
    assert sender.profile().level == "hash"
    second = sender.rebuild()
    server.file_hash = lambda _: hash_answer(bytes(32))
    for path in sender.directory.iterdir():
        path.unlink()
    with pytest.raises(RemoteVerify):
        sender.push(second)
    assert sender.received() == {}


def test_the_ledger_keeps_what_the_server_has_shown(sender, server):
    sender.push()
    for file in sender.files().values():
        assert (file.evidence.level, file.evidence.outcome) == ("size", "renamed")
        assert file.evidence.size == len(contents(key())[file.name])
        assert file.evidence.address == "127.0.0.1"
        assert file.evidence.host_key == server.pins["ed25519"]
        assert file.evidence.server.startswith("SSH-2.0-")
    found = sender.profile()
    assert found.destination == sender.client.endpoint.destination
    assert found.software == file.evidence.server
    assert (found.publishing, found.level, found.sweeps) == (Publishing.RENAME, "size", False)
    assert found.decided_on == TODAY


def test_the_log_tells_of_the_connection_and_of_each_file_the_manifest_last(sender, server):
    sender.push()
    [connection] = sender.events("connection.opened")
    seconds = connection.pop("seconds")
    assert 0 < seconds < 60
    assert seconds == round(seconds, 3)
    assert connection == {
        "message": f"connected to 127.0.0.1:{server.port}",
        "host": "127.0.0.1",
        "port": server.port,
    }
    *daily, manifest = contents(key()).items()
    assert sender.events("file.delivered") == [
        {
            "message": f"{name} delivered",
            "file_name": name,
            "record_count": 5,
            "file_size": 100,
            "encrypted_file_size": len(content),
            "checksum": "0" * 64,
            "host": "127.0.0.1",
            "port": server.port,
            "resource_type": "USERS",
            "event_type": name.split(".")[3].upper(),
        }
        for name, content in daily
    ]
    name, content = manifest
    assert sender.events("manifest.delivered") == [
        {
            "message": f"{name} delivered",
            "file_name": name,
            "record_count": 5,
            "file_size": 100,
            "encrypted_file_size": len(content),
            "checksum": "0" * 64,
            "host": "127.0.0.1",
            "port": server.port,
        }
    ]
    assert [event for event, _, _ in sender.lines] == [
        "connection.opened", *["file.delivered"] * 3, "manifest.delivered",
    ]  # fmt: skip


def test_what_is_published_is_not_connected_for(sender, server, monkeypatch):
    sender.crash(monkeypatch, Lease, "delivered")
    sender.push()
    assert len(server.user_names) == 1
    assert sender.ledger.latest(key().client_guid, key().snapshot_date).state is (
        DeliveryState.DELIVERED
    )


def test_a_push_that_found_everything_in_place_keeps_no_profile(sender):
    for name, content in contents(key()).items():
        (sender.directory / name).write_bytes(content)
    sender.push()
    assert sender.profile() is None


def test_a_profile_that_says_the_same_on_another_day_is_not_written_again(sender):
    sender.push()
    second = sender.rebuild()
    for path in sender.directory.iterdir():
        path.unlink()
    sender.push(second, today=TODAY + timedelta(days=3))
    assert sender.profile().decided_on == TODAY


def test_a_profile_that_says_something_else_is_written_with_its_day(sender, server):
    sender.push()
    second = sender.rebuild()
    for path in sender.directory.iterdir():
        path.unlink()
    server.hooks["after rename"] = lambda _old, new: (sender.directory / final(new)).unlink()
    sender.push(second, today=TODAY + timedelta(days=3))
    found = sender.profile()
    assert (found.sweeps, found.decided_on) == (True, TODAY + timedelta(days=3))
    assert sender.evidence(second) == [("swept", "size")] * 4


def test_a_server_that_takes_all_but_the_manifest_takes_files_away(sender, server):
    def take(_old, new):
        if "manifest" not in final(new):
            (sender.directory / final(new)).unlink()

    server.hooks["after rename"] = take
    sender.push()
    assert sender.profile().sweeps
    assert len(sender.received()) == 1


# -- before the connection -------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(4))
def test_a_sealed_file_that_was_changed_is_noticed_before_anybody_is_connected_to(
    sender, server, place
):
    [path] = (sender.spool_path).rglob(names()[place])
    path.chmod(0o600)
    path.write_bytes(b"?" * path.stat().st_size)
    with pytest.raises(SpoolCorrupt):
        sender.push()
    assert server.user_names == []


def test_a_changed_manifest_is_noticed_though_it_is_published_as_it_may_be_sent_again(
    sender, server, monkeypatch
):
    sender.push()
    sender.ledger.resend(key(), now=NOON)
    (sender.directory / names()[0]).unlink()
    sender.crash(monkeypatch, Session, "upload")
    assert sender.stages() == [UPLOADING, PUBLISHED, PUBLISHED, PUBLISHED]
    [path] = (sender.spool_path).rglob(names()[-1])
    path.chmod(0o600)
    path.write_bytes(b"?" * path.stat().st_size)
    with pytest.raises(SpoolCorrupt):
        sender.push()
    assert len(server.user_names) == 2


def test_temporary_files_at_another_directory_are_reported_and_nothing_done_there_counts(
    sender, server, monkeypatch
):
    sender.crash(monkeypatch, Lease, "publishing", call=2)
    other = server.root / "other"
    other.mkdir()
    sender.change(directory="/other")
    sender.push()
    assert {path.name: path.read_bytes() for path in other.iterdir()} == contents(key())
    [left] = sender.events("file.left")
    assert left["level"] == "warning"
    assert "may lie in part where the client was delivered to before" in left["message"]


def test_a_directory_that_is_missing_is_noticed_before_anything_is_changed(sender, server):
    sender.change(directory="/nowhere")
    with pytest.raises(RemoteDirectoryMissing):
        sender.push()
    assert set(server.operations) == {"stat", "lstat"}  # both looks are asked for at once
    assert sender.stages() == [SEALED] * 4


# -- when it goes wrong ----------------------------------------------------------------------------


def test_temporary_files_of_an_attempt_before_are_removed_first(sender, server, monkeypatch):
    sender.crash(monkeypatch, Lease, "publishing")
    left = sender.leftovers()
    assert len(left) == 4
    removed = []
    server.hooks["remove"] = lambda path: removed.append(final(path))
    sender.push()
    assert sorted(removed) == left
    assert server.operations.index("remove", server.operations.index("close")) < (
        len(server.operations) - 1 - server.operations[::-1].index("open")
    )
    assert sender.leftovers() == []
    assert sender.events("temporaries.left") == []


def test_temporary_files_that_cannot_be_removed_are_counted_and_not_forgotten(
    sender, server, monkeypatch
):
    sender.crash(monkeypatch, Lease, "publishing")
    first, *others = sender.leftovers()
    server.hooks["remove"] = lambda path: None if final(path) == first else deny()
    sender.push()
    assert sender.leftovers() == others
    [left] = sender.events("temporaries.left")
    assert left["level"] == "warning"
    assert left["message"] == "the server does not let 3 temporary files be removed"
    assert sorted(sender.ledger.temporaries(key())) == others
    assert sender.received() == contents(key())


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [(Lease, "check", 1), (Lease, "publishing", 1), (Lease, "publishing", 2)],
)
def test_an_attempt_that_has_lost_its_lease_removes_its_temporary_files(
    sender, monkeypatch, owner, name, call
):
    sender.crash(monkeypatch, owner, name, call=call, error=LeaseLost("overtaken"))
    assert sender.leftovers() == []


def test_an_attempt_that_has_lost_its_lease_says_so_whatever_becomes_of_its_files(
    sender, server, monkeypatch
):
    server.hooks["remove"] = lambda *_: server.abort()
    sender.crash(monkeypatch, Lease, "check", error=LeaseLost("overtaken"))


def test_a_file_that_was_not_renamed_is_not_in_doubt_and_the_others_are_published(sender, server):
    def refuse_the_first(_old, new):
        if final(new) == names()[0]:
            raise asyncssh.SFTPFailure("strange")

    server.hooks["rename"] = server.hooks["posix_rename"] = refuse_the_first
    with pytest.raises(RemoteFailure):
        sender.push()
    assert sender.stages() == [UPLOADING, PUBLISHED, PUBLISHED, UPLOADING]
    assert names()[-1] not in sender.received()


def test_a_conflict_that_turns_up_at_the_rename_leaves_nothing_in_doubt(sender, server):
    theirs = sender.directory / names()[0]
    server.hooks["after close"] = lambda _: theirs.write_bytes(b"theirs")
    with pytest.raises(RemoteConflict):
        sender.push()
    assert sender.stages() == [UPLOADING] * 4
    assert sender.received() == {theirs.name: b"theirs"}


def test_a_rename_whose_answer_never_came_leaves_the_files_in_doubt(sender, server):
    server.hooks["after rename"] = lambda *_: server.abort()
    with pytest.raises(ConnectionLost):
        sender.push()
    assert sender.stages() == [PUBLISHING] * 3 + [UPLOADING]
    server.hooks.clear()
    sender.push()
    assert sender.received() == contents(key())


def test_a_stop_before_the_rename_leaves_the_files_in_doubt(sender, monkeypatch):
    stopped = []
    publishing = Lease.publishing

    def stop_behind(lease, files):
        publishing(lease, files)
        stopped.append(True)

    monkeypatch.setattr(Lease, "publishing", stop_behind)
    with pytest.raises(StopRequested):
        sender.push(stop=lambda: bool(stopped))
    assert sender.stages() == [PUBLISHING] * 3 + [UPLOADING]


def test_a_full_server_is_told_and_nothing_is_left(sender, server):
    def full(*_):
        raise asyncssh.SFTPFailure("quota exceeded")

    server.hooks["write"] = full
    with pytest.raises(RemoteFull):
        sender.push()
    assert sender.received() == {}
    assert sender.leftovers() == []
