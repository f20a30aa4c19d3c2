"""Signatures of certificates, kind by kind and number by number: which count, and what they say."""

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mxdeliver.core.errors import (
    KeyExpired,
    KeyNoEncryptionSubkey,
    KeyParse,
    KeyRevoked,
)
from mxdeliver.edge.openpgp import vet
from mxdeliver.edge.openpgp.certificate import VERIFICATIONS_LIMIT
from mxdeliver.edge.openpgp.packets import Tag
from tests.support.certificates import (
    CERTIFY,
    CIPHERS,
    DIGESTS,
    ENCRYPT,
    FLAGS,
    LIFETIME,
    MADE,
    NOW,
    SIGNATURE_LIFETIME,
    Forge,
    days,
    framed,
    packet,
    seconds,
    subpacket,
)

DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
NAME = b"Client <client@example.test>"
SIGN_ONLY = subpacket(FLAGS, b"\x02")
SECRETS = {
    1: rsa.generate_private_key(65537, 3072),
    19: ec.generate_private_key(ec.SECP256R1()),
    22: Ed25519PrivateKey.generate(),
    27: Ed25519PrivateKey.generate(),
    28: Ed448PrivateKey.generate(),
}


def forge_of(algorithm):
    return Forge(secret=SECRETS[algorithm], algorithm=algorithm)


def with_binding(forge, *subpackets, **options):
    """Give a certificate whose one subkey is bound by one signature."""
    body = forge.subkey_body()
    binding = forge.bind(body, *subpackets, **options)
    return forge.certificate(forge.user_id(), packet(Tag.PUBLIC_SUBKEY, body), binding)


# -- who made it -----------------------------------------------------------------------------------


@pytest.mark.parametrize("digest", [one for one in DIGESTS if one not in {"md5", "sha1"}])
@pytest.mark.parametrize("algorithm", SECRETS)
def test_signatures_of_each_algorithm_are_verified_with_each_digest(algorithm, digest):
    forge = forge_of(algorithm)
    data = forge.certificate(forge.user_id(digest=digest), forge.subkey(digest=digest))
    assert vet(data, at=NOW).fingerprint == forge.fingerprint
    torn = bytearray(data)
    torn[-1] ^= 1
    with pytest.raises(KeyNoEncryptionSubkey):
        vet(bytes(torn), at=NOW)


@pytest.mark.parametrize("algorithm", [1, 19, 22])
def test_a_signature_whose_number_happens_to_be_short_is_verified(algorithm):
    forge = forge_of(algorithm)
    body = forge.subkey_body()
    part = packet(Tag.PUBLIC_SUBKEY, body)
    bindings = (forge.bind(body, ENCRYPT, at=MADE + number * SECOND) for number in range(5000))
    usual = max(len(next(bindings)) for _ in range(20))
    short = next(one for one in bindings if len(one) < usual)
    assert vet(forge.certificate(forge.user_id(), part, short), at=NOW)


@pytest.mark.parametrize("algorithm", SECRETS)
def test_a_signature_that_says_it_is_of_another_algorithm_than_its_key_does_not_count(algorithm):
    forge = forge_of(algorithm)
    for other in {1, 2, 3, 16, 17, 19, 22, 27, 28, 99} - {algorithm}:
        data = with_binding(forge, ENCRYPT, algorithm=other)
        if (algorithm, other) == (1, 3):
            assert vet(data, at=NOW)  # RSA that is said to sign only
        else:
            with pytest.raises(KeyNoEncryptionSubkey):
                vet(data, at=NOW)


def test_a_signature_with_an_unknown_digest_does_not_count():
    forge = Forge()
    data = bytearray(with_binding(forge, ENCRYPT))
    place = data.rindex(bytes((4, 0x18, 22, DIGESTS["sha256"])))
    data[place + 3] = 99
    with pytest.raises(KeyNoEncryptionSubkey):
        vet(bytes(data), at=NOW)


def test_the_maker_is_found_by_key_id_by_fingerprint_or_by_trying():
    forge = Forge()
    whole = bytes.fromhex(forge.fingerprint)
    for named in (subpacket(16, whole[-8:]), subpacket(33, b"\x04" + whole), b""):
        assert vet(with_binding(forge, ENCRYPT, named=named), at=NOW)


