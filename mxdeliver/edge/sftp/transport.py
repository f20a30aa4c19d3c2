"""paramiko's encrypted transport, bounded and restricted; nothing of ours is sent before a handshake.

What paramiko leaves open and is closed here: a banner without end, a packet of any length, a timer
thread that outlives a failed handshake, a login request whose answer arrives before anybody waits
for it, a password change request taken for an illegal message, and exceptions of any class.
"""

from __future__ import annotations

import base64
import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from threading import Event
from typing import Any, ClassVar

from paramiko import ChannelException, Message, SSHException
from paramiko.auth_handler import AuthOnlyHandler
from paramiko.common import (
    CONNECTION_FAILED_CODE,
    MSG_CHANNEL_FAILURE,
    cMSG_CHANNEL_OPEN,
    cMSG_SERVICE_REQUEST,
    cMSG_USERAUTH_REQUEST,
)
from paramiko.packet import Packetizer
from paramiko.pkey import PKey
from paramiko.transport import ServiceRequestingTransport

from mxdeliver.core.errors import peer_text
from mxdeliver.edge.sftp.opening import Opening, SessionChannel

KEY_EXCHANGES = (
    "mlkem768x25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group14-sha256",
    "diffie-hellman-group-exchange-sha256",
)
HOST_KEY_ALGORITHMS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
CIPHERS = ("aes256-gcm@openssh.com", "aes128-gcm@openssh.com", "aes256-ctr", "aes128-ctr")
MACS = (
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
)

_MOST_BANNER_BYTES = 16 * 1024
_MOST_PACKET_BYTES = 512 * 1024
_SOON = 0.1
_READ_AHEAD = 16 * 1024
_TO_HEAR_OUT = 0.5


_LOG = "mxdeliver.peer"


class _Harmless(logging.Filter):
    """Lets warnings through, and peers' words only escaped and cut short, at whatever level."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Judge one line, and change it."""
        record.msg, record.args = peer_text(record.getMessage()), None
        return record.levelno >= logging.WARNING


_HARMLESS = _Harmless()


def quiet_paramiko() -> None:
    """Keep paramiko's own log from standard error: its lines hold peers' words and user names.

    Connections log under a name of ours: a filter of paramiko's would not see what the loggers
    below it are given.
    """
    for name in ("paramiko", _LOG):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        logger.propagate = False
        logger.addFilter(_HARMLESS)
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())


class ReadAhead:
    """A socket that reads all that has arrived at once; paramiko asks it two or three times a packet.

    While it takes a large file OpenSSH sends packets of a few bytes, some 20 of them for each MiB.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._unread = b""
        self._position = 0
        self.send = connection.send
        self.close = connection.close

    def recv(self, size: int) -> bytes:
        """Give up to `size` bytes, or what the socket raises, as `socket.recv` does."""
        begin = self._position
        if begin == len(self._unread):
            if size >= _READ_AHEAD:
                return self._connection.recv(size)
            self._unread, begin = self._connection.recv(_READ_AHEAD), 0
        data = self._unread[begin : begin + size]
        self._position = begin + len(data)
        return data


class _BoundedPacketizer(Packetizer):
    """Reads no more than a peer may send, and keeps the beginning of what it said."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(ReadAhead(connection))  # type: ignore[arg-type] # all that paramiko calls
        self.preamble = bytearray()

    def _read_timeout(self, timeout: float) -> bytes:
        data: bytes = super()._read_timeout(timeout)  # type: ignore[misc] # not in the stubs
        self.preamble += data
        if len(self.preamble) > _MOST_BANNER_BYTES:
            raise SSHException("banner without end")
        return data

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        """Read `n` bytes; SSHException where the peer announces an absurd packet."""
        if n > _MOST_PACKET_BYTES:
            raise SSHException(f"packet of {n} bytes")
        return super().read_all(n, check_rekey)

    def start_handshake(self, timeout: float) -> None:
        """Start no timer: the watchdog bounds the handshake."""


@dataclass(frozen=True, slots=True)
class LoginReply:
    """The server's answer to one login request."""

    success: bool = False
    methods: tuple[str, ...] = ()
    partial: bool = False
    change_required: bool = False


