"""Writing under final names, step by step: what is torn, what is taken back, what is remembered."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import asyncssh
import pytest

from mxdeliver.core.errors import (
    DeliveryInDoubt,
    LeaseLost,
    RemoteConflict,
    RemoteDenied,
    RemoteFailure,
)
from mxdeliver.core.model import ReplacePolicy
from mxdeliver.edge.ledger import FileStage, Lease, Ledger, Publishing
from mxdeliver.edge.sftp import RenameRefused, TemporaryVanished
from tests.support.ledgers import NOON, TODAY, client, contents, key
from tests.support.programmable import ProgrammableServer
from tests.support.pushing import Sender, names

SEALED, UPLOADING, PUBLISHED = FileStage.SEALED, FileStage.UPLOADING, FileStage.PUBLISHED
FIRST, *_, MANIFEST = names()
WHOLE = contents(key())[FIRST]


@pytest.fixture
def server(tmp_path):
    """A server that renames nothing."""
    with ProgrammableServer(tmp_path) as running:
        running.hooks["rename"] = running.hooks["posix_rename"] = deny
        yield running


@pytest.fixture
def sender(tmp_path, server):
    with Ledger.open(tmp_path, now=NOON) as ledger:
        ledger.plan([client()], now=NOON, catch_up_days=7)
        sender = Sender(tmp_path, server, ledger)
        sender.seal()
        yield sender


def final(path):
    return path.decode().rpartition("/")[2]


def deny(*_):
    raise asyncssh.SFTPPermissionDenied("no")


def empty(sender):
    for path in sender.directory.iterdir():
        path.unlink()


def half_written(sender, delivery=None):
    return [(one.name, one.created) for one in sender.ledger.half_written(delivery or key())]


def lies_there(sender, content):
    (sender.directory / FIRST).write_bytes(content)


# -- finding out and remembering -------------------------------------------------------------------


def test_a_refusal_is_logged_once_and_everything_is_written_the_manifest_last(sender, server):
    opened = []
    server.hooks["open"] = lambda path, *_: opened.append((final(path), half_written(sender)))
    sender.push()
    assert sender.received() == contents(key())
    assert sender.leftovers() == []
    [line] = sender.events("server.direct")
    assert line["level"] == "warning"
    assert "refuses to rename" in line["message"]
    assert "are written under their final names, the manifest last" in line["message"]
    assert sender.evidence() == [("written", "size")] * 4
    daily = [(name, False) for name in names()[:-1]]
    written = [one for one in opened if not one[0].startswith(".")]
    assert written == [*((name, daily) for name, _ in daily), (MANIFEST, [(MANIFEST, False)])]
    assert half_written(sender) == []
    assert sender.ledger.temporaries(key()) == []
    found = sender.profile()
    assert (found.publishing, found.level, found.sweeps, found.decided_on) == (
        Publishing.DIRECT, "size", False, TODAY,
    )  # fmt: skip


def test_the_profile_is_kept_before_the_first_final_name_is_written(sender, monkeypatch):
    sender.crash(monkeypatch, Lease, "writing")
    found = sender.profile()
    assert (found.publishing, found.level, found.decided_on) == (Publishing.DIRECT, "size", TODAY)


def test_what_is_known_is_not_tried_and_the_day_of_its_proof_stays(sender, server):
    sender.push()
    second = sender.rebuild()
    empty(sender)
    server.operations.clear()
    sender.push(second, today=TODAY + timedelta(days=6))
    assert "rename" not in server.operations
    assert sender.profile().decided_on == TODAY
    assert len(sender.events("server.direct")) == 1


def test_after_a_week_renaming_is_tried_again(sender, server):
    sender.push()
    second = sender.rebuild()
    empty(sender)
    server.hooks.clear()
    sender.push(second, today=TODAY + timedelta(days=7))
    assert sender.evidence(second) == [("renamed", "size")] * 4
    found = sender.profile()
    assert (found.publishing, found.decided_on) == (Publishing.RENAME, TODAY + timedelta(days=7))


def test_a_server_of_another_software_is_tried_anew(sender, server):
    sender.push()
    second = sender.rebuild()
    empty(sender)
    server.hooks.clear()
    with sender.ledger.claim(second, now=NOON, context="c", deadline=NOON) as lease:
        lease.server(replace(sender.profile(), software="SSH-2.0-other"))
    sender.push(second)
    assert sender.evidence(second) == [("renamed", "size")] * 4


def test_a_refusal_for_one_of_several_files_proves_nothing(sender, server):
    def refuse_the_first(_old, new):
        if final(new) == FIRST:
            deny()

    server.hooks["rename"] = server.hooks["posix_rename"] = refuse_the_first
    with pytest.raises(RemoteDenied) as caught:
        sender.push()
    assert not isinstance(caught.value, RenameRefused)
    assert sender.profile() is None
    assert sender.events("server.direct") == []


def test_a_temporary_file_that_vanishes_late_proves_nothing(sender, server):
    def vanish(old, _new):
        (sender.directory / final(old)).unlink()

    server.hooks["rename"] = vanish
    with pytest.raises(TemporaryVanished):
        sender.push()
    assert sender.profile() is None
    assert sender.stages() == [UPLOADING] * 4


# -- torn files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"", WHOLE[:-1], WHOLE[:10] + bytes(20) + WHOLE[30:-1], bytes(len(WHOLE))],
    ids=["empty", "begun", "with a hole", "nothing but a hole"],
)
def test_a_piece_of_what_was_sent_is_removed_and_written_anew(sender, server, monkeypatch, content):
    sender.crash(monkeypatch, Lease, "created", after=True)
    assert half_written(sender) == [(name, True) for name in names()[:-1]]
    lies_there(sender, content)
    removed = []
    server.hooks["remove"] = lambda path: removed.append(final(path))
    sender.push()
    assert FIRST in removed
    assert sender.received() == contents(key())
    assert half_written(sender) == []


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
    assert half_written(sender) == [(name, False) for name in names()[:-1]]
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
    assert half_written(sender, second) == []


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
    empty(sender)
    sender.crash(monkeypatch, Lease, "writing")
    assert half_written(sender) == []


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
    assert half_written(sender) == [(FIRST, True)]
    assert list(sender.received()) == [FIRST]


# -- a manifest that lies there --------------------------------------------------------------------


def without_the_first(sender):
    """Have a day sent again of which a daily file is missing."""
    sender.push()
    (sender.directory / FIRST).unlink()
    sender.ledger.resend(key(), now=NOON)


def test_a_manifest_beside_a_missing_file_is_taken_away_first_and_written_last(sender, server):
    without_the_first(sender)
    seen = []
    server.hooks["remove"] = lambda path: seen.append(("remove", final(path)))
    server.hooks["open"] = lambda path, flags, *_: (
        seen.append(("open", final(path))) if flags & asyncssh.FXF_WRITE else None
    )
    sender.push()
    assert seen == [("remove", MANIFEST), ("open", FIRST), ("open", MANIFEST)]
    assert sender.received() == contents(key())
    assert [one for one, _ in sender.evidence()] == [
        "written", "already published", "already published", "written",
    ]  # fmt: skip


def test_a_manifest_that_the_ledger_says_is_published_is_taken_back_in_the_ledger_first(
    sender, server
):
    without_the_first(sender)
    with sender.ledger.claim(key(), now=NOON, context="c", deadline=NOON) as lease:
        evidence = sender.files()[MANIFEST].evidence
        lease.published({MANIFEST: replace(evidence, outcome="already published")})
    assert sender.stages()[-1] is PUBLISHED
    stages = []
    server.hooks["remove"] = lambda _: stages.append(sender.stages()[-1])
    sender.push()
    assert stages == [SEALED]
    assert sender.received() == contents(key())
    assert sender.stages() == [PUBLISHED] * 4


def test_a_manifest_stays_where_nothing_is_missing(sender, server):
    sender.push()
    sender.ledger.resend(key(), now=NOON)
    server.operations.clear()
    sender.push()
    assert "remove" not in server.operations
    assert sender.received() == contents(key())


def test_a_manifest_that_cannot_be_taken_away_asks_a_person_and_nothing_is_written(sender, server):
    without_the_first(sender)
    server.hooks["remove"] = deny
    with pytest.raises(RemoteConflict, match="cannot be removed"):
        sender.push()
    assert FIRST not in sender.received()


@pytest.mark.parametrize("call", [1, 2])
def test_an_attempt_that_was_overtaken_removes_nothing(sender, server, monkeypatch, call):
    without_the_first(sender)
    server.operations.clear()
    sender.crash(monkeypatch, Lease, "check", call=call, error=LeaseLost("overtaken"))
    assert server.operations.count("remove") == call - 1
    assert "write" not in server.operations


def test_a_doubt_about_a_missing_file_comes_before_the_manifest_is_taken_away(sender, server):
    without_the_first(sender)
    known = sender.profile()
    with Ledger.open(server.root / "restored", now=NOON) as ledger:
        ledger.plan([client()], now=NOON, catch_up_days=7)
        sender.ledger = ledger
        with ledger.claim(key(), now=NOON, context="c", deadline=NOON) as lease:
            lease.sealed(sender.spool.bundle(key()), in_doubt=True)
            lease.server(known)
        with pytest.raises(DeliveryInDoubt):
            sender.push()
    assert MANIFEST in sender.received()


def test_a_doubt_about_files_that_are_there_is_none(sender, server):
    sender.push()
    with Ledger.open(server.root / "restored", now=NOON) as ledger:
        ledger.plan([client()], now=NOON, catch_up_days=7)
        sender.ledger = ledger
        with ledger.claim(key(), now=NOON, context="c", deadline=NOON) as lease:
            lease.sealed(sender.spool.bundle(key()), in_doubt=True)
        sender.push()
        assert sender.evidence() == [("already published", "readback")] * 4


# -- beside what was done before -------------------------------------------------------------------


def test_temporary_files_of_an_attempt_before_are_removed_here_too(sender, monkeypatch):
    sender.push()
    second = sender.rebuild()
    empty(sender)
    sender.crash(monkeypatch, Lease, "writing", delivery=second)
    left = sender.directory / "left.part"
    left.write_bytes(b"x")
    with sender.ledger.claim(second, now=NOON, context="c", deadline=NOON) as lease:
        lease.uploading({names(second)[0]: left.name})
    sender.push(second)
    assert sender.received() == contents(second)


def test_an_earlier_revisions_files_are_replaced_here_too(sender):
    sender.push()
    second = sender.rebuild()
    sender.change(replace=ReplacePolicy.OURS)
    sender.push(second)
    assert sender.received() == contents(second)


def test_a_failure_takes_back_what_was_made_and_the_ledger_knows(sender, server):
    sender.push()
    second = sender.rebuild()
    empty(sender)

    def fail(*_):
        raise asyncssh.SFTPFailure("strange")

    server.hooks["write"] = fail
    with pytest.raises(RemoteFailure):
        sender.push(second)
    assert sender.received() == {}
    assert half_written(sender, second) == []


def test_files_that_are_taken_as_they_are_written_have_arrived(sender, server):
    sender.push()
    second = sender.rebuild()
    empty(sender)
    server.hooks["after close"] = lambda file: Path(file.name.decode()).unlink()
    sender.push(second)
    assert sender.evidence(second) == [("swept", "ack")] * 4
    assert (sender.profile().sweeps, sender.profile().level) == (True, "ack")
