"""Messages that are written: read by GnuPG, Sequoia, RNP and OpenPGP.js, and watched as they pass."""

import random
import subprocess
import sys
from dataclasses import replace
from zlib import crc32

import pytest

from mxdeliver.core.errors import EncryptVerify
from mxdeliver.edge.openpgp import MessageCheck, MessageWriter
from mxdeliver.edge.openpgp.packets import Malformed, PacketStream, Skipped, Tag, length_octets
from tests.support import openpgpjs
from tests.support.certificates import packet, tool
from tests.support.key_pairs import ENCRYPTING, encrypt, key_pair

SIZES = (0, 1, 511, 512, 8383, 8384, 65535, 65536, 65537)
INSIDE = (65529, 65530, 65531, 131065, 131066, 131067)  # a literal packet's own parts end here
BYTES = random.Random(1).randbytes(300_000)


@pytest.mark.parametrize("name", ENCRYPTING)
def test_gnupg_and_sequoia_read_every_size_for_every_kind_of_key(gnupg, tmp_path, name):
    pair = key_pair(gnupg, name)
    recipients = pair.certificate.encryption_keys
    secret = tmp_path / "secret"
    secret.write_bytes(pair.secret)
    files = [tmp_path / f"{size}.pgp" for size in SIZES]
    for size, file in zip(SIZES, files, strict=True):
        file.write_bytes(encrypt(recipients, BYTES[:size]))
    gnupg.run("--decrypt-files", *map(str, files))
    for size, file in zip(SIZES, files, strict=True):
        assert file.with_suffix("").read_bytes() == BYTES[:size]
        assert tool("sqop", "decrypt", secret, data=file.read_bytes()) == BYTES[:size]


@pytest.mark.parametrize("name", ENCRYPTING)
def test_rnp_reads_every_kind_of_key(gnupg, tmp_path, name):
    pair = key_pair(gnupg, name)
    secret, file = tmp_path / "secret", tmp_path / "message"
    secret.write_bytes(pair.secret)
    command = ["rnp", "--keyfile", secret, "--password", "", "--output", "-", "--decrypt", file]
    for size in SIZES if name == "Curve25519" else (65537,):
        file.write_bytes(encrypt(pair.certificate.encryption_keys, BYTES[:size]))
        assert tool(*command) == BYTES[:size]


@pytest.mark.parametrize("name", ENCRYPTING)
def test_openpgp_js_reads_every_kind_of_key(gnupg, tmp_path, name):
    pair = key_pair(gnupg, name)
    secret = tmp_path / "secret"
    secret.write_bytes(pair.secret)
    sizes = (*SIZES, *INSIDE) if name == "Curve25519" else (65537,)
    files = [tmp_path / f"{size}.pgp" for size in sizes]
    for size, file in zip(sizes, files, strict=True):
        file.write_bytes(encrypt(pair.certificate.encryption_keys, BYTES[:size]))
    assert openpgpjs.read(secret, files) == [BYTES[:size] for size in sizes]


@pytest.mark.parametrize("step", [1, 7, 509, 65529, 65530, 65536, 70_001, 140_000])
def test_the_pieces_in_which_data_is_written_leave_no_trace(gnupg, step):
    data = BYTES[:2000] if step == 1 else BYTES
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    recipients = key_pair(gnupg, "Curve25519").certificate.encryption_keys
    message = encrypt(recipients, *pieces)
    assert gnupg.run("--decrypt", data=message) == data
    assert len(message) == len(encrypt(recipients, data))


def test_every_boundary_inside_is_read(gnupg, tmp_path):
    recipients = key_pair(gnupg, "Curve25519").certificate.encryption_keys
    files = [tmp_path / f"{size}.pgp" for size in INSIDE]
    for size, file in zip(INSIDE, files, strict=True):
        file.write_bytes(encrypt(recipients, BYTES[:size]))
    gnupg.run("--decrypt-files", *map(str, files))
    assert [file.with_suffix("").read_bytes() for file in files] == [BYTES[:n] for n in INSIDE]


def test_a_buffer_may_be_used_again_as_soon_as_it_was_written(gnupg):
    recipients = key_pair(gnupg, "Curve25519").certificate.encryption_keys
    message = bytearray()
    writer = MessageWriter(recipients, message.extend)
    buffer = bytearray(len(BYTES))
    for start in range(0, len(BYTES), 150_000):
        piece = BYTES[start : start + 150_000]
        buffer[: len(piece)] = piece
        writer.write(memoryview(buffer)[: len(piece)])
        buffer[:] = bytes(len(buffer))
    writer.finish()
    assert gnupg.run("--decrypt", data=bytes(message)) == BYTES


def test_nothing_but_the_data_is_told(gnupg):
    pair = key_pair(gnupg, "several")
    recipients = pair.certificate.encryption_keys
    message = encrypt(recipients, b"data")
    listing = gnupg.run("--list-packets", "--verbose", data=message).decode()
    lines = [line.split(" ")[0] for line in listing.splitlines() if line.startswith(":")]
    assert lines == [":pubkey"] * 3 + [":encrypted", ":literal"]
    assert "mdc_method: 2" in listing
    assert 'mode b (62), created 0, name="",' in listing
    assert "compressed" not in listing
    for key in recipients:
        assert f"keyid {key.key_id}" in listing


