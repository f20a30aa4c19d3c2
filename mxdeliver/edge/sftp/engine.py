"""SFTP version 3 (draft-ietf-secsh-filexfer-02), spoken without waiting.

Every request carries an id and is answered into a callback kept until then, so that many may be
under way at once and answers may come in any order. Every status is looked at, by number; paramiko's
own client drops some and keeps no numbers. One thread uses an engine: the one that owns the session.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

from mxdeliver.core.errors import ConnectionLost, SftpUnavailable, peer_text
from mxdeliver.edge.sftp.opening import DataChannel
from mxdeliver.edge.sftp.watchdog import Watchdog

VERSION = 3
DEFAULT_PIECE = 32 * 1024
_MOST_PIECE = 255 * 1024
_MOST_PACKET = 300 * 1024
_MOST_UNDER_WAY = 256
_MOST_UNREAD = 4 * 1024 * 1024
_WORTH_SENDING = 16 * 1024
"""Bytes of requests that are sent at once; fewer wait for the next ones, or until answers are waited for."""
_WAKE_EVERY = 0.2
_FIXED = struct.Struct(">IBI")
_INIT = _FIXED.pack(5, 1, VERSION)


class Kind(IntEnum):
    """Packet types."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    FSTAT = 8
    REMOVE = 13
    STAT = 17
    RENAME = 18
    STATUS = 101
    HANDLE = 102
    DATA = 103
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


class Status(IntEnum):
    """Status codes; ALREADY_EXISTS is version 5's, which ProFTPD sends in version 3."""

    OK = 0
    EOF = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4
    BAD_MESSAGE = 5
    UNSUPPORTED = 8
    ALREADY_EXISTS = 11


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its type and what follows the id.

    `status` is None where it carries something else, or, to an optional request, nothing readable.
    """

    kind: int
    body: bytes
    status: int | None = None
    text: str = ""

    @property
    def ok(self) -> bool:
        """Whether this is a status, and a good one."""
        return self.status == Status.OK


def text(value: bytes) -> bytes:
    """Encode an SFTP string: length and bytes."""
    return struct.pack(">I", len(value)) + value


def read_string(body: bytes, offset: int = 0) -> tuple[bytes, int]:
    """Read an SFTP string; gives it and the offset behind it. Raises struct.error when cut short."""
    (length,) = struct.unpack_from(">I", body, offset)
    end = offset + 4 + length
    if end > len(body):
        raise struct.error("string longer than its packet")
    return body[offset + 4 : end], end


class Posted:
    """Requests that go out together; their answers are given in the order of the requests."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._replies: dict[int, Reply] = {}
        self._count = 0

    def add(self, kind: Kind, body: bytes, *, optional: bool = False) -> None:
        """Let one more go with them."""
        on_reply = partial(self._replies.__setitem__, self._count)
        self._engine.send(kind, body, on_reply, optional=optional)
        self._count += 1

    def answers(self) -> list[Reply]:
        """Wait for all answers."""
        while len(self._replies) < self._count:
            self._engine.reap()
        return [self._replies[place] for place in range(self._count)]


