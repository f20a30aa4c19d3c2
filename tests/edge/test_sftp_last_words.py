"""What a server says before it hangs up is told, however soon it does."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import date
from threading import Event, Thread

import pytest
from paramiko import ECDSAKey, Message, ServerInterface, SSHException, Transport

from mxdeliver.core.errors import ConnectionLost, SessionLimit
from mxdeliver.core.model import HostKeyPin
from mxdeliver.core.secret import Secret
from mxdeliver.edge.sftp import Credentials, connect
from mxdeliver.edge.sftp.transport import key_sha256
from tests.support.endpoints import some_endpoint

TIMES = 10  # who notices the end first is chance
HOST_KEY = ECDSAKey.generate()


def disconnect(reason: int, words: str) -> Message:
    """Give SSH_MSG_DISCONNECT (RFC 4253 section 11.1)."""
    message = Message()
    message.add_byte(b"\x01")
    message.add_int(reason)
    message.add_string(words)
    message.add_string("en")
    return message


def packet(message: Message) -> bytes:
    """Give a packet as it is before keys are exchanged (RFC 4253 section 6)."""
    payload = message.asbytes()
    padding = 16 - (5 + len(payload)) % 8
    size = (1 + len(payload) + padding).to_bytes(4, "big")
    return size + bytes([padding]) + payload + bytes(padding)


@contextmanager
def serving(serve: Callable[[socket.socket], object]) -> Iterator[int]:
    """Let `serve` speak to each connection, and close it as soon as it returns."""

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with connection, suppress(OSError, EOFError, SSHException):
                    serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(10)


class FullAfterKeyExchange(Transport):
    """A server that has no room, and says so once keys are exchanged."""

    def _activate_outbound(self) -> None:
        super()._activate_outbound()  # type: ignore[misc] # not in the stubs
        self._send_message(disconnect(12, "no room for one more"))  # type: ignore[attr-defined] # as above
        self.sock.close()
        self.active = False
        raise EOFError


def full_before_key_exchange(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-full\r\n" + packet(disconnect(12, "no room for one more")))


def full_after_key_exchange(connection: socket.socket) -> None:
    server = FullAfterKeyExchange(connection)
    server.add_server_key(HOST_KEY)
    server.start_server(event=Event(), server=ServerInterface())
    server.join(10)


def log_in(port: int) -> None:
    endpoint = some_endpoint(port, host_keys=(HostKeyPin(sha256=key_sha256(HOST_KEY)),))
    credentials = Credentials(password=Secret(b"a-password-for-this-test"))
    with connect(endpoint, credentials, today=date(2026, 3, 1)):
        pytest.fail("it was full")


@pytest.mark.parametrize("serve", [full_before_key_exchange, full_after_key_exchange])
def test_a_server_that_is_full_is_a_session_limit_with_its_words(
    serve: Callable[[socket.socket], object],
) -> None:
    with serving(serve) as port:
        for _ in range(TIMES):
            with pytest.raises(SessionLimit, match="no room for one more"):
                log_in(port)


def test_half_a_packet_before_the_end_is_a_lost_connection() -> None:
    half = b"SSH-2.0-full\r\n" + packet(disconnect(12, "no room for one more"))[:-3]
    with (
        serving(lambda connection: connection.sendall(half)) as port,
        pytest.raises(ConnectionLost, match="key exchange"),
    ):
        log_in(port)
