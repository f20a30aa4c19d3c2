"""Messages that are read: made by GnuPG, Sequoia and ourselves, damaged, locked, or of wrong kinds."""

import bz2
import hashlib
import random
import re
import time
import zlib
from io import BytesIO

import pysequoia
import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given, settings
from hypothesis import strategies as st

from mxdeliver.core.errors import MessageUnreadable, MxdeliverError
from mxdeliver.core.secret import Secret
from mxdeliver.edge.openpgp import decrypt, load_secret_key
from mxdeliver.edge.openpgp.ciphers import CFB
from mxdeliver.edge.openpgp.packets import Tag, whole_packets
from mxdeliver.edge.openpgp.wrapping import session_key_packet
from tests.support.certificates import NOW, Forge, GnuPG, integer, packet, tool
from tests.support.key_pairs import ENCRYPTING, encrypt, key_pair, protected, rsa_pair, unprotected

BYTES = random.Random(2).randbytes(200_000)
LINES = b"account,balance\n" * 20_000


@pytest.fixture(scope="module")
def pair(gnupg):
    return key_pair(gnupg, "Curve25519")


def decrypted(message, keyring):
    found = bytearray()
    decrypt(BytesIO(message), keyring, found.extend)
    return bytes(found)


def unreadable(message, keyring):
    with pytest.raises(MessageUnreadable) as caught:
        decrypted(message, keyring)
    return str(caught.value)


# -- by whom and how a message was made ------------------------------------------------------------


@pytest.mark.parametrize("name", ENCRYPTING)
def test_messages_of_ours_are_read_with_every_kind_of_key(gnupg, name):
    pair = key_pair(gnupg, name)
    recipients, keyring = pair.certificate.encryption_keys, pair.keyring
    for size in (0, 1, 511, 512, 8383, 8384, 65535, 65536, 65537, 200_000):
        assert decrypted(encrypt(recipients, BYTES[:size]), keyring) == BYTES[:size]


@pytest.mark.parametrize("name", ["RSA 2048", "P-256", "P-521", "Curve25519", "several"])
@pytest.mark.parametrize(
    "data", [b"", b"short", LINES, BYTES], ids=["empty", "short", "lines", "bytes"]
)
def test_messages_of_gnupg_are_read(gnupg, name, data):
    pair = key_pair(gnupg, name)
    recipient = pair.certificate.fingerprint
    message = gnupg.run("--encrypt", "--recipient", recipient, data=data, at=NOW)
    assert decrypted(message, pair.keyring) == data


@pytest.mark.parametrize(
    "options",
    [
        ["--compress-algo", "none"],
        ["--compress-algo", "zip"],
        ["--compress-algo", "zlib"],
        ["--compress-algo", "bzip2"],
        ["--armor"],
        ["--throw-keyids"],
        ["--sign"],
        ["--set-filename", "n" * 200],
        ["--textmode"],
        ["--cipher-algo", "AES"],
        ["--cipher-algo", "AES192"],
    ],
    ids=" ".join,
)
def test_messages_of_gnupg_are_read_whatever_its_options(gnupg, pair, options):
    command = [*options, "--encrypt", "--recipient", pair.certificate.fingerprint]
    if "--sign" in options:
        command += ["--local-user", pair.certificate.fingerprint]
    data = LINES.replace(b"\n", b"\r\n") if "--textmode" in options else LINES
    assert decrypted(gnupg.run(*command, data=data, at=NOW), pair.keyring) == data


def test_a_cipher_other_than_aes_is_refused(gnupg, pair):
    command = ["--cipher-algo", "CAST5", "--encrypt", "--recipient", pair.certificate.fingerprint]
    message = gnupg.run(*command, data=LINES, at=NOW)
    assert "other than AES" in unreadable(message, pair.keyring)


def test_messages_of_sequoia_are_read(tmp_path, pair):
    public = tmp_path / "public"
    public.write_bytes(pair.public)
    for data in (b"", LINES, BYTES):
        assert decrypted(tool("sqop", "encrypt", public, data=data), pair.keyring) == data
        binary = tool("sqop", "encrypt", "--no-armor", public, data=data)
        assert decrypted(binary, pair.keyring) == data
        certificate = pysequoia.Cert.from_bytes(pair.public)
        message = pysequoia.encrypt(data, [certificate], armor=False)
        assert decrypted(message, pair.keyring) == data


