"""Parts of files under final names: which are ours, and what becomes of them."""

from __future__ import annotations

import asyncssh
import pytest

from mxdeliver.core.errors import RemoteConflict, RemoteDenied
from mxdeliver.edge.ledger import Lease
from tests.support.ledgers import contents, key
from tests.support.pushing import deny, final, names, server_without_renames

FIRST = names()[0]
WHOLE = contents(key())[FIRST]


@pytest.fixture
def server(tmp_path):
    with server_without_renames(tmp_path) as running:
        yield running


def lies_there(sender, content):
    (sender.directory / FIRST).write_bytes(content)


@pytest.mark.parametrize(
    "content",
    [b"", WHOLE[:-1], WHOLE[:10] + bytes(20) + WHOLE[30:-1], bytes(len(WHOLE))],
    ids=["empty", "begun", "with a hole", "nothing but a hole"],
)
def test_a_piece_of_what_was_sent_is_removed_and_written_anew(sender, server, monkeypatch, content):
    sender.crash(monkeypatch, Lease, "created", after=True)
    assert sender.half_written() == [(name, True) for name in names()[:-1]]
    lies_there(sender, content)
    removed = []
    server.hooks["remove"] = lambda path: removed.append(final(path))
    sender.push()
    assert FIRST in removed
    assert sender.received() == contents(key())
    assert sender.half_written() == []


@pytest.mark.parametrize(
    "content",
    [b"theirs", WHOLE[:9] + b"?", WHOLE + b"more", bytes(len(WHOLE) + 1), b"?" + WHOLE[1:]],
    ids=["other", "begun otherwise", "longer", "longer zeros", "whole but for a byte"],
)
def test_what_is_no_piece_of_what_was_sent_is_somebody_elses(sender, monkeypatch, content):
    sender.crash(monkeypatch, Lease, "created", after=True)
    lies_there(sender, content)
    with pytest.raises(RemoteConflict, match="another file"):
        sender.push()
    assert sender.received()[FIRST] == content


def test_what_is_whole_is_not_written_again(sender, monkeypatch):
    sender.crash(monkeypatch, Lease, "published")
    sender.push()
    assert sender.evidence() == [("already published", "readback")] * 3 + [("written", "size")]


@pytest.mark.parametrize(("content", "is_ours"), [(b"", True), (b"?", False)])
def test_before_the_servers_answer_is_written_down_only_an_empty_file_may_be_ours(
    sender, monkeypatch, content, is_ours
):
    sender.crash(monkeypatch, Lease, "created")
    assert sender.half_written() == [(name, False) for name in names()[:-1]]
    lies_there(sender, content)
    if is_ours:
        sender.push()
        assert sender.received() == contents(key())
    else:
        with pytest.raises(RemoteConflict):
            sender.push()
        assert sender.received()[FIRST] == content


def test_a_folder_in_place_of_a_torn_file_is_a_conflict(sender, monkeypatch):
    sender.crash(monkeypatch, Lease, "created", after=True)
    (sender.directory / FIRST).unlink()
    (sender.directory / FIRST).mkdir()
    with pytest.raises(RemoteConflict, match="not a regular file"):
        sender.push()


@pytest.mark.parametrize("error", [asyncssh.SFTPPermissionDenied, asyncssh.SFTPFailure])
def test_what_cannot_be_read_counts_as_torn_where_the_ledger_says_that_we_made_it(
    sender, server, monkeypatch, error
):
    def refuse(_path, flags, *_):
        if not flags & asyncssh.FXF_WRITE:
            raise error("strange")

    sender.crash(monkeypatch, Lease, "published")
    server.hooks["open"] = refuse
    sender.push()
    assert sender.evidence() == [("written", "size")] * 4
    assert sender.received() == contents(key())


def test_what_cannot_be_read_is_an_error_where_only_the_intention_is_known(
    sender, server, monkeypatch
):
    sender.crash(monkeypatch, Lease, "created")
    lies_there(sender, WHOLE)
    server.hooks["open"] = deny
    with pytest.raises(RemoteDenied):
        sender.push()
    assert sender.received()[FIRST] == WHOLE


@pytest.mark.parametrize("error", [asyncssh.SFTPPermissionDenied, asyncssh.SFTPFailure])
def test_a_part_that_cannot_be_compared_is_removed(sender, server, monkeypatch, error):
    def refuse(_path, flags, *_):
        if not flags & asyncssh.FXF_WRITE:
            raise error("strange")

    sender.crash(monkeypatch, Lease, "created", after=True)
    lies_there(sender, WHOLE[:10])
    server.hooks["open"] = refuse
    sender.push()
    assert sender.received() == contents(key())


def test_a_part_of_an_earlier_revision_is_removed_for_the_next_one(sender, monkeypatch):
    sender.crash(monkeypatch, Lease, "created", after=True)
    lies_there(sender, WHOLE[:10])
    second = sender.rebuild()
    sender.push(second)
    assert sender.received() == contents(second)
    assert sender.half_written(second) == []


@pytest.mark.parametrize("damage", ["changed", "gone", "no longer a file"])
def test_a_part_of_an_earlier_revision_whose_sealed_file_is_no_more_is_removed(
    sender, monkeypatch, damage
):
    sender.crash(monkeypatch, Lease, "created", after=True)
    lies_there(sender, WHOLE[:10])
    second = sender.rebuild()
    [path] = [one for one in sender.spool_path.rglob(FIRST) if "r1" in one.parent.name]
    if damage == "gone":
        sender.spool.remove(key())
    elif damage == "changed":
        path.write_bytes(b"?")
    else:
        path.unlink()
        path.mkdir()
    sender.push(second)
    assert sender.received() == contents(second)


def test_names_that_somebody_has_freed_are_half_written_no_more(sender, monkeypatch):
    sender.crash(monkeypatch, Lease, "created", after=True)
    sender.empty()
    sender.crash(monkeypatch, Lease, "writing")
    assert sender.half_written() == []


def test_a_part_that_cannot_be_removed_asks_a_person_and_is_not_forgotten(
    sender, server, monkeypatch
):
    sender.crash(monkeypatch, Lease, "created", after=True)
    lies_there(sender, WHOLE[:10])
    server.hooks["remove"] = lambda path: deny() if final(path) == FIRST else None
    with pytest.raises(RemoteConflict) as caught:
        sender.push()
    assert str(caught.value).startswith(
        f"/incoming/{FIRST} on 127.0.0.1:{server.port} holds a part"
    )
    assert sender.half_written() == [(FIRST, True)]
    assert list(sender.received()) == [FIRST]
