"""The recipient's secret keys: read from a file, unlocked, and used to unwrap session keys.

For `verify` and for tests; a sender never has one. Only keys that can decrypt are unlocked (RSA,
and ECDH over the NIST curves and Curve25519). Bindings are not verified: it is the owner's own file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, x25519
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from mxdeliver.core.errors import MessageUnreadable
from mxdeliver.core.secret import Secret
from mxdeliver.edge.openpgp.armor import armored_blocks, as_utf8
from mxdeliver.edge.openpgp.ciphers import CFB, PROTECTION_CIPHERS, SESSION_KEY_SIZES
from mxdeliver.edge.openpgp.keys import (
    CURVE25519,
    CURVES,
    ECDH,
    RSA,
    PublicKey,
    UnknownVersion,
    read_public_key,
)
from mxdeliver.edge.openpgp.packets import Cursor, Malformed, Packet, Tag, whole_packets

NativeSecret: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey
_KDF_HASHES: Mapping[int, hashes.HashAlgorithm] = {
    8: hashes.SHA256(),
    9: hashes.SHA384(),
    10: hashes.SHA512(),
}
_STRING_TO_KEY_HASHES = {1: "md5", 2: "sha1", 8: "sha256", 9: "sha384", 10: "sha512", 11: "sha224"}
_SIZE_LIMIT = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, repr=False)
class SecretKey:
    """One unlocked key that can decrypt."""

    public: PublicKey
    native: NativeSecret

    def unwrap(self, algorithm: int, wrapped: bytes) -> tuple[int, bytes] | None:
        """Give the symmetric algorithm and the session key, None when it is not for this key."""
        if algorithm != self.public.algorithm:
            return None
        try:
            return _session_key(self._unwrapped(Cursor(wrapped)))
        except (Malformed, InvalidUnwrap, UnsupportedAlgorithm, ValueError):
            return None

    def _unwrapped(self, cursor: Cursor) -> bytes:
        number = cursor.integer()
        if isinstance(self.native, rsa.RSAPrivateKey):
            value = number.rjust(self.native.key_size // 8, b"\0")
            return self.native.decrypt(value, padding.PKCS1v15())
        wrapped = cursor.take(cursor.number(1))
        if isinstance(self.native, x25519.X25519PrivateKey):
            if number[:1] != b"\x40":
                raise Malformed("a point is not written as it should be")
            shared = self.native.exchange(x25519.X25519PublicKey.from_public_bytes(number[1:]))
        else:
            point = ec.EllipticCurvePublicKey.from_encoded_point(self.native.curve, number)
            shared = self.native.exchange(ec.ECDH(), point)
        padded = aes_key_unwrap(self._wrapping_key(shared), wrapped)
        if not 1 <= padded[-1] < len(padded) or len(set(padded[-padded[-1] :])) != 1:
            raise Malformed("a session key is not padded as it should be")
        return padded[: -padded[-1]]

    def _wrapping_key(self, shared: bytes) -> bytes:
        """Derive the key that wraps the session key (RFC 9580 section 11.5)."""
        key = self.public
        curve = bytes.fromhex(key.curve)
        parameters = bytes((len(curve),)) + curve + bytes((ECDH, 3, 1)) + key.kdf
        parameters += b"Anonymous Sender    " + bytes.fromhex(key.fingerprint)
        size = SESSION_KEY_SIZES[key.kdf[1]]
        return ConcatKDFHash(_KDF_HASHES[key.kdf[0]], size, parameters).derive(shared)


def _session_key(message: bytes) -> tuple[int, bytes] | None:
    """Take apart algorithm, key and checksum (RFC 9580 section 5.1.3).

    OpenSSL gives random bytes, sometimes none, for a number that RSA did not make (implicit
    rejection), so a damaged message may come to anything here.
    """
    if not message:
        return None
    cipher, key, checksum = message[0], message[1:-2], int.from_bytes(message[-2:], "big")
    if sum(key) & 0xFFFF != checksum or len(key) != SESSION_KEY_SIZES.get(cipher, len(key)):
        return None
    return cipher, key


class SecretKeyring:
    """Unlocked secret keys. `fingerprints` are those of the certificates they belong to."""

    def __init__(self, fingerprints: tuple[str, ...], keys: tuple[SecretKey, ...]) -> None:
        self.fingerprints = fingerprints
        self._keys = keys

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The key ids that messages may be addressed to."""
        return tuple(one.public.key_id for one in self._keys)

    def session_keys(
        self, key_id: str, algorithm: int, wrapped: bytes
    ) -> Iterator[tuple[int, bytes]]:
        """Try the key that is named, or all of them for the wildcard id of zeros."""
        for key in self._keys:
            if key_id in {key.public.key_id, "0" * 16}:
                found = key.unwrap(algorithm, wrapped)
                if found is not None:
                    yield found


