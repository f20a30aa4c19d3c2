"""The text form of OpenPGP (RFC 9580 section 6), read as it arrives from people.

Accepted: a byte order mark, UTF-16 (PowerShell's `>`), CRLF, text before and after, indentation, a
missing checksum, and binary in place of text. A wrong checksum is refused, and what is not an
OpenPGP certificate is named by what it is. Nothing of a file's content appears in an error.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Callable
from itertools import dropwhile

from mxdeliver.core.errors import KeyParse, KeySecretSupplied
from mxdeliver.edge.openpgp.packets import Malformed

_BEGIN = re.compile(rb"-----BEGIN PGP ([A-Z0-9 ,/]{1,60})-----")
_PRIVATE = re.compile(rb"-----BEGIN ([A-Z0-9]{1,20} )?(ENCRYPTED )?PRIVATE KEY-----")
_CHECKSUM = re.compile(rb"=[A-Za-z0-9+/]{4}")
_MESSAGE_HEAD = re.compile(
    # a header's first colon ends its name: with any colon, lines full of them match in endless ways
    rb"-----BEGIN PGP MESSAGE-----[ \t]*\r?\n(?:[^\n:]*:[^\n]*\n)*[ \t]*\r?\n"
)
_HEAD_LIMIT = 64 * 1024
_CERTIFICATE_STARTS = bytes((0x98, 0x99, 0x9A, 0xC6, 0x94, 0x95, 0x96, 0xC5))
_WRONG_THINGS = (
    (re.compile(rb"-----BEGIN (TRUSTED |X509 )?CERTIFICATE"), "an X.509 certificate"),
    (re.compile(rb"-----BEGIN (RSA |EC )?PUBLIC KEY"), "a public key in PEM form, not OpenPGP"),
    (re.compile(rb"-----BEGIN (PKCS7|CMS)"), "an S/MIME file"),
    (re.compile(rb"---- BEGIN SSH2 PUBLIC KEY|^(ssh-|ecdsa-sha2-|sk-)"), "an SSH public key"),
    (re.compile(rb"^PuTTY-User-Key-File"), "a PuTTY key file"),
    (re.compile(rb"^\s*<"), "a web page or XML"),
    (re.compile(rb"^\s*[{\[]"), "JSON"),
    (re.compile(rb"^\x30[\x80-\x84]"), "an X.509 certificate or key in binary form (DER)"),
    (re.compile(rb"^PK\x03\x04|^\x1f\x8b"), "a packed archive"),
)


def certificate_bytes(data: bytes) -> bytes:
    """Give the binary packets in a key file, armored or not.

    Raises KeyParse when there are none, naming what is there instead, and KeySecretSupplied for
    the text form of a private key of any kind.
    """
    if not data.strip():
        raise KeyParse("the public key file is empty")
    if data[0] in _CERTIFICATE_STARTS:
        return data
    text = as_utf8(data)
    if _PRIVATE.search(text) or b"PGP PRIVATE KEY BLOCK" in text:
        raise KeySecretSupplied("the file holds a private key")
    labels = [match.group(1) for match in _BEGIN.finditer(text)]
    if b"PUBLIC KEY BLOCK" in labels:
        try:
            return b"".join(armored_blocks(text, b"PUBLIC KEY BLOCK"))
        except Malformed as error:
            raise KeyParse(f"the public key is damaged: {error}") from error
    if labels:
        raise KeyParse(f"the file holds {_label_name(labels[0])}, not a public key")
    for pattern, name in _WRONG_THINGS:
        if pattern.search(text):
            raise KeyParse(f"the file holds {name}, not an OpenPGP public key")
    if data[0] & 0x80:
        return data
    raise KeyParse("there is no OpenPGP public key in the file")


def as_utf8(data: bytes) -> bytes:
    """Drop a byte order mark, and undo UTF-16."""
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        return data.decode("utf-16", "replace").encode()
    return data.removeprefix(b"\xef\xbb\xbf")


def _label_name(label: bytes) -> str:
    names = {
        b"MESSAGE": "an encrypted message",
        b"SIGNATURE": "a signature",
        b"SIGNED MESSAGE": "a signed text",
    }
    return names.get(label, "another kind of OpenPGP data")


def armored_blocks(text: bytes, label: bytes) -> list[bytes]:
    """Give the bytes of every armored block with this label; Malformed for a damaged one."""
    lines = [line.strip().strip(b"\xc2\xa0").strip() for line in text.splitlines()]
    begin, end = b"-----BEGIN PGP %b-----" % label, b"-----END PGP %b-----" % label
    blocks = []
    inside: list[bytes] | None = None
    for line in lines:
        if line.endswith(begin):
            inside = []
        elif line.startswith(end) and inside is not None:
            blocks.append(_decoded(inside))
            inside = None
        elif inside is not None:
            inside.append(line)
    if inside is not None:
        raise Malformed("its END line is missing, so it is cut short")
    return blocks


def _decoded(lines: list[bytes]) -> bytes:
    checksum = None
    body = list(dropwhile(lambda line: b":" in line, filter(None, lines)))
    if body and _CHECKSUM.fullmatch(body[-1]):
        checksum = b64decode(body.pop()[1:])
    try:
        data = b64decode(b"".join(b"".join(line.split()) for line in body), validate=True)
    except binascii.Error as error:
        raise Malformed("its text was changed on the way") from error
    if checksum is not None and crc24(data).to_bytes(3, "big") != checksum:
        raise Malformed("its checksum is wrong")
    if not data:
        raise Malformed("there is nothing between its first and last line")
    return data


def crc24(data: bytes) -> int:
    """Compute the armor checksum (RFC 9580 section 6.1.1)."""
    value = 0xB704CE
    for byte in data:
        value = (value << 8 ^ _CRC24[(value >> 16 ^ byte) & 0xFF]) & 0xFFFFFF
    return value


def _crc24_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte << 16
        for _ in range(8):
            value <<= 1
            if value & 0x1000000:
                value ^= 0x1864CFB
        table.append(value)
    return tuple(table)


_CRC24 = _crc24_table()


class ArmorStream:
    """Turns the armored text of one message into bytes as it arrives.

    The checksum is not compared: a message's integrity code says more. Raises Malformed.
    """

    def __init__(self, sink: Callable[[bytes], object]) -> None:
        self._sink = sink
        self._text = bytearray()
        self._take = self._take_begin
        self._padded = False
        self._ended = False

    def write(self, data: bytes) -> None:
        """Take the next bytes of the text."""
        self._text += data
        self._take()

    def finish(self) -> None:
        """Nothing follows: the END line must have been there."""
        if not self._ended:
            raise Malformed("it is cut short")

    def _take_begin(self) -> None:
        found = _MESSAGE_HEAD.search(self._text)
        if found:
            del self._text[: found.end()]
            self._take = self._take_body
            self._take_body()
        elif len(self._text) > _HEAD_LIMIT:
            raise Malformed("it is not an OpenPGP message")

    def _take_body(self) -> None:
        end = self._text.find(b"-")
        self._ended = end >= 0
        text = self._text[:end] if self._ended else self._text
        characters = bytes(text.translate(None, b" \t\r\n"))
        padding = characters.find(b"=")
        if padding >= 0 and not self._padded:
            whole = padding if padding % 4 == 0 else padding - padding % 4 + 4
            if len(characters) < whole and not self._ended:
                whole = 0
            self._padded = whole > 0 or padding == 0
        else:
            whole = 0 if self._padded else len(characters) // 4 * 4
        try:
            data = b64decode(characters[:whole], validate=True)
        except binascii.Error as error:
            raise Malformed("its text was changed on the way") from error
        self._text[:] = characters[whole:]
        if self._ended:
            self._take = self._text.clear
        if data:
            self._sink(data)
