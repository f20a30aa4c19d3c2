"""What lies under the final names already: whose it is, and what becomes of it."""

from __future__ import annotations

import asyncssh
import pytest

from mxdeliver.core.errors import RemoteConflict, RemoteDenied
from mxdeliver.core.model import ReplacePolicy
from mxdeliver.edge.ledger import Lease
from mxdeliver.edge.sftp import Session
from tests.support.ledgers import NOON, contents, key
from tests.support.programmable import ProgrammableServer
from tests.support.pushing import deny, final, names

FIRST, *_, MANIFEST = names()


@pytest.fixture
def server(tmp_path):
    with ProgrammableServer(tmp_path) as running:
        yield running


def other(name):
    """Give something else of the same size."""
    return bytes(len(contents(key())[name]))


def opened_for_reading(server):
    """Have the names listed that are opened, but for temporary ones."""
    found = []
    server.hooks["open"] = lambda path, *_: found.append(final(path))
    return found


# -- ours, whole -----------------------------------------------------------------------------------


def test_what_was_in_doubt_and_has_the_right_size_is_published_without_being_read(
    sender, server, monkeypatch
):
    sender.crash(monkeypatch, Lease, "published")
    opened = opened_for_reading(server)
    sender.push()
    assert sender.evidence() == [("already published", "size")] * 3 + [("renamed", "size")]
    assert [name for name in opened if not name.startswith(".")] == []
    assert sender.received() == contents(key())


def test_what_lies_there_and_was_in_no_doubt_is_read_and_compared(sender, server):
    sender.push()
    sender.ledger.resend(key(), now=NOON)
    opened = opened_for_reading(server)
    server.operations.clear()
    sender.push()
    assert sender.evidence() == [("already published", "readback")] * 4
    assert opened == names()
    assert {"write", "rename", "remove"}.isdisjoint(server.operations)


def test_no_more_is_read_than_tells_a_longer_file_apart(sender, server):
    sender.push()
    sender.ledger.resend(key(), now=NOON)
    read = []
    server.hooks["read"] = lambda _file, offset, size: read.append(offset + size)
    sender.push()
    assert max(read) == max(len(content) + 1 for content in contents(key()).values())


def test_where_nothing_may_be_looked_at_everything_is_sent(sender, server):
    server.hooks["lstat"] = deny
    sender.push()
    assert sender.evidence() == [("renamed", "ack")] * 4
    assert sender.received() == contents(key())
    assert sender.profile().level == "ack"


# -- somebody else's -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [other(FIRST), b"theirs", b""], ids=["same", "shorter", "empty"]
)
def test_somebody_elses_file_is_a_conflict_before_anything_is_changed(sender, server, content):
    (sender.directory / FIRST).write_bytes(content)
    with pytest.raises(RemoteConflict) as caught:
        sender.push()
    place = f"/incoming/{FIRST} on 127.0.0.1:{server.port}"
    assert f"{place} exists already and is not what was to be delivered" in str(caught.value)
    assert "(another file)" in str(caught.value)
    assert sender.received() == {FIRST: content}
    assert {"write", "remove", "rename"}.isdisjoint(server.operations)


def test_a_folder_under_a_final_name_is_a_conflict_that_says_so(sender):
    (sender.directory / FIRST).mkdir()
    with pytest.raises(RemoteConflict, match="not a regular file"):
        sender.push()


@pytest.mark.parametrize("what", ["ours", "torn", "of an earlier revision"])
def test_what_is_no_regular_file_is_never_ours_whatever_its_size(sender, server, monkeypatch, what):
    delivery = key()
    if what == "ours":
        content = contents(delivery)[FIRST]
    elif what == "torn":
        server.hooks["rename"] = server.hooks["posix_rename"] = deny
        sender.crash(monkeypatch, Lease, "created", after=True)
        content = b""
    else:
        sender.push()
        content = contents(delivery)[FIRST]
        sender.change(replace=ReplacePolicy.OURS)
        delivery = sender.rebuild()
    (sender.directory / FIRST).write_bytes(content)
    link = asyncssh.SFTPAttrs(size=len(content), permissions=0o120777)
    server.hooks["lstat"] = lambda path: link if final(path) == FIRST else None
    with pytest.raises(RemoteConflict, match="not a regular file"):
        sender.push(delivery)


def test_a_conflict_names_the_place_as_the_client_has_set_it_up(sender, server):
    (server.root / FIRST).write_bytes(b"theirs")
    for directory, path in (("/", f"/{FIRST}"), ("", FIRST)):
        sender.change(directory=directory)
        with pytest.raises(RemoteConflict) as caught:
            sender.push()
        assert str(caught.value).startswith(f"{path} on 127.0.0.1:{server.port} exists already")


def test_what_may_not_be_read_to_be_compared_is_an_error(sender, server):
    sender.push()
    sender.ledger.resend(key(), now=NOON)
    server.hooks["open"] = deny
    with pytest.raises(RemoteDenied):
        sender.push()


