"""Reads an encrypted message as a stream: success only after its integrity held to the last byte.

Read is what common programs write: session keys of version 3, integrity protected data of version 1,
in it a literal packet, often compressed, perhaps with signatures around it (which are passed over:
who sent the data is told by where it lies). Refused are data without integrity protection and the
AEAD kinds. What `sink` was given before a failure is not to be trusted; gpg hands out such bytes
too.
"""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha1
from hmac import compare_digest
from typing import BinaryIO, Protocol

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from mxdeliver.core.errors import MessageUnreadable, peer_text
from mxdeliver.core.streams import Buffer, Sink
from mxdeliver.edge.openpgp.armor import ArmorStream
from mxdeliver.edge.openpgp.ciphers import CFB, SESSION_KEY_SIZES
from mxdeliver.edge.openpgp.packets import (
    Body,
    Collected,
    Cursor,
    Malformed,
    PacketStream,
    Skipped,
    Tag,
)
from mxdeliver.edge.openpgp.secret_keys import SecretKeyring

_CHUNK = 512 * 1024
_PIECE = 64 * 1024
_PREFIX = 18
_TRAILER = 22
_DEPTH_LIMIT = 1
"""Every further layer would let a short message inflate a thousand times longer."""
_SESSION_KEY_LIMIT = 4096
_RECIPIENTS_LIMIT = 500
"""Each may cost an RSA decryption, and one to nobody in particular as many as there are keys."""
_ASIDE = frozenset({Tag.ONE_PASS_SIGNATURE, Tag.SIGNATURE, Tag.MARKER, Tag.PADDING, Tag.TRUST})


def decrypt(source: BinaryIO, keyring: SecretKeyring, sink: Sink) -> None:
    """Decrypt the message in `source`, armored or binary, into `sink`; memory stays constant.

    Raises MessageUnreadable; errors of `source` and `sink` pass through.
    """
    message = _Message(keyring, sink)
    stream = PacketStream(message.begin)
    try:
        first = source.read(_CHUNK)
        text = bool(first) and not first[0] & 0x80
        armor = ArmorStream(stream.write) if text else None
        write = armor.write if armor else stream.write
        while first:
            write(first)
            first = source.read(_CHUNK)
        if armor:
            armor.finish()
        stream.finish()
        message.finish()
    except Malformed as error:
        raise MessageUnreadable(f"the message cannot be read: {error}") from error


class _Message:
    """The outermost packets: session keys, then the encrypted data, then nothing."""

    def __init__(self, keyring: SecretKeyring, sink: Sink) -> None:
        self._keyring = keyring
        self._sink = sink
        self._addressed: list[str] = []
        self._session_keys: list[tuple[int, bytes]] = []
        self._encrypted = False

    def begin(self, tag: int) -> Body:
        if tag in {Tag.MARKER, Tag.PADDING}:
            return Skipped()
        if self._encrypted:
            raise Malformed("something follows the encrypted data")
        if tag == Tag.SESSION_KEY:
            return Collected(self._session_key, _SESSION_KEY_LIMIT)
        if tag == Tag.PASSWORD_SESSION_KEY:
            return Skipped()
        if tag == Tag.ENCRYPTED:
            self._encrypted = True
            return _EncryptedData(self._usable_session_keys(), _Contents(self._sink))
        if tag == Tag.ENCRYPTED_WITHOUT_INTEGRITY:
            raise Malformed("it has no integrity protection, so it could have been changed")
        if tag == Tag.ENCRYPTED_AEAD:
            raise Malformed("it uses the AEAD encryption of LibrePGP, which is not supported")
        raise Malformed("it is not an encrypted OpenPGP message")

    def finish(self) -> None:
        if not self._encrypted:
            raise Malformed("there is no encrypted data in it")

    def _session_key(self, body: bytes) -> None:
        if len(self._addressed) == _RECIPIENTS_LIMIT:
            raise Malformed(f"it is encrypted to more than {_RECIPIENTS_LIMIT} keys")
        cursor = Cursor(body)
        if cursor.number(1) != 3:
            self._addressed.append("a key of a newer version")
            return
        key_id = cursor.take(8).hex().upper()
        algorithm = cursor.number(1)
        self._addressed.append(key_id)
        self._session_keys += self._keyring.session_keys(key_id, algorithm, cursor.rest())

    def _usable_session_keys(self) -> list[tuple[int, bytes]]:
        if self._session_keys:
            return self._session_keys
        if set(self._addressed) & set(self._keyring.key_ids):
            raise Malformed("its session key is damaged")
        if not self._addressed:
            raise Malformed("it is encrypted to no key")
        names = peer_text(", ".join(self._addressed))
        raise Malformed(f"it is encrypted to {names}, and the secret key is another one")


