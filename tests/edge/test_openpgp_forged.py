"""What only a forged certificate shows: signatures that no program makes, but an attacker might."""

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mxdeliver.core.errors import KeyExpired, KeyNoEncryptionSubkey, KeyParse, KeyRevoked, KeyWeak
from mxdeliver.edge.openpgp import examine, vet
from mxdeliver.edge.openpgp.keys import read_public_key
from mxdeliver.edge.openpgp.packets import Malformed, Tag
from tests.support.certificates import (
    CERTIFY,
    CIPHERS,
    ENCRYPT,
    FLAGS,
    LIFETIME,
    MADE,
    NOW,
    SIGNATURE_LIFETIME,
    Forge,
    days,
    framed,
    integer,
    packet,
    subpacket,
)

DAY = timedelta(days=1)


def accepted(gnupg, data):
    """Vet, and compare with gpg."""
    certificate = vet(data, at=NOW)
    assert {key.key_id for key in certificate.encryption_keys} == gnupg.verdict(data, NOW)
    return certificate


def test_a_forged_certificate_is_one_that_gpg_accepts(gnupg):
    forge = Forge()
    data = forge.certificate(forge.user_id(), forge.subkey())
    assert accepted(gnupg, data).fingerprint == forge.fingerprint


@pytest.mark.parametrize(
    ("algorithm", "secret", "name"),
    [(27, Ed25519PrivateKey, "Ed25519"), (28, Ed448PrivateKey, "Ed448")],
)
def test_primary_keys_of_the_newer_kinds_are_verified(algorithm, secret, name):
    forge = Forge(secret=secret.generate(), algorithm=algorithm)
    parts = (forge.user_id(), forge.subkey())
    assert examine(forge.certificate(*parts), at=NOW).keys[0].algorithm.startswith(name)
    assert vet(forge.certificate(*parts), at=NOW)
    torn = bytearray(forge.certificate(*parts))
    torn[-1] ^= 1
    with pytest.raises(KeyNoEncryptionSubkey):
        vet(bytes(torn), at=NOW)


def test_a_subkey_without_flags_may_do_what_its_algorithm_can(gnupg):
    forge = Forge()
    no_flags = subpacket(LIFETIME, days(400))
    accepted(gnupg, forge.certificate(forge.user_id(), forge.subkey(no_flags)))


@pytest.mark.parametrize("flags", [b"\x04", b"\x08", b"\x0c", b"\x2e\x00"])
def test_either_encryption_flag_is_enough(gnupg, flags):
    forge = Forge()
    data = forge.certificate(forge.user_id(), forge.subkey(subpacket(FLAGS, flags)))
    accepted(gnupg, data)


def test_a_subkey_for_something_else_is_not_used():
    forge = Forge()
    data = forge.certificate(forge.user_id(), forge.subkey(subpacket(FLAGS, b"\x20")))
    with pytest.raises(KeyNoEncryptionSubkey):
        vet(data, at=NOW)


@pytest.mark.parametrize(
    "critical", [subpacket(99, b"?", critical=True), subpacket(6, b"x\0", critical=True)]
)
def test_a_signature_with_a_critical_part_that_is_not_understood_does_not_count(critical):
    forge = Forge()
    with pytest.raises(KeyNoEncryptionSubkey):
        vet(forge.certificate(forge.user_id(), forge.subkey(ENCRYPT, critical)), at=NOW)
    with pytest.raises(KeyParse, match="no signature of its own"):
        vet(forge.certificate(forge.user_id(CERTIFY, critical), forge.subkey()), at=NOW)


def test_a_critical_notation_does_not_count_and_another_one_does_not_matter():
    forge = Forge()
    value = bytes(4) + b"\0\x03\0\x01" + b"a@bc"
    harmless = forge.subkey(ENCRYPT, subpacket(20, value))
    assert vet(forge.certificate(forge.user_id(), harmless), at=NOW)
    critical = forge.subkey(ENCRYPT, subpacket(20, value, critical=True))
    with pytest.raises(KeyNoEncryptionSubkey):
        vet(forge.certificate(forge.user_id(), critical), at=NOW)


