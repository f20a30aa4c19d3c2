"""Receivers that take files away as soon as they lie there, and those that take temporary ones too.

What was taken has arrived: it is never sent again (reliability.md F77, F78).
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from mxdeliver.core.model import Outcome
from mxdeliver.edge.ledger import Lease, Publishing
from mxdeliver.edge.sftp import Session
from tests.support.attempts import DAY, attempt, crash, one_day, profile, rebuild, resend, sealed
from tests.support.invariants import watched
from tests.support.openssh import OpenSSHServer, wait_until
from tests.support.programmable import ProgrammableServer


class Taken:
    """What a receiver has taken out of its directory: every name with its contents, in order."""

    def __init__(self):
        self.files = []

    def take(self, path):
        if path.is_file():
            aside = path.parent.parent / f"taken-{len(self.files)}"
            path.rename(aside)
            self.files.append((path.name, aside.read_bytes()))

    def names(self):
        return [name for name, _ in self.files]

    def forget(self):
        self.files.clear()


@pytest.fixture
def server(tmp_path):
    with ProgrammableServer(tmp_path) as running:
        yield running


@pytest.fixture
def party(tmp_path, server):
    return one_day(tmp_path, server)


@pytest.fixture
def taken():
    return Taken()


def take_at_rename(server, taken):
    """Have each file taken before the server answers the rename that has made it appear."""
    server.hooks["after rename"] = lambda _old, new: taken.take(
        server.root / new.decode().lstrip("/")
    )


def take_at_close(server, taken):
    """Have each file taken before the server answers CLOSE, whatever its name."""
    server.hooks["after close"] = lambda file: taken.take(Path(file.name.decode()))


def assert_taken_once(taken, party):
    assert taken.names()[-1] == f"{party.guid}.{DAY}-manifest.csv.pgp"
    assert len(taken.names()) == len(set(taken.names()))
    assert dict(taken.files) == sealed(party)
    assert list(party.directory.iterdir()) == []


def test_what_is_taken_at_the_rename_has_arrived_and_the_profile_says_so(party, server, taken):
    take_at_rename(server, taken)
    with watched(party.deployment, party, taken=True, secret_key=None):
        assert attempt(party).outcome is Outcome.DELIVERED
    assert_taken_once(taken, party)
    found = profile(party)
    assert (found.publishing, found.level, found.sweeps) == (Publishing.RENAME, "size", True)
    assert "; the receiver takes them away at once" in party.deployment.run("status").stdout
    assert party.deployment.run("run", "--date", str(DAY)).returncode == 0
    assert_taken_once(taken, party)


def test_a_poller_on_openssh_gets_each_file_once(tmp_path):
    taken, stop = Taken(), threading.Event()

    def poll(directory):
        while not stop.is_set():
            for path in sorted(directory.iterdir(), key=lambda path: "manifest" in path.name):
                if not path.name.startswith("."):
                    taken.take(path)

    with OpenSSHServer(tmp_path) as server:
        party = one_day(tmp_path, server)
        poller = threading.Thread(target=poll, args=(party.directory,))
        poller.start()
        try:
            with watched(party.deployment, party, taken=True, secret_key=None):
                assert attempt(party).outcome is Outcome.DELIVERED
                wait_until(lambda: len(taken.files) == 4, "the manifest to be taken")
        finally:
            stop.set()
            poller.join()
        assert_taken_once(taken, party)


@pytest.mark.parametrize("call", [1, 2], ids=["daily files", "manifest"])
@pytest.mark.parametrize(("owner", "name"), [(Session, "rename"), (Lease, "published")])
def test_killed_behind_the_rename_nothing_is_sent_again_to_a_receiver_known_to_take_files(
    party, server, taken, monkeypatch, owner, name, call
):
    take_at_rename(server, taken)
    with watched(party.deployment, party, taken=True, replaced=True, secret_key=None):
        assert attempt(party).outcome is Outcome.DELIVERED
        taken.forget()
        rebuild(party)
        crash(party, monkeypatch, owner, name, after=True, call=call)
        assert attempt(party).outcome is Outcome.DELIVERED
    assert_taken_once(taken, party)


def test_what_an_earlier_server_s_receiver_took_says_nothing_about_the_present_one(
    party, server, taken, monkeypatch, tmp_path
):
    take_at_rename(server, taken)
    assert attempt(party).outcome is Outcome.DELIVERED
    server.hooks.clear()
    with OpenSSHServer(tmp_path) as moved:
        move(party, moved)
        resend(party)
        crash(party, monkeypatch, Lease, "publishing", after=True)
        for path in party.directory.iterdir():
            path.unlink()  # somebody tidies up
        assert attempt(party).outcome is Outcome.DELIVERED
        assert party.received() == sealed(party)


def move(party, server):
    """Let the client have moved to another server."""
    party.directory = server.directory / "moved"
    party.directory.mkdir()
    owner = server.directory.stat()
    os.chown(party.directory, owner.st_uid, owner.st_gid)
    party.deployment.write_secret(server.password)
    party.entry["sftp"] |= {
        "host": server.host,
        "port": server.port,
        "username": server.username,
        "host_keys": list(server.pins.values()),
        "directory": server.remote_path(party.directory),
    }


def test_where_temporary_files_are_taken_too_the_final_names_are_written(party, server, taken):
    take_at_close(server, taken)
    with watched(party.deployment, party, taken=True, direct=True, secret_key=None):
        assert attempt(party).outcome is Outcome.DELIVERED
    finals = [(name, content) for name, content in taken.files if not name.startswith(".")]
    assert dict(finals) == sealed(party)
    assert finals[-1][0].endswith("-manifest.csv.pgp")
    found = profile(party)
    assert (found.publishing, found.level, found.sweeps) == (Publishing.DIRECT, "ack", True)
    taken.forget()
    rebuild(party)
    assert attempt(party).outcome is Outcome.DELIVERED
    assert_taken_once(taken, party)


def test_a_temporary_file_that_vanished_once_is_no_reason_to_write_final_names(
    party, server, taken
):
    def vanish_late(_old, _new):
        for path in party.directory.iterdir():
            taken.take(path)

    server.hooks["rename"] = vanish_late
    with watched(party.deployment, party):
        result = attempt(party)
        assert (result.outcome, result.error.code) == (Outcome.RETRY, "REMOTE_VERIFY")
        assert profile(party) is None
        del server.hooks["rename"]
        assert attempt(party).outcome is Outcome.DELIVERED
    assert party.received() == sealed(party)
    assert profile(party).publishing is Publishing.RENAME