def test_a_signature_that_names_somebody_else_as_its_maker_does_not_count():
    forge = Forge()
    other = bytes.fromhex(Forge().fingerprint)
    for named in (subpacket(16, other[-8:]), subpacket(33, b"\x04" + other)):
        with pytest.raises(KeyNoEncryptionSubkey):
            vet(with_binding(forge, ENCRYPT, named=named), at=NOW)


def test_a_signature_of_another_version_does_not_count():
    forge = Forge()
    data = bytearray(with_binding(forge, ENCRYPT))
    data[data.rindex(bytes((4, 0x18, 22)))] = 5
    with pytest.raises(KeyNoEncryptionSubkey):
        vet(bytes(data), at=NOW)


# -- its kind --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", range(0x34))
def test_only_the_four_certifications_speak_for_a_name(kind):
    forge = Forge()
    data = forge.certificate(forge.user_id(kind=kind), forge.subkey())
    if kind in {0x10, 0x11, 0x12, 0x13}:
        assert vet(data, at=NOW).user_ids == (NAME.decode(),)
    else:
        with pytest.raises((KeyParse, KeyRevoked)):
            vet(data, at=NOW)


@pytest.mark.parametrize("kind", range(0x34))
def test_only_a_subkey_binding_binds_a_subkey(kind):
    forge = Forge()
    data = with_binding(forge, ENCRYPT, kind=kind)
    if kind == 0x18:
        assert vet(data, at=NOW)
    else:
        with pytest.raises((KeyNoEncryptionSubkey, KeyRevoked)):
            vet(data, at=NOW)


def test_a_statement_about_the_primary_key_may_stand_anywhere():
    forge = Forge()
    revocation = forge.direct(kind=0x20)
    for parts in ([revocation, forge.user_id(), forge.subkey()], [forge.user_id(), revocation]):
        with pytest.raises(KeyRevoked):
            vet(forge.certificate(*parts), at=NOW)


def test_a_photo_that_the_owner_has_signed_speaks_for_the_key_and_is_no_name():
    forge = Forge()
    photo = b"\x12\x01" + b"\x10\x00\x01\x01" + bytes(12)
    signed = framed(forge.body) + b"\xd1" + len(photo).to_bytes(4, "big") + photo
    attribute = packet(Tag.USER_ATTRIBUTE, photo) + forge.sign(0x13, signed, CERTIFY)
    assert vet(forge.certificate(attribute, forge.subkey()), at=NOW).user_ids == ()


def test_packets_that_mean_nothing_here_may_stand_between():
    forge = Forge()
    between = packet(Tag.MARKER, b"PGP") + packet(Tag.TRUST, b"\0") + packet(Tag.PADDING, b"??")
    data = forge.certificate(between, forge.user_id(), between, forge.subkey(), between)
    assert vet(between + data, at=NOW)


def test_a_file_of_packets_that_mean_nothing_holds_nothing():
    with pytest.raises(KeyParse, match="the file holds nothing, not an OpenPGP public key"):
        vet(packet(Tag.MARKER, b"PGP"), at=NOW)


@pytest.mark.parametrize("broken", [b"", b"\x04\x18", b"\x04\x18\x16\x08\xff\xff"])
def test_a_broken_signature_is_as_if_it_were_not_there(broken):
    forge = Forge()
    data = forge.certificate(forge.user_id(), forge.subkey(), packet(Tag.SIGNATURE, broken))
    assert vet(data, at=NOW).warnings == ()


def test_an_empty_part_of_a_signature_breaks_it():
    forge = Forge()
    with pytest.raises(KeyNoEncryptionSubkey):
        vet(with_binding(forge, ENCRYPT, b"\0"), at=NOW)


# -- its parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 189, 190, 191, 192, 447, 448, 8381, 8382, 8383, 9000])
def test_parts_of_any_length_are_passed_over(length):
    forge = Forge()
    long = subpacket(20, bytes(length))
    with pytest.raises(KeyNoEncryptionSubkey):
        vet(with_binding(forge, long, SIGN_ONLY), at=NOW)
    assert vet(with_binding(forge, long, ENCRYPT), at=NOW)