def test_an_expired_signature_is_an_expired_key():
    forge = Forge()
    short = subpacket(SIGNATURE_LIFETIME, days(10))
    with pytest.raises(KeyExpired):
        vet(forge.certificate(forge.user_id(), forge.subkey(ENCRYPT, short)), at=NOW)
    with pytest.raises(KeyExpired):
        vet(forge.certificate(forge.user_id(CERTIFY, short), forge.subkey()), at=NOW)


def test_what_a_signature_says_outside_its_hashed_part_is_not_believed():
    forge = Forge()
    body = forge.subkey_body()
    signed = framed(forge.body) + framed(body)
    sign_only = subpacket(FLAGS, b"\x02")
    binding = forge.sign(0x18, signed, sign_only, unhashed=ENCRYPT)
    data = forge.certificate(forge.user_id(), packet(Tag.PUBLIC_SUBKEY, body), binding)
    with pytest.raises(KeyNoEncryptionSubkey):
        vet(data, at=NOW)


def test_signatures_of_the_future_do_not_count_yet():
    forge = Forge()
    body = forge.subkey_body()
    later = forge.bind(body, subpacket(FLAGS, b"\x02"), at=NOW + DAY)
    data = forge.certificate(forge.user_id(), forge.subkey(body=body), later)
    assert vet(data, at=NOW)  # gpg counts them at once
    with pytest.raises(KeyNoEncryptionSubkey):
        vet(data, at=NOW + 2 * DAY)


def test_a_certificate_of_the_future_points_at_the_clock():
    forge = Forge(made=NOW + DAY)
    with pytest.raises(KeyParse, match="clock"):
        vet(forge.certificate(forge.user_id(), forge.subkey()), at=NOW)
    forge = Forge()
    data = forge.certificate(forge.user_id(at=NOW + DAY), forge.subkey())
    with pytest.raises(KeyParse, match="clock"):
        vet(data, at=NOW)


def test_a_subkey_bound_in_the_future_is_left_out_with_that_reason():
    forge = Forge()
    data = forge.certificate(forge.user_id(), forge.subkey(), forge.subkey(at=NOW + DAY))
    [warning] = vet(data, at=NOW).warnings
    assert "dated in the future" in warning


def test_a_signature_from_before_the_key_does_not_count():
    forge = Forge()
    with pytest.raises(KeyParse, match="no signature of its own"):
        vet(forge.certificate(forge.user_id(at=MADE - DAY), forge.subkey()), at=NOW)


def test_a_hard_revocation_counts_whatever_its_date_and_hash():
    forge = Forge()
    for revocation in (
        forge.direct(kind=0x20, at=NOW + DAY),
        forge.direct(subpacket(29, b"\x02stolen"), kind=0x20, digest="sha1"),
        forge.direct(subpacket(99, b"?", critical=True), kind=0x20),
    ):
        parts = (forge.user_id(), forge.subkey(), revocation)
        with pytest.raises(KeyRevoked):
            vet(forge.certificate(*parts), at=NOW)


@pytest.mark.parametrize("reason", [b"\x01", b"\x03"])
def test_a_soft_revocation_counts_from_its_own_time(reason):
    forge = Forge()
    revocation = forge.direct(subpacket(29, reason), kind=0x20, at=NOW)
    data = forge.certificate(revocation, forge.user_id(), forge.subkey())
    assert vet(data, at=NOW - DAY)
    with pytest.raises(KeyRevoked):
        vet(data, at=NOW)


def test_a_subkey_with_nothing_but_its_revocation_is_revoked():
    forge = Forge()
    body = forge.subkey_body()
    data = forge.certificate(
        forge.user_id(), packet(Tag.PUBLIC_SUBKEY, body), forge.bind(body, kind=0x28)
    )
    with pytest.raises(KeyRevoked):
        vet(data, at=NOW)


def test_a_revocation_that_does_not_verify_is_ignored_with_a_warning():
    forge, stranger = Forge(), Forge()
    made_up = stranger.sign(0x20, framed(forge.body), issuer=forge.fingerprint)
    data = forge.certificate(made_up, forge.user_id(), forge.subkey())
    assert vet(data, at=NOW).warnings == (
        "a revocation in the file does not verify and was ignored",
    )