# -- taken by the receiver -------------------------------------------------------------------------


def take_all(sender):
    for path in sender.directory.iterdir():
        path.unlink()


def test_a_file_that_was_in_doubt_and_is_gone_is_sent_again(sender, monkeypatch):
    sender.crash(monkeypatch, Lease, "published")
    take_all(sender)
    sender.push()
    assert sender.received() == contents(key())
    assert sender.evidence() == [("renamed", "size")] * 4


def test_a_file_that_was_in_doubt_and_is_gone_has_been_taken_where_files_are_taken(
    sender, server, monkeypatch
):
    server.hooks["after rename"] = lambda _old, new: (sender.directory / final(new)).unlink()
    sender.push()
    second = sender.rebuild()
    sender.crash(monkeypatch, Lease, "published", delivery=second)
    sender.push(second)
    assert sender.evidence(second) == [("swept", "ack")] * 3 + [("swept", "size")]
    assert server.operations.count("rename") == 8


def test_what_was_shown_of_the_server_is_known_also_where_the_delivery_did_not_come_to_its_end(
    sender, monkeypatch
):
    sender.crash(monkeypatch, Lease, "delivered")
    assert sender.profile() is not None


def test_files_that_were_taken_in_the_same_delivery_show_that_files_are_taken(
    sender, server, monkeypatch
):
    server.hooks["after rename"] = lambda _old, new: (sender.directory / final(new)).unlink()
    sender.crash(monkeypatch, Lease, "published", call=2)
    assert sender.profile() is None
    sender.push()
    assert sender.evidence() == [("swept", "size")] * 3 + [("swept", "ack")]


def test_a_file_whose_temporary_one_still_lies_there_was_not_taken(sender, server, monkeypatch):
    server.hooks["after rename"] = lambda _old, new: (sender.directory / final(new)).unlink()
    sender.push()
    second = sender.rebuild()
    sender.crash(monkeypatch, Session, "rename", delivery=second)
    del server.hooks["after rename"]
    sender.push(second)
    assert sender.received() == contents(second)
    assert sender.evidence(second) == [("renamed", "size")] * 4


# -- earlier revisions -----------------------------------------------------------------------------


def test_an_earlier_revisions_files_are_a_conflict_unless_the_client_lets_us_replace_ours(sender):
    sender.push()
    second = sender.rebuild()
    with pytest.raises(
        RemoteConflict, match=r"from an earlier revision .* `sftp.replace` is `ours`"
    ):
        sender.push(second)
    assert sender.received() == contents(key())
    sender.change(replace=ReplacePolicy.OURS)
    sender.push(second)
    assert sender.received() == contents(second)


def test_the_old_day_stays_until_the_new_one_is_uploaded_and_its_manifest_goes_first(
    sender, server
):
    sender.push()
    second = sender.rebuild()
    sender.change(replace=ReplacePolicy.OURS)
    removed = []

    def remove(path):
        removed.append((final(path), len(sender.leftovers())))

    server.hooks["remove"] = remove
    sender.push(second)
    assert removed[0] == (MANIFEST, 4)
    assert sorted(removed[1:]) == sorted((name, 4) for name in names()[:-1])


def test_without_an_old_manifest_the_old_daily_files_are_replaced(sender):
    sender.push()
    (sender.directory / MANIFEST).unlink()
    second = sender.rebuild()
    sender.change(replace=ReplacePolicy.OURS)
    sender.push(second)
    assert sender.received() == contents(second)


@pytest.mark.parametrize("name", [FIRST, MANIFEST])
def test_an_old_file_that_cannot_be_removed_asks_a_person(sender, server, name):
    sender.push()
    second = sender.rebuild()
    sender.change(replace=ReplacePolicy.OURS)
    server.hooks["remove"] = lambda path: deny() if final(path) == name else None
    with pytest.raises(RemoteConflict, match=f"/incoming/{name} on .* cannot be removed"):
        sender.push(second)
    assert sender.received()[name] == contents(key())[name]
    assert (MANIFEST in sender.received()) is (name == MANIFEST)
    assert len(sender.received()) == (4 if name == MANIFEST else 1)


def test_a_foreign_file_of_an_earlier_revisions_size_is_not_replaced(sender):
    sender.push()
    second = sender.rebuild()
    sender.change(replace=ReplacePolicy.OURS)
    (sender.directory / FIRST).write_bytes(other(FIRST))
    with pytest.raises(RemoteConflict, match="another file"):
        sender.push(second)
    assert sender.received()[FIRST] == other(FIRST)


def test_revisions_that_were_never_sealed_are_passed_over(sender):
    assert sender.rebuild().revision == 2
    sender.push(sender.rebuild())
    fourth = sender.rebuild()
    sender.change(replace=ReplacePolicy.OURS)
    sender.push(fourth)
    assert sender.received() == contents(fourth)
