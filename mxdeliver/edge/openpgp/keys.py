"""Public key packets: what they are, and whether their algorithm protects (RFC 9580 section 5.5).

A key that cannot be used has a `concern`, a clause for people; reading it is not an error, so that
a certificate may hold one beside others that can be used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha1
from typing import TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x25519

from mxdeliver.edge.openpgp.packets import Cursor, Malformed

RSA, RSA_ENCRYPT_ONLY, RSA_SIGN_ONLY = 1, 2, 3
ELGAMAL, DSA, ECDH, ECDSA, ELGAMAL_OLD, EDDSA = 16, 17, 18, 19, 20, 22
X25519, X448, ED25519, ED448 = 25, 26, 27, 28
CAN_ENCRYPT = frozenset(
    {RSA, RSA_ENCRYPT_ONLY, ELGAMAL, ELGAMAL_OLD, ECDH, X25519, X448, 8, 35, 36}
)

RSA_LEAST, RSA_GOOD, RSA_MOST = 2048, 3072, 16384
"""Bits. Below the first refused, below the second a warning, above the third OpenSSL refuses."""

CURVES: dict[str, type[ec.EllipticCurve]] = {
    "2a8648ce3d030107": ec.SECP256R1,
    "2b81040022": ec.SECP384R1,
    "2b81040023": ec.SECP521R1,
}
CURVE25519 = "2b060104019755010501"
ED25519_CURVE = "2b06010401da470f01"
_CURVE_NAMES = {
    "2a8648ce3d030107": "NIST P-256",
    "2b81040022": "NIST P-384",
    "2b81040023": "NIST P-521",
    CURVE25519: "Curve25519",
    ED25519_CURVE: "Ed25519",
    "2b2403030208010107": "brainpoolP256r1",
    "2b240303020801010b": "brainpoolP384r1",
    "2b240303020801010d": "brainpoolP512r1",
    "2b8104000a": "secp256k1",
    "2b656f": "X448",
    "2b6571": "Ed448",
}
_OTHER_NAMES = {
    8: "Kyber (post-quantum, LibrePGP)",
    ELGAMAL: "ElGamal",
    ELGAMAL_OLD: "ElGamal",
    DSA: "DSA",
    X25519: "X25519 of RFC 9580",
    X448: "X448",
    ED25519: "Ed25519 of RFC 9580",
    ED448: "Ed448",
    30: "ML-DSA-65+Ed25519 (post-quantum)",
    31: "ML-DSA-87+Ed448 (post-quantum)",
    32: "SLH-DSA-SHAKE-128s (post-quantum)",
    33: "SLH-DSA-SHAKE-128f (post-quantum)",
    34: "SLH-DSA-SHAKE-256s (post-quantum)",
    35: "ML-KEM-768+X25519 (post-quantum)",
    36: "ML-KEM-1024+X448 (post-quantum)",
}
_VERSIONS = {
    2: "version 2, of PGP 2 in the 1990s",
    3: "version 3, of PGP 2 in the 1990s",
    5: "version 5 (LibrePGP)",
    6: "version 6 (RFC 9580)",
}
Native: TypeAlias = (
    rsa.RSAPublicKey
    | ec.EllipticCurvePublicKey
    | ed25519.Ed25519PublicKey
    | ed448.Ed448PublicKey
    | x25519.X25519PublicKey
)


class UnknownVersion(Malformed):
    """A key of a version other than 4, otherwise well formed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """One primary key or subkey, without what signatures say of it.

    `bits` is 0 except for RSA; `curve` is an object identifier in hex; `kdf` the two octets of
    RFC 6637 section 9 (hash, cipher); `native` is None where the algorithm is not supported.
    """

    body: bytes
    created_at: datetime
    algorithm: int
    name: str
    bits: int = 0
    curve: str = ""
    kdf: bytes = b""
    native: Native | None = None
    concern: str = ""

    @property
    def signed_form(self) -> bytes:
        """The bytes that fingerprints and signatures are made of."""
        return b"\x99" + len(self.body).to_bytes(2, "big") + self.body

    @property
    def fingerprint(self) -> str:
        """40 upper-case hex digits."""
        return sha1(self.signed_form, usedforsecurity=False).hexdigest().upper()

    @property
    def key_id(self) -> str:
        """The fingerprint's last 16 digits."""
        return self.fingerprint[-16:]