class _EncryptedData:
    """An integrity protected packet's body (RFC 9580 section 5.13.1), decrypted into `contents`."""

    def __init__(self, session_keys: list[tuple[int, bytes]], contents: _Contents) -> None:
        self._session_keys = session_keys
        self._contents = contents
        self._head = bytearray()
        self._decryptor: _Decryptor | None = None

    def write(self, data: memoryview) -> None:
        if self._decryptor is not None:
            self._decryptor.write(data)
            return
        taken = 1 + _PREFIX - len(self._head)
        self._head += data[:taken]
        if self._head[0] == 2:
            raise Malformed("it uses AEAD encryption of RFC 9580, which is not supported")
        if self._head[0] != 1:
            raise Malformed("its encrypted data is of an unknown version")
        if len(self._head) == 1 + _PREFIX:
            self._decryptor = self._begin(bytes(self._head[1:]))
            self._decryptor.write(data[taken:])

    def _begin(self, head: bytes) -> _Decryptor:
        """Choose the session key that fits the prefix, whose last two bytes are repeated."""
        for cipher, key in self._session_keys:
            if cipher not in SESSION_KEY_SIZES:
                raise Malformed("it uses a cipher other than AES, which is not supported")
            decryptor = Cipher(algorithms.AES(key), CFB(bytes(16))).decryptor()
            prefix = decryptor.update(head)
            if prefix[-2:] == prefix[-4:-2]:
                return _Decryptor(decryptor.update_into, prefix, self._contents)
        raise Malformed("its encrypted data is damaged, or the session key is another one")

    def finish(self) -> None:
        if self._decryptor is None:
            raise Malformed("its encrypted data is too short")
        self._decryptor.finish()


class _Decryptor:
    """Decrypts into one buffer, keeps back what may be the modification detection code, hashes.

    Hashing runs in a thread of its own beside what is done with the plaintext; it ends with
    `finish`, or with this object.
    """

    def __init__(
        self,
        update_into: Callable[[memoryview, memoryview], int],
        prefix: bytes,
        contents: _Contents,
    ) -> None:
        self._update_into = update_into
        self._contents = contents
        self._hash = sha1(prefix, usedforsecurity=False)
        self._hasher = ThreadPoolExecutor(1, "openpgp-hash")
        # a block in hand, which `update_into` asks for
        self._buffer = memoryview(bytearray(_TRAILER + _CHUNK + 16))
        self._filled = 0

    def write(self, data: memoryview) -> None:
        while data:
            piece = data[: _TRAILER + _CHUNK - self._filled]
            self._update_into(piece, self._buffer[self._filled :])
            self._filled += len(piece)
            data = data[len(piece) :]
            if self._filled == _TRAILER + _CHUNK:
                self._take()

    def _take(self) -> None:
        """Hash and pass on all but the last bytes, which may be the code."""
        ready = max(0, self._filled - _TRAILER)
        plaintext = self._buffer[:ready]
        hashed = self._hasher.submit(self._hash.update, plaintext)
        try:
            self._contents.write(plaintext)
        finally:
            hashed.result()  # the buffer is used again
        kept = bytes(self._buffer[ready : self._filled])
        self._buffer[: len(kept)] = kept
        self._filled = len(kept)

    def finish(self) -> None:
        self._take()
        self._hasher.shutdown()
        trailer = bytes(self._buffer[: self._filled])
        self._hash.update(trailer[:2])
        if trailer[:2] != b"\xd3\x14" or not compare_digest(trailer[2:], self._hash.digest()):
            raise Malformed("it was changed or cut short: its integrity code is wrong")
        self._contents.finish()


