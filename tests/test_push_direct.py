"""Writing under final names, step by step: what is taken back, and what is remembered."""

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
from tests.support.pushing import deny, final, names, server_without_renames

SEALED, UPLOADING, PUBLISHED = FileStage.SEALED, FileStage.UPLOADING, FileStage.PUBLISHED
FIRST, *_, MANIFEST = names()


@pytest.fixture
def server(tmp_path):
    with server_without_renames(tmp_path) as running:
        yield running


# -- finding out and remembering -------------------------------------------------------------------


def test_a_refusal_is_logged_once_and_everything_is_written_the_manifest_last(sender, server):
    opened = []
    server.hooks["open"] = lambda path, *_: opened.append((final(path), sender.half_written()))
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
    assert sender.half_written() == []
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
    sender.empty()
    server.operations.clear()
    sender.push(second, today=TODAY + timedelta(days=6))
    assert "rename" not in server.operations
    assert sender.profile().decided_on == TODAY
    assert len(sender.events("server.direct")) == 1


def test_after_a_week_renaming_is_tried_again(sender, server):
    sender.push()
    second = sender.rebuild()
    sender.empty()
    server.hooks.clear()
    sender.push(second, today=TODAY + timedelta(days=7))
    assert sender.evidence(second) == [("renamed", "size")] * 4
    found = sender.profile()
    assert (found.publishing, found.decided_on) == (Publishing.RENAME, TODAY + timedelta(days=7))


def test_a_server_of_another_software_is_tried_anew(sender, server):
    sender.push()
    second = sender.rebuild()
    sender.empty()
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
    sender.empty()
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
    sender.empty()

    def fail(*_):
        raise asyncssh.SFTPFailure("strange")

    server.hooks["write"] = fail
    with pytest.raises(RemoteFailure):
        sender.push(second)
    assert sender.received() == {}
    assert sender.half_written(second) == []


def test_files_that_are_taken_as_they_are_written_have_arrived(sender, server):
    sender.push()
    second = sender.rebuild()
    sender.empty()
    server.hooks["after close"] = lambda file: Path(file.name.decode()).unlink()
    sender.push(second)
    assert sender.evidence(second) == [("swept", "ack")] * 4
    assert (sender.profile().sweeps, sender.profile().level) == (True, "ack")
