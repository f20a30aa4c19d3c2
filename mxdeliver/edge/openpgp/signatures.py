"""Signature packets: read, and verified for real (RFC 9580 section 5.2). Version 4 only.

What a signature says is taken from its hashed part alone, and means something only once
`Signature.verifies` has said so.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

from mxdeliver.edge.openpgp.keys import ECDSA, ED448, ED25519, EDDSA, RSA, RSA_SIGN_ONLY, PublicKey
from mxdeliver.edge.openpgp.packets import Cursor, Malformed

CERTIFICATIONS = frozenset({0x10, 0x11, 0x12, 0x13})
SUBKEY_BINDING, DIRECT_KEY = 0x18, 0x1F
KEY_REVOCATION, SUBKEY_REVOCATION, CERTIFICATION_REVOCATION = 0x20, 0x28, 0x30

_HASHES: dict[int, tuple[str, hashes.HashAlgorithm]] = {
    1: ("md5", hashes.MD5()),  # noqa: S303 - only to tell a weak signature from a broken one
    2: ("sha1", hashes.SHA1()),  # noqa: S303 - as above, and to honour old revocations
    8: ("sha256", hashes.SHA256()),
    9: ("sha384", hashes.SHA384()),
    10: ("sha512", hashes.SHA512()),
    11: ("sha224", hashes.SHA224()),
    12: ("sha3_256", hashes.SHA3_256()),
    14: ("sha3_512", hashes.SHA3_512()),
}
_WEAK_HASHES = frozenset({1, 2})

_CREATED, _SIGNATURE_LIFETIME, _KEY_LIFETIME, _CIPHERS = 2, 3, 9, 11
_DESIGNATED_REVOKER, _ISSUER, _NOTATION, _FLAGS = 12, 16, 20, 27
_REVOCATION_REASON, _ISSUER_FINGERPRINT = 29, 33
_UNDERSTOOD = frozenset({2, 3, 4, 5, 7, 9, 11, 12, 16, *range(21, 31), 32, 33, 34, 39})
"""Subpackets that change nothing for us, or that we act upon; a critical other one does."""
_SOFT_REASONS = frozenset({1, 3})
"""Superseded and retired: what was encrypted to the key before stays safe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One version 4 signature packet. The properties speak of its hashed subpackets."""

    kind: int
    algorithm: int
    hash_algorithm: int
    hashed_part: bytes
    numbers: bytes
    hashed: dict[int, bytes]
    issuers: frozenset[str]
    ununderstood: bool

    @property
    def created_at(self) -> datetime:
        """When it was made."""
        return datetime.fromtimestamp(int.from_bytes(self.hashed[_CREATED], "big"), UTC)

    @property
    def ends_at(self) -> datetime | None:
        """When it stops counting; None for never."""
        return self._after(self.created_at, _SIGNATURE_LIFETIME)

    def key_ends_at(self, key: PublicKey) -> datetime | None:
        """When the key that it speaks of expires; None for never."""
        return self._after(key.created_at, _KEY_LIFETIME)

    def _after(self, begin: datetime, subpacket: int) -> datetime | None:
        seconds = int.from_bytes(self.hashed.get(subpacket, b"")[:4], "big")
        return begin + timedelta(seconds=seconds) if seconds else None

    @property
    def speaks_of_lifetime(self) -> bool:
        """Whether it carries a key expiration time at all."""
        return _KEY_LIFETIME in self.hashed

    @property
    def flags(self) -> int | None:
        """What the key may do (RFC 9580 section 5.2.3.29), None where it does not say."""
        return self.hashed[_FLAGS][0] if self.hashed.get(_FLAGS) else None

    @property
    def ciphers(self) -> bytes | None:
        """The symmetric algorithms that the owner reads, best first."""
        return self.hashed.get(_CIPHERS)

    @property
    def designated_revoker(self) -> str | None:
        """Another key that may revoke this one: its key id."""
        value = self.hashed.get(_DESIGNATED_REVOKER, b"")
        return value[-8:].hex().upper() if len(value) == 22 else None

    @property
    def is_weak(self) -> bool:
        """Whether its hash no longer protects."""
        return self.hash_algorithm in _WEAK_HASHES

    @property
    def is_soft_revocation(self) -> bool:
        """Whether it revokes from its own time on only; a reason that is missing is a hard one."""
        return self.hashed.get(_REVOCATION_REASON, b"\0")[:1] in {
            bytes((n,)) for n in _SOFT_REASONS
        }

    def may_be_from(self, key: PublicKey) -> bool:
        """Whether it names `key` as its maker, or nobody."""
        return not self.issuers or key.key_id in self.issuers

    def verifies(self, key: PublicKey, signed: bytes) -> bool:
        """Whether `key` made it over `signed` (RFC 9580 section 5.2.4)."""
        if self.hash_algorithm not in _HASHES or key.native is None:
            return False
        name, algorithm = _HASHES[self.hash_algorithm]
        trailer = b"\x04\xff" + len(self.hashed_part).to_bytes(4, "big")
        try:
            digest = hashlib.new(name, usedforsecurity=False)
            for part in (signed, self.hashed_part, trailer):
                digest.update(part)
            self._verify(key, digest.digest(), algorithm)
        except (InvalidSignature, UnsupportedAlgorithm, ValueError):  # Malformed is a ValueError
            return False
        return True

    def _verify(self, key: PublicKey, digest: bytes, algorithm: hashes.HashAlgorithm) -> None:
        cursor = Cursor(self.numbers)
        native = key.native
        if isinstance(native, rsa.RSAPublicKey) and self.algorithm in {RSA, RSA_SIGN_ONLY}:
            value = cursor.integer().rjust((key.bits + 7) // 8, b"\0")
            native.verify(value, digest, padding.PKCS1v15(), Prehashed(algorithm))
        elif isinstance(native, ec.EllipticCurvePublicKey) and self.algorithm == ECDSA:
            r, s = (int.from_bytes(cursor.integer(), "big") for _ in range(2))
            native.verify(encode_dss_signature(r, s), digest, ec.ECDSA(Prehashed(algorithm)))
        elif isinstance(native, ed25519.Ed25519PublicKey) and self.algorithm == EDDSA:
            native.verify(b"".join(cursor.integer().rjust(32, b"\0") for _ in range(2)), digest)
        elif isinstance(native, ed25519.Ed25519PublicKey) and self.algorithm == ED25519:
            native.verify(cursor.take(64), digest)
        elif isinstance(native, ed448.Ed448PublicKey) and self.algorithm == ED448:
            native.verify(cursor.take(114), digest)
        else:
            raise Malformed("a signature's algorithm is not its key's")


def read_signature(body: bytes) -> Signature | None:
    """Read a signature packet; None for one that cannot count: another version, or undated.

    Raises Malformed.
    """
    cursor = Cursor(body)
    if cursor.number(1) != 4:
        return None
    kind, algorithm, hash_algorithm = cursor.number(1), cursor.number(1), cursor.number(1)
    hashed = list(_subpackets(cursor.take(cursor.number(2))))
    hashed_part = body[: cursor.position]
    unhashed = list(_subpackets(cursor.take(cursor.number(2))))
    cursor.take(2)
    values = {number: value for number, _, value in hashed}
    if len(values.get(_CREATED, b"")) != 4:
        return None
    return Signature(
        kind=kind,
        algorithm=algorithm,
        hash_algorithm=hash_algorithm,
        hashed_part=hashed_part,
        numbers=cursor.rest(),
        hashed=values,
        issuers=frozenset(_issuers(hashed + unhashed)),
        ununderstood=any(critical and number not in _UNDERSTOOD for number, critical, _ in hashed),
    )


def _issuers(subpackets: list[tuple[int, bool, bytes]]) -> list[str]:
    ids = [value for number, _, value in subpackets if number == _ISSUER]
    ids += [value for number, _, value in subpackets if number == _ISSUER_FINGERPRINT]
    return [value[-8:].hex().upper() for value in ids]


def _subpackets(area: bytes) -> list[tuple[int, bool, bytes]]:
    cursor = Cursor(area)
    found = []
    while not cursor.ended:
        length = cursor.number(1)
        if length == 255:
            length = cursor.number(4)
        elif length >= 192:
            length = ((length - 192) << 8) + cursor.number(1) + 192
        content = cursor.take(length)
        if not content:
            raise Malformed("a signature has an empty subpacket")
        found.append((content[0] & 0x7F, bool(content[0] & 0x80), content[1:]))
    return found
