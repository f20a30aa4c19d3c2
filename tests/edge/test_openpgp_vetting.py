"""Which certificates are accepted, and for what: made by gpg, whose verdict is the oracle, or forged."""

import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from mxdeliver.core.errors import (
    KeyExpired,
    KeyFingerprint,
    KeyMultiple,
    KeyNoEncryptionSubkey,
    KeyRevoked,
    KeySecretSupplied,
    KeyWeak,
)
from mxdeliver.edge.openpgp import examine, vet
from mxdeliver.edge.openpgp.keys import read_public_key
from mxdeliver.edge.openpgp.packets import Tag, whole_packets
from tests.support.certificates import (
    MADE,
    NOW,
    fingerprint,
    packet,
)

DAY = timedelta(days=1)


def key_ids(certificate):
    return {key.key_id for key in certificate.encryption_keys}


def accepted(gnupg, data, at=NOW):
    """Vet, and compare with gpg."""
    certificate = vet(data, at=at)
    assert key_ids(certificate) == gnupg.verdict(data, at)
    return certificate


def refused(gnupg, data, error, at=NOW):
    """Vet in vain, and see that gpg would not encrypt to it either."""
    with pytest.raises(error) as caught:
        vet(data, at=at)
    assert gnupg.verdict(data, at) == set()
    return str(caught.value)


# -- the key matrix, keys made by gpg --------------------------------------------------------------


def test_a_usual_certificate_is_accepted(gnupg):
    name = "Ünïcode Bank <bank@example.test>"
    made = gnupg.generate("ed25519", "sign", name=name)
    subkey = gnupg.add_key(made, "cv25519", "encr")
    certificate = accepted(gnupg, gnupg.export(made))
    assert certificate.fingerprint == made
    assert certificate.user_ids == (name,)
    assert certificate.created_at == MADE
    assert certificate.expires_at is None
    assert certificate.warnings == ()
    [key] = certificate.encryption_keys
    assert (key.fingerprint, key.key_id) == (subkey, subkey[-16:])
    assert (key.algorithm, key.expires_at, key.ciphers) == ("Curve25519", None, (9, 8, 7))


@pytest.mark.parametrize(
    ("algorithm", "name"),
    [("nistp256", "NIST P-256"), ("nistp384", "NIST P-384"), ("nistp521", "NIST P-521")],
)
def test_nist_curves_are_accepted_for_signing_and_encrypting(gnupg, algorithm, name):
    made = gnupg.generate(algorithm, "sign")
    gnupg.add_key(made, algorithm, "encr")
    [key] = accepted(gnupg, gnupg.export(made)).encryption_keys
    assert key.algorithm == name


def test_an_expired_primary_key_is_refused(gnupg):
    data = gnupg.export(gnupg.usual(expires="30d"))
    assert "expired on 2026-03-31" in refused(gnupg, data, KeyExpired)
    accepted(gnupg, data, MADE + 29 * DAY)


def test_a_certificate_ends_in_the_second_that_it_names(gnupg):
    data = gnupg.export(gnupg.usual(expires="30d"))
    ends_at = MADE + 30 * DAY
    assert vet(data, at=ends_at - timedelta(seconds=1)).expires_at == ends_at
    with pytest.raises(KeyExpired):
        vet(data, at=ends_at)


def test_an_expired_only_subkey_is_refused(gnupg):
    made = gnupg.generate("ed25519", "sign")
    gnupg.add_key(made, "cv25519", "encr", expires="30d")
    refused(gnupg, gnupg.export(made), KeyExpired)


def test_after_a_rotation_only_the_new_subkey_is_used(gnupg):
    made = gnupg.generate("ed25519", "sign")
    gnupg.add_key(made, "cv25519", "encr", expires="30d")
    new = gnupg.add_key(made, "cv25519", "encr", at=MADE + 20 * DAY, expires="200d")
    certificate = accepted(gnupg, gnupg.export(made))
    assert key_ids(certificate) == {new[-16:]}
    assert certificate.expires_at == MADE + 220 * DAY


def test_an_extended_certificate_counts_by_its_newest_signature(gnupg):
    made = gnupg.usual(expires="30d")
    later = MADE + 20 * DAY
    gnupg.run("--quick-set-expire", made, "300d", at=later)
    gnupg.run("--quick-set-expire", made, "200d", "*", at=later)
    assert accepted(gnupg, gnupg.export(made)).expires_at == later + 200 * DAY


def test_a_subkey_ends_with_its_primary_key(gnupg):
    made = gnupg.generate("ed25519", "sign", expires="100d")
    gnupg.add_key(made, "cv25519", "encr")
    [key] = vet(gnupg.export(made), at=NOW).encryption_keys
    assert key.expires_at == MADE + 100 * DAY


def test_a_revoked_certificate_is_refused(gnupg):
    made = gnupg.usual()
    gnupg.revoke(made)
    assert made in refused(gnupg, gnupg.export(made), KeyRevoked)


