"""OpenPGP packets as such: headers, lengths, and bodies that arrive in pieces (RFC 9580 section 4.2).

`whole_packets` is for certificates, which fit in memory and are bounded; `PacketStream` is for
messages, which do not. What a packet means is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from mxdeliver.core.streams import Buffer

PACKETS_LIMIT = 5_000
"""Packets in one certificate; the largest keys of well-known people stay below."""


class Malformed(ValueError):
    """Bytes that break OpenPGP's rules; the text says how, and never repeats them."""


class Tag(IntEnum):
    """Packet types by their number (RFC 9580 section 5)."""

    SESSION_KEY = 1
    SIGNATURE = 2
    PASSWORD_SESSION_KEY = 3
    ONE_PASS_SIGNATURE = 4
    SECRET_KEY = 5
    PUBLIC_KEY = 6
    SECRET_SUBKEY = 7
    COMPRESSED = 8
    ENCRYPTED_WITHOUT_INTEGRITY = 9
    MARKER = 10
    LITERAL = 11
    TRUST = 12
    USER_ID = 13
    PUBLIC_SUBKEY = 14
    USER_ATTRIBUTE = 17
    ENCRYPTED = 18
    MODIFICATION_DETECTION = 19
    ENCRYPTED_AEAD = 20
    PADDING = 21


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet that was read whole."""

    tag: int
    body: bytes


class Cursor:
    """Takes fields off the front of a packet's body; Malformed when it ends too early."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        """Give the next `count` bytes."""
        if count > len(self._data) - self._at:
            raise Malformed("a packet ends in the middle of a field")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, size: int) -> int:
        """Give the next `size` bytes as a big-endian number."""
        return int.from_bytes(self.take(size), "big")

    def integer(self) -> bytes:
        """Give the bytes of a multiprecision integer (RFC 9580 section 3.2)."""
        return self.take((self.number(2) + 7) // 8)

    def rest(self) -> bytes:
        """Give all that is left."""
        return self.take(len(self._data) - self._at)

    @property
    def position(self) -> int:
        """How many bytes have been taken."""
        return self._at

    @property
    def ended(self) -> bool:
        """Whether nothing is left."""
        return self._at == len(self._data)


def length_octets(length: int) -> bytes:
    """Encode the length of a packet that is not partial (RFC 9580 section 4.2.1)."""
    if length < 192:
        return bytes((length,))
    if length < 8384:
        return bytes((192 + ((length - 192) >> 8), (length - 192) & 0xFF))
    return b"\xff" + length.to_bytes(4, "big")


def whole_packets(data: bytes) -> Iterator[Packet]:
    """Split `data` into packets; Malformed for partial or open-ended ones, which keys never have."""
    cursor = Cursor(data)
    count = 0
    while not cursor.ended:
        count += 1
        if count > PACKETS_LIMIT:
            raise Malformed(f"it has more than {PACKETS_LIMIT:,} packets")
        header = cursor.number(1)
        if not header & 0x80:
            raise Malformed("its packets do not follow one another")
        if header & 0x40:
            tag, length = header & 0x3F, _new_length(cursor)
        else:
            if header & 3 == 3:
                raise Malformed("it has a packet of unknown length")
            tag, length = (header >> 2) & 0x0F, cursor.number(1 << (header & 3))
        yield Packet(tag, cursor.take(length))


def _new_length(cursor: Cursor) -> int:
    first = cursor.number(1)
    if first < 192:
        return first
    if first < 224:
        return ((first - 192) << 8) + cursor.number(1) + 192
    if first == 255:
        return cursor.number(4)
    raise Malformed("it has a packet in parts")


class Body(Protocol):
    """Takes one packet's body as it arrives."""

    def write(self, data: memoryview) -> None:
        """Take the next bytes; the buffer is reused afterwards."""

    def finish(self) -> None:
        """The packet is complete."""


class PacketStream:
    """Splits a stream of packets that arrive in pieces of any size, in constant memory.

    `begin` is called with each packet's tag and gives what takes its body. Malformed is raised for
    what breaks the rules, and by `finish` for what is cut short.
    """

    def __init__(self, begin: Callable[[int], Body]) -> None:
        self._begin = begin
        self._header = bytearray()
        self._body: Body | None = None
        self._remaining: int | None = 0  # bytes of the chunk; None: to the end of the stream
        self._partial = False

    def write(self, data: Buffer) -> None:
        """Take the next bytes."""
        view = memoryview(data)
        while view:
            if self._remaining is None:
                self._into_body(view)
                return
            if self._remaining:
                piece = view[: self._remaining]
                self._remaining -= len(piece)
                self._into_body(piece)
                view = view[len(piece) :]
                self._end_of_chunk()
            else:
                self._header.append(view[0])
                view = view[1:]
                self._read_header()

    def finish(self) -> None:
        """Nothing follows: the last packet must be complete."""
        if self._remaining is None:
            self._end_of_body()
        if self._body is not None or self._header:
            raise Malformed("it is cut short")

    def _into_body(self, piece: memoryview) -> None:
        assert self._body is not None  # noqa: S101 - a chunk is open only within a packet
        self._body.write(piece)

    def _read_header(self) -> None:
        header = self._header
        if self._body is not None:  # between the parts of a partial packet
            self._set_length(header)
            return
        if not header[0] & 0x80:
            raise Malformed("something that is no OpenPGP packet is in it")
        if header[0] & 0x40:
            if len(header) > 1:
                self._set_length(header[1:], tag=header[0] & 0x3F)
            return
        size = 1 << (header[0] & 3)
        tag = (header[0] >> 2) & 0x0F
        if size == 8:
            self._open(tag, None)
        elif len(header) == 1 + size:
            self._open(tag, int.from_bytes(header[1:], "big"))

    def _set_length(self, octets: bytearray, tag: int | None = None) -> None:
        first = octets[0]
        partial = False
        if first < 192:
            length = first
        elif first < 224:
            if len(octets) < 2:
                return
            length = ((first - 192) << 8) + octets[1] + 192
        elif first < 255:
            length, partial = 1 << (first & 0x1F), True
        else:
            if len(octets) < 5:
                return
            length = int.from_bytes(octets[1:5], "big")
        if tag is not None and partial and length < 512:
            raise Malformed("its first part is shorter than 512 bytes")
        self._partial = partial
        self._open(tag, length)

    def _open(self, tag: int | None, length: int | None) -> None:
        self._header.clear()
        if tag is not None:
            self._body = self._begin(tag)
        self._remaining = length
        self._end_of_chunk()

    def _end_of_chunk(self) -> None:
        if self._remaining == 0 and not self._partial:
            self._end_of_body()

    def _end_of_body(self) -> None:
        body, self._body, self._remaining = self._body, None, 0
        if body is not None:
            body.finish()


class Collected:
    """A body that is short enough to be kept; hands it to `done` when complete."""

    def __init__(self, done: Callable[[bytes], None], limit: int) -> None:
        self._done = done
        self._limit = limit
        self._data = bytearray()

    def write(self, data: memoryview) -> None:
        """Keep the next bytes."""
        self._data += data
        if len(self._data) > self._limit:
            raise Malformed("it has a packet that is too long for its kind")

    def finish(self) -> None:
        """Hand the body on."""
        self._done(bytes(self._data))


class Skipped:
    """A body that nobody looks at."""

    def write(self, data: memoryview) -> None:
        """Drop the bytes."""

    def finish(self) -> None:
        """Nothing to do."""