class LoginHandler(AuthOnlyHandler):
    """Sends one login request at a time and gives the server's answer to it."""

    reply: LoginReply | None = None

    def send_auth_request(  # type: ignore[override] # an answer instead of lists and exceptions
        self, username: str, method: str, finish_message: Any = None
    ) -> LoginReply:
        """Ask to log in by `method`; SSHException or EOFError where no answer comes."""
        self.auth_method = method
        self.username = username
        self.reply = None
        self.auth_event = answered = Event()
        message = Message()
        message.add_byte(cMSG_USERAUTH_REQUEST)
        for text in (username, "ssh-connection", method):
            message.add_string(text)
        if finish_message is not None:
            finish_message(message)
        with self.transport.lock:
            self.transport._send_message(message)  # type: ignore[attr-defined] # noqa: SLF001 - paramiko has no public way
        self.transport.wait_for(answered)  # type: ignore[attr-defined] # ours, see below
        if self.is_authenticated():
            return LoginReply(success=True)
        if self.reply is None:
            raise self.transport.get_exception() or EOFError
        return self.reply

    def _parse_userauth_failure(self, message: Message) -> None:
        methods = tuple(message.get_list())
        self.reply = LoginReply(methods=methods, partial=message.get_boolean())
        self.authenticated = False
        self._answer()

    def _parse_userauth_info_request(self, message: Message) -> None:
        # SSH_MSG_USERAUTH_PASSWD_CHANGEREQ has the same number, 60 (RFC 4252 section 8)
        if self.auth_method == "password":
            self.reply = LoginReply(change_required=True)
            self._answer()
        else:
            super()._parse_userauth_info_request(message)  # type: ignore[misc] # not in the stubs

    def _answer(self) -> None:
        if self.auth_event is not None:
            self.auth_event.set()


