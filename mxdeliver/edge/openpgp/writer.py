"""Writes an encrypted message as its plaintext arrives, in constant memory.

Per recipient a session key packet, then one integrity protected packet (version 1: AES in CFB mode
with a SHA-1 modification detection code, RFC 9580 section 5.13.1, which every reader knows) in parts
of 64 KiB, in it one binary literal packet without name and date. No compression: its length would
tell of the content, and the Avro inside is compressed already.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha1

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from mxdeliver.core.errors import EncryptVerify
from mxdeliver.core.streams import Buffer, Sink
from mxdeliver.edge.openpgp.ciphers import AES_128, CFB, SESSION_KEY_SIZES
from mxdeliver.edge.openpgp.model import EncryptionKey
from mxdeliver.edge.openpgp.packets import Tag, length_octets
from mxdeliver.edge.openpgp.wrapping import session_key_packet

_PART = 16
_PART_SIZE = 1 << _PART
_PART_HEADER = bytes((0xE0 | _PART,))
_PIECES_WORTH_A_THREAD = 6
_BLOCK = 16
_LITERAL_HEADER = b"b\0" + bytes(4)


class MessageWriter:
    """Encrypts what is written to it and gives the message to `sink`.

    The session key and the prefix are drawn from `random`; what wrapping needs beyond them comes
    from `cryptography`. The message is whole only after `finish`.
    """

    def __init__(
        self,
        recipients: Sequence[EncryptionKey],
        sink: Sink,
        *,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        if not recipients:
            raise EncryptVerify("a message without recipients was asked for")
        cipher = _common_cipher(recipients)
        session_key = random(SESSION_KEY_SIZES[cipher])
        for recipient in recipients:
            sink(session_key_packet(recipient, cipher, session_key))
        prefix = random(_BLOCK)
        self._packet = _EncryptedPacket(sink, session_key)
        self._packet.write([prefix, prefix[-2:], bytes((0xC0 | Tag.LITERAL,))])
        self._pending = bytearray(_LITERAL_HEADER)

    def write(self, data: Buffer) -> None:
        """Take the next bytes of the plaintext."""
        view = memoryview(data).cast("B")
        room = _PART_SIZE - len(self._pending)
        if len(view) < room:
            self._pending += view
            return
        pieces: list[Buffer] = [_PART_HEADER, bytes(self._pending), view[:room]]
        whole = room + (len(view) - room) // _PART_SIZE * _PART_SIZE
        for start in range(room, whole, _PART_SIZE):
            pieces += [_PART_HEADER, view[start : start + _PART_SIZE]]
        self._packet.write(pieces)
        self._pending[:] = view[whole:]

    def finish(self) -> None:
        """End the message; nothing can be written afterwards."""
        self._packet.write([length_octets(len(self._pending)), bytes(self._pending)])
        self._packet.finish()


class _EncryptedPacket:
    """Encrypts and hashes plaintext and gives it to `sink` in parts, from one buffer.

    Each is about half of the work, and both let other threads run meanwhile: what is long is hashed
    in a thread of its own. The thread ends with `finish`, or with this object.
    """

    def __init__(self, sink: Sink, session_key: bytes) -> None:
        self._sink = sink
        self._encryptor = Cipher(algorithms.AES(session_key), CFB(bytes(_BLOCK))).encryptor()
        self._hash = sha1(usedforsecurity=False)
        self._hasher: ThreadPoolExecutor | None = None
        # header octet, the part, and a block in hand, which `update_into` asks for
        self._buffer = memoryview(bytearray(1 + _PART_SIZE + _BLOCK))
        self._buffer[:1] = _PART_HEADER
        self._buffer[1] = 1  # the packet's version
        self._filled = 1
        sink(bytes((0xC0 | Tag.ENCRYPTED,)))

    def write(self, pieces: Sequence[Buffer]) -> None:
        if len(pieces) < _PIECES_WORTH_A_THREAD:
            self._hash_all(pieces)
            self._encrypt_all(pieces)
            return
        self._hasher = self._hasher or ThreadPoolExecutor(1, "openpgp-hash")
        hashed = self._hasher.submit(self._hash_all, pieces)
        try:
            self._encrypt_all(pieces)
        finally:
            hashed.result()  # the buffers are the caller's again when this returns

    def _hash_all(self, pieces: Sequence[Buffer]) -> None:
        for piece in pieces:
            self._hash.update(piece)

    def _encrypt_all(self, pieces: Sequence[Buffer]) -> None:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                fitting = view[: _PART_SIZE - self._filled]
                self._encryptor.update_into(fitting, self._buffer[1 + self._filled :])
                self._filled += len(fitting)
                view = view[len(fitting) :]
                if self._filled == _PART_SIZE:
                    self._sink(self._buffer[: 1 + _PART_SIZE])
                    self._filled = 0

    def finish(self) -> None:
        if self._hasher is not None:
            self._hasher.shutdown()
        header = bytes((0xC0 | Tag.MODIFICATION_DETECTION, 20))
        self._hash.update(header)
        self._encrypt_all([header + self._hash.digest()])
        self._sink(length_octets(self._filled) + self._buffer[1 : 1 + self._filled])


def _common_cipher(recipients: Sequence[EncryptionKey]) -> int:
    """Choose the strongest AES that all read; AES-128 is every reader's duty (RFC 9580 section 9.3)."""
    common = set[int](SESSION_KEY_SIZES).intersection(*(one.ciphers for one in recipients))
    return max(common, default=AES_128)