@pytest.mark.parametrize(("ciphers", "number"), [((9, 8, 7), 9), ((8, 7), 8), ((7,), 7)])
def test_the_strongest_cipher_that_the_owner_reads_is_used(gnupg, ciphers, number):
    [key] = key_pair(gnupg, "Curve25519").certificate.encryption_keys
    command = ["gpg", "--homedir", gnupg.home, "--batch", "--quiet", "--status-fd", "2", "-d"]
    message = encrypt([replace(key, ciphers=ciphers)], b"x")
    done = subprocess.run(command, input=message, capture_output=True, check=True)
    assert f"DECRYPTION_INFO 2 {number}" in done.stderr.decode()
    assert done.stdout == b"x"


def test_recipients_without_a_common_cipher_get_aes_128(gnupg):
    [key] = key_pair(gnupg, "Curve25519").certificate.encryption_keys
    other = replace(key, ciphers=(7, 8))
    message = encrypt([replace(key, ciphers=(9,)), other], b"x")
    assert gnupg.run("--decrypt", data=message) == b"x"


def test_session_key_and_prefix_come_from_the_given_randomness(gnupg):
    [key] = key_pair(gnupg, "RSA 2048").certificate.encryption_keys

    def encrypted_part(byte):
        message = bytearray()
        writer = MessageWriter([key], message.extend, random=lambda size: bytes([byte]) * size)
        writer.write(b"data")
        writer.finish()
        return message[-52:]  # prefix, literal packet, integrity code

    assert encrypted_part(1) == encrypted_part(1)
    assert encrypted_part(1) != encrypted_part(2)


def test_a_message_without_recipients_is_refused():
    with pytest.raises(EncryptVerify):
        MessageWriter([], bytearray().extend)


def test_a_key_that_pgpy_reads_differently_is_refused(gnupg):
    [key] = key_pair(gnupg, "Curve25519").certificate.encryption_keys
    with pytest.raises(EncryptVerify, match="two different ways"):
        MessageWriter([replace(key, fingerprint="0" * 40)], bytearray().extend)
    with pytest.raises(EncryptVerify, match="cannot wrap"):
        MessageWriter([replace(key, body=key.body[:20])], bytearray().extend)


def test_an_error_of_the_sink_passes_through_and_ends_the_thread(gnupg):
    recipients = key_pair(gnupg, "Curve25519").certificate.encryption_keys
    given = []

    def full(data):
        given.append(len(data))
        if len(given) > 4:
            raise OSError(28, "No space left on device")

    writer = MessageWriter(recipients, full)
    with pytest.raises(OSError, match="No space left"):
        writer.write(bytes(5_000_000))


# -- MessageCheck ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(gnupg):
    """The recipients, and a message to them of several parts."""
    recipients = key_pair(gnupg, "several").certificate.encryption_keys
    return recipients, encrypt(recipients, BYTES)


def check(recipients, message, step=10_000):
    watching = MessageCheck(recipients)
    for at in range(0, len(message), step):
        watching.write(message[at : at + step])
    watching.finish()


def split(message):
    """Give the session key packets and the rest."""
    packets = []
    while message[0] == 0xC1:
        size = (
            2 + message[1] if message[1] < 192 else 3 + ((message[1] - 192) << 8) + message[2] + 192
        )
        packets.append(message[:size])
        message = message[size:]
    return packets, message


@pytest.mark.parametrize("step", [1, 3, 65_537, 1_000_000])
def test_what_was_written_passes_in_any_pieces(written, step):
    recipients, message = written
    check(recipients, message if step > 3 else encrypt(recipients, BYTES[:2000]), step)


def refused_check(recipients, message, words):
    with pytest.raises(EncryptVerify, match=words):
        check(recipients, message)


def test_an_additional_a_missing_or_another_recipient_is_seen(gnupg, written):
    recipients, message = written
    keys, rest = split(message)
    assert len(keys) == 3
    [other] = key_pair(gnupg, "Curve25519").certificate.encryption_keys
    stranger = split(encrypt([other], b""))[0]
    words = "not exactly the vetted keys"
    refused_check(recipients, b"".join([*keys, *stranger]) + rest, words)
    refused_check(recipients, b"".join(keys[:2]) + rest, words)
    refused_check(recipients, b"".join([*keys[:2], *stranger]) + rest, words)
    refused_check(recipients, b"".join([*keys, keys[0]]) + rest, words)
    refused_check(recipients, rest, words)
    check(recipients, b"".join(reversed(keys)) + rest)


def test_a_recipient_by_password_is_seen(written):
    recipients, message = written
    refused_check(recipients, packet(Tag.PASSWORD_SESSION_KEY, b"\4") + message, "not belong")