def test_a_long_form_of_a_small_length_is_read():
    forge = Forge()
    long = b"\xff" + (2).to_bytes(4, "big") + b"\x14?"
    with pytest.raises(KeyNoEncryptionSubkey):
        vet(with_binding(forge, long, SIGN_ONLY), at=NOW)
    assert vet(with_binding(forge, long, ENCRYPT), at=NOW)


def test_only_parts_that_are_understood_may_be_critical():
    forge = Forge()
    whole = bytes.fromhex(forge.fingerprint)
    values = {
        2: seconds(MADE), 3: bytes(4), 9: bytes(4), 16: whole[-8:], 27: b"\x0c", 33: b"\x04" + whole,
    }  # fmt: skip
    accepted = set()
    for number in range(1, 128):
        part = subpacket(number, values.get(number, b"\0"), critical=True)
        try:
            vet(with_binding(forge, ENCRYPT, part), at=NOW)
        except KeyNoEncryptionSubkey:
            continue
        accepted.add(number)
    assert accepted == {
        2, 3, 4, 5, 7, 9, 11, 12, 16, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 32, 33, 34, 39,
    }  # fmt: skip


@pytest.mark.parametrize("value", [b"", b"\0\0\0", bytes(5)])
def test_a_signature_without_a_date_does_not_count(value):
    forge = Forge()
    with pytest.raises(KeyNoEncryptionSubkey):
        vet(with_binding(forge, ENCRYPT, subpacket(2, value)), at=NOW)


def test_empty_flags_say_nothing():
    forge = Forge()
    assert vet(with_binding(forge, subpacket(FLAGS, b"")), at=NOW)


@pytest.mark.parametrize(("length", "is_named"), [(21, False), (22, True), (23, False)])
def test_a_designated_revoker_is_named_by_22_octets(length, is_named):
    forge, revoker = Forge(), Forge()
    value = (b"\x80\x16\x16" + bytes.fromhex(revoker.fingerprint))[-length:]
    revocation = revoker.sign(0x20, framed(forge.body))
    parts = (forge.direct(subpacket(12, value)), revocation, forge.user_id(), forge.subkey())
    [warning] = vet(forge.certificate(*parts), at=NOW).warnings
    assert ("ask the client" in warning) is is_named


def test_a_stranger_cannot_name_a_designated_revoker():
    forge, stranger = Forge(), Forge()
    named = subpacket(12, b"\x80\x16" + bytes.fromhex(stranger.fingerprint))
    made_up = stranger.sign(0x1F, framed(forge.body), named, issuer=forge.fingerprint)
    revocation = stranger.sign(0x20, framed(forge.body))
    parts = (made_up, revocation, forge.user_id(), forge.subkey())
    [warning] = vet(forge.certificate(*parts), at=NOW).warnings
    assert "does not verify" in warning


@pytest.mark.parametrize("reason", [0, 2, 4, 32, 100])
def test_a_revocation_for_any_other_reason_counts_before_its_time(reason):
    forge = Forge()
    revocation = forge.direct(subpacket(29, bytes((reason,))), kind=0x20, at=NOW)
    with pytest.raises(KeyRevoked):
        vet(forge.certificate(revocation, forge.user_id(), forge.subkey()), at=NOW - DAY)


def test_a_subkey_that_was_retired_is_used_until_then():
    forge = Forge()
    body = forge.subkey_body()
    retired = forge.bind(body, subpacket(29, b"\x03any words"), kind=0x28, at=NOW)
    data = forge.certificate(forge.user_id(), forge.subkey(body=body), retired)
    assert vet(data, at=NOW - SECOND)
    with pytest.raises(KeyRevoked):
        vet(data, at=NOW)


def test_a_revocation_that_is_still_to_come_is_not_warned_of():
    forge = Forge()
    revocation = forge.direct(subpacket(29, b"\x01"), kind=0x20, at=NOW)
    data = forge.certificate(revocation, forge.user_id(), forge.subkey())
    assert vet(data, at=NOW - DAY).warnings == ()


def test_as_many_signatures_as_are_allowed_are_verified_and_no_more():
    forge = Forge()
    statement = forge.direct(CERTIFY)
    parts = [forge.user_id(), forge.subkey(), *[statement] * (VERIFICATIONS_LIMIT - 2)]
    assert vet(forge.certificate(*parts), at=NOW)
    with pytest.raises(KeyParse, match="more than 500 signatures"):
        vet(forge.certificate(*parts, statement), at=NOW)


