"""Sealed files are compared before anything appears; large ones while they are already being sent."""

from __future__ import annotations

import threading
import time

import pytest

from mxdeliver.core.errors import ConnectRefused, SpoolCorrupt, SpoolIO, StopRequested
from mxdeliver.edge.sftp import Session
from mxdeliver.edge.spool import Spool
from mxdeliver.push import sealed
from tests.support.ledgers import contents, key
from tests.support.programmable import ProgrammableServer
from tests.support.pushing import a_sender, deny, names, server_without_renames

PLACES = range(4)


@pytest.fixture
def server(tmp_path):
    with ProgrammableServer(tmp_path) as running:
        yield running


@pytest.fixture(autouse=True)
def every_file_is_large(monkeypatch):
    monkeypatch.setattr(sealed, "LARGE", 1)


def damage(sender, place):
    [path] = sender.spool_path.rglob(names()[place])
    path.chmod(0o600)
    path.write_bytes(b"?" * path.stat().st_size)
    return path


@pytest.fixture
def compared_late(monkeypatch, server):
    """Compare nothing before every file has been sent."""
    closed = threading.Semaphore(0)
    all_sent = threading.Event()

    def close(*_):
        closed.release()
        if closed._value >= len(names()):
            all_sent.set()

    server.hooks["after close"] = close
    verify = Spool.verify

    def late(*arguments):
        assert all_sent.wait(20)
        return verify(*arguments)

    monkeypatch.setattr(Spool, "verify", late)


@pytest.fixture
def compared_forever(monkeypatch):
    """Compare until told to stop; tells the moment it was."""
    ended = []

    def forever(_spool, _key, _file, stop):
        while not stop():
            time.sleep(0.01)
        ended.append(True)
        raise StopRequested("stopped while sealed files were compared")

    monkeypatch.setattr(Spool, "verify", forever)
    return ended


def test_what_is_whole_is_delivered(sender):
    sender.push()
    assert sender.received() == contents(key())
    assert sender.leftovers() == []


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.usefixtures("compared_late")
def test_damage_found_once_all_is_sent_shows_nothing_and_leaves_nothing(sender, server, place):
    damage(sender, place)
    with pytest.raises(SpoolCorrupt, match=names()[place]):
        sender.push()
    assert server.operations.count("close") == len(names())
    assert "rename" not in server.operations
    assert sender.received() == {}
    assert sender.leftovers() == []


@pytest.mark.parametrize("place", PLACES)
def test_damage_found_while_connecting_or_sending_ends_it(sender, server, place):
    damage(sender, place)
    with pytest.raises(SpoolCorrupt, match=names()[place]):
        sender.push()
    assert "rename" not in server.operations
    assert sender.received() == {}
    assert sender.leftovers() == []


def test_damage_found_in_the_middle_of_a_file_ends_sending(sender, server, monkeypatch):
    damage(sender, 0)
    verify, writing, judged = Spool.verify, threading.Event(), threading.Event()

    def in_the_middle(*arguments):
        assert writing.wait(20)
        try:
            return verify(*arguments)
        finally:
            judged.set()

    def hold(*_):
        writing.set()
        assert judged.wait(20)

    monkeypatch.setattr(Spool, "verify", in_the_middle)
    server.hooks["write"] = hold
    with pytest.raises(SpoolCorrupt, match=names()[0]):
        sender.push()
    assert "rename" not in server.operations
    assert sender.received() == {}
    assert sender.leftovers() == []


def test_a_file_that_cannot_be_read_is_told_as_that(sender, monkeypatch):
    def unreadable(*_):
        raise SpoolIO("the disk does not read")

    monkeypatch.setattr(Spool, "verify", unreadable)
    with pytest.raises(SpoolIO):
        sender.push()
    assert sender.received() == {}
    assert sender.leftovers() == []


@pytest.mark.usefixtures("compared_late")
def test_what_cannot_be_removed_then_is_reported(sender, server):
    damage(sender, 1)
    server.hooks["remove"] = deny
    with pytest.raises(SpoolCorrupt):
        sender.push()
    assert sender.received() == {}
    [line] = sender.events("temporaries.left")
    assert "does not let 4 temporary files be removed" in line["message"]
    assert sorted(sender.ledger.temporaries(key())) == sender.leftovers()


def test_a_second_attempt_compares_everything_before_it_connects(sender, server, monkeypatch):
    sender.crash(monkeypatch, Session, "upload")
    damage(sender, 3)
    with pytest.raises(SpoolCorrupt):
        sender.push()
    assert len(server.user_names) == 1


def test_where_names_are_final_at_once_all_is_compared_before_connecting(tmp_path):
    with server_without_renames(tmp_path) as server, a_sender(tmp_path, server) as sender:
        sender.push()  # now it is known that only writing helps
        second = sender.rebuild()
        sender.empty()
        [path] = sender.spool_path.rglob(f"*r{second.revision}/{names()[2]}")
        path.chmod(0o600)
        path.write_bytes(b"?" * path.stat().st_size)
        with pytest.raises(SpoolCorrupt):
            sender.push(second)
        assert len(server.user_names) == 1
        assert sender.received() == {}


def test_where_names_turn_out_to_be_final_at_once_nothing_is_written_before_all_is_compared(
    tmp_path,
):
    with server_without_renames(tmp_path) as server, a_sender(tmp_path, server) as sender:
        damage(sender, 2)
        with pytest.raises(SpoolCorrupt):
            sender.push()
        assert sender.received() == {}


def test_a_stop_ends_the_comparison(sender, compared_forever):
    began = time.monotonic()
    with pytest.raises(StopRequested):
        sender.push(stop=lambda: time.monotonic() > began + 0.5)
    assert sender.received() == {}
    assert compared_forever


def test_the_comparison_ends_with_an_attempt_that_fails(sender, compared_forever):
    sender.change(port=1)
    with pytest.raises(ConnectRefused):
        sender.push()
    assert compared_forever == [True]
    assert not [one for one in threading.enumerate() if one.name.startswith("sealed")]