def test_messages_of_rnp_are_read(tmp_path, pair):
    public, plain = tmp_path / "public", tmp_path / "plain"
    public.write_bytes(pair.public)
    plain.write_bytes(LINES)
    recipient = pair.certificate.fingerprint
    command = ["rnp", "--keyfile", public, "--encrypt", "--recipient", recipient, "--output", "-"]
    assert decrypted(tool(*command, plain), pair.keyring) == LINES


def test_keys_of_sequoia_are_read_with_and_without_a_password(tmp_path):
    password = tmp_path / "password"
    password.write_bytes(b"opensesame")
    locked = tool("sqop", "generate-key", "--with-key-password", password, "Bank")
    secret = tmp_path / "secret"
    for key, passphrase in ((locked, Secret(b"opensesame")), (tool("sqop", "generate-key"), None)):
        secret.write_bytes(key)
        public = tmp_path / "public"
        public.write_bytes(tool("sqop", "extract-cert", data=key))
        message = tool("sqop", "encrypt", public, data=LINES)
        assert decrypted(message, load_secret_key(key, passphrase)) == LINES


# -- what cannot be read ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(pair):
    return encrypt(pair.certificate.encryption_keys, b"the data")


def test_a_change_of_any_byte_is_seen(pair, small):
    for at in range(len(small)):
        changed = bytearray(small)
        changed[at] ^= 0x10
        words = unreadable(bytes(changed), pair.keyring)
        assert words


def test_a_change_anywhere_in_a_longer_message_is_seen(pair):
    message = encrypt(pair.certificate.encryption_keys, BYTES)
    for at in range(100, len(message), 9973):
        changed = bytearray(message)
        changed[at] ^= 1
        unreadable(bytes(changed), pair.keyring)


def test_a_message_cut_short_anywhere_is_seen(pair, small):
    for cut in range(len(small)):
        unreadable(small[:cut], pair.keyring)
    message = encrypt(pair.certificate.encryption_keys, BYTES)
    start = message.index(b"\xf0")
    parts = [start + n * 65_537 + by for n in range(4) for by in (-1, 0, 1)]
    for cut in {*parts, len(message) - 1, len(message) - 22, len(message) - 23} - {len(message)}:
        unreadable(message[:cut], pair.keyring)


def test_a_text_cut_short_anywhere_is_seen(gnupg, pair):
    recipient = pair.certificate.fingerprint
    command = ["--armor", "--encrypt", "--recipient", recipient]
    message = gnupg.run(*command, data=b"the data", at=NOW)
    for cut in range(0, len(message) - 30, 7):
        unreadable(message[:cut], pair.keyring)
    assert "not an OpenPGP" in unreadable(b"x" * 70_000, pair.keyring)
    assert "changed on the way" in unreadable(message.replace(b"\n\n", b"\n\n*"), pair.keyring)


def test_another_key_is_said_to_be_another_one(gnupg, small, pair):
    other = key_pair(gnupg, "P-256").keyring
    words = unreadable(small, other)
    assert pair.certificate.encryption_keys[0].key_id in words
    assert "another one" in words


def test_a_damaged_session_key_is_told_from_another_key(gnupg):
    for name in ("Curve25519", "RSA 2048"):
        pair = key_pair(gnupg, name)
        message = bytearray(encrypt(pair.certificate.encryption_keys, b"x"))
        message[70] ^= 1
        assert "damaged" in unreadable(bytes(message), pair.keyring)


def test_whatever_follows_is_seen(pair, small):
    for tail in (small, packet(Tag.LITERAL, b"b\0\0\0\0\0x"), b"\xd2\x01"):
        unreadable(small + tail, pair.keyring)
    assert decrypted(packet(Tag.MARKER, b"PGP") + small, pair.keyring) == b"the data"


