"""Certificates with their secret keys, of every kind that can be encrypted to.

with GnuPG() as gnupg:
    pair = key_pair(gnupg, "RSA 4096")     # known to gnupg too, so that it can decrypt
    encrypt(pair.certificate.encryption_keys, b"data")
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher

from mxdeliver.edge.openpgp import (
    Certificate,
    EncryptionKey,
    MessageWriter,
    SecretKeyring,
    load_secret_key,
    vet,
)
from mxdeliver.edge.openpgp.ciphers import CFB, PROTECTION_CIPHERS
from mxdeliver.edge.openpgp.packets import Tag
from tests.support.certificates import (
    CERTIFY,
    CIPHERS,
    ENCRYPT,
    NOW,
    Forge,
    GnuPG,
    integer,
    packet,
    seconds,
    subpacket,
)

ENCRYPTING: dict[str, tuple[str, ...]] = {
    "RSA 2048": ("rsa2048",),
    "RSA 3072": ("rsa3072",),
    "RSA 4096": ("rsa4096",),
    "P-256": ("nistp256",),
    "P-384": ("nistp384",),
    "P-521": ("nistp521",),
    "Curve25519": ("cv25519",),
    "several": ("cv25519", "nistp256", "cv25519"),
}
"""Subkeys of the key pairs by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A certificate with its secret key, unprotected."""

    public: bytes
    secret: bytes

    @property
    def certificate(self) -> Certificate:
        return vet(self.public, at=NOW)

    @property
    def keyring(self) -> SecretKeyring:
        return load_secret_key(self.secret, None)


@cache
def key_pair(gnupg: GnuPG, name: str) -> KeyPair:
    """Make one of the `ENCRYPTING` key pairs, once in each GnuPG home."""
    if name.startswith("RSA"):  # OpenSSL finds primes in a fraction of gpg's time
        pair = rsa_pair(int(name.split()[1]))
        gnupg.run("--import", data=pair.secret)
        return pair
    made = gnupg.generate("ed25519", "sign")
    for algorithm in ENCRYPTING[name]:
        gnupg.add_key(made, algorithm, "encr")
    return KeyPair(public=gnupg.export(made), secret=gnupg.export_secret(made))


def rsa_pair(bits: int) -> KeyPair:
    """Make an Ed25519 certificate with an RSA subkey."""
    primary = Ed25519PrivateKey.generate()
    forge = Forge(secret=primary)
    secret = rsa.generate_private_key(65537, bits)
    body = b"\x04" + seconds(forge.made) + b"\x01"
    public = secret.public_key().public_numbers()
    body += _integer(public.n) + _integer(public.e)
    ciphers = subpacket(CIPHERS, b"\x09\x08\x07\x02")
    name, binding = forge.user_id(CERTIFY, ciphers), forge.subkey(body=body)
    numbers = rsa_numbers(secret)
    return KeyPair(
        public=forge.certificate(name, binding),
        secret=packet(
            Tag.SECRET_KEY, forge.body + unprotected(integer(primary.private_bytes_raw()))
        )
        + name
        + packet(Tag.SECRET_SUBKEY, body + unprotected(numbers))
        + forge.bind(body, ENCRYPT),
    )


def rsa_numbers(secret: rsa.RSAPrivateKey) -> bytes:
    """Give the secret numbers as OpenPGP has them: d, p, q and the inverse of p modulo q.

    RFC 9580 section 5.5.5.1 wants p < q, which OpenSSL does not promise; where it is not so, gpg
    fails with a few messages out of hundreds.
    """
    private = secret.private_numbers()
    smaller, larger = sorted((private.p, private.q))
    inverse = pow(smaller, -1, larger)
    return b"".join(map(_integer, (private.d, smaller, larger, inverse)))


def _integer(value: int) -> bytes:
    return integer(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def unprotected(numbers: bytes) -> bytes:
    """Give the secret part of a key without a passphrase."""
    return b"\0" + numbers + (sum(numbers) & 0xFFFF).to_bytes(2, "big")


def protected(
    numbers: bytes, passphrase: bytes, *, usage: int, cipher: int, specifier: int, hash_number: int
) -> bytes:
    """Give the secret part of a key under a passphrase, in the ways of RFC 9580 section 3.7.1."""
    make, size, block = PROTECTION_CIPHERS[cipher]
    salt, vector = b"saltsalt", bytes(range(block))
    text = passphrase if specifier == 0 else salt + passphrase
    if specifier == 3:
        text = (text * (1024 // len(text) + 1))[: max(1024, len(text))]
    name = {1: "md5", 2: "sha1", 8: "sha256", 10: "sha512"}[hash_number]
    key = b"".join(hashlib.new(name, bytes(zeros) + text).digest() for zeros in range(2))
    if usage == 254:
        numbers += hashlib.sha1(numbers, usedforsecurity=False).digest()
    else:
        numbers += (sum(numbers) & 0xFFFF).to_bytes(2, "big")
    encryptor = Cipher(make(key[:size]), CFB(vector)).encryptor()
    head = bytes((usage, cipher, specifier, hash_number))
    head += (b"" if specifier == 0 else salt) + (b"\x00" if specifier == 3 else b"")
    return head + vector + encryptor.update(numbers)


def encrypt(recipients: Sequence[EncryptionKey], *pieces: bytes) -> bytes:
    """Write a message with the program's own writer."""
    message = bytearray()
    writer = MessageWriter(recipients, message.extend)
    for piece in pieces:
        writer.write(piece)
    writer.finish()
    return bytes(message)
