"""Key files as they arrive from people: text forms, wrong things, hostile things."""

import base64
import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given, settings
from hypothesis import strategies as st

from mxdeliver.core.errors import (
    KeyMultiple,
    KeyParse,
    KeyProblem,
    KeySecretSupplied,
    MxdeliverError,
)
from mxdeliver.edge.openpgp import SIZE_LIMIT, vet
from mxdeliver.edge.openpgp.armor import crc24
from mxdeliver.edge.openpgp.packets import PACKETS_LIMIT, Tag
from tests.support.certificates import NOW, Forge, packet, subpacket

FORGE = Forge()
CERTIFICATE = FORGE.certificate(FORGE.user_id(), FORGE.subkey())


def armored(data=CERTIFICATE, *, label="PUBLIC KEY BLOCK", headers=(), checksum=True, end="\n"):
    encoded = base64.b64encode(data).decode()
    lines = [encoded[at : at + 64] for at in range(0, len(encoded), 64)]
    if checksum:
        lines.append("=" + base64.b64encode(crc24(data).to_bytes(3, "big")).decode())
    text = [f"-----BEGIN PGP {label}-----", *headers, "", *lines, f"-----END PGP {label}-----", ""]
    return end.join(text).encode()


def named(value):
    """Name a case by its words: the bytes are others in each process."""
    return value if isinstance(value, str) else "data"


def accepted(data):
    return vet(data, at=NOW).fingerprint == FORGE.fingerprint


def complaint(data, error=KeyParse):
    with pytest.raises(error) as caught:
        vet(data, at=NOW)
    return str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(CERTIFICATE, id="binary"),
        pytest.param(armored(), id="armored"),
        pytest.param(armored(checksum=False), id="missing checksum"),
        pytest.param(armored(end="\r\n"), id="CRLF"),
        pytest.param(b"\xef\xbb\xbf" + armored(), id="byte order mark"),
        pytest.param(armored().decode().encode("utf-16"), id="UTF-16 as PowerShell writes it"),
        pytest.param(b"Dear \xc3\x9cser,\nhere is it:\n\n" + armored() + b"\nBye\n", id="letter"),
        pytest.param(b"\xc3\x9cser key:\n" + armored(), id="a letter beginning like a packet"),
        pytest.param(armored(headers=["Version: 1", "Comment: hello"]), id="headers"),
        pytest.param(armored().replace(b"\n", b"\n    "), id="indented"),
        pytest.param(armored().replace(b"\n", b" \t\n"), id="trailing blanks"),
        pytest.param(armored().replace(b"\n", b"\n\n"), id="double line breaks"),
        pytest.param(armored().replace(b"\n", b"\xc2\xa0\n"), id="no-break spaces"),
        pytest.param(CERTIFICATE + packet(Tag.TRUST, b"\0\0"), id="trust packets of a keyring"),
        pytest.param(packet(Tag.MARKER, b"PGP") + CERTIFICATE, id="marker"),
    ],
)
def test_a_certificate_is_read_in_every_form_in_which_people_send_it(data):
    assert accepted(data)


def old_format(data):
    """Write the packets with the older kind of header."""
    return data.replace(b"\xc6\x33", b"\x99\x00\x33", 1)


def test_older_headers_are_read():
    assert accepted(old_format(CERTIFICATE))


def x509_certificate():
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bank")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(1))
    return builder.sign(key, hashes.SHA256())


def ssh_key():
    return ed25519.Ed25519PrivateKey.generate()


def public_form(encoding, form):
    return ssh_key().public_key().public_bytes(encoding, form)


OPENSSH = public_form(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
PEM = public_form(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b" \r\n\t", "empty"),
        (OPENSSH, "an SSH public key"),
        (b"---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n", "an SSH public key"),
        (PEM, "PEM form"),
        (x509_certificate().public_bytes(serialization.Encoding.PEM), "an X.509 certificate"),
        (x509_certificate().public_bytes(serialization.Encoding.DER), "DER"),
        (b"-----BEGIN PKCS7-----\nAAAA\n-----END PKCS7-----\n", "S/MIME"),
        (b"PuTTY-User-Key-File-3: ssh-rsa\n", "PuTTY"),
        (b"<!DOCTYPE html>\n<html><body>404</body></html>", "a web page"),
        (b'{"error": "not found"}', "JSON"),
        (b"PK\x03\x04" + bytes(30), "a packed archive"),
        (armored(label="MESSAGE"), "an encrypted message"),
        (armored(label="SIGNATURE"), "a signature"),
        (armored(label="SIGNED MESSAGE"), "a signed text"),
        (armored(label="ARMORED FILE"), "another kind"),
        (packet(Tag.SESSION_KEY, b"\x03" + bytes(12)), "an encrypted message"),
        (packet(Tag.LITERAL, b"b\0\0\0\0\0hello"), "an OpenPGP message"),
        (FORGE.direct(), "a signature"),
        (packet(Tag.USER_ID, b"somebody"), "other OpenPGP data"),
        (packet(Tag.MARKER, b"PGP"), "nothing"),
        (b"4A3E 1234", "no OpenPGP public key"),
    ],
    ids=named,
)
def test_what_is_no_certificate_is_named(data, words):
    assert words in complaint(data)