def load_secret_key(data: bytes, passphrase: Secret | None) -> SecretKeyring:
    """Read and unlock a secret key file, armored or binary, of one or more keys.

    Parts whose secret is elsewhere (an offline primary key, a smartcard) are passed over. Raises
    MessageUnreadable: no secret key there, wrong or missing passphrase, an unsupported protection.
    """
    try:
        packets = list(whole_packets(_binary(data)))
        secrets = [one for one in packets if one.tag in {Tag.SECRET_KEY, Tag.SECRET_SUBKEY}]
        fingerprints = [_fingerprint(one.body) for one in secrets if one.tag == Tag.SECRET_KEY]
        keys, refusals = _read_all(secrets, passphrase)
    except Malformed as error:
        raise MessageUnreadable(f"the secret key file is damaged: {error}") from error
    if keys:
        return SecretKeyring(tuple(dict.fromkeys(filter(None, fingerprints))), tuple(keys))
    if refusals:
        raise refusals[0]
    if not secrets and any(packet.tag == Tag.PUBLIC_KEY for packet in packets):
        raise MessageUnreadable("the file holds a public key; decrypting needs the secret one")
    raise MessageUnreadable("there is no secret key that can decrypt in the file")


def _fingerprint(body: bytes) -> str:
    """Give a key's fingerprint, nothing for another version's."""
    try:
        return read_public_key(body).fingerprint
    except UnknownVersion:
        return ""


def _read_all(
    packets: Sequence[Packet], passphrase: Secret | None
) -> tuple[list[SecretKey], list[MessageUnreadable]]:
    """Read what can be read: keys of a rotation may have passphrases of their own."""
    keys, refusals = [], []
    for packet in packets:
        try:
            key = _read_secret_key(packet.body, passphrase)
        except MessageUnreadable as error:
            refusals.append(error)
        else:
            keys += [key] if key else []
    return keys, refusals


def _binary(data: bytes) -> bytes:
    if len(data) > _SIZE_LIMIT:
        raise MessageUnreadable("the file is too large for a secret key")
    text = as_utf8(data)
    for kind in (b"PRIVATE", b"PUBLIC"):
        if b"BEGIN PGP %b KEY BLOCK" % kind in text:
            return b"".join(armored_blocks(text, b"%b KEY BLOCK" % kind))
    if not data or not data[0] & 0x80:
        raise MessageUnreadable("there is no OpenPGP secret key in the file")
    return data


def _read_secret_key(body: bytes, passphrase: Secret | None) -> SecretKey | None:
    try:
        public = read_public_key(body)
    except UnknownVersion:
        return None  # beside it a usable one may lie
    if public.algorithm not in {RSA, ECDH} or public.native is None:
        return None
    cursor = Cursor(body[len(public.body) :])
    numbers = _unlocked(cursor, passphrase)
    if numbers is None:
        return None
    try:
        return SecretKey(public, _native(public, Cursor(numbers)))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Malformed("its numbers are not those of a valid key") from error


