"""Whole deliveries to a server that misbehaves once: the right error, nothing visible, then whole.

The single requests are tested in tests/edge/test_sftp_*.py; here is what the client, the ledger and
the log see of them.
"""

from __future__ import annotations

import struct

import asyncssh
import pytest

from mxdeliver.core.model import Outcome
from mxdeliver.edge.ledger import Lease
from tests.support.attempts import (
    DAY,
    attempt,
    crash,
    is_whole,
    one_day,
    profile,
    resume,
    sealed,
)
from tests.support.invariants import watched
from tests.support.openssh import OpenSSHServer
from tests.support.outcomes import assert_log_is_valid
from tests.support.programmable import ProgrammableServer
from tests.support.proxy import Proxy

HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\nroot: all is well %s%n {0}" + "x" * 50_000


@pytest.fixture
def server(tmp_path):
    with ProgrammableServer(tmp_path) as running:
        yield running


@pytest.fixture
def party(tmp_path, server):
    return one_day(tmp_path, server, rows=40)


def raising(error, *, call=1):
    """Give a hook that raises at its `call`th call and at no other."""
    calls = []

    def hook(*_):
        calls.append(call)
        if len(calls) == call:
            raise error

    return hook


def lying(_path):
    return asyncssh.SFTPAttrs(size=7, permissions=0o100600)


def full(text="No space left on device"):
    return asyncssh.SFTPFailure(text)


FAULTS = {
    "F81: full at open": ("open", raising(full()), "REMOTE_FULL"),
    "F81: full at the second write": ("write", raising(full(), call=2), "REMOTE_FULL"),
    "F81: quota at close": ("close", raising(full("quota exceeded")), "REMOTE_FULL"),
    "F81: full at the rename": ("rename", raising(full(), call=2), "REMOTE_FULL"),
    "F82: one write fails": ("write", raising(asyncssh.SFTPFailure("no"), call=3), "REMOTE_FAILURE"),
    "F81: close fails": ("close", raising(asyncssh.SFTPFailure("no")), "REMOTE_FAILURE"),
    "F91: hostile words": ("write", raising(asyncssh.SFTPFailure(HOSTILE)), "REMOTE_FAILURE"),
    "F88: a name that is not taken": (
        "open", raising(asyncssh.SFTPFailure("File name too long")), "REMOTE_NAME",
    ),
}  # fmt: skip


@pytest.mark.parametrize("answer", [b"", b"\0\0", b"\0\0\0\x0acheck-file"], ids=len)
def test_hashes_that_cannot_be_read_are_done_without_and_that_is_remembered(party, server, answer):
    server.file_hash = lambda _path: answer
    assert attempt(party).outcome is Outcome.DELIVERED
    assert party.received() == sealed(party)
    assert "check-file-name" in server.operations
    assert profile(party).level == "size"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_shows_nothing_leaves_nothing_and_is_made_up_for(party, server, fault):
    operation, hook, code = FAULTS[fault]
    server.hooks[operation] = hook
    if operation == "rename":  # the other way of renaming must not help
        server.hooks["posix_rename"] = raising(full())
    with watched(party.deployment, party, secret_key=None):
        result = attempt(party)
        assert result.error.code == code
        assert not any("manifest" in name for name in party.received())
        assert party.received().items() <= sealed(party).items()
        if operation != "rename":
            assert list(party.directory.iterdir()) == []
        assert_harmless(party)
        server.hooks.clear()
        resume(party)
        assert attempt(party).outcome is Outcome.DELIVERED
    assert is_whole(party)
    assert party.received() == sealed(party)


def assert_harmless(party):
    """What the server said is in ledger, log and status only escaped and cut short (I15)."""
    assert_log_is_valid(party.deployment)
    shown = party.deployment.run("status").stdout
    for text in (shown, *(line["message"] for line in party.deployment.log_lines())):
        assert text.replace("\n", "").isprintable()
        assert len(text) < 2_000


