"""Watches a message that is being written: the right recipients, protected, whole."""

from __future__ import annotations

from collections.abc import Sequence

from mxdeliver.core.errors import EncryptVerify
from mxdeliver.core.streams import Buffer
from mxdeliver.edge.openpgp.model import EncryptionKey
from mxdeliver.edge.openpgp.packets import (
    Body,
    Collected,
    Cursor,
    Malformed,
    PacketStream,
    Tag,
)

SESSION_KEY_LIMIT = 4096
"""Bytes of a session key packet; RSA 16384 needs 2,060."""
_LEAST = 1 + 18 + 8 + 22
"""Version, prefix, an empty literal packet, modification detection code."""


class MessageCheck:
    """Parses ciphertext as it passes, without any key, in constant memory.

    EncryptVerify, from `write` or `finish`, unless there is one session key packet for each of
    `recipients`, no other, then one integrity protected packet (version 1), complete, and nothing
    after it.
    """

    def __init__(self, recipients: Sequence[EncryptionKey]) -> None:
        self._expected = sorted((one.key_id, one.algorithm_number) for one in recipients)
        self._found: list[tuple[str, int]] = []
        self._stream = PacketStream(self._begin)
        self._encrypted: _Encrypted | None = None

    def write(self, data: Buffer) -> None:
        """Look at the next bytes of the message."""
        try:
            self._stream.write(data)
        except Malformed as error:
            raise EncryptVerify(f"the message is not well formed: {error}") from error

    def finish(self) -> None:
        """Nothing follows."""
        try:
            self._stream.finish()
        except Malformed as error:
            raise EncryptVerify(f"the message is not whole: {error}") from error
        if self._encrypted is None:
            raise EncryptVerify("the message is not whole: there is no encrypted data in it")

    def _begin(self, tag: int) -> Body:
        if self._encrypted is not None:
            raise Malformed("something follows the encrypted data")
        if tag == Tag.SESSION_KEY:
            return Collected(self._session_key, SESSION_KEY_LIMIT)
        if tag != Tag.ENCRYPTED:
            raise Malformed("a packet that does not belong there is in it")
        if sorted(self._found) != self._expected:
            raise Malformed("its recipients are not exactly the vetted keys")
        self._encrypted = _Encrypted()
        return self._encrypted

    def _session_key(self, body: bytes) -> None:
        cursor = Cursor(body)
        if cursor.number(1) != 3:
            raise Malformed("a session key packet is not of version 3")
        self._found.append((cursor.take(8).hex().upper(), cursor.number(1)))
        cursor.integer()  # both RSA and ECDH begin with a number


class _Encrypted:
    def __init__(self) -> None:
        self._size = 0

    def write(self, data: memoryview) -> None:
        if self._size == 0 and data[0] != 1:
            raise Malformed("its encrypted data is not of version 1")
        self._size += len(data)

    def finish(self) -> None:
        if self._size < _LEAST:
            raise Malformed("its encrypted data is too short")