class Engine:
    """Requests and answers over one channel."""

    def __init__(self, channel: DataChannel, watchdog: Watchdog, place: str) -> None:
        channel.settimeout(_WAKE_EVERY)
        self._channel = channel
        self._watchdog = watchdog
        self._place = place
        self._waiting: dict[int, Callable[[Reply], None]] = {}
        self._optional: set[int] = set()
        self._next_id = 0
        self._received = bytearray()
        self._unsent = bytearray()
        self.extensions: dict[str, bytes] = {}
        self.piece = DEFAULT_PIECE
        self.most_handles: int | None = None
        self.answers_in_order = False
        """Whether the server is known to finish each request before it looks at the next one."""
        self._hailed = False

    @property
    def under_way(self) -> int:
        """How many requests are not answered yet."""
        return len(self._waiting)

    def hail(self) -> None:
        """Begin with SFTP, before `start` does; requests may follow without waiting, and `flush` sends.

        Only to a server that answers in order, and refuses the extension that it does not know.
        """
        self._hailed = True
        self._unsent += _INIT
        self._ask_for_limits()

    def start(self) -> None:
        """Agree on version 3 and learn extensions and limits; raises SftpUnavailable."""
        try:
            if not self._hailed:
                self._unsent += _INIT
            packet = self._packet()
            kind, version = struct.unpack_from(">BI", packet)
            if kind != Kind.VERSION or version != VERSION:
                raise SftpUnavailable(f"{self._place} speaks another version of SFTP than 3")
            offset = 5
            while offset < len(packet):
                name, offset = read_string(packet, offset)
                value, offset = read_string(packet, offset)
                self.extensions[peer_text(name)] = value
        except (struct.error, ConnectionLost, EOFError, OSError) as error:
            raise SftpUnavailable(f"{self._place} does not answer as an SFTP server") from error
        if "limits@openssh.com" in self.extensions and not self._hailed:
            self._ask_for_limits()

    def _ask_for_limits(self) -> None:
        """Ask, and not wait for it as long as what is sent next keeps no limit anyway: see `settle`."""
        self.send(Kind.EXTENDED, text(b"limits@openssh.com"), self._learn_limits)

    def _learn_limits(self, reply: Reply) -> None:
        """Take larger pieces only where the server says so: some corrupt what is larger than 32 KiB."""
        if reply.kind != Kind.EXTENDED_REPLY or len(reply.body) < 32:
            return
        _, _, write, handles = struct.unpack_from(">QQQQ", reply.body)
        if write:
            self.piece = min(_MOST_PIECE, write)
        self.most_handles = handles or None

    # -- requests ----------------------------------------------------------------------------------

    def send(
        self,
        kind: Kind,
        body: bytes,
        on_reply: Callable[[Reply], None],
        data: bytes = b"",
        *,
        optional: bool = False,
    ) -> None:
        """Send a request, at the latest by the next `reap`, which calls `on_reply` with its answer.

        Small ones go together: a message of SSH costs both sides more than what is in it. An answer
        that is not SFTP ends the session, but for an `optional` request: without a status.
        """
        self._next_id = (self._next_id + 1) & 0xFFFFFFFF
        self._waiting[self._next_id] = on_reply
        if optional:
            self._optional.add(self._next_id)
        head = _FIXED.pack(5 + len(body) + len(data), kind, self._next_id)
        if len(self._unsent) + len(body) + len(data) < _WORTH_SENDING:
            self._unsent += b"".join((head, body, data))
        else:
            packets = b"".join((self._unsent, head, body, data))
            self._unsent.clear()
            self._write(packets)

    def call(self, kind: Kind, body: bytes) -> Reply:
        """Send one request and wait for its answer."""
        return self.call_all([(kind, body)])[0]

    def call_all(
        self, requests: Iterable[tuple[Kind, bytes]], *, optional: bool = False
    ) -> list[Reply]:
        """Send all requests at once and wait for all answers, given in the order of the requests."""
        posted = Posted(self)
        for kind, body in requests:
            posted.add(kind, body, optional=optional)
            while self.under_way >= _MOST_UNDER_WAY:
                self.reap()
        return posted.answers()

    def settle(self) -> None:
        """Wait for all answers that are still under way, the server's limits among them."""
        while self._waiting:
            self.reap()

    def reap(self) -> None:
        """Wait for the next answer and hand it to its request."""
        packet = self._packet()
        try:
            reply_id, reply = _parse(packet)
        except struct.error as error:
            reply_id, reply = int.from_bytes(packet[1:5], "big"), Reply(Kind.STATUS, b"")
            if reply_id not in self._optional:
                raise ConnectionLost(f"{self._place} sent a packet that is not SFTP") from error
        self._optional.discard(reply_id)
        on_reply = self._waiting.pop(reply_id, None)
        if on_reply is None:
            return  # answered twice, or never asked: no request of ours can have changed by it
        self._watchdog.renew()
        on_reply(reply)

    def reap_ready(self) -> None:
        """Hand out the answers that have arrived already."""
        while self._waiting and (self._has_packet() or self._channel.recv_ready()):
            self.reap()

    # -- bytes -------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what waits for further requests."""
        packets = bytes(self._unsent)
        self._unsent.clear()
        self._write(packets)

    def _write(self, packets: bytes) -> None:
        rest = memoryview(packets)
        while rest:
            try:
                sent = self._channel.send(rest)
            except TimeoutError:
                # The server's window is full; what it has answered meanwhile must not pile up.
                self._receive_ready()
                continue
            if not sent:
                raise EOFError
            rest = rest[sent:]

    def _has_packet(self) -> bool:
        received = self._received
        return len(received) >= 4 and len(received) >= 4 + int.from_bytes(received[:4], "big")

    def _packet(self) -> bytes:
        if not self._has_packet():
            self.flush()
        while not self._has_packet():
            self._check_length()
            try:
                self._receive()
            except TimeoutError:
                continue
        received = self._received
        end = 4 + int.from_bytes(received[:4], "big")
        packet = bytes(received[4:end])
        del received[:end]
        return packet

    def _check_length(self) -> None:
        length = int.from_bytes(self._received[:4], "big")
        if len(self._received) >= 4 and length > _MOST_PACKET:
            raise ConnectionLost(f"{self._place} announces an SFTP packet of {length} bytes")

    def _receive(self) -> None:
        data = self._channel.recv(64 * 1024)
        if not data:
            raise EOFError
        self._received += data

    def _receive_ready(self) -> None:
        while self._channel.recv_ready():
            self._receive()
            if len(self._received) > _MOST_UNREAD:
                raise ConnectionLost(f"{self._place} sends without end and takes nothing")
            self._watchdog.renew()


def _parse(packet: bytes) -> tuple[int, Reply]:
    kind, reply_id = struct.unpack_from(">BI", packet)
    if kind != Kind.STATUS:
        return reply_id, Reply(kind, packet[5:])
    (status,) = struct.unpack_from(">I", packet, 5)
    # some servers leave out the text, which version 3 requires
    words = read_string(packet, 9)[0] if len(packet) > 9 else b""
    return reply_id, Reply(kind, b"", status, peer_text(words))
