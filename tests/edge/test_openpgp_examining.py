"""What is told of a certificate: why it is refused, its keys one by one, and its end."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from mxdeliver.core.errors import KeyExpired, KeyFingerprint, KeyParse, KeyWeak
from mxdeliver.edge.openpgp import examine, vet
from mxdeliver.edge.openpgp.model import KeyFacts
from mxdeliver.edge.openpgp.packets import Tag
from tests.support.certificates import (
    CERTIFY,
    ENCRYPT,
    FLAGS,
    LIFETIME,
    MADE,
    NOW,
    SIGNATURE_LIFETIME,
    Forge,
    days,
    fingerprint,
    integer,
    packet,
    seconds,
    subpacket,
)

DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
NAME = b"Client <client@example.test>"
SIGN_ONLY = subpacket(FLAGS, b"\x02")


# -- which refusal is told -------------------------------------------------------------------------


@pytest.mark.parametrize("newer_first", [False, True])
def test_of_keys_that_cannot_be_used_the_newest_ones_reason_is_told(newer_first):
    forge = Forge()
    old, new = forge.subkey_body(made=MADE), forge.subkey_body(made=MADE + DAY)
    revoked = forge.subkey(body=old) + forge.bind(old, kind=0x28)
    short = subpacket(LIFETIME, days(10))
    expired = forge.subkey(ENCRYPT, short, body=new, at=MADE + DAY)
    parts = [expired, revoked] if newer_first else [revoked, expired]
    with pytest.raises(KeyExpired):
        vet(forge.certificate(forge.user_id(), *parts), at=NOW)


def test_a_key_that_cannot_wrap_anything_is_refused_at_once():
    forge = Forge()
    nothing = bytes.fromhex("0a2b060104019755010501") + integer(b"\x40" + bytes(32))
    body = b"\x04" + seconds(MADE) + b"\x12" + nothing + b"\x03\x01\x08\x07"
    with pytest.raises(KeyParse, match="cannot be encrypted to"):
        vet(forge.certificate(forge.user_id(), forge.subkey(body=body)), at=NOW)


def test_a_weak_primary_key_is_examined_with_its_names_unverified():
    forge = Forge(secret=rsa.generate_private_key(65537, 1024), algorithm=1)
    examination = examine(forge.certificate(forge.user_id(), forge.subkey()), at=NOW)
    assert isinstance(examination.refusal, KeyWeak)
    assert examination.user_ids == (NAME.decode(),)
    assert any("shown unverified" in one for one in examination.warnings)


def test_a_pin_is_told_as_it_was_compared():
    forge = Forge()
    with pytest.raises(KeyFingerprint, match=f"but {'AB' * 20} is pinned"):
        vet(forge.certificate(forge.user_id()), at=NOW, fingerprint=" ".join(["abab"] * 10))


# -- what is told of keys --------------------------------------------------------------------------


def test_an_examination_tells_everything_of_each_key():
    forge = Forge()
    ends = subpacket(LIFETIME, days(400))
    body = forge.subkey_body(made=MADE + DAY)
    other = forge.subkey_body(made=MADE + DAY)
    everything = subpacket(FLAGS, b"\x2f")
    data = forge.certificate(
        forge.user_id(),
        forge.subkey(ENCRYPT, ends, body=body, at=MADE + DAY),
        forge.subkey(SIGN_ONLY, body=other, at=MADE + DAY),
        forge.subkey(everything, body=old_key(forge), at=MADE + DAY),
    )
    examination = examine(data, at=NOW)
    assert examination.refusal is None
    assert (examination.fingerprint, examination.created_at) == (forge.fingerprint, MADE)
    primary = KeyFacts(
        fingerprint=forge.fingerprint,
        key_id=forge.fingerprint[-16:],
        algorithm="Ed25519",
        is_primary=True,
        created_at=MADE,
        expires_at=None,
        capabilities=("certify",),
        problem="not for encryption",
    )
    subkey = replace(
        primary,
        fingerprint=fingerprint(body),
        key_id=fingerprint(body)[-16:],
        algorithm="Curve25519",
        is_primary=False,
        created_at=MADE + DAY,
        expires_at=MADE + 401 * DAY,
        capabilities=("encrypt",),
        problem="",
    )
    assert examination.keys[0] == primary
    assert examination.keys[1] == subkey
    assert (examination.keys[2].capabilities, examination.keys[2].problem) == (
        ("sign",), "not for encryption",
    )  # fmt: skip
    assert examination.keys[3].capabilities == ("certify", "sign", "encrypt", "authenticate")
    assert "ML-KEM-768" in examination.keys[3].problem
    [key] = examination.certificate.encryption_keys
    assert (key.fingerprint, key.key_id, key.algorithm, key.algorithm_number) == (
        fingerprint(body), fingerprint(body)[-16:], "Curve25519", 18,
    )  # fmt: skip
    assert (key.expires_at, key.ciphers, key.body) == (MADE + 401 * DAY, (9, 8, 7), body)
    assert examination.certificate.created_at == MADE
    assert examination.certificate.expires_at == MADE + 401 * DAY


def old_key(forge):
    """Give a subkey's body of an algorithm that is not supported."""
    return b"\x04" + seconds(forge.made) + bytes((35,)) + bytes(32)


