"""A certificate taken apart, and what its verified self-signatures say of each part.

User ids and keys are listed with the signatures that the primary key really made over them. Whether
the certificate is good enough is decided in `vetting`. Where signatures say different things the
newest one counts, as GnuPG and Sequoia have it; one that is dated after the moment asked about does
not count yet, revocations for a hard reason excepted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from mxdeliver.core.errors import KeyMultiple, KeyParse, KeySecretSupplied
from mxdeliver.edge.openpgp.keys import PublicKey, UnknownVersion, read_public_key
from mxdeliver.edge.openpgp.packets import Malformed, Packet, Tag, whole_packets
from mxdeliver.edge.openpgp.signatures import (
    CERTIFICATION_REVOCATION,
    CERTIFICATIONS,
    DIRECT_KEY,
    KEY_REVOCATION,
    SUBKEY_BINDING,
    SUBKEY_REVOCATION,
    Signature,
    read_signature,
)

VERIFICATIONS_LIMIT = 500
"""Signatures of one certificate that are verified; bounds the time a hostile file can take."""

_NOT_KEYS: dict[int, str] = {
    Tag.SIGNATURE: "a signature",
    Tag.SESSION_KEY: "an encrypted message",
    Tag.PASSWORD_SESSION_KEY: "an encrypted message",
    Tag.COMPRESSED: "an OpenPGP message",
    Tag.LITERAL: "an OpenPGP message",
    Tag.ENCRYPTED: "an encrypted message",
    Tag.ENCRYPTED_AEAD: "an encrypted message",
}


@dataclass(slots=True)
class Component:
    """A user id or subkey and the signatures that follow it, verified or not."""

    packet: Packet
    signatures: list[Signature] = field(default_factory=list)

    @property
    def signed_form(self) -> bytes:
        """The bytes that a certification of a user id is made over (RFC 9580 section 5.2.4)."""
        mark = b"\xb4" if self.packet.tag == Tag.USER_ID else b"\xd1"
        return mark + len(self.packet.body).to_bytes(4, "big") + self.packet.body


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What was verified about one user id, subkey, or the primary key itself, at one moment.

    `newest` is the self-signature that counts, None when none verifies; `not_yet` tells that there
    is one of a later date. `revoked_at` is the moment from which it is revoked.
    """

    newest: Signature | None
    not_yet: bool
    revocations: tuple[Signature, ...]

    def revoked(self, at: datetime) -> bool:
        """Whether a revocation counts: a hard one always, a soft one from its own time on."""
        return any(not one.is_soft_revocation or one.created_at <= at for one in self.revocations)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """One certificate, taken apart."""

    primary: PublicKey
    direct: tuple[Signature, ...]
    user_ids: tuple[Component, ...]
    subkeys: tuple[tuple[PublicKey, Component], ...]
    unreadable: tuple[str, ...]


def take_apart(data: bytes) -> Parts:
    """Read the packets of one certificate.

    Raises KeyParse, KeyMultiple and KeySecretSupplied.
    """
    try:
        packets = [one for one in whole_packets(data) if one.tag not in _IGNORED]
        return _parts(packets)
    except UnknownVersion as error:
        raise KeyParse(f"the public key {error}; only version 4 is supported") from error
    except Malformed as error:
        raise KeyParse(f"the public key is damaged: {error}") from error


_IGNORED = frozenset({Tag.MARKER, Tag.TRUST, Tag.PADDING})