def test_signatures_of_a_subkey_that_occurs_twice_are_put_together():
    forge = Forge()
    body = forge.subkey_body()
    revocation = forge.bind(body, kind=0x28)
    part = packet(Tag.PUBLIC_SUBKEY, body)
    with pytest.raises(KeyRevoked):
        vet(forge.certificate(forge.user_id(), forge.subkey(body=body), part, revocation), at=NOW)


# -- dates -----------------------------------------------------------------------------------------


def test_of_two_signatures_of_the_same_second_the_later_one_in_the_file_counts():
    forge = Forge()
    body = forge.subkey_body()
    part = packet(Tag.PUBLIC_SUBKEY, body)
    encrypt, sign = forge.bind(body, ENCRYPT), forge.bind(body, SIGN_ONLY)
    assert vet(forge.certificate(forge.user_id(), part, sign, encrypt), at=NOW)
    with pytest.raises(KeyNoEncryptionSubkey):
        vet(forge.certificate(forge.user_id(), part, encrypt, sign), at=NOW)


def test_an_older_signature_that_comes_later_in_the_file_does_not_count():
    forge = Forge()
    body = forge.subkey_body()
    part = packet(Tag.PUBLIC_SUBKEY, body)
    new, old = forge.bind(body, ENCRYPT, at=MADE + DAY), forge.bind(body, SIGN_ONLY)
    assert vet(forge.certificate(forge.user_id(), part, new, old), at=NOW)


def test_a_certificate_counts_from_the_second_in_which_it_was_made():
    forge = Forge()
    data = forge.certificate(forge.user_id(), forge.subkey())
    assert vet(data, at=MADE)
    with pytest.raises(KeyParse, match="clock"):
        vet(data, at=MADE - SECOND)


def test_a_signature_counts_from_its_second_and_its_lifetime_runs_from_there():
    forge = Forge()
    made = MADE + 5 * DAY
    data = with_binding(forge, ENCRYPT, subpacket(SIGNATURE_LIFETIME, days(10)), at=made)
    assert vet(data, at=made).expires_at == made + 10 * DAY
    assert vet(data, at=made + 10 * DAY - SECOND)
    with pytest.raises(KeyExpired):
        vet(data, at=made + 10 * DAY)


def test_a_keys_lifetime_runs_from_when_the_key_was_made():
    forge = Forge()
    lifetime = subpacket(LIFETIME, days(10))
    data = with_binding(forge, ENCRYPT, lifetime, at=MADE + 5 * DAY)
    assert vet(data, at=MADE + 5 * DAY).expires_at == MADE + 10 * DAY
    with pytest.raises(KeyExpired):
        vet(data, at=MADE + 10 * DAY)


def test_of_two_ends_the_earlier_one_counts():
    forge = Forge()
    for ends in ((10, 20), (20, 10)):
        key_ends, signature_ends = (days(one) for one in ends)
        parts = (subpacket(LIFETIME, key_ends), subpacket(SIGNATURE_LIFETIME, signature_ends))
        assert vet(with_binding(forge, ENCRYPT, *parts), at=MADE).expires_at == MADE + 10 * DAY


def test_a_lifetime_of_nothing_is_for_ever():
    forge = Forge()
    parts = (subpacket(LIFETIME, bytes(4)), subpacket(SIGNATURE_LIFETIME, bytes(4)))
    assert vet(with_binding(forge, ENCRYPT, *parts), at=NOW).expires_at is None


def test_a_name_that_was_revoked_in_the_second_of_its_certification_is_revoked():
    forge = Forge()
    second = forge.user_id(name=b"Second")
    revocation = forge.certify(b"Second", kind=0x30)
    data = forge.certificate(forge.user_id(), second, revocation, forge.subkey())
    assert vet(data, at=NOW).user_ids == (NAME.decode(),)


def test_a_revoked_name_speaks_for_nothing():
    forge = Forge()
    other = forge.user_id(CERTIFY, subpacket(CIPHERS, b"\x07"), name=b"Second", at=MADE + DAY)
    revocation = forge.certify(b"Second", kind=0x30, at=MADE + 2 * DAY)
    data = forge.certificate(forge.user_id(), other, revocation, forge.subkey())
    assert vet(data, at=NOW).encryption_keys[0].ciphers == (9, 8, 7)