@pytest.mark.parametrize(
    "data",
    [
        ssh_key().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        ),
        ssh_key().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        ),
        armored(label="PRIVATE KEY BLOCK"),
        armored() + armored(label="PRIVATE KEY BLOCK"),
        packet(Tag.SECRET_KEY, FORGE.body + bytes(40)),
        armored(CERTIFICATE + packet(Tag.SECRET_SUBKEY, FORGE.body)),
    ],
    ids=named,
)
def test_a_private_key_of_any_kind_is_a_secret_out_of_place(data):
    complaint(data, KeySecretSupplied)


def test_a_truncated_text_is_damaged():
    whole = armored()
    for cut in range(len(whole) - 30, 60, -41):
        assert "cut short" in complaint(whole[:cut])


def test_a_truncated_binary_is_refused():
    for cut in range(1, len(CERTIFICATE)):
        complaint(CERTIFICATE[:cut], KeyProblem)


def test_a_wrong_checksum_is_refused():
    text = armored(CERTIFICATE[:-1] + b"?")
    checksum = armored().splitlines()[-2]
    lines = text.splitlines()
    lines[-2] = checksum
    assert "checksum is wrong" in complaint(b"\n".join(lines))


def test_a_changed_character_is_refused():
    assert "changed on the way" in complaint(armored().replace(b"\n\n", b"\n\n*", 1))


def test_an_empty_block_is_refused():
    assert "nothing between" in complaint(armored(b"", checksum=False))


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        (b"\x9b" + bytes(10), "unknown length"),
        (b"\xc2\xe1" + bytes(10), "in parts"),
        (b"\x00\x00", "do not follow one another"),
        (b"\xc2\xff\xff\xff\xff\xff", "ends in the middle"),
        (b"\xc2\xc5", "ends in the middle"),
    ],
)
def test_packets_that_break_the_rules_are_refused(tail, words):
    assert words in complaint(CERTIFICATE + tail)


def test_a_broken_signature_appended_by_anybody_does_not_spoil_the_key():
    for body in (b"", b"\x04", b"\x03" + bytes(30), b"\x04\x13\x16\x08\0\x01\0\0\0ab", b"\x06\x13"):
        assert accepted(CERTIFICATE + packet(Tag.SIGNATURE, body))
    undated = b"\x04\x13\x16\x08\0\0\0\0ab" + bytes(4)
    assert accepted(CERTIFICATE + packet(Tag.SIGNATURE, undated))


def test_long_subpackets_are_read():
    for size in (191, 192, 8383, 8384, 20000):
        direct = FORGE.direct(subpacket(24, b"x" * size))
        assert accepted(FORGE.certificate(direct, FORGE.user_id(), FORGE.subkey()))


def test_a_file_of_nothing_but_headers_is_read_in_time():
    started = time.monotonic()
    for line in ("", "a:", ":::::::::"):
        text = armored(headers=[line] * (SIZE_LIMIT // (len(line) + 1) - 2_000))
        assert accepted(text)
    assert time.monotonic() - started < 20


def test_a_large_file_is_refused_at_once():
    assert "larger" in complaint(CERTIFICATE + bytes(SIZE_LIMIT))


def test_thousands_of_packets_are_refused():
    assert "packets" in complaint(CERTIFICATE + packet(Tag.USER_ID, b"x") * PACKETS_LIMIT)


def test_thousands_of_own_signatures_are_refused_within_seconds():
    began = time.process_time()
    assert "signatures" in complaint(CERTIFICATE + FORGE.bind(FORGE.body) * 4000)
    assert time.process_time() - began < 5


def test_thousands_of_other_peoples_signatures_cost_nothing():
    stranger = Forge().direct(kind=0x10)
    assert accepted(CERTIFICATE + stranger * 4000)


def test_nothing_of_the_file_is_repeated():
    marker = "hunter2-marker"
    for data in (
        marker.encode(),
        armored(marker.encode()),
        f"-----BEGIN PGP {marker}-----".encode(),
        packet(Tag.PUBLIC_KEY, b"\x04" + marker.encode()),
        f"ssh-rsa {marker}".encode(),
    ):
        assert marker not in complaint(data, KeyProblem)


def test_the_same_certificate_twice_is_two():
    complaint(CERTIFICATE * 2, KeyMultiple)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_the_bytes_only_our_errors_come_out(data):
    changed = bytearray(CERTIFICATE)
    for _ in range(data.draw(st.integers(0, 6))):
        at = data.draw(st.integers(0, len(changed) - 1))
        action = data.draw(st.sampled_from(["set", "cut", "insert"]))
        if action == "set":
            changed[at] = data.draw(st.integers(0, 255))
        elif action == "insert":
            changed[at:at] = data.draw(st.binary(max_size=8))
        elif len(changed) > 20:
            del changed[at : at + data.draw(st.integers(1, 9))]
    try:
        assert accepted(bytes(changed))  # else a change made another key of it, and it was believed
    except MxdeliverError as error:
        assert isinstance(error, KeyProblem)  # noqa: PT017 - both ways out are right


@given(st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_arbitrary_bytes_are_refused_by_a_named_error(data):
    for tried in (data, armored(data), packet(Tag.PUBLIC_KEY, data), CERTIFICATE[:53] + data):
        with pytest.raises(KeyProblem):
            vet(tried, at=NOW)
