"""Reading what a server sends ahead of what paramiko asks for."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxdeliver.edge.sftp.transport import ReadAhead


@contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket, ReadAhead]]:
    """Give our end, the peer's, and what reads from ours."""
    ours, peers = socket.socketpair()
    ours.settimeout(0.05)
    with ours, peers:
        yield ours, peers, ReadAhead(ours)


@given(
    st.lists(st.binary(min_size=1, max_size=40_000), min_size=1, max_size=4),
    st.lists(st.integers(1, 20_000), min_size=1),
)
def test_bytes_come_in_their_order_however_many_are_asked_for(
    sent: list[bytes], wanted: list[int]
) -> None:
    received, turn = b"", 0
    with connected() as (_, peers, reading):
        for data in sent:
            peers.sendall(data)
            expected = len(received) + len(data)
            while len(received) < expected:
                size = wanted[turn % len(wanted)]
                given_now = reading.recv(size)
                assert 0 < len(given_now) <= size
                received += given_now
                turn += 1
    assert received == b"".join(sent)


def test_what_has_arrived_is_read_at_once() -> None:
    with connected() as (ours, peers, reading):
        peers.sendall(b"packet")
        assert reading.recv(4) == b"pack"
        with pytest.raises(TimeoutError):
            ours.recv(1)
        assert reading.recv(4) == b"et"


def test_what_has_arrived_is_given_before_the_end() -> None:
    with connected() as (_, peers, reading):
        peers.sendall(b"packet")
        peers.shutdown(socket.SHUT_WR)
        assert [reading.recv(4), reading.recv(4), reading.recv(4)] == [b"pack", b"et", b""]


def test_a_silent_peer_is_a_timeout_behind_which_reading_goes_on() -> None:
    with connected() as (_, peers, reading):
        peers.sendall(b"one")
        assert reading.recv(10) == b"one"
        with pytest.raises(TimeoutError):
            reading.recv(10)
        peers.sendall(b"two")
        assert reading.recv(10) == b"two"
