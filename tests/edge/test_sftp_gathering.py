"""Small requests go out together: when they are sent, and that none is left behind."""

import pytest

from mxdeliver.edge.sftp.engine import Kind, Posted, text
from tests.support.sftp_peer import Peer, engine

NAME = text(b"/incoming")


class Counted(Peer):
    """Counts what it is sent."""

    def __init__(self, **others):
        super().__init__(**others)
        self.messages = []

    def send(self, data):
        self.messages.append(len(data))
        return super().send(data)


@pytest.fixture
def peer():
    return Counted()


@pytest.fixture
def started(peer):
    made = engine(peer)
    made.start()
    made.settle()
    peer.messages.clear()
    return made


def test_requests_that_are_waited_for_together_are_one_message(peer, started):
    replies = started.call_all([(Kind.STAT, NAME)] * 20)
    assert [reply.kind for reply in replies] == [Kind.ATTRS] * 20
    assert len(peer.messages) == 1


def test_what_nobody_waits_for_yet_is_sent_by_a_flush_or_with_the_next_that_is(peer, started):
    posted = Posted(started)
    posted.add(Kind.STAT, NAME)
    assert peer.messages == []
    started.flush()
    assert len(peer.messages) == 1
    posted.add(Kind.STAT, NAME)
    started.call(Kind.STAT, NAME)
    assert len(peer.messages) == 2
    assert len(posted.answers()) == 2
    assert len(peer.messages) == 2


def test_much_data_goes_at_once_behind_what_came_before_it(peer, started):
    handle = text(b"/incoming/a")
    started.send(Kind.OPEN, handle + bytes(8), lambda _: None)
    written = []
    started.send(Kind.WRITE, handle + bytes(8) + text(bytes(20_000)), written.append)
    assert len(peer.messages) == 1
    started.settle()
    assert [reply.ok for reply in written] == [True]
