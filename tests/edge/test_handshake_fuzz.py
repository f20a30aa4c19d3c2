"""Whatever answers at the server's port, the handshake ends in an error of ours, in bounded time.

Here the bytes come over a real connection: banners, key exchange offers, host keys and signatures
that a hostile or broken server may send before it has proven who it is. reliability.md F61, F91, F93.
"""

import socket
import struct
import time
from contextlib import suppress
from datetime import date
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxdeliver.core.errors import MxdeliverError
from mxdeliver.core.secret import Secret
from mxdeliver.edge.sftp import Credentials, connect
from mxdeliver.edge.sftp.model import Limits
from tests.support.endpoints import some_endpoint
from tests.support.fuzzing import examples

VERSION = b"SSH-2.0-peer\r\n"
LISTS = [
    b"curve25519-sha256@libssh.org", b"ssh-ed25519", b"aes128-ctr", b"aes128-ctr",
    b"hmac-sha2-256", b"hmac-sha2-256", b"none", b"none", b"", b"",
]  # fmt: skip
LIMITS = Limits(connect=5, banner=5, key_exchange=5, authentication=5)


class Answering:
    """Listens on a free port and sends everybody the same bytes, then hangs up."""

    def __init__(self):
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.answer = b""
        self._thread = Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                with connection, suppress(OSError):
                    connection.settimeout(5)
                    connection.sendall(self.answer)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65_536):
                        pass

    def close(self):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)


@pytest.fixture(scope="module")
def server():
    answering = Answering()
    yield answering
    answering.close()


def refusal(server, answer):
    """Connect to a server that says `answer`; give the error, which shows nothing raw and not much."""
    server.answer = answer
    endpoint = some_endpoint(server.port)
    started = time.monotonic()
    with (
        pytest.raises(MxdeliverError) as caught,
        connect(
            endpoint, Credentials(password=Secret(b"x")), today=date(2026, 6, 1), limits=LIMITS
        ),
    ):
        pass
    assert time.monotonic() - started < 40
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2_000
    return caught.value


def string(value):
    return struct.pack(">I", len(value)) + value


def packet(payload):
    """Frame a packet as before encryption (RFC 4253 section 6)."""
    padding = 12 - (1 + len(payload)) % 8
    return struct.pack(">IB", 1 + len(payload) + padding, padding) + payload + bytes(padding)


def offer(lists):
    return packet(b"\x14" + bytes(16) + b"".join(map(string, lists)) + bytes(5))


NAMES = st.sampled_from(
    [*LISTS, b"\x1b[2J\nevil", b"\xff\xfe", b"x" * 9_000, b",,,", b"ext-info-s"]
)
STRINGS = st.one_of(
    st.binary(max_size=40).map(string),
    st.sampled_from([b"ssh-ed25519", b"ssh-rsa", b"ecdsa-sha2-nistp256"]).map(
        lambda kind: string(string(kind) + string(bytes(32)))
    ),
    st.sampled_from([b"", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x20" + bytes(32)]),
)
PAYLOADS = st.builds(
    lambda kind, parts: packet(bytes([kind]) + b"".join(parts)),
    st.sampled_from([1, 2, 3, 4, 7, 20, 21, 31, 33, 51, 52, 80, 99]) | st.integers(0, 255),
    st.lists(STRINGS, max_size=4),
)
REPLIES = st.builds(
    lambda parts: packet(b"\x1f" + b"".join(parts)), st.lists(STRINGS, min_size=1, max_size=3)
)
ANSWERS = st.one_of(
    st.binary(max_size=200),
    st.lists(st.binary(max_size=60), max_size=5).map(b"\r\n".join),
    st.binary(max_size=100).map(lambda data: VERSION + data),
    st.binary(max_size=20).map(lambda name: b"SSH-2.0-" + name + b"\r\n" + offer(LISTS)),
    st.lists(PAYLOADS, max_size=4).map(lambda parts: VERSION + b"".join(parts)),
    st.lists(NAMES, min_size=8, max_size=10).map(lambda lists: VERSION + offer(lists)),
    st.lists(REPLIES | PAYLOADS, max_size=4).map(
        lambda parts: VERSION + offer(LISTS) + b"".join(parts)
    ),
)


@examples(100)
@given(ANSWERS)
def test_whatever_answers_is_refused_by_an_error_of_ours(server, answer):
    refusal(server, answer)


@examples(60)
@given(st.lists(REPLIES, min_size=1, max_size=2))
def test_host_keys_and_signatures_that_are_none_are_refused(server, replies):
    refusal(server, VERSION + offer(LISTS) + b"".join(replies))