def sealed(pair, contents, *, prefix=b"p" * 14 + b"abab", code=None, version=b"\1"):
    """Encrypt packets of any kind with a right integrity code, or with `code`."""
    key = bytes(range(32))
    plain = prefix + contents + b"\xd3\x14"
    plain += hashlib.sha1(plain, usedforsecurity=False).digest() if code is None else code
    encryptor = Cipher(algorithms.AES(key), CFB(bytes(16))).encryptor()
    head = session_key_packet(pair.certificate.encryption_keys[0], 9, key)
    return head + packet(Tag.ENCRYPTED, version + encryptor.update(plain))


LITERAL = packet(Tag.LITERAL, b"b\x03abc\0\0\0\0data")


def compressed(number, body):
    return packet(Tag.COMPRESSED, bytes((number,)) + body)


def raw_deflate(data):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    "contents",
    [
        LITERAL,
        b"\xaf" + LITERAL[2:],  # of open length: the data is then followed by nothing
        packet(Tag.ONE_PASS_SIGNATURE, bytes(13)) + LITERAL + packet(Tag.SIGNATURE, bytes(20)),
        packet(Tag.PADDING, bytes(20)) + LITERAL,
        compressed(0, LITERAL),
        compressed(1, raw_deflate(LITERAL)),
        compressed(2, zlib.compress(LITERAL)),
        compressed(3, bz2.compress(LITERAL)),
    ],
)
def test_all_common_contents_are_read(pair, contents):
    assert decrypted(sealed(pair, contents), pair.keyring) == b"data"


def nested(levels):
    contents = LITERAL
    for _ in range(levels):
        contents = compressed(2, zlib.compress(contents))
    return contents


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"", "no data"),
        (packet(Tag.MARKER, b"PGP"), "no data"),
        (LITERAL + LITERAL, "follows"),
        (compressed(0, b"") + LITERAL, "no data|cut short"),
        (packet(Tag.LITERAL, b"b\x09abc"), "cut short"),
        (packet(Tag.USER_ID, b"b"), "no data"),
        (LITERAL[:-1], "cut short"),
        (b"\x00", "no OpenPGP packet"),
        (compressed(9, LITERAL), "unknown way"),
        (packet(Tag.COMPRESSED, b""), "cut short"),
        (compressed(2, zlib.compress(LITERAL)[:-3]), "cut short"),
        (compressed(3, bz2.compress(LITERAL)[:-3]), "cut short"),
        (compressed(1, b"\xff\xff\xff"), "damaged"),
        (compressed(3, b"no bzip2 at all"), "damaged"),
        (compressed(2, zlib.compress(LITERAL) + b"more"), "follows"),
        (compressed(3, bz2.compress(LITERAL) + b"more"), "follows"),
        (nested(2), "more than once"),
    ],
)
def test_contents_that_break_the_rules_are_refused(pair, contents, words):
    assert re.search(words, unreadable(sealed(pair, contents), pair.keyring))


def test_a_wrong_integrity_code_prefix_or_version_is_refused(pair):
    keyring = pair.keyring
    assert "integrity code is wrong" in unreadable(sealed(pair, LITERAL, code=bytes(20)), keyring)
    assert "integrity code is wrong" in unreadable(sealed(pair, LITERAL, code=bytes(3)), keyring)
    assert "session key" in unreadable(sealed(pair, LITERAL, prefix=bytes(16) + b"xy"), keyring)
    assert "AEAD" in unreadable(sealed(pair, LITERAL, version=b"\2"), keyring)
    assert "unknown version" in unreadable(sealed(pair, LITERAL, version=b"\7"), keyring)


def test_other_kinds_of_messages_are_named(pair, small):
    head = small[: 2 + small[1]]
    for message, words in (
        (head + packet(Tag.ENCRYPTED_WITHOUT_INTEGRITY, bytes(60)), "no integrity protection"),
        (head + packet(Tag.ENCRYPTED_AEAD, bytes(60)), "LibrePGP"),
        (head + packet(Tag.ENCRYPTED, b"\1" + bytes(5)), "too short"),
        (packet(Tag.PASSWORD_SESSION_KEY, bytes(4)) + packet(Tag.ENCRYPTED, b"\1"), "to no key"),
        (packet(Tag.SESSION_KEY, b"\6" + bytes(30)) + packet(Tag.ENCRYPTED, b"\1"), "newer"),
        (LITERAL, "not an encrypted"),
        (b"", "no encrypted data"),
        (head, "no encrypted data"),
        (b"Obj\x01 some Avro", "cut short"),
    ):
        assert words in unreadable(message, pair.keyring)


