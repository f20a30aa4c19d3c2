"""OpenPGP keys as a client would make them, by pgpy; and an SSH host key for the demo's server."""

from __future__ import annotations

import warnings
from base64 import b64encode
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any

import paramiko

from mxdeliver.demo.clients import DemoClient, KeyKind


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """Both halves, armored; the secret half is not protected by a passphrase."""

    fingerprint: str
    public: str
    secret: str = field(repr=False)


def make_key_pair(client: DemoClient, created: datetime) -> KeyPair:
    """Make a signing key with a subkey for encryption, dated `created` (UTC)."""
    with warnings.catch_warnings():
        # pgpy 0.6.0 is dormant and names ciphers that cryptography has moved.
        warnings.simplefilter("ignore")
        return _make_key_pair(client, created)


def _make_key_pair(client: DemoClient, created: datetime) -> KeyPair:
    from pgpy import PGPUID, PGPKey  # noqa: PLC0415 - warns at import, see above
    from pgpy.constants import (  # noqa: PLC0415 - as above
        EllipticCurveOID,
        HashAlgorithm,
        KeyFlags,
        PubKeyAlgorithm,
        SymmetricKeyAlgorithm,
    )

    made_of: tuple[tuple[Any, Any], tuple[Any, Any]] = {
        KeyKind.CURVE25519: (
            (PubKeyAlgorithm.EdDSA, EllipticCurveOID.Ed25519),
            (PubKeyAlgorithm.ECDH, EllipticCurveOID.Curve25519),
        ),
        KeyKind.RSA2048: (
            (PubKeyAlgorithm.RSAEncryptOrSign, 2048),
            (PubKeyAlgorithm.RSAEncryptOrSign, 2048),
        ),
    }[client.key]

    def new(algorithm: Any, parameter: Any) -> Any:
        key = PGPKey.new(algorithm, parameter, created=created)
        if algorithm is PubKeyAlgorithm.RSAEncryptOrSign:
            _order_primes(key._key.keymaterial)  # noqa: SLF001 - pgpy shows them nowhere else
            key._key.update_hlen()  # noqa: SLF001 - the inverse may have become shorter
        return key

    primary = new(*made_of[0])
    primary.add_uid(
        PGPUID.new(client.name, email=client.email),
        usage={KeyFlags.Certify, KeyFlags.Sign},
        hashes=[HashAlgorithm.SHA512, HashAlgorithm.SHA256],
        ciphers=[SymmetricKeyAlgorithm.AES256, SymmetricKeyAlgorithm.AES128],
        created=created,
    )
    subkey = new(*made_of[1])
    primary.add_subkey(
        subkey,
        usage={KeyFlags.EncryptCommunications, KeyFlags.EncryptStorage},
        created=created,
    )
    return KeyPair(
        fingerprint=str(primary.fingerprint).replace(" ", ""),
        public=str(primary.pubkey),
        secret=str(primary),
    )


def _order_primes(numbers: Any) -> None:
    """Swap an RSA key's primes if p > q: RFC 9580 section 5.5.5.1 has it the other way round.

    pgpy takes them as OpenSSL gives them, and gpg then fails with one message of some dozens.
    """
    from pgpy.packet.types import MPI  # noqa: PLC0415 - see _make_key_pair

    if numbers.p > numbers.q:
        numbers.p, numbers.q = numbers.q, numbers.p
        numbers.u = MPI(pow(numbers.p, -1, numbers.q))
        numbers._compute_chksum()  # noqa: SLF001 - there is no other way


def make_host_key() -> paramiko.PKey:
    """Make the server's host key: ECDSA over P-256."""
    return paramiko.ECDSAKey.generate(bits=256)


def pin_of(host_key: paramiko.PKey) -> str:
    """Give the host key's pin as OpenSSH prints it: `SHA256:` and unpadded base64."""
    digest = sha256(host_key.asbytes()).digest()
    return "SHA256:" + b64encode(digest).decode("ascii").rstrip("=")