def read_public_key(body: bytes) -> PublicKey:
    """Read a public key packet's body, or the public part of a secret one.

    Bytes after the public part are not part of the result's `body`. Raises Malformed, and
    UnknownVersion naming the version.
    """
    cursor = Cursor(body)
    version = cursor.number(1)
    if version != 4:
        name = _VERSIONS.get(version, f"version {version}, which does not exist yet")
        raise UnknownVersion(f"is an OpenPGP key of {name}")
    created_at = datetime.fromtimestamp(cursor.number(4), UTC)
    algorithm = cursor.number(1)
    readers = {RSA: _rsa, RSA_ENCRYPT_ONLY: _rsa, RSA_SIGN_ONLY: _rsa}
    readers |= {ECDH: _curve_key, ECDSA: _curve_key, EDDSA: _curve_key}
    readers |= {ED25519: _ed25519, ED448: _ed448, DSA: _old, ELGAMAL: _old, ELGAMAL_OLD: _old}
    facts = readers.get(algorithm, _unknown)(cursor, algorithm)
    if cursor.position > 0xFFFF:
        raise Malformed("a key is too long")
    return PublicKey(
        body=body[: cursor.position],
        created_at=created_at,
        algorithm=algorithm,
        **facts,  # type: ignore[arg-type]  # the readers give the fields by name
    )


def _rsa(cursor: Cursor, algorithm: int) -> dict[str, object]:
    modulus = int.from_bytes(cursor.integer(), "big")
    exponent = int.from_bytes(cursor.integer(), "big")
    bits = modulus.bit_length()
    facts: dict[str, object] = {"name": f"RSA {bits}", "bits": bits}
    if algorithm == RSA_ENCRYPT_ONLY:
        return facts | {"concern": "RSA of the withdrawn encrypt-only kind is not supported"}
    if bits < RSA_LEAST:
        return facts | {"concern": f"RSA {bits} is too short, {RSA_LEAST} bits are the least"}
    if bits > RSA_MOST:
        return facts | {"concern": f"RSA {bits} is not supported, {RSA_MOST} bits are the most"}
    if not modulus & 1 or not exponent & 1 or exponent < 3 or exponent.bit_length() > 64:
        return facts | {"concern": "its RSA numbers do not protect"}
    return facts | _loaded(lambda: rsa.RSAPublicNumbers(exponent, modulus).public_key())


def _curve_key(cursor: Cursor, algorithm: int) -> dict[str, object]:
    curve = cursor.take(cursor.number(1)).hex()
    point = cursor.integer()
    kdf = cursor.take(cursor.number(1)) if algorithm == ECDH else b"\x01"
    name = _CURVE_NAMES.get(curve, "an unknown elliptic curve")
    facts: dict[str, object] = {"name": name, "curve": curve, "kdf": kdf[1:]}
    if algorithm == ECDH and (len(kdf) != 3 or kdf[0] != 1 or not _kdf_is_known(kdf)):
        return facts | {"concern": f"the key derivation of its {name} key is not supported"}
    if curve in CURVES and algorithm != EDDSA:
        kind = CURVES[curve]()
        return facts | _loaded(
            lambda: ec.EllipticCurvePublicKey.from_encoded_point(kind, point),
            allowed=point[:1] == b"\x04",
        )
    if curve == CURVE25519 and algorithm == ECDH:
        return facts | _loaded(
            lambda: x25519.X25519PublicKey.from_public_bytes(point[1:]),
            allowed=point[:1] == b"\x40",
        )
    if curve == ED25519_CURVE and algorithm == EDDSA:
        return facts | _loaded(
            lambda: ed25519.Ed25519PublicKey.from_public_bytes(point[1:]),
            allowed=point[:1] == b"\x40",
        )
    return facts | {"concern": f"{name} is not supported"}


def _kdf_is_known(kdf: bytes) -> bool:
    """SHA-2 of 256 bits and more, AES (RFC 9580 section 11.5.1)."""
    return kdf[1] in {8, 9, 10} and kdf[2] in {7, 8, 9}


def _ed25519(cursor: Cursor, algorithm: int) -> dict[str, object]:
    point = cursor.take(32)
    facts: dict[str, object] = {"name": _OTHER_NAMES[algorithm]}
    return facts | _loaded(lambda: ed25519.Ed25519PublicKey.from_public_bytes(point))


def _ed448(cursor: Cursor, algorithm: int) -> dict[str, object]:
    point = cursor.take(57)
    facts: dict[str, object] = {"name": _OTHER_NAMES[algorithm]}
    return facts | _loaded(lambda: ed448.Ed448PublicKey.from_public_bytes(point))


def _old(cursor: Cursor, algorithm: int) -> dict[str, object]:
    bits = int.from_bytes(cursor.integer(), "big").bit_length()
    for _ in range(3 if algorithm == DSA else 2):
        cursor.integer()
    name = f"{_OTHER_NAMES[algorithm]} {bits}"
    return {"name": name, "concern": f"{name} is out of date and not supported"}


def _unknown(cursor: Cursor, algorithm: int) -> dict[str, object]:
    cursor.rest()
    name = _OTHER_NAMES.get(algorithm, f"algorithm number {algorithm}")
    return {"name": name, "concern": f"{name} is not supported"}


def _loaded(load: Callable[[], Native], *, allowed: bool = True) -> dict[str, object]:
    """Let `cryptography` judge the numbers: a point off its curve is refused."""
    try:
        if allowed:
            return {"native": load()}
    except (ValueError, UnsupportedAlgorithm):
        pass
    return {"concern": "its numbers are not those of a valid key"}