def test_a_revocation_by_a_designated_revoker_is_warned_of():
    forge, revoker = Forge(), Forge()
    named = subpacket(12, b"\x80\x16" + bytes.fromhex(revoker.fingerprint))
    revocation = revoker.sign(0x20, framed(forge.body))
    data = forge.certificate(forge.direct(named), revocation, forge.user_id(), forge.subkey())
    [warning] = vet(data, at=NOW).warnings
    assert "ask the client whether the key still holds" in warning


def test_all_user_ids_revoked_is_a_revoked_certificate():
    forge = Forge()
    name = b"Client <client@example.test>"
    revocation = forge.certify(name, kind=0x30, at=MADE + DAY)
    parts = (forge.user_id(name=name), revocation, forge.subkey())
    with pytest.raises(KeyRevoked, match="every user id"):
        vet(forge.certificate(*parts), at=NOW)
    again = forge.certify(name, CERTIFY, at=MADE + 2 * DAY)
    data = forge.certificate(parts[0], revocation, again, parts[2])
    assert vet(data, at=NOW).user_ids == (name.decode(),)


def test_a_direct_key_signature_alone_is_enough():
    forge = Forge()
    certificate = vet(forge.certificate(forge.direct(CERTIFY), forge.subkey()), at=NOW)
    assert certificate.user_ids == ()


def test_the_newest_signature_that_speaks_of_the_lifetime_counts():
    forge = Forge()
    direct = forge.direct(subpacket(LIFETIME, days(100)), at=MADE)
    data = forge.certificate(direct, forge.user_id(at=MADE + DAY), forge.subkey())
    assert vet(data, at=NOW).expires_at == MADE + 100 * DAY


def test_without_a_signature_of_its_own_a_certificate_is_refused():
    forge = Forge()
    with pytest.raises(KeyParse, match="no signature of its own"):
        vet(forge.certificate(forge.subkey()), at=NOW)


@pytest.mark.parametrize("digest", ["sha1", "md5"])
def test_where_the_newest_signature_is_weak_no_older_one_takes_its_place(digest):
    forge = Forge()
    body = forge.subkey_body()
    weak = forge.bind(body, ENCRYPT, at=MADE + DAY, digest=digest)
    with pytest.raises(KeyWeak):
        vet(forge.certificate(forge.user_id(), forge.subkey(body=body), weak), at=NOW)


def test_a_name_signed_by_somebody_else_is_not_shown():
    forge, stranger = Forge(), Forge()
    fake = packet(Tag.USER_ID, b"Evil") + stranger.certify(b"Evil")
    data = forge.certificate(forge.user_id(), fake, forge.subkey())
    assert vet(data, at=NOW).user_ids == ("Client <client@example.test>",)


def test_names_are_shown_harmless():
    forge = Forge()
    data = forge.certificate(forge.user_id(name=b"A\x1b[2J\nB\xff"), forge.subkey())
    [name] = vet(data, at=NOW).user_ids
    assert name.isprintable()


def test_a_subkey_that_occurs_twice_counts_once():
    forge = Forge()
    part = forge.subkey()
    [_] = vet(forge.certificate(forge.user_id(), part, part), at=NOW).encryption_keys


def test_preferred_ciphers_of_the_newest_signature_count():
    forge = Forge()
    old = forge.user_id(CERTIFY, subpacket(CIPHERS, b"\x09"))
    new = forge.direct(CERTIFY, subpacket(CIPHERS, b"\x07\x02"), at=MADE + DAY)
    [key] = vet(forge.certificate(new, old, forge.subkey()), at=NOW).encryption_keys
    assert key.ciphers == (7,)


def test_a_certificate_that_ends_soon_is_accepted_with_the_days():
    forge = Forge()
    ends = subpacket(LIFETIME, days(100))
    data = forge.certificate(forge.user_id(CERTIFY, ends), forge.subkey())
    assert vet(data, at=MADE + 70 * DAY).warnings == ()
    [warning] = vet(data, at=MADE + 71 * DAY).warnings
    assert "until 2026-06-09, for 29 more days" in warning


