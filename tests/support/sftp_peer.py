"""An SFTP server behind a channel, without network, that may answer anything at all.

    peer = Peer(odd={3: b"\xff"})           # the third answer is these bytes instead
    with session(peer) as opened: ...

It takes the place of paramiko's channel, where each of a server's bytes arrives. Files are names and
sizes; whatever is not made odd is answered as version 3 has it (draft-ietf-secsh-filexfer-02).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

from paramiko import ECDSAKey

from mxdeliver.core.model import Endpoint
from mxdeliver.edge.sftp.channels import FurtherChannels, mapped
from mxdeliver.edge.sftp.engine import Engine, Kind, Status, read_string, text
from mxdeliver.edge.sftp.handshake import Connection
from mxdeliver.edge.sftp.model import Limits
from mxdeliver.edge.sftp.session import Session
from mxdeliver.edge.sftp.watchdog import Watchdog

PLACE = "sftp.client.test:8022"
EXTENSIONS = (
    "posix-rename@openssh.com", "statvfs@openssh.com", "fsync@openssh.com", "limits@openssh.com",
    "check-file",
)  # fmt: skip
_HOST_KEY = ECDSAKey.generate()
_REGULAR, _DIRECTORY = 0o100600, 0o040755
_MOST_REQUESTS = 2_000


def framed(packet: bytes) -> bytes:
    """Put a packet's length before it."""
    return text(packet)


def status(request: int, code: int, words: bytes = b"") -> bytes:
    """Give a status packet without its length."""
    return struct.pack(">BII", Kind.STATUS, request, code) + text(words) + text(b"")


class Peer:
    """Stands where paramiko's channel does; `odd` are answers by their number, the first is 0.

    An odd answer is sent as it is, or made from the request's id; `hashes` makes those to
    check-file-name. `write_limit` is what the server's limits tell; `slow` keeps answers back until
    somebody waits for one.
    """

    def __init__(
        self,
        odd: Mapping[int, bytes | Callable[[int], bytes]] = {},
        *,
        hashes: Callable[[int], bytes] | None = None,
        write_limit: int = 0,
        slow: bool = False,
    ) -> None:
        self._odd = odd
        self._hashes = hashes
        self._write_limit = write_limit
        self._slow = slow
        self._sent = bytearray()
        self._answers = bytearray()
        self._answered = 0
        self._sizes: dict[bytes, int] = {}

    # -- what the engine asks of a channel ---------------------------------------------------------

    def settimeout(self, seconds: float) -> None:
        """Nothing is waited for here."""

    def send(self, data: bytes) -> int:
        """Take all, and answer what is complete."""
        self._sent += data
        while len(self._sent) >= 4:
            end = 4 + int.from_bytes(self._sent[:4], "big")
            if len(self._sent) < end:
                break
            packet = bytes(self._sent[4:end])
            del self._sent[:end]
            self._answer(packet)
        return len(data)

    def recv_ready(self) -> bool:
        """Tell whether an answer lies ready."""
        return bool(self._answers) and not self._slow

    def recv(self, size: int) -> bytes:
        """Give what was answered; nothing, as at the end of a connection, when that is all."""
        piece = bytes(self._answers[:size])
        del self._answers[:size]
        return piece

    # -- the server --------------------------------------------------------------------------------

    def _answer(self, packet: bytes) -> None:
        number, self._answered = self._answered, self._answered + 1
        if number > _MOST_REQUESTS:
            return  # as if the connection had ended: an answer may have made the client go on and on
        request = int.from_bytes(packet[1:5], "big")
        good = self._good(packet[0], request, packet[5:])
        odd = self._odd.get(number)
        if odd is None:
            self._answers += framed(good)
        else:
            self._answers += odd if isinstance(odd, bytes) else odd(request)

    def _good(self, kind: int, request: int, body: bytes) -> bytes:  # noqa: PLR0911 - one case per request
        if kind == Kind.INIT:
            told = b"".join(text(name.encode()) + text(b"1") for name in EXTENSIONS)
            return struct.pack(">BI", Kind.VERSION, 3) + told
        name, end = read_string(body)
        if kind == Kind.OPEN:
            self._sizes.setdefault(name, 0)
            return struct.pack(">BI", Kind.HANDLE, request) + text(name)
        if kind == Kind.WRITE:
            offset, length = struct.unpack_from(">QI", body, end)
            self._sizes[name] = max(self._sizes.get(name, 0), offset + length)
        elif kind == Kind.READ:
            offset, length = struct.unpack_from(">QI", body, end)
            data = bytes(max(0, min(length, self._sizes.get(name, 0) - offset)))
            if not data:
                return status(request, Status.EOF)
            return struct.pack(">BI", Kind.DATA, request) + text(data)
        elif kind in {Kind.STAT, Kind.LSTAT, Kind.FSTAT}:
            return self._attributes(request, name)
        elif kind == Kind.RENAME:
            self._sizes[read_string(body, end)[0]] = self._sizes.pop(name, 0)
        elif kind == Kind.REMOVE:
            self._sizes.pop(name, None)
        elif kind == Kind.EXTENDED:
            return self._extended(request, name, read_string(body, end)[0] if body[end:] else b"")
        return status(request, Status.OK)

    def _attributes(self, request: int, name: bytes) -> bytes:
        if name not in self._sizes and name != b"/incoming":
            return status(request, Status.NO_SUCH_FILE, b"No such file")
        mode = _DIRECTORY if name == b"/incoming" else _REGULAR
        facts = struct.pack(">IQI", 0x5, self._sizes.get(name, 0), mode)
        return struct.pack(">BI", Kind.ATTRS, request) + facts

    def _extended(self, request: int, name: bytes, path: bytes) -> bytes:
        head = struct.pack(">BI", Kind.EXTENDED_REPLY, request)
        if name == b"limits@openssh.com":
            return head + struct.pack(">QQQQ", 1 << 18, 1 << 18, self._write_limit, 0)
        if name == b"statvfs@openssh.com":
            return head + struct.pack(">11Q", *[1 << 20] * 11)
        if name == b"check-file-name":
            if self._hashes is not None:
                return self._hashes(request)
            digest = sha256(bytes(self._sizes.get(path, 0))).digest()
            return head + text(b"check-file") + text(b"sha256") + digest
        return status(request, Status.OK)


def engine(peer: Any) -> Engine:
    """Give the request engine with `peer` at the other end, not started yet."""
    return Engine(peer, Watchdog(lambda: None, lambda: False), PLACE)


def session(peer: Any, endpoint: Endpoint, limits: Limits) -> Session:
    """Start SFTP with `peer` and give the session, as `connect` does after a login."""
    started = engine(peer)
    transport: Any = SimpleNamespace(
        remote_version="SSH-2.0-peer", is_strict=True, negotiated="nothing", round_trip=0.0
    )
    connection = Connection(transport, started._watchdog, "127.0.0.1", PLACE, _HOST_KEY)  # type: ignore[arg-type]
    with mapped(connection):
        started.start()
    further = FurtherChannels(connection, [])
    return Session(connection, started, further, endpoint, limits=limits, sleep=lambda _: None)