def test_a_weak_subkey_that_is_not_for_encryption_is_not_warned_of():
    forge = Forge()
    weak = forge.subkey(SIGN_ONLY, digest="sha1")
    assert vet(forge.certificate(forge.user_id(), forge.subkey(), weak), at=NOW).warnings == ()


def test_a_weak_subkey_for_encryption_is_warned_of_once_and_left_out():
    forge = Forge()
    body = forge.subkey_body()
    weak = forge.subkey(ENCRYPT, body=body, digest="sha1")
    certificate = vet(forge.certificate(forge.user_id(), weak, forge.subkey()), at=NOW)
    [warning] = certificate.warnings
    assert warning.startswith(f"subkey {fingerprint(body)[-16:]} is left out: the encryption key")
    assert len(certificate.encryption_keys) == 1


def test_a_subkey_of_another_version_is_told_in_words():
    forge = Forge()
    newer = packet(Tag.PUBLIC_SUBKEY, b"\x06" + bytes(40))
    data = forge.certificate(forge.user_id(), forge.subkey(), newer)
    assert vet(data, at=NOW).warnings == (
        "a subkey is an OpenPGP key of version 6 (RFC 9580) and is left out",
    )


@pytest.mark.parametrize(
    ("left", "words"),
    [(DAY - SECOND, "0 more days"), (DAY, "1 more day"), (2 * DAY, "2 more days")],
)
def test_the_days_that_are_left_are_counted_in_full(left, words):
    forge = Forge()
    data = forge.certificate(forge.user_id(CERTIFY, subpacket(LIFETIME, days(100))), forge.subkey())
    [warning] = vet(data, at=MADE + 100 * DAY - left).warnings
    assert warning.endswith(f"for {words}")


# -- its end ---------------------------------------------------------------------------------------


def test_the_primary_key_ends_when_the_last_of_its_signatures_does():
    forge = Forge()

    def ends_at(*lifetimes):
        names = [
            forge.user_id(
                CERTIFY,
                *([subpacket(SIGNATURE_LIFETIME, days(one))] if one else []),
                name=b"Client %d" % number,
            )
            for number, one in enumerate(lifetimes)
        ]
        return vet(forge.certificate(*names, forge.subkey()), at=MADE).expires_at

    assert ends_at(10) == MADE + 10 * DAY
    assert ends_at(10, 20) == MADE + 20 * DAY
    assert ends_at(20, 10) == MADE + 20 * DAY
    assert ends_at(10, None) is None


def test_without_an_end_of_one_key_the_certificate_has_none():
    forge = Forge()
    ends = subpacket(LIFETIME, days(400))
    for parts in ([ENCRYPT, ends], [ENCRYPT]), ([ENCRYPT], [ENCRYPT, ends]):
        subkeys = [forge.subkey(*one) for one in parts]
        assert vet(forge.certificate(forge.user_id(), *subkeys), at=NOW).expires_at is None


def test_with_ends_of_all_keys_the_latest_is_the_certificates():
    forge = Forge()
    subkeys = [forge.subkey(ENCRYPT, subpacket(LIFETIME, days(count))) for count in (400, 500, 300)]
    certificate = vet(forge.certificate(forge.user_id(), *subkeys), at=NOW)
    assert certificate.expires_at == MADE + 500 * DAY