def test_beside_a_revoked_subkey_the_live_one_is_used(gnupg):
    made = gnupg.usual()
    live = gnupg.add_key(made, "cv25519", "encr")
    gnupg.revoke_subkey(made, 1, reason=0, at=MADE + DAY)
    assert key_ids(accepted(gnupg, gnupg.export(made))) == {live[-16:]}


def test_a_certificate_whose_only_subkey_is_revoked_is_refused(gnupg):
    made = gnupg.usual()
    gnupg.revoke_subkey(made, 1, reason=1, at=MADE + DAY)
    refused(gnupg, gnupg.export(made), KeyRevoked)


def test_all_live_subkeys_are_recipients(gnupg):
    made = gnupg.usual()
    gnupg.add_key(made, "nistp256", "encr")
    assert len(accepted(gnupg, gnupg.export(made)).encryption_keys) == 2


def test_a_sign_only_certificate_is_refused(gnupg):
    made = gnupg.generate("ed25519", "sign")
    refused(gnupg, gnupg.export(made), KeyNoEncryptionSubkey)


def test_an_encrypting_primary_key_is_a_recipient(gnupg):
    made = gnupg.generate("rsa3072", "sign,encrypt")
    certificate = accepted(gnupg, gnupg.export(made))
    assert key_ids(certificate) == {made[-16:]}
    assert certificate.encryption_keys[0].algorithm == "RSA 3072"
    assert certificate.warnings == ()


def test_rsa_2048_is_accepted_with_a_warning(gnupg):
    made = gnupg.generate("rsa2048", "sign,encrypt")
    [warning] = accepted(gnupg, gnupg.export(made)).warnings
    assert "3072 bits are advised" in warning


def test_rsa_1024_is_too_weak(gnupg):
    made = gnupg.generate("rsa1024", "sign,encrypt")
    with pytest.raises(KeyWeak, match="RSA 1024 is too short"):
        vet(gnupg.export(made), at=NOW)


def test_a_short_rsa_subkey_is_left_out_where_another_can_be_used(gnupg):
    made = gnupg.usual()
    short = gnupg.add_key(made, "rsa1024", "encr")
    certificate = vet(gnupg.export(made), at=NOW)
    assert short[-16:] not in key_ids(certificate)
    assert any(short[-16:] in warning for warning in certificate.warnings)


def test_sha_1_signatures_are_too_weak(gnupg):
    made = gnupg.generate("ed25519", "sign", "--cert-digest-algo", "SHA1")
    gnupg.add_key(made, "cv25519", "encr")
    with pytest.raises(KeyWeak, match="SHA-1"):
        vet(gnupg.export(made), at=NOW)


def test_a_sha_1_binding_is_too_weak(gnupg):
    made = gnupg.generate("ed25519", "sign")
    gnupg.add_key(made, "cv25519", "encr", "--cert-digest-algo", "SHA1")
    with pytest.raises(KeyWeak, match="SHA-1"):
        vet(gnupg.export(made), at=NOW)


def test_a_newer_signature_heals_one_of_sha_1(gnupg):
    made = gnupg.generate("ed25519", "sign", "--cert-digest-algo", "SHA1")
    gnupg.add_key(made, "cv25519", "encr")
    sha_2 = ["--cert-digest-algo", "SHA256"]  # gpg would use the old signature's again
    gnupg.run(*sha_2, "--quick-set-expire", made, "300d", at=MADE + DAY)
    accepted(gnupg, gnupg.export(made))


def test_dsa_is_out_of_date(gnupg):
    made = gnupg.generate("dsa1024", "sign")
    with pytest.raises(KeyWeak, match="DSA 1024 is out of date"):
        vet(gnupg.export(made), at=NOW)


def test_unsupported_curves_are_named(gnupg):
    made = gnupg.generate("brainpoolP256r1", "sign")
    with pytest.raises(KeyWeak, match="brainpoolP256r1 is not supported"):
        vet(gnupg.export(made), at=NOW)


def test_a_subkey_of_an_unsupported_curve_alone_is_refused_and_named(gnupg):
    made = gnupg.generate("ed25519", "sign")
    gnupg.add_key(made, "secp256k1", "encr")
    with pytest.raises(KeyWeak, match="secp256k1 is not supported"):
        vet(gnupg.export(made), at=NOW)


@pytest.mark.parametrize(
    ("preferences", "ciphers"), [("AES256 AES SHA256", (9, 7)), ("AES SHA256", (7,))]
)
def test_the_ciphers_are_those_that_the_owner_reads(gnupg, preferences, ciphers):
    made = gnupg.generate("ed25519", "sign", "--default-preference-list", preferences)
    gnupg.add_key(made, "cv25519", "encr")
    assert vet(gnupg.export(made), at=NOW).encryption_keys[0].ciphers == ciphers


def test_ciphers_older_than_aes_are_too_weak(gnupg):
    made = gnupg.generate("ed25519", "sign", "--default-preference-list", "3DES CAST5 SHA256")
    gnupg.add_key(made, "cv25519", "encr")
    with pytest.raises(KeyWeak, match="older than AES"):
        vet(gnupg.export(made), at=NOW)