def test_a_server_that_hangs_up_at_a_second_channel_gets_the_day_over_one(tmp_path, server):
    party = one_day(tmp_path, server, rows=30_000)
    server.most_channels = 1
    with Proxy(server.port, one_way=0.01) as proxy, watched(party.deployment, party):
        party.entry["sftp"]["port"] = proxy.port
        assert attempt(party).error.code == "CONNECTION_LOST"
        assert attempt(party).outcome is Outcome.DELIVERED
    assert is_whole(party)
    assert party.received() == sealed(party)


def test_a_server_that_lies_about_sizes_is_not_believed(party, server):
    server.hooks["lstat"] = lambda path: lying(path) if path.endswith(b".part") else None
    with watched(party.deployment, party):
        result = attempt(party)
        assert (result.outcome, result.error.code) == (Outcome.RETRY, "REMOTE_VERIFY")
        assert list(party.directory.iterdir()) == []
        server.hooks.clear()
        assert attempt(party).outcome is Outcome.DELIVERED
    assert party.received() == sealed(party)


def test_a_server_that_tells_no_case_apart_is_delivered_to_and_nothing_there_replaced(
    party, server
):
    """F88: as on Windows, where what lies under our name in small letters is in its way."""
    server.ignores_case = True
    theirs = party.directory / f"{party.guid}.{DAY}.users.updated.avro.pgp".lower()
    theirs.write_bytes(b"theirs")
    with watched(party.deployment, party, foreign=frozenset({theirs.name})):
        result = attempt(party)
        assert (result.outcome, result.error.code) == (Outcome.PARKED, "REMOTE_CONFLICT")
        assert theirs.read_bytes() == b"theirs"
        assert not any("manifest" in name for name in party.received())
        theirs.unlink()
        resume(party)
        assert attempt(party).outcome is Outcome.DELIVERED
    assert is_whole(party)
    assert party.received() == sealed(party)


def test_answers_in_another_order_and_given_twice_make_no_difference(party, server):
    held = []

    def in_threes(operation, answer):
        if operation != "close":
            answer()
            return
        held.append(answer)
        if len(held) == 4:
            for one in reversed(held):
                one()
                one()
            held.clear()

    server.reply = in_threes
    with watched(party.deployment, party):
        assert attempt(party).outcome is Outcome.DELIVERED
    assert is_whole(party)
    assert party.received() == sealed(party)


@pytest.mark.parametrize(
    ("version", "packet", "code"),
    [
        (3, struct.pack(">IB", 256 * 1024 * 1024, 101) + b"x" * 100, "CONNECTION_LOST"),
        (3, struct.pack(">IB", 3, 101) + b"--", "CONNECTION_LOST"),
        (6, b"", "SFTP_UNAVAILABLE"),
        (2, b"", "SFTP_UNAVAILABLE"),
    ],
    ids=["256 MB", "cut short", "version 6", "version 2"],
)
def test_what_is_no_sftp_of_version_3_ends_at_once_and_is_made_up_for(
    party, server, version, packet, code
):
    async def raw(reader, writer):
        await reader.readexactly(9)
        writer.write(struct.pack(">IBI", 5, 2, version))
        await reader.read(10)
        writer.write(packet)
        await reader.read()

    server.raw = raw
    with watched(party.deployment, party):
        assert attempt(party).error.code == code
        server.raw = None
        resume(party)
        assert attempt(party).outcome is Outcome.DELIVERED
    assert party.received() == sealed(party)


def test_a_file_of_somebody_else_that_cannot_be_read_is_not_replaced(tmp_path, monkeypatch):
    """F90: as long as ours, so that only its content could tell."""
    with OpenSSHServer(tmp_path) as server:
        party = one_day(tmp_path, server)
        crash(party, monkeypatch, Lease, "bound_to")
        name = f"{party.guid}.{DAY}.users.created.avro.pgp"
        theirs = bytes(len(sealed(party)[name]))
        path = party.directory / name
        path.touch(mode=0o600)
        path.write_bytes(theirs)
        with watched(party.deployment, party, delivered=False, foreign=frozenset({name})):
            result = attempt(party)
        assert (result.outcome, result.error.code) == (Outcome.PARKED, "REMOTE_DENIED")
        assert {path.name: path.read_bytes() for path in party.directory.iterdir()} == {
            name: theirs
        }