def test_a_bomb_is_passed_on_piece_by_piece(pair):
    zeros = zlib.compressobj(9)
    plain = packet(Tag.LITERAL, b"b\0\0\0\0\0" + bytes(50_000_000))
    message = sealed(pair, compressed(2, zeros.compress(plain) + zeros.flush()))
    largest = total = 0

    def sink(data):
        nonlocal largest, total
        largest, total = max(largest, len(data)), total + len(data)

    decrypt(BytesIO(message), pair.keyring, sink)
    assert total == 50_000_000
    assert largest <= 65_536


def test_header_lines_full_of_colons_are_read_in_time(gnupg, pair):
    command = ["--armor", "--encrypt", "--recipient", pair.certificate.fingerprint]
    message = gnupg.run(*command, data=LINES, at=NOW)
    headers = b"MESSAGE-----\n" + (b":" * 60 + b"\n") * 1_000
    assert decrypted(message.replace(b"MESSAGE-----\n", headers, 1), pair.keyring) == LINES
    assert "cut short" in unreadable(b"-----BEGIN PGP " + headers + b"x", pair.keyring)


def test_a_session_key_of_no_bytes_at_all_is_damaged(gnupg, small):
    """OpenSSL gives such a one for about every 220th number that RSA did not make."""
    pair = key_pair(gnupg, "RSA 2048")
    number = pair.keyring._keys[0].native.public_key().encrypt(b"", padding.PKCS1v15())
    key_id = bytes.fromhex(pair.keyring.key_ids[0])
    damaged = packet(Tag.SESSION_KEY, b"\3" + key_id + b"\1" + integer(number))
    data = small[2 + small[1] :]
    assert "session key is damaged" in unreadable(damaged + data, pair.keyring)


def test_a_message_to_more_keys_than_anybody_has_is_refused(gnupg, small):
    keyring = key_pair(gnupg, "RSA 4096").keyring
    to_whomever = packet(Tag.SESSION_KEY, b"\3" + bytes(8) + b"\1" + integer(b"\1" * 512))
    started = time.monotonic()
    assert "more than 500 keys" in unreadable(to_whomever * 3_000 + small, keyring)
    assert time.monotonic() - started < 60


def test_an_error_of_the_sink_passes_through(pair):
    def full(_):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        decrypt(BytesIO(encrypt(pair.certificate.encryption_keys, BYTES)), pair.keyring, full)


# -- secret keys -----------------------------------------------------------------------------------


def refused_key(data, passphrase=None):
    with pytest.raises(MessageUnreadable) as caught:
        load_secret_key(data, passphrase)
    return str(caught.value)


def test_a_key_with_a_passphrase_needs_the_right_one():
    with GnuPG() as gnupg:
        passphrase = ["--passphrase", "correct horse"]
        made = gnupg.generate("ed25519", "sign", *passphrase)
        gnupg.add_key(made, "cv25519", "encr", *passphrase)
        secret = gnupg.export_secret(made, *passphrase)
        message = gnupg.run("--encrypt", "--recipient", made, data=b"data", at=NOW)
    keyring = load_secret_key(secret, Secret(b"correct horse"))
    assert keyring.fingerprints == (made,)
    assert decrypted(message, keyring) == b"data"
    wrong = refused_key(secret, Secret(b"battery staple"))
    assert "is wrong" in wrong
    assert "battery" not in wrong
    assert "none was given" in refused_key(secret)


def test_an_offline_primary_key_does_not_matter(gnupg, pair, small):
    data = gnupg.run("--armor", "--export-secret-subkeys", pair.certificate.fingerprint)
    keyring = load_secret_key(data, None)
    assert keyring.fingerprints == (pair.certificate.fingerprint,)
    assert decrypted(small, keyring) == b"the data"


