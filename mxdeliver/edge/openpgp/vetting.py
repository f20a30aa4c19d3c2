"""Whether a certificate is good enough to encrypt clients' data to, and which of its keys.

`examine` looks at everything and notes why the certificate would be refused; `vet` refuses. The
rules, where OpenPGP leaves a choice:

- A key may encrypt when its newest signature that says so carries one of the two encryption flags.
  Without flags anywhere it may do what its algorithm can, as GnuPG has it (RFC 9580 section
  5.2.3.29 leaves it open).
- Flags, lifetime and ciphers of the primary key come each from the newest verified signature that
  speaks of them, among its direct-key signature and each user id's self-certification.
- A certification or binding that rests on SHA-1 or MD5 does not count; where it is the newest of
  its kind nothing older takes its place.
- A revocation counts whatever its hash or critical parts: better refused than sent.
- All keys of the certificate that may encrypt and are live are recipients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from mxdeliver.core.errors import (
    EncryptVerify,
    KeyExpired,
    KeyFingerprint,
    KeyNoEncryptionSubkey,
    KeyParse,
    KeyProblem,
    KeyRevoked,
    KeyWeak,
    peer_text,
)
from mxdeliver.edge.openpgp.armor import certificate_bytes
from mxdeliver.edge.openpgp.certificate import Binding, Component, Parts, Verifier, take_apart
from mxdeliver.edge.openpgp.ciphers import SESSION_KEY_SIZES
from mxdeliver.edge.openpgp.keys import CAN_ENCRYPT, RSA_GOOD, PublicKey
from mxdeliver.edge.openpgp.model import Certificate, EncryptionKey, Examination, KeyFacts
from mxdeliver.edge.openpgp.packets import Tag
from mxdeliver.edge.openpgp.signatures import KEY_REVOCATION, Signature
from mxdeliver.edge.openpgp.wrapping import session_key_packet

SIZE_LIMIT = 1024 * 1024
"""Bytes of a public key file."""
SOON = timedelta(days=30)
"""A certificate that ends within this time gets a warning."""

_CERTIFY, _SIGN, _ENCRYPT, _AUTHENTICATE = 0x01, 0x02, 0x04 | 0x08, 0x20
_AES = (9, 8, 7)  # 256, 192, 128 bits


def vet(data: bytes, *, at: datetime, fingerprint: str | None = None) -> Certificate:
    """Read a public key file and give the certificate, if it may be encrypted to at this moment.

    `fingerprint` is the pin, 40 hex digits with or without spaces; None skips the comparison.
    Raises KeyParse, KeyMultiple, KeySecretSupplied, KeyFingerprint, KeyExpired, KeyRevoked,
    KeyNoEncryptionSubkey and KeyWeak.
    """
    examination = examine(data, at=at, fingerprint=fingerprint)
    if examination.certificate is None:
        raise examination.refusal or KeyParse("the public key cannot be used")
    return examination.certificate


def examine(data: bytes, *, at: datetime, fingerprint: str | None = None) -> Examination:
    """Look at a public key file as `vet` does, but note the refusal where there is more to show.

    Raises KeyParse, KeyMultiple, KeySecretSupplied and KeyFingerprint.
    """
    if len(data) > SIZE_LIMIT:
        raise KeyParse(f"the file is larger than {SIZE_LIMIT:,} bytes, so it is no public key")
    parts = take_apart(certificate_bytes(data))
    found = parts.primary.fingerprint
    if fingerprint is not None and "".join(fingerprint.split()).upper() != found:
        pinned = peer_text("".join(fingerprint.split()).upper())
        raise KeyFingerprint(f"the file holds the certificate {found}, but {pinned} is pinned")
    examination = _Examiner(parts, at).examination()
    if examination.certificate is not None:
        _try(examination.certificate)
    return examination


def _try(certificate: Certificate) -> None:
    """Wrap a session key of zeros, so that a key that cannot be used shows now."""
    for key in certificate.encryption_keys:
        try:
            session_key_packet(key, key.ciphers[0], bytes(SESSION_KEY_SIZES[key.ciphers[0]]))
        except EncryptVerify as error:
            raise KeyParse(f"the public key cannot be encrypted to: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A key and what is known of it, before it is decided whether it is used."""

    key: PublicKey
    flags: int
    expires_at: datetime | None
    problem: KeyProblem | None