def test_a_secret_key_is_refused(gnupg):
    made = gnupg.usual()
    for options in ([], ["--armor"]):
        with pytest.raises(KeySecretSupplied):
            vet(gnupg.export_secret(made, *options), at=NOW)


def test_two_certificates_in_one_file_are_refused(gnupg):
    one, other = gnupg.usual(), gnupg.usual()
    with pytest.raises(KeyMultiple, match="2 certificates"):
        vet(gnupg.export(one, other), at=NOW)
    with pytest.raises(KeyMultiple):
        vet(gnupg.export(one, armor=True) + gnupg.export(other, armor=True), at=NOW)


def test_a_grafted_subkey_is_as_if_it_were_not_there(gnupg):
    victim, attacker = gnupg.usual(), gnupg.usual()
    foreign = [one for one in whole_packets(gnupg.export(attacker)) if one.tag != Tag.USER_ID]
    grafted = b"".join(packet(one.tag, one.body) for one in foreign[2:])
    data = gnupg.export(victim) + grafted
    certificate = accepted(gnupg, data)
    assert certificate.fingerprint == victim
    assert len(certificate.encryption_keys) == 1
    assert any("has not signed for it" in warning for warning in certificate.warnings)


def test_a_revoked_user_id_is_not_shown(gnupg):
    made = gnupg.usual()
    gnupg.run("--quick-add-uid", made, "Second Name <second@example.test>", at=MADE + DAY)
    gnupg.run("--quick-revoke-uid", made, "Second Name <second@example.test>", at=MADE + 2 * DAY)
    certificate = accepted(gnupg, gnupg.export(made))
    assert len(certificate.user_ids) == 1
    assert "Second" not in certificate.user_ids[0]


def test_a_certificate_with_a_photo_is_accepted(gnupg):
    made = gnupg.usual()
    name = b"\x10\x01\x00\x01\x01" + bytes(11)
    attribute = packet(Tag.USER_ATTRIBUTE, bytes((len(name) + 2,)) + b"\x01" + name)
    assert len(vet(gnupg.export(made) + attribute, at=NOW).user_ids) == 1


# -- the pin ---------------------------------------------------------------------------------------


def test_the_fingerprint_is_compared_without_spaces_and_case(gnupg):
    made = gnupg.usual()
    spaced = " ".join(made[at : at + 4] for at in range(0, 40, 4)).lower()
    assert vet(gnupg.export(made), at=NOW, fingerprint=f" {spaced}\n").fingerprint == made


def test_another_fingerprint_is_refused_naming_both(gnupg):
    made = gnupg.usual()
    pinned = "A" * 40
    with pytest.raises(KeyFingerprint) as caught:
        vet(gnupg.export(made), at=NOW, fingerprint=pinned)
    assert made in str(caught.value)
    assert pinned in str(caught.value)


def test_a_key_id_is_no_fingerprint(gnupg):
    made = gnupg.usual()
    with pytest.raises(KeyFingerprint):
        vet(gnupg.export(made), at=NOW, fingerprint=made[-16:])


def test_the_pin_is_compared_before_anything_else_is_said(gnupg):
    made = gnupg.usual(expires="30d")
    with pytest.raises(KeyFingerprint):
        vet(gnupg.export(made), at=NOW, fingerprint="B" * 40)


# -- what else is told -----------------------------------------------------------------------------


def test_the_fingerprint_is_the_one_that_gpg_computes(gnupg):
    made = gnupg.usual()
    bodies = [one.body for one in whole_packets(gnupg.export(made)) if one.tag in {6, 14}]
    listing = gnupg.run("--with-colons", "--list-keys", made).decode().splitlines()
    expected = [line.split(":")[9] for line in listing if line.startswith("fpr")]
    assert [read_public_key(one).fingerprint for one in bodies] == expected
    assert [fingerprint(one) for one in bodies] == expected


def test_an_examination_tells_of_every_key_also_when_it_ends_in_a_refusal(gnupg):
    made = gnupg.usual(expires="30d")
    examination = examine(gnupg.export(made), at=NOW)
    assert isinstance(examination.refusal, KeyExpired)
    assert examination.certificate is None
    primary, subkey = examination.keys
    assert (primary.is_primary, primary.capabilities) == (True, ("certify", "sign"))
    assert primary.problem == "not for encryption"
    assert (subkey.is_primary, subkey.capabilities) == (False, ("encrypt",))
    assert "expired" in subkey.problem


def test_keys_of_sequoia_are_accepted(tmp_path):
    secret = tmp_path / "key"
    secret.write_bytes(subprocess.check_output(["sqop", "generate-key", "Bank <b@example.test>"]))
    data = subprocess.check_output(["sqop", "extract-cert"], input=secret.read_bytes())
    certificate = vet(data, at=datetime.now(UTC) + timedelta(seconds=2))  # sqop has no other clock
    assert certificate.user_ids == ("Bank <b@example.test>",)
    assert certificate.encryption_keys