def test_data_without_integrity_protection_or_of_another_version_is_seen(written):
    recipients, _ = written
    keys = b"".join(split(encrypt(recipients, b""))[0])
    body = bytes(60)
    refused_check(recipients, keys + packet(Tag.ENCRYPTED_WITHOUT_INTEGRITY, body), "not belong")
    refused_check(recipients, keys + packet(Tag.ENCRYPTED_AEAD, body), "not belong")
    refused_check(recipients, keys + packet(Tag.ENCRYPTED, b"\2" + body), "not of version 1")
    refused_check(recipients, keys + packet(Tag.ENCRYPTED, b"\1" + body[:20]), "too short")
    refused_check(recipients, keys, "no encrypted data")
    refused_check(recipients, b"", "no encrypted data")


def test_session_keys_of_another_shape_are_seen(written):
    recipients, message = written
    refused_check(recipients, packet(Tag.SESSION_KEY, b"\6" + bytes(40)) + message, "version 3")
    refused_check(recipients, packet(Tag.SESSION_KEY, b"\3" + bytes(8)) + message, "middle of a")
    refused_check(recipients, packet(Tag.SESSION_KEY, bytes(5000)) + message, "too long")


def test_whatever_follows_is_seen(written):
    recipients, message = written
    refused_check(recipients, message + packet(Tag.MARKER, b"PGP"), "follows")
    refused_check(recipients, message + message, "follows")
    refused_check(recipients, message + b"\0", "no OpenPGP packet")
    refused_check(recipients, message + b"\xc1", "cut short")


def test_a_message_cut_short_anywhere_is_seen(written):
    recipients, message = written
    parts = [at for n in range(5) for at in range(400 + n * 65_537, 404 + n * 65_537)]
    for cut in {*range(1, 420, 7), *parts, len(message) - 1} - {len(message)}:
        refused_check(recipients, message[:cut], "not whole|not well formed")


# -- packets in pieces -----------------------------------------------------------------------------


def test_lengths_of_all_forms_are_read():
    for size in (0, 1, 191, 192, 8383, 8384, 70_000):
        encoded = length_octets(size)
        assert len(encoded) == (1 if size < 192 else 2 if size < 8384 else 5)
        stream = PacketStream(lambda _: Skipped())
        for byte in b"\xd5" + encoded + bytes(size):
            stream.write(bytes((byte,)))
        stream.finish()


@pytest.mark.parametrize("header", [b"\x9c\x05", b"\x9d\x00\x05", b"\x9e\0\0\0\x05"])
def test_older_headers_are_read_and_an_open_end_is_an_end(header):
    found = []
    stream = PacketStream(lambda tag: found.append(tag) or Skipped())
    stream.write(header + bytes(5) + b"\x9f" + bytes(100))
    stream.finish()
    assert found == [7, 7]


def test_a_short_first_part_is_refused():
    stream = PacketStream(lambda _: Skipped())
    with pytest.raises(Malformed, match="shorter than 512"):
        stream.write(b"\xd2\xe8")


# -- size ------------------------------------------------------------------------------------------

WRITE_300_MB = """
import sys
from mxdeliver.edge.openpgp import MessageCheck, MessageWriter, vet
from tests.support import openpgpjs
from tests.support.certificates import NOW
from tests.support.memory import own_peak
recipients = vet(open(sys.argv[1], "rb").read(), at=NOW).encryption_keys
with open(sys.argv[2], "wb") as file:
    check = MessageCheck(recipients)
    def sink(data):
        check.write(data)
        file.write(data)
    writer = MessageWriter(recipients, sink)
    block = open(sys.argv[3], "rb").read()
    for _ in range(300):
        writer.write(block)
    writer.finish()
    check.finish()
print(own_peak() >> 20)
"""
READ_300_MB = """
import sys, zlib
from mxdeliver.edge.openpgp import decrypt, load_secret_key
from tests.support.memory import own_peak
keyring = load_secret_key(open(sys.argv[1], "rb").read(), None)
value = 0
def sink(data):
    global value
    value = zlib.crc32(data, value)
with open(sys.argv[2], "rb") as file:
    decrypt(file, keyring, sink)
print(own_peak() >> 20, value)
"""


def test_300_megabytes_are_written_and_read_in_little_memory(gnupg, tmp_path):
    pair = key_pair(gnupg, "Curve25519")
    names = ("public", "secret", "block", "message")
    public, secret, block, message = (tmp_path / name for name in names)
    public.write_bytes(pair.public)
    secret.write_bytes(pair.secret)
    content = BYTES[:250_000] * 4
    block.write_bytes(content)
    wrote = tool(sys.executable, "-c", WRITE_300_MB, public, message, block).split()
    read = tool(sys.executable, "-c", READ_300_MB, secret, message).split()
    command = ["gpg", "--homedir", gnupg.home, "--batch", "--quiet", "--decrypt", message]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as gpg:
        for _ in range(300):
            assert gpg.stdout.read(len(content)) == content
        assert gpg.stdout.read() == b""
    message.unlink()
    assert gpg.returncode == 0
    expected = 0
    for _ in range(300):
        expected = crc32(content, expected)
    assert int(wrote[0]) < 100
    assert int(read[0]) < 100
    assert int(read[1]) == expected