class _Examiner:
    def __init__(self, parts: Parts, at: datetime) -> None:
        self._parts = parts
        self._at = at
        self._primary = parts.primary
        self._verifier = Verifier(parts.primary, at)
        self._warnings = list(parts.unreadable)

    def examination(self) -> Examination:
        direct = self._verifier.primary(self._parts.direct)
        names = [(one, self._verifier.user_id(one)) for one in self._parts.user_ids]
        live = [(one, binding) for one, binding in names if not _revoked_name(binding)]
        speaking = _strong([direct, *(binding for _, binding in live)])
        refusal = self._primary_problem(direct, [binding for _, binding in names], speaking)
        ends_at = _primary_end(self._primary, speaking)
        primary = _Candidate(
            key=self._primary,
            flags=_flags(self._primary, speaking),
            expires_at=ends_at,
            problem=refusal,
        )
        subkeys = [self._subkey(key, one, primary) for key, one in self._parts.subkeys]
        candidates = [primary, *(one for one in subkeys if one is not None)]
        ciphers = _ciphers(speaking)
        refusal = refusal or self._no_key(candidates) or _no_cipher(ciphers)
        self._warn_of_revokers(direct)
        usable = [one for one in candidates if one.flags & _ENCRYPT and one.problem is None]
        if refusal is None:
            self._warn_of_keys(candidates, usable)
        if self._primary.concern:
            self._warnings.append("the user ids are shown unverified: the key is too weak for it")
        user_ids = tuple(
            peer_text(one.packet.body)
            for one, binding in live
            if (binding.newest is not None or self._primary.concern)
            and one.packet.tag == Tag.USER_ID
        )
        return Examination(
            fingerprint=self._primary.fingerprint,
            user_ids=user_ids,
            created_at=self._primary.created_at,
            keys=tuple(_facts(one, self._primary) for one in candidates),
            warnings=tuple(self._warnings),
            certificate=None if refusal else self._certificate(user_ids, usable, ciphers),
            refusal=refusal,
        )

    def _primary_problem(
        self, direct: Binding, names: Sequence[Binding], speaking: Sequence[Signature]
    ) -> KeyProblem | None:
        """Say why nothing of the certificate can be used."""
        key = self._primary
        if key.concern:
            return KeyWeak(f"the primary key cannot be used: {key.concern}")
        if direct.revoked(self._at):
            return KeyRevoked(f"the certificate {key.fingerprint} has been revoked")
        if key.created_at > self._at:
            return _in_future()
        if not speaking:
            return _unsigned_problem([direct, *names])
        ends_at = _primary_end(key, speaking)
        if ends_at is not None and ends_at <= self._at:
            return KeyExpired(f"the certificate expired on {ends_at:%Y-%m-%d}")
        return None

    def _subkey(
        self, key: PublicKey, component: Component, primary: _Candidate
    ) -> _Candidate | None:
        binding = self._verifier.subkey(key, component)
        newest = binding.newest
        if newest is None and not binding.revocations:
            why = (
                "its binding is dated in the future"
                if binding.not_yet
                else "the certificate's owner has not signed for it"
            )
            self._warnings.append(f"subkey {key.key_id} is left out: {why}")
            return None
        signatures = [newest] if newest else []
        ends_at = _earliest(
            *(one.key_ends_at(key) for one in signatures), *(one.ends_at for one in signatures)
        )
        return _Candidate(
            key=key,
            flags=_flags(key, signatures),
            expires_at=_earliest(ends_at, primary.expires_at),
            problem=primary.problem or self._key_problem(key, binding, ends_at),
        )

    def _key_problem(
        self, key: PublicKey, binding: Binding, ends_at: datetime | None
    ) -> KeyProblem | None:
        name = f"the encryption key {key.key_id}"
        if binding.newest is None or binding.revoked(self._at):
            return KeyRevoked(f"{name} has been revoked")
        if ends_at is not None and ends_at <= self._at:
            return KeyExpired(f"{name} expired on {ends_at:%Y-%m-%d}")
        if binding.newest.is_weak:
            return KeyWeak(f"{name} is signed for with SHA-1 or MD5, which can be forged")
        if key.concern:
            return KeyWeak(f"{name} cannot be used: {key.concern}")
        return None

    def _no_key(self, candidates: Sequence[_Candidate]) -> KeyProblem | None:
        """Give the newest encryption key's problem when none of them can be used."""
        encrypting = [one for one in candidates if one.flags & _ENCRYPT]
        if not encrypting:
            return KeyNoEncryptionSubkey("the certificate has no key that may encrypt")
        if any(one.problem is None for one in encrypting):
            return None
        return max(encrypting, key=lambda one: one.key.created_at).problem

    def _warn_of_revokers(self, direct: Binding) -> None:
        counted = set(map(id, direct.revocations))
        for one in self._parts.direct:
            if one.kind == KEY_REVOCATION and id(one) not in counted:
                self._warnings.append(
                    "a revocation in the file was not made by this key and cannot be checked here; "
                    "ask the client whether the key still holds"
                    if one.issuers & self._verifier.designated_revokers
                    else "a revocation in the file does not verify and was ignored"
                )

    def _warn_of_keys(self, candidates: Sequence[_Candidate], usable: Sequence[_Candidate]) -> None:
        self._warnings += [
            f"subkey {one.key.key_id} is left out: {one.problem}"
            for one in candidates
            if isinstance(one.problem, KeyWeak) and one.flags & _ENCRYPT
        ]
        short = {one.key.name for one in (candidates[0], *usable) if 0 < one.key.bits < RSA_GOOD}
        self._warnings += [f"{name} is allowed, but {RSA_GOOD} bits are advised" for name in short]
        ends_at = _latest(usable)
        if ends_at is not None and ends_at - self._at < SOON:
            days = (ends_at - self._at).days
            self._warnings.append(
                f"the certificate can be encrypted to until {ends_at:%Y-%m-%d}, "
                f"for {days} more {'day' if days == 1 else 'days'}"
            )

    def _certificate(
        self, user_ids: tuple[str, ...], usable: Sequence[_Candidate], ciphers: tuple[int, ...]
    ) -> Certificate:
        return Certificate(
            fingerprint=self._primary.fingerprint,
            user_ids=user_ids,
            created_at=self._primary.created_at,
            expires_at=_latest(usable),
            encryption_keys=tuple(
                EncryptionKey(
                    fingerprint=one.key.fingerprint,
                    key_id=one.key.key_id,
                    algorithm=one.key.name,
                    expires_at=one.expires_at,
                    algorithm_number=one.key.algorithm,
                    ciphers=ciphers,
                    body=one.key.body,
                )
                for one in usable
            ),
            warnings=tuple(self._warnings),
        )