def test_a_subkey_of_another_version_is_left_out_with_a_warning():
    forge = Forge()
    newer = packet(Tag.PUBLIC_SUBKEY, b"\x06" + bytes(40))
    torn = packet(Tag.PUBLIC_SUBKEY, b"\x04\0\0")
    warnings = vet(forge.certificate(forge.user_id(), forge.subkey(), newer, torn), at=NOW).warnings
    assert any("version 6" in warning for warning in warnings)
    assert any("ends in the middle" in warning for warning in warnings)


@pytest.mark.parametrize("version", [2, 3, 5, 6, 77])
def test_keys_of_other_versions_are_named(version):
    with pytest.raises(KeyParse, match=f"version {version}"):
        vet(packet(Tag.PUBLIC_KEY, bytes((version,)) + bytes(60)), at=NOW)


@pytest.mark.parametrize(
    ("algorithm", "name"),
    [(35, "ML-KEM-768"), (8, "Kyber"), (25, "X25519"), (99, "algorithm number 99")],
)
def test_a_subkey_of_an_unsupported_algorithm_is_named(algorithm, name):
    forge = Forge()
    body = b"\x04\0\0\0\0" + bytes((algorithm,)) + bytes(32)
    with pytest.raises(KeyWeak, match=name):
        vet(forge.certificate(forge.user_id(), forge.subkey(body=body)), at=NOW)
    certificate = vet(
        forge.certificate(forge.user_id(), forge.subkey(body=body), forge.subkey()), at=NOW
    )
    assert any(name in warning for warning in certificate.warnings)


def rsa_body(modulus, exponent, algorithm=1):
    numbers = [
        value.to_bytes((value.bit_length() + 7) // 8, "big") for value in (modulus, exponent)
    ]
    return b"\x04\0\0\0\0" + bytes((algorithm,)) + b"".join(map(integer, numbers))


@pytest.mark.parametrize(
    ("body", "concern"),
    [
        (rsa_body(2**2047 + 1, 1), "do not protect"),
        (rsa_body(2**2047 + 1, 4), "do not protect"),
        (rsa_body(2**2047 + 1, 2**70 + 1), "do not protect"),
        (rsa_body(2**2047, 65537), "do not protect"),
        (rsa_body(2**20000 + 1, 65537), "the most"),
        (rsa_body(2**2047 + 1, 65537, algorithm=2), "encrypt-only"),
    ],
)
def test_rsa_numbers_that_do_not_protect_are_refused(body, concern):
    forge = Forge()
    with pytest.raises(KeyWeak, match=concern):
        vet(forge.certificate(forge.user_id(), forge.subkey(body=body)), at=NOW)


def ecdh_body(curve, point, kdf):
    oid = bytes.fromhex(curve)
    return b"\x04\0\0\0\0\x12" + bytes((len(oid),)) + oid + integer(point) + kdf


@pytest.mark.parametrize(
    ("body", "concern"),
    [
        (ecdh_body("2a8648ce3d030107", b"\x04" + b"\x01" * 64, b"\x03\x01\x08\x07"), "valid key"),
        (ecdh_body("2a8648ce3d030107", b"\x02" + b"\x01" * 32, b"\x03\x01\x08\x07"), "valid key"),
        (ecdh_body("2b060104019755010501", b"\x41" * 33, b"\x03\x01\x08\x07"), "valid key"),
        (ecdh_body("2b060104019755010501", b"\x40" * 33, b"\x03\x01\x02\x07"), "derivation"),
        (ecdh_body("2b060104019755010501", b"\x40" * 33, b"\x02\x01\x08"), "derivation"),
        (ecdh_body("2b6599", b"\x40" * 33, b"\x03\x01\x08\x07"), "unknown elliptic curve"),
    ],
)
def test_curve_points_and_parameters_are_judged(body, concern):
    forge = Forge()
    with pytest.raises(KeyWeak, match=concern):
        vet(forge.certificate(forge.user_id(), forge.subkey(body=body)), at=NOW)


def test_an_overlong_key_is_malformed():
    with pytest.raises(Malformed, match="too long"):
        read_public_key(b"\x04\0\0\0\0\x63" + bytes(70000))