def _parts(packets: list[Packet]) -> Parts:
    if any(one.tag in {Tag.SECRET_KEY, Tag.SECRET_SUBKEY} for one in packets):
        raise KeySecretSupplied("the file holds an OpenPGP secret key")
    if not packets or packets[0].tag != Tag.PUBLIC_KEY:
        name = _NOT_KEYS.get(packets[0].tag, "other OpenPGP data") if packets else "nothing"
        raise KeyParse(f"the file holds {name}, not an OpenPGP public key")
    count = sum(one.tag == Tag.PUBLIC_KEY for one in packets)
    if count > 1:
        raise KeyMultiple(f"the file holds {count} certificates")
    primary = read_public_key(packets[0].body)
    components = [Component(packets[0])]
    direct: list[Signature] = []
    for packet in packets[1:]:
        if packet.tag != Tag.SIGNATURE:
            components.append(Component(packet))
        elif signature := _signature(packet):
            about_primary = signature.kind in {DIRECT_KEY, KEY_REVOCATION}
            (direct if about_primary else components[-1].signatures).append(signature)
    subkeys, unreadable = _subkeys(components)
    names = {Tag.USER_ID, Tag.USER_ATTRIBUTE}
    return Parts(
        primary=primary,
        direct=tuple(direct),
        user_ids=tuple(one for one in components if one.packet.tag in names),
        subkeys=subkeys,
        unreadable=unreadable,
    )


def _signature(packet: Packet) -> Signature | None:
    """Anybody can append a broken signature: it is dropped, and does not spoil the key."""
    try:
        return read_signature(packet.body)
    except Malformed:
        return None


def _subkeys(
    components: Iterable[Component],
) -> tuple[tuple[tuple[PublicKey, Component], ...], tuple[str, ...]]:
    """Read the subkeys; one that occurs twice, as merged keyrings have it, counts once."""
    found: dict[str, tuple[PublicKey, Component]] = {}
    unreadable = []
    for component in components:
        if component.packet.tag != Tag.PUBLIC_SUBKEY:
            continue
        try:
            key = read_public_key(component.packet.body)
        except UnknownVersion as error:
            unreadable.append(f"a subkey {error} and is left out")
        except Malformed as error:
            unreadable.append(f"a subkey is left out: {error}")
        else:
            _, kept = found.setdefault(key.fingerprint, (key, component))
            if kept is not component:
                kept.signatures += component.signatures
    return tuple(found.values()), tuple(unreadable)


class Verifier:
    """Verifies the primary key's signatures over the parts of its certificate, a bounded number."""

    def __init__(self, primary: PublicKey, at: datetime) -> None:
        self._primary = primary
        self._at = at
        self._verified = 0
        self.designated_revokers: set[str] = set()

    def primary(self, signatures: Iterable[Signature]) -> Binding:
        """What direct-key signatures and key revocations say."""
        signed = self._primary.signed_form
        return self._binding(signatures, signed, frozenset({DIRECT_KEY}), KEY_REVOCATION)

    def user_id(self, component: Component) -> Binding:
        """What self-certifications say."""
        signed = self._primary.signed_form + component.signed_form
        kinds = CERTIFICATIONS
        return self._binding(component.signatures, signed, kinds, CERTIFICATION_REVOCATION)

    def subkey(self, key: PublicKey, component: Component) -> Binding:
        """What subkey bindings say."""
        signed = self._primary.signed_form + key.signed_form
        kinds = frozenset({SUBKEY_BINDING})
        return self._binding(component.signatures, signed, kinds, SUBKEY_REVOCATION)

    def _binding(
        self, signatures: Iterable[Signature], signed: bytes, kinds: frozenset[int], revokes: int
    ) -> Binding:
        newest: Signature | None = None
        not_yet = False
        revocations = []
        for one in signatures:
            if one.kind not in kinds and one.kind != revokes:
                continue
            if not self._is_ours(one, signed):
                continue
            if one.kind == revokes:
                revocations.append(one)
            elif one.ununderstood or one.created_at < self._primary.created_at:
                continue
            elif one.created_at > self._at:
                not_yet = True
            elif newest is None or one.created_at >= newest.created_at:
                newest = one
        return Binding(newest=newest, not_yet=not_yet, revocations=tuple(revocations))

    def _is_ours(self, signature: Signature, signed: bytes) -> bool:
        if not signature.may_be_from(self._primary):
            return False
        self._verified += 1
        if self._verified > VERIFICATIONS_LIMIT:
            raise KeyParse(
                f"the public key has more than {VERIFICATIONS_LIMIT} signatures of its own"
            )
        verifies = signature.verifies(self._primary, signed)
        if verifies and signature.designated_revoker:
            self.designated_revokers.add(signature.designated_revoker)
        return verifies