def _in_future() -> KeyProblem:
    return KeyParse("the certificate is dated in the future; compare this host's clock")


def _unsigned_problem(bindings: Sequence[Binding]) -> KeyProblem:
    """Say why nothing that the primary key signed counts."""
    if any(one.newest is not None and one.newest.is_weak for one in bindings):
        return KeyWeak("the certificate is signed with SHA-1 or MD5, which can be forged")
    if any(one.newest is not None for one in bindings):
        return KeyRevoked("every user id of the certificate has been revoked")
    if any(one.not_yet for one in bindings):
        return _in_future()
    return KeyParse("the certificate has no signature of its own that verifies")


def _revoked_name(binding: Binding) -> bool:
    """A user id is revoked unless it was certified anew afterwards."""
    newest = binding.newest
    return any(newest is None or one.created_at >= newest.created_at for one in binding.revocations)


def _strong(bindings: Sequence[Binding]) -> list[Signature]:
    """Give the self-signatures that count for the primary key, newest first."""
    found = [one.newest for one in bindings if one.newest is not None and not one.newest.is_weak]
    return sorted(found, key=lambda one: one.created_at, reverse=True)


def _primary_end(key: PublicKey, speaking: Sequence[Signature]) -> datetime | None:
    lifetime = next((one.key_ends_at(key) for one in speaking if one.speaks_of_lifetime), None)
    ends = [one.ends_at for one in speaking]
    signatures_end = None if None in ends else max((one for one in ends if one), default=None)
    return _earliest(lifetime, signatures_end)


def _flags(key: PublicKey, signatures: Sequence[Signature]) -> int:
    told = next((one.flags for one in signatures if one.flags is not None), None)
    if told is not None:
        return told
    return _ENCRYPT if key.algorithm in CAN_ENCRYPT else 0


def _ciphers(speaking: Sequence[Signature]) -> tuple[int, ...]:
    """Give the AES algorithms that the owner reads; all of them where nothing is said."""
    told = next((one.ciphers for one in speaking if one.ciphers is not None), None)
    return tuple(one for one in _AES if told is None or one in told)


def _no_cipher(ciphers: tuple[int, ...]) -> KeyProblem | None:
    return None if ciphers else KeyWeak("the certificate asks for ciphers older than AES only")


def _earliest(*moments: datetime | None) -> datetime | None:
    return min((one for one in moments if one is not None), default=None)


def _latest(candidates: Sequence[_Candidate]) -> datetime | None:
    ends = [one.expires_at for one in candidates]
    return None if None in ends else max((one for one in ends if one is not None), default=None)


def _facts(one: _Candidate, primary: PublicKey) -> KeyFacts:
    names = {"certify": _CERTIFY, "sign": _SIGN, "encrypt": _ENCRYPT, "authenticate": _AUTHENTICATE}
    problem = str(one.problem) if one.problem else ""
    return KeyFacts(
        fingerprint=one.key.fingerprint,
        key_id=one.key.key_id,
        algorithm=one.key.name,
        is_primary=one.key is primary,
        created_at=one.key.created_at,
        expires_at=one.expires_at,
        capabilities=tuple(name for name, flag in names.items() if one.flags & flag),
        problem=problem if one.flags & _ENCRYPT else "not for encryption",
    )