def _unlocked(cursor: Cursor, passphrase: Secret | None) -> bytes | None:
    """Give the secret numbers, None when they are elsewhere (RFC 9580 section 5.5.3)."""
    usage = cursor.number(1)
    if usage == 0:
        numbers = cursor.rest()
        if sum(numbers[:-2]) & 0xFFFF != int.from_bytes(numbers[-2:], "big"):
            raise Malformed("its checksum is wrong")
        return numbers[:-2]
    if usage not in {254, 255}:
        raise MessageUnreadable(
            "the secret key is protected in a way that is not supported; export it again with GnuPG"
        )
    cipher = cursor.number(1)
    specifier = cursor.number(1)
    if specifier == 101:  # GnuPG's mark for a secret that is offline or on a card
        return None
    if cipher not in PROTECTION_CIPHERS:
        raise MessageUnreadable("the secret key is protected with a cipher that is not supported")
    if passphrase is None:
        raise MessageUnreadable("the secret key is protected by a passphrase, and none was given")
    make, key_size, block = PROTECTION_CIPHERS[cipher]
    key = _string_to_key(cursor, specifier, passphrase.reveal(), key_size)
    decryptor = Cipher(make(key), CFB(cursor.take(block))).decryptor()
    numbers = decryptor.update(cursor.rest()) + decryptor.finalize()
    if usage == 254:
        good = hashlib.sha1(numbers[:-20], usedforsecurity=False).digest() == numbers[-20:]
        numbers = numbers[:-20]
    else:
        good = sum(numbers[:-2]) & 0xFFFF == int.from_bytes(numbers[-2:], "big")
        numbers = numbers[:-2]
    if not good:
        raise MessageUnreadable("the passphrase of the secret key is wrong")
    return numbers


def _string_to_key(cursor: Cursor, specifier: int, passphrase: bytes, size: int) -> bytes:
    """Turn the passphrase into a key: simple, salted, iterated (RFC 9580 section 3.7.1)."""
    name = _STRING_TO_KEY_HASHES.get(cursor.number(1))
    if name is None or specifier not in {0, 1, 3}:
        raise MessageUnreadable("the secret key's passphrase is used in an unsupported way")
    text = (cursor.take(8) if specifier else b"") + passphrase
    count = len(text)
    if specifier == 3:
        coded = cursor.number(1)
        count = max(count, (16 + (coded & 15)) << ((coded >> 4) + 6))
    key = b""
    zeros = 0
    while len(key) < size:
        digest = hashlib.new(name, bytes(zeros), usedforsecurity=False)
        block = text * max(1, 65536 // max(len(text), 1))
        left = count
        while left > 0:
            digest.update(block[:left])
            left -= len(block)
        key += digest.digest()
        zeros += 1
    return key[:size]


def _native(public: PublicKey, numbers: Cursor) -> NativeSecret:
    if isinstance(public.native, rsa.RSAPublicKey):
        d, p, q, u = (int.from_bytes(numbers.integer(), "big") for _ in range(4))
        # OpenPGP's u is p⁻¹ mod q where PKCS #1 keeps q⁻¹ mod p: the primes change places
        return rsa.RSAPrivateNumbers(
            p=q,
            q=p,
            d=d,
            dmp1=rsa.rsa_crt_dmp1(d, q),
            dmq1=rsa.rsa_crt_dmq1(d, p),
            iqmp=u,
            public_numbers=public.native.public_numbers(),
        ).private_key()
    secret = numbers.integer()
    if public.curve == CURVE25519:
        # the number's big end comes first, the curve's own order is the reverse
        return x25519.X25519PrivateKey.from_private_bytes(secret.rjust(32, b"\0")[::-1])
    curve = CURVES[public.curve]()
    return ec.derive_private_key(int.from_bytes(secret, "big"), curve)