class _Contents:
    """Packets inside the encryption or a compression: exactly one that holds data."""

    def __init__(self, sink: Sink, depth: int = 0) -> None:
        self._sink = sink
        self._depth = depth
        self._found = False
        self._stream = PacketStream(self._begin)

    def write(self, data: memoryview) -> None:
        self._stream.write(data)

    def finish(self) -> None:
        self._stream.finish()
        if not self._found:
            raise Malformed("there is no data in it")

    def _begin(self, tag: int) -> Body:
        if tag in _ASIDE:
            return Skipped()
        if self._found:
            raise Malformed("something follows the data")
        self._found = True
        if tag == Tag.LITERAL:
            return _Literal(self._sink)
        if tag == Tag.COMPRESSED:
            if self._depth == _DEPTH_LIMIT:
                raise Malformed("it is compressed more than once")
            return _Compressed(_Contents(self._sink, self._depth + 1))
        raise Malformed("what is encrypted in it is no data")


class _Literal:
    """A literal packet's body (RFC 9580 section 5.9): format, name, date, and the data."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._head = bytearray()
        self._head_size = 6

    def write(self, data: memoryview) -> None:
        if len(self._head) < self._head_size:
            while data and len(self._head) < self._head_size:
                self._head.append(data[0])
                data = data[1:]
                if len(self._head) == 2:
                    self._head_size = 6 + self._head[1]
        if data:
            self._sink(data)

    def finish(self) -> None:
        if len(self._head) < self._head_size:
            raise Malformed("its data is cut short")


class _Compressed:
    """A compressed packet's body (RFC 9580 section 5.6), inflated piece by piece."""

    def __init__(self, contents: _Contents) -> None:
        self._contents = contents
        self._inflater: _Inflater | None = None

    def write(self, data: memoryview) -> None:
        if self._inflater is None:
            self._inflater = _inflater(data[0])
            data = data[1:]
        for piece in self._inflater.pieces(data):
            self._contents.write(memoryview(piece))

    def finish(self) -> None:
        if self._inflater is None or not self._inflater.complete:
            raise Malformed("its compressed data is cut short")
        self._contents.finish()


class _Inflater(Protocol):
    @property
    def complete(self) -> bool:
        """Whether the end of the compressed data was seen."""

    def pieces(self, data: memoryview) -> Iterator[Buffer]:
        """Give what comes of `data`, bounded piece by bounded piece, so that no bomb fills memory."""


def _inflater(algorithm: int) -> _Inflater:
    if algorithm == 0:
        return _Plain()
    if algorithm in {1, 2}:
        return _Zlib(-15 if algorithm == 1 else 15)
    if algorithm == 3:
        return _Bzip2()
    raise Malformed("it is compressed in an unknown way")


class _Plain:
    @property
    def complete(self) -> bool:
        return True

    def pieces(self, data: memoryview) -> Iterator[Buffer]:
        yield data


class _Zlib:
    def __init__(self, window: int) -> None:
        self._zlib = zlib.decompressobj(window)

    @property
    def complete(self) -> bool:
        return self._zlib.eof

    def pieces(self, data: memoryview) -> Iterator[Buffer]:
        rest: Buffer = data
        while rest or not self._zlib.eof:
            if self._zlib.eof:
                raise Malformed("something follows the compressed data")
            try:
                piece = self._zlib.decompress(rest, _PIECE)
            except zlib.error as error:
                raise Malformed("its compressed data is damaged") from error
            rest = self._zlib.unconsumed_tail or self._zlib.unused_data
            if not piece and not rest:
                return
            yield piece


class _Bzip2:
    def __init__(self) -> None:
        self._bzip2 = bz2.BZ2Decompressor()

    @property
    def complete(self) -> bool:
        return self._bzip2.eof

    def pieces(self, data: memoryview) -> Iterator[Buffer]:
        rest: Buffer = data
        while not self._bzip2.eof and (rest or not self._bzip2.needs_input):
            try:
                piece = self._bzip2.decompress(rest, _PIECE)
            except OSError as error:
                raise Malformed("its compressed data is damaged") from error
            rest = b""
            yield piece
        if rest or self._bzip2.unused_data:
            raise Malformed("something follows the compressed data")
