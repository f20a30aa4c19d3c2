"""OpenPGP keys made at test time: by gpg, whose verdict is the oracle, and by hand.

with GnuPG() as gnupg:
    fingerprint = gnupg.generate("ed25519", "sign", at=MOMENT)
    gnupg.add_key(fingerprint, "cv25519", "encr")
    gnupg.export(fingerprint)          # the certificate, binary

forged = Forge()                       # an Ed25519 certificate with any signature one likes
forged.certificate(forged.user_id(), forged.subkey())
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self, TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mxdeliver.edge.openpgp.packets import Tag, length_octets

MADE = datetime(2026, 3, 1, 12, tzinfo=UTC)
"""When the keys of most tests were made."""
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
"""The moment of most tests."""


class GnuPG:
    """A GnuPG home of its own; its agent ends with the `with` block."""

    def __init__(self) -> None:
        # the agent's socket needs a short path
        self.home = Path(tempfile.mkdtemp(prefix="g", dir="/tmp"))
        self._names = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["gpgconf", "--homedir", self.home, "--kill", "all"], check=True)
        shutil.rmtree(self.home, ignore_errors=True)

    def run(
        self, *arguments: str, data: bytes = b"", at: datetime | None = None, ask: bool = False
    ) -> bytes:
        """Run gpg without questions, or with the answers in `data`, at a moment that stands still."""
        command = ["gpg", "--homedir", str(self.home), "--yes", "--quiet", "--no-tty"]
        command += ["--pinentry-mode", "loopback", "--trust-model", "always"]
        command += ["--command-fd", "0"] if ask else ["--batch"]
        if "--passphrase" not in arguments:
            command += ["--passphrase", ""]
        if at is not None:
            command += ["--faked-system-time", f"{at:%Y%m%dT%H%M%S}!"]
        done = subprocess.run([*command, *arguments], input=data, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout

    def generate(
        self,
        algorithm: str,
        usage: str,
        *options: str,
        at: datetime = MADE,
        expires: str = "never",
        name: str | None = None,
    ) -> str:
        """Make a primary key and give its fingerprint."""
        self._names += 1
        name = name or f"Client {self._names} <client{self._names}@example.test>"
        self.run(*options, "--quick-gen-key", name, algorithm, usage, expires, at=at)
        listing = self.run("--with-colons", "--list-keys", f"={name}", at=at).decode()
        return next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr"))

    def add_key(
        self,
        fingerprint: str,
        algorithm: str,
        usage: str,
        *options: str,
        at: datetime = MADE,
        expires: str = "never",
    ) -> str:
        """Add a subkey and give its fingerprint."""
        self.run(*options, "--quick-add-key", fingerprint, algorithm, usage, expires, at=at)
        listing = self.run("--with-colons", "--list-keys", fingerprint, at=at).decode()
        return [one.split(":")[9] for one in listing.splitlines() if one.startswith("fpr")][-1]

    def usual(self, at: datetime = MADE, *, expires: str = "never") -> str:
        """Make the certificate that gpg makes by default in newer versions: Ed25519, Curve25519."""
        fingerprint = self.generate("ed25519", "sign", at=at, expires=expires)
        self.add_key(fingerprint, "cv25519", "encr", at=at, expires=expires)
        return fingerprint

    def revoke(self, fingerprint: str) -> None:
        """Revoke a certificate with the file that gpg made beforehand."""
        text = (self.home / "openpgp-revocs.d" / f"{fingerprint}.rev").read_text(encoding="utf-8")
        self.run("--import", data=text.replace(":-----BEGIN", "-----BEGIN").encode())

    def revoke_subkey(self, fingerprint: str, number: int, *, reason: int, at: datetime) -> None:
        """Revoke the subkey at `number`, counted from 1; reasons 0 none, 1 stolen, 2 superseded."""
        answers = f"key {number}\nrevkey\ny\n{reason}\n\ny\nsave\n"
        self.run("--edit-key", fingerprint, data=answers.encode(), at=at, ask=True)

    def export(self, *fingerprints: str, armor: bool = False) -> bytes:
        """Give certificates."""
        return self.run(*(["--armor"] if armor else []), "--export", *fingerprints)

    def export_secret(self, fingerprint: str, *options: str) -> bytes:
        """Give a secret key."""
        return self.run(*options, "--export-secret-keys", fingerprint)

    def verdict(self, certificate: bytes, at: datetime) -> set[str]:
        """Give the key ids that gpg would encrypt to: alive, and able to."""
        listing = self.run("--with-colons", "--show-keys", data=certificate, at=at).decode()
        records = [line.split(":") for line in listing.splitlines()]
        keys = [one for one in records if one[0] in {"pub", "sub"}]
        return {one[4] for one in keys if "e" in one[11] and one[1] not in {"r", "e", "i"}}


def packet(tag: int, body: bytes) -> bytes:
    """Give a packet with the newer kind of header."""
    return bytes((0xC0 | tag,)) + length_octets(len(body)) + body


def subpacket(number: int, value: bytes, *, critical: bool = False) -> bytes:
    """Give a signature subpacket."""
    return length_octets(len(value) + 1) + bytes((number | (0x80 if critical else 0),)) + value


def integer(value: bytes) -> bytes:
    """Give a multiprecision integer."""
    value = value.lstrip(b"\0")
    bits = int.from_bytes(value, "big").bit_length()
    return bits.to_bytes(2, "big") + value


def number(value: int) -> bytes:
    """Give a number as a multiprecision integer."""
    return integer(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def seconds(moment: datetime) -> bytes:
    """Give a moment as OpenPGP writes it."""
    return int(moment.timestamp()).to_bytes(4, "big")


FLAGS, LIFETIME, SIGNATURE_LIFETIME, CIPHERS = 27, 9, 3, 11
ENCRYPT = subpacket(FLAGS, b"\x0c")
CERTIFY = subpacket(FLAGS, b"\x01")
DIGESTS = {
    "md5": 1, "sha1": 2, "sha256": 8, "sha384": 9, "sha512": 10, "sha224": 11, "sha3_256": 12,
    "sha3_512": 14,
}  # fmt: skip
Secret: TypeAlias = (
    Ed25519PrivateKey | Ed448PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
)


@dataclass(slots=True)
class Forge:
    """An Ed25519 primary key and what it signs; every part can be made wrong on purpose."""

    made: datetime = MADE
    secret: Secret = field(default_factory=Ed25519PrivateKey.generate)
    algorithm: int = 22
    """22 is what programs of before RFC 9580 make of Ed25519; 27 Ed25519 and 28 Ed448 of that RFC.

    1 is RSA, 19 ECDSA of the curve NIST P-256.
    """

    @property
    def body(self) -> bytes:
        """The primary key packet's body."""
        head = b"\x04" + seconds(self.made) + bytes((self.algorithm,))
        if isinstance(self.secret, rsa.RSAPrivateKey):
            numbers = self.secret.public_key().public_numbers()
            return head + number(numbers.n) + number(numbers.e)
        if isinstance(self.secret, ec.EllipticCurvePrivateKey):
            encoding = (Encoding.X962, PublicFormat.UncompressedPoint)
            point = self.secret.public_key().public_bytes(*encoding)
            return head + bytes.fromhex("082a8648ce3d030107") + integer(point)
        raw = self.secret.public_key().public_bytes_raw()
        if self.algorithm != 22:
            return head + raw
        point = b"\x40" + raw
        return head + bytes.fromhex("092b06010401da470f01") + integer(point)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.body)

    def subkey_body(self, made: datetime | None = None) -> bytes:
        """Make a Curve25519 subkey's body."""
        point = b"\x40" + X25519PrivateKey.generate().public_key().public_bytes_raw()
        curve = bytes.fromhex("0a2b060104019755010501")
        kdf = b"\x03\x01\x08\x07"
        return b"\x04" + seconds(made or self.made) + b"\x12" + curve + integer(point) + kdf

    def sign(
        self,
        kind: int,
        signed: bytes,
        *subpackets: bytes,
        at: datetime | None = None,
        digest: str = "sha256",
        issuer: str | None = None,
        named: bytes | None = None,
        unhashed: bytes = b"",
        algorithm: int | None = None,
    ) -> bytes:
        """Give a signature packet over `signed`, with the issuer `named` in the unhashed part.

        `algorithm` is what the packet says of itself: the key's own unless told.
        """
        numbers = bytes((4, kind, algorithm or self.algorithm, DIGESTS[digest]))
        hashed = subpacket(2, seconds(at or self.made)) + b"".join(subpackets)
        head = numbers + len(hashed).to_bytes(2, "big") + hashed
        trailer = b"\x04\xff" + len(head).to_bytes(4, "big")
        value = hashlib.new(digest, signed + head + trailer).digest()
        if named is None:
            named = subpacket(16, bytes.fromhex((issuer or self.fingerprint)[-16:]))
        named += unhashed
        body = head + len(named).to_bytes(2, "big") + named + value[:2]
        return packet(Tag.SIGNATURE, body + self._signature(value, digest))

    def _signature(self, value: bytes, digest: str) -> bytes:
        """Sign a digest, and write the result as the algorithm has it."""
        prehashed = Prehashed(getattr(hashes, digest.upper())())
        if isinstance(self.secret, rsa.RSAPrivateKey):
            signature = self.secret.sign(value, padding.PKCS1v15(), prehashed)
            return integer(signature)
        if isinstance(self.secret, ec.EllipticCurvePrivateKey):
            r, s = decode_dss_signature(self.secret.sign(value, ec.ECDSA(prehashed)))
            return number(r) + number(s)
        signature = self.secret.sign(value)
        if self.algorithm != 22:
            return signature
        return integer(signature[:32]) + integer(signature[32:])

    def user_id(
        self,
        *subpackets: bytes,
        name: bytes = b"Client <client@example.test>",
        at: datetime | None = None,
        digest: str = "sha256",
        kind: int = 0x13,
    ) -> bytes:
        """Give a user id packet with its self-certification."""
        signature = self.certify(name, *(subpackets or (CERTIFY,)), at=at, digest=digest, kind=kind)
        return packet(Tag.USER_ID, name) + signature

    def certify(
        self,
        name: bytes,
        *subpackets: bytes,
        at: datetime | None = None,
        digest: str = "sha256",
        kind: int = 0x13,
    ) -> bytes:
        """Give a signature over a user id: a certification, or with kind 0x30 a revocation."""
        signed = framed(self.body) + b"\xb4" + len(name).to_bytes(4, "big") + name
        return self.sign(kind, signed, *subpackets, at=at, digest=digest)

    def subkey(
        self,
        *subpackets: bytes,
        body: bytes | None = None,
        at: datetime | None = None,
        digest: str = "sha256",
    ) -> bytes:
        """Give a subkey packet with its binding."""
        body = body or self.subkey_body()
        signature = self.bind(body, *(subpackets or (ENCRYPT,)), at=at, digest=digest)
        return packet(Tag.PUBLIC_SUBKEY, body) + signature

    def bind(
        self,
        body: bytes,
        *subpackets: bytes,
        at: datetime | None = None,
        digest: str = "sha256",
        kind: int = 0x18,
        named: bytes | None = None,
        algorithm: int | None = None,
    ) -> bytes:
        """Give a signature over a subkey: a binding, or with kind 0x28 a revocation."""
        return self.sign(
            kind,
            framed(self.body) + framed(body),
            *subpackets,
            at=at,
            digest=digest,
            named=named,
            algorithm=algorithm,
        )

    def direct(
        self,
        *subpackets: bytes,
        kind: int = 0x1F,
        at: datetime | None = None,
        digest: str = "sha256",
        issuer: str | None = None,
    ) -> bytes:
        """Give a signature over the primary key: a statement, or with kind 0x20 a revocation."""
        signed = framed(self.body)
        return self.sign(kind, signed, *subpackets, at=at, digest=digest, issuer=issuer)

    def certificate(self, *parts: bytes) -> bytes:
        """Put the primary key before the parts."""
        return packet(Tag.PUBLIC_KEY, self.body) + b"".join(parts)


def framed(body: bytes) -> bytes:
    """Give a key as signatures see it."""
    return b"\x99" + len(body).to_bytes(2, "big") + body


def fingerprint(body: bytes) -> str:
    """Give the fingerprint of a public key packet's body."""
    return hashlib.sha1(framed(body), usedforsecurity=False).hexdigest().upper()


def days(count: int) -> bytes:
    """Give a number of days as a subpacket's seconds."""
    return int(timedelta(days=count).total_seconds()).to_bytes(4, "big")


def tool(*command: str | Path, data: bytes = b"") -> bytes:
    """Run another OpenPGP program and give its output; it must succeed."""
    arguments: Sequence[str] = [str(one) for one in command]
    done = subprocess.run(arguments, input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout
