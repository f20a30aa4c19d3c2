"""Certificates that may not be encrypted to: parked by name, and no other client notices."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from tests.support.certificates import ENCRYPT, Forge, GnuPG, packet
from tests.support.certificates import fingerprint as key_fingerprint
from tests.support.deployment import key_pair
from tests.support.openssh import OpenSSHServer
from tests.support.openssh import key_pair as ssh_key_pair
from tests.support.outcomes import (
    DAY,
    add_client,
    assert_delivered,
    assert_nothing_arrived,
    fill,
    next_step,
    run_day,
    small_deployment,
)

MADE = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """A public key file, the fingerprint that is pinned, and the code it must get."""

    data: bytes
    fingerprint: str
    code: str


def expired(gnupg):
    made = gnupg.usual(MADE, expires="1d")
    return Wrong(data=gnupg.export(made), fingerprint=made, code="KEY_EXPIRED")


def revoked(gnupg):
    made = gnupg.usual()
    gnupg.revoke(made)
    return Wrong(data=gnupg.export(made), fingerprint=made, code="KEY_REVOKED")


def sign_only(gnupg):
    made = gnupg.generate("ed25519", "sign")
    return Wrong(data=gnupg.export(made), fingerprint=made, code="KEY_NO_ENC_SUBKEY")


def rsa_1024(gnupg):
    made = gnupg.generate("rsa1024", "sign,encrypt")
    return Wrong(data=gnupg.export(made), fingerprint=made, code="KEY_WEAK")


def two_in_one_file(gnupg):
    first, second = gnupg.usual(), gnupg.usual()
    return Wrong(data=gnupg.export(first, second), fingerprint=first, code="KEY_MULTIPLE")


def secret_key(gnupg):
    made = gnupg.usual()
    return Wrong(data=gnupg.export_secret(made), fingerprint=made, code="KEY_SECRET_SUPPLIED")


def ssh_key(_):
    line = ssh_key_pair("ed25519")[1].encode()
    return Wrong(data=line, fingerprint="A" * 40, code="KEY_PARSE")


def x509_certificate(_):
    secret = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client.test")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(secret.public_key())
        .serial_number(7)
        .not_valid_before(MADE)
        .not_valid_after(MADE + timedelta(days=3650))
        .sign(secret, None)
    )
    data = certificate.public_bytes(serialization.Encoding.PEM)
    fingerprint = certificate.fingerprint(hashes.SHA1()).hex().upper()
    return Wrong(data=data, fingerprint=fingerprint, code="KEY_PARSE")


def wrong_fingerprint(gnupg):
    made, other = gnupg.usual(), gnupg.usual()
    return Wrong(data=gnupg.export(made), fingerprint=other, code="KEY_FINGERPRINT")


def empty_file(_):
    return Wrong(data=b"", fingerprint="A" * 40, code="KEY_PARSE")


REFUSED = [
    expired, revoked, sign_only, rsa_1024, two_in_one_file, secret_key, ssh_key,
    x509_certificate, wrong_fingerprint, empty_file,
]  # fmt: skip


class Bench:
    """One run of a healthy client and one client for each certificate."""

    def __init__(self, folder, server, gnupg):
        self.deployment = small_deployment(folder, server)
        self.healthy = add_client(self.deployment, "Healthy Union")
        self.wrong = {make: make(gnupg) for make in REFUSED}
        self.parties = {make: self._client(make, wrong) for make, wrong in self.wrong.items()}
        self.missing = add_client(self.deployment, "missing file", pgp={"public_key": "gone.asc"})
        self.forge, self.grafted_key = Forge(), Forge().subkey_body()
        self.grafted = self._grafted()
        fill(self.deployment)
        self.outcome = run_day(self.deployment)

    def _client(self, make, wrong):
        party = add_client(self.deployment, make.__name__, pgp={"fingerprint": wrong.fingerprint})
        self.path(party).write_bytes(wrong.data)
        return party

    def _grafted(self):
        """A client whose certificate bears a subkey that somebody else has bound to it."""
        stranger = Forge()
        graft = packet(14, self.grafted_key) + stranger.bind(self.grafted_key, ENCRYPT)
        own = self.forge.subkey()
        data = self.forge.certificate(self.forge.user_id(), own, graft)
        pgp = {"fingerprint": self.forge.fingerprint}
        party = add_client(self.deployment, "grafted subkey", pgp=pgp)
        self.path(party).write_bytes(data)
        return party

    def path(self, party):
        return self.deployment.folder / party.entry["pgp"]["public_key"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    with OpenSSHServer(folder) as server, GnuPG() as gnupg:
        yield Bench(folder, server, gnupg)


@pytest.mark.parametrize("make", REFUSED)
def test_a_refused_certificate_parks_its_client_and_names_file_and_remedy(bench, make):
    party, wrong = bench.parties[make], bench.wrong[make]
    row = bench.outcome.row(party)
    assert (row["state"], row["error_code"], row["attempts"]) == ("parked", wrong.code, 1)
    assert row["files"] == 0
    line = bench.outcome.line(party)
    assert f"{DAY}: parked, {wrong.code}: " in line
    assert str(bench.path(party)) in line
    assert re.search(
        r"Ask the client|Keep one certificate|Compare fingerprints|Delete the file", line
    )
    assert_nothing_arrived(party)


def test_a_public_key_that_is_not_there_parks_its_client(bench):
    row = bench.outcome.row(bench.missing)
    assert (row["state"], row["error_code"]) == ("parked", "KEY_MISSING")
    line = bench.outcome.line(bench.missing)
    assert str(bench.deployment.folder / "gone.asc") in line
    assert "Put the client's public key where `pgp.public_key` says" in line
    assert_nothing_arrived(bench.missing)


def test_the_other_client_is_delivered_and_the_run_tells_of_failure(bench):
    assert_delivered(bench.outcome, bench.healthy)
    assert bench.outcome.status == 1


def test_nothing_is_built_for_a_refused_certificate(bench):
    refused = {party.guid for party in bench.parties.values()}
    built = [line for line in bench.deployment.log_lines() if line["event"] == "file.built"]
    assert built
    assert not refused & {line["client_guid"] for line in built}


def test_a_grafted_subkey_is_as_if_it_were_not_there(bench):
    assert_delivered(bench.outcome, bench.grafted)
    own = bench.outcome.row(bench.grafted)
    assert own["records"] == 9
    for content in bench.grafted.received().values():
        listed = subprocess.run(
            ["gpg", "--batch", "--list-only", "--list-packets"],
            input=content, capture_output=True, check=False,
        ).stdout.decode()  # fmt: skip
        recipients = re.findall(r":pubkey enc packet: .* keyid ([0-9A-F]{16})", listed)
        assert len(recipients) == 1
        assert recipients[0] != key_fingerprint(bench.grafted_key)[-16:]


def test_status_tells_what_must_happen_and_a_new_key_opens_the_delivery_by_itself(bench):
    party = bench.parties[expired]
    said = next_step(bench.deployment, party)
    assert "parked KEY_EXPIRED since " in said
    assert (
        "nothing will be tried until the client's public key or its fingerprint changes or "
        "`mxdeliver resume --client expired`"
    ) in said
    assert run_day(bench.deployment, "--client", party.guid).document["deliveries"] == []
    bench.path(party).write_bytes(key_pair(0).public)
    party.entry["pgp"]["fingerprint"] = key_pair(0).fingerprint
    outcome = run_day(bench.deployment, "--client", party.guid)
    assert outcome.status == 0
    assert_delivered(outcome, party)