def test_several_secret_keys_in_one_file_are_all_tried(gnupg, pair, small):
    other = key_pair(gnupg, "P-256")
    for data in (other.secret + pair.secret, pair.secret + other.secret):
        keyring = load_secret_key(data, None)
        assert len(keyring.fingerprints) == 2
        assert decrypted(small, keyring) == b"the data"
        message = encrypt(other.certificate.encryption_keys, b"for the other")
        assert decrypted(message, keyring) == b"for the other"


@pytest.mark.parametrize("usage", [254, 255])
@pytest.mark.parametrize(
    ("cipher", "specifier", "hash_number"), [(9, 3, 8), (7, 1, 2), (8, 0, 10), (3, 3, 2), (2, 3, 2)]
)
def test_all_common_ways_of_protection_are_unlocked(usage, cipher, specifier, hash_number):
    pair = rsa_pair(2048)
    packets = list(whole_packets(pair.secret))
    subkey = next(one for one in packets if one.tag == Tag.SECRET_SUBKEY)
    public = next(one for one in whole_packets(pair.public) if one.tag == Tag.PUBLIC_SUBKEY).body
    numbers = subkey.body[len(public) + 1 : -2]
    locked = public + protected(
        numbers, b"pass", usage=usage, cipher=cipher, specifier=specifier, hash_number=hash_number
    )
    data = packet(packets[0].tag, packets[0].body) + packet(Tag.SECRET_SUBKEY, locked)
    keyring = load_secret_key(data, Secret(b"pass"))
    assert decrypted(encrypt(pair.certificate.encryption_keys, b"x"), keyring) == b"x"
    assert "is wrong" in refused_key(data, Secret(b"word"))


def test_what_is_no_secret_key_is_named(gnupg, pair):
    forge = Forge()
    public = forge.subkey_body()
    primary = packet(Tag.SECRET_KEY, forge.body + unprotected(integer(b"\x01" * 32)))

    def subkey(tail):
        return primary + packet(Tag.SECRET_SUBKEY, public + tail)

    for data, words in (
        (pair.public, "public key"),
        (gnupg.export(pair.certificate.fingerprint, armor=True), "public key"),
        (b"", "no OpenPGP secret key"),
        (b"hello", "no OpenPGP secret key"),
        (bytes(17 * 1024 * 1024), "too large"),
        (primary, "can decrypt"),
        (packet(Tag.SECRET_KEY, b"\x06" + bytes(40)), "can decrypt"),
        (pair.secret[:-9], "damaged"),
        (subkey(b"\xfd" + bytes(40)), "not supported"),
        (subkey(b"\xfe\x01\x03\x08" + bytes(40)), "cipher that is not supported"),
        (subkey(b"\xfe\x09\x04\x08" + bytes(40)), "unsupported way"),
        (subkey(b"\xfe\x09\x03\x63" + bytes(40)), "unsupported way"),
        (subkey(b"\x00\x00\x08\xff\x00\x00"), "checksum"),
        (subkey(unprotected(integer(b"\x01" * 40))), "valid key"),
    ):
        assert words in refused_key(data, Secret(b"pass"))


# -- arbitrary bytes -------------------------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_the_bytes_only_our_errors_come_out(pair, data):
    contents = bytearray(
        data.draw(st.sampled_from([LITERAL, nested(1), compressed(3, bz2.compress(LITERAL))]))
    )
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(contents) - 1))
        contents[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4)) or b"?"
    tail = data.draw(st.binary(max_size=5))
    try:
        decrypted(sealed(pair, bytes(contents)) + tail, pair.keyring)
    except MxdeliverError as error:
        assert isinstance(error, MessageUnreadable)  # noqa: PT017 - both ways out are right


@given(data=st.binary(max_size=300))
@settings(max_examples=150, deadline=None)
def test_arbitrary_bytes_are_no_message_and_no_key(pair, data):
    keyring = pair.keyring
    head = b"-----BEGIN PGP MESSAGE-----\n\n"
    for message in (data, b"\xc1" + data, head + data):
        unreadable(message, keyring)
    for key in (data, pair.secret[:90] + data, packet(Tag.SECRET_KEY, data)):
        try:
            load_secret_key(key, Secret(b"pass"))
        except MxdeliverError as error:
            assert isinstance(error, MessageUnreadable)  # noqa: PT017 - both ways out are right