class PeerTransport(ServiceRequestingTransport):
    """One connection to one server, restricted to algorithms that are considered safe."""

    _channel_handler_table: ClassVar[dict[int, Callable[[Any, Message], None]]] = {
        **ServiceRequestingTransport._channel_handler_table,  # type: ignore[attr-defined] # noqa: SLF001 - not in the stubs
        MSG_CHANNEL_FAILURE: SessionChannel.refuse_request,
    }

    def __init__(
        self, connection: socket.socket, host_key_algorithms: tuple[str, ...] = HOST_KEY_ALGORITHMS
    ) -> None:
        quiet_paramiko()
        super().__init__(connection, packetizer_class=_BoundedPacketizer)
        self.set_log_channel(_LOG)
        options = self.get_security_options()
        options.kex = [name for name in KEY_EXCHANGES if name in self._kex_info]  # type: ignore[attr-defined] # not in the stubs
        options.ciphers = CIPHERS
        options.digests = MACS
        options.key_types = host_key_algorithms
        self.offered: dict[str, list[str]] = {}
        self.disconnected: tuple[int, str] | None = None
        self._service_accepted = Event()
        self._service_requested_at: float | None = None
        self._openings: dict[int, Opening] = {}
        self.round_trip = 0.0
        """Seconds that the server took to answer the first request that it answers at once."""

    def stop_thread(self) -> None:
        """End the thread that reads, at once: by itself it looks every 0.1 seconds (read_all)."""
        self.active = False
        with suppress(OSError):  # the server may have been quicker
            self.sock.shutdown(socket.SHUT_RDWR)
        super().stop_thread()

    def hear_out(self) -> None:
        """Wait a little for the thread that reads to end, once the connection has.

        Whoever writes notices the end first; what the server has said before may not be read yet.
        """
        self.join(_TO_HEAR_OUT)

    @property
    def preamble(self) -> str:
        """What the server said before or instead of its SSH version, escaped and cut short."""
        return peer_text(bytes(self.packetizer.preamble).strip())  # type: ignore[attr-defined] # ours

    @property
    def is_openssh(self) -> bool:
        """Whether the server calls itself OpenSSH.

        Its sshd takes one message after the other, whatever has come behind it, and so does its
        sftp-server (sftp-server.c: one loop, one request at a time).
        """
        return "-OpenSSH_" in self.remote_version

    @property
    def is_strict(self) -> bool:
        """Whether both sides kept to the strict key exchange, the answer to the Terrapin attack.

        Without it ChaCha20 and CBC can be attacked (https://terrapin-attack.com): not in `CIPHERS`.
        """
        return bool(self.agreed_on_strict_kex)  # type: ignore[attr-defined] # not in the stubs

    @property
    def negotiated(self) -> str:
        """Key exchange, ciphers, and MACs where a cipher needs them, by their names."""
        exchanges = self.offered["kex_algo_list"]
        ciphers = (self.local_cipher, self.remote_cipher)  # type: ignore[attr-defined] # not in the stubs
        macs = (self.local_mac, self.remote_mac)  # type: ignore[attr-defined] # not in the stubs
        needed = [mac for cipher, mac in zip(ciphers, macs, strict=True) if "gcm" not in cipher]
        exchange = next(name for name in self.get_security_options().kex if name in exchanges)
        return ", ".join(dict.fromkeys([exchange, *ciphers, *needed]))

    def get_exception(self) -> Exception | None:
        """Give what ended the transport; whatever else a garbled packet raised as SSHException."""
        error = super().get_exception()
        if error is None or isinstance(error, SSHException | OSError | EOFError):
            return error
        wrapped = SSHException(f"unreadable packet ({type(error).__name__})")
        wrapped.__cause__ = error
        return wrapped

    def wait_for(self, event: Event) -> None:
        """Wait until `event` is set or the transport has ended."""
        while not event.wait(_SOON) and self.is_active():
            pass

    @property
    def takes_logins(self) -> bool:
        """Whether the server has accepted to be asked for logins."""
        return self._service_accepted.is_set()

    def request_logins(self) -> None:
        """Ask once for the login service, without waiting for the answer.

        After a key exchange in which the server has signed, a login may be asked for right behind
        (RFC 4253 section 10).
        """
        if self._service_requested_at is not None:
            return
        self.auth_handler = self.get_auth_handler()
        message = Message()
        message.add_byte(cMSG_SERVICE_REQUEST)
        message.add_string("ssh-userauth")
        self._service_requested_at = time.monotonic()
        self._send_message(message)  # type: ignore[attr-defined] # not in the stubs

    def ensure_session(self) -> None:
        """Ask for the login service once, and wait for it no longer than the connection lives."""
        self.request_logins()
        self.wait_for(self._service_accepted)
        if not self._service_accepted.is_set():
            raise self.get_exception() or EOFError

    def get_auth_handler(self) -> LoginHandler:
        """Give the handler that reports answers instead of raising."""
        return LoginHandler(self)

    def _parse_service_accept(self, message: Message) -> None:
        super()._parse_service_accept(message)  # type: ignore[misc] # not in the stubs
        if self._service_requested_at is not None and not self._service_accepted.is_set():
            self.round_trip = time.monotonic() - self._service_requested_at
        self._service_accepted.set()

    def request_session(self) -> Opening:
        """Ask for a session channel, without waiting for the answer."""
        with self.lock:
            number = self._next_channel()  # type: ignore[attr-defined] # not in the stubs
            opening = Opening(self, number)
            self._openings[number] = opening
            register = self._channels.put  # type: ignore[attr-defined] # as above
            register(number, opening.channel)
            self.channel_events[number] = opening.answered
            self.channels_seen[number] = True
        message = Message()
        message.add_byte(cMSG_CHANNEL_OPEN)
        message.add_string("session")
        for value in (number, self.default_window_size, self.default_max_packet_size):
            message.add_int(value)
        self._send_user_message(message)  # type: ignore[attr-defined] # not in the stubs
        return opening

    def _parse_channel_open_failure(self, message: Message) -> None:
        """Tell the one who has asked for this channel; paramiko leaves it to whoever looks first."""
        opening = self._openings.get(message.get_int())
        if opening is not None:
            code = message.get_int()
            reason = CONNECTION_FAILED_CODE.get(code, "(unknown code)")
            opening.refuse(ChannelException(code, reason))

    def _really_parse_kex_init(self, message: Message, **keywords: Any) -> dict[str, Any]:
        parsed: dict[str, Any] = super()._really_parse_kex_init(message, **keywords)  # type: ignore[misc] # not in the stubs
        if not keywords.get("ignore_first_byte"):
            self.offered = {
                name: list(value) for name, value in parsed.items() if isinstance(value, list)
            }
        return parsed

    def _send_kex_init(self) -> None:
        # A server that has no room says so and hangs up before it reads: its words are still there.
        with suppress(EOFError):
            super()._send_kex_init()  # type: ignore[misc] # not in the stubs

    def _parse_disconnect(self, message: Message) -> None:
        self.disconnected = (message.get_int(), peer_text(message.get_string()))


def key_sha256(key: PKey) -> str:
    """Give a key's fingerprint as OpenSSH prints it: `SHA256:` and unpadded base64."""
    digest = base64.b64encode(sha256(key.asbytes()).digest()).decode()
    return "SHA256:" + digest.rstrip("=")
