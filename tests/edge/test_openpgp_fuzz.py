"""Certificates, messages and secret keys that somebody damaged on purpose.

Only the program's own errors come out, in bounded time; and whatever was done to a certificate whose
fingerprint is pinned, nothing is encrypted to a key that is not its owner's (I12).
reliability.md F23a, F30-F32, F35.
"""

import contextlib
import time
from io import BytesIO
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxdeliver.core.errors import KeyParse, KeyProblem, MessageUnreadable
from mxdeliver.core.secret import Secret
from mxdeliver.edge.openpgp import SIZE_LIMIT, decrypt, examine, load_secret_key, vet
from mxdeliver.edge.openpgp.packets import PACKETS_LIMIT, Tag, whole_packets
from tests.support.certificates import MADE, NOW, Forge, integer, packet, tool
from tests.support.fuzzing import examples
from tests.support.key_pairs import encrypt, key_pair, protected, rsa_pair
from tests.support.packet_mutations import changed, packets, retyped

SECRETS = {Tag.SECRET_KEY, Tag.SECRET_SUBKEY}
PLAIN = b"guid,balance\n" * 400
STRANGER = Forge()
OWNER = Forge()
FOREIGN = [
    *packets(STRANGER.certificate(STRANGER.user_id(), STRANGER.subkey())),
    *packets(STRANGER.subkey()),
    packet(Tag.PUBLIC_SUBKEY, b"\x06" + bytes(40)),
    packet(Tag.TRUST, b"\0"),
    packet(Tag.MARKER, b"PGP"),
    packet(Tag.PADDING, bytes(9)),
    packet(Tag.SECRET_KEY, b"\4" + bytes(30)),
    packet(Tag.USER_ATTRIBUTE, b"\xff\xff\xff\xff\xff"),
    packet(Tag.LITERAL, b"b\0\0\0\0\0"),
    packet(60, b"private"),
]
VERSION_6 = """
-----BEGIN PGP PUBLIC KEY BLOCK-----

xioGaaQqQBsAAAAgKH0d7aYdwI9y3/xr2pPG1PBp54bWqsqThptT36aEg6jC
rQYfGwoAAAA+BYJppCpAAwsJBwUVCggODAQWAAIBApsDAh4BIqEGJbLaVxE+
P4D2v5YaMED4ash5jWsjV34va6O+LJgSiEQAAAAAN+kgbrvVInzeVmkUr14Y
QuII1nYKO6WjDCbvJsgoJjWJvR8bDV83KSg4UjL0wTfnyNv18SU2G9Egv2lk
yEUh9ryftW4LaBcAxP+xfHlxQPPhyUuIKtd9HDrEauXnVp5G4hgGzRxDbGll
bnQgPGNsaWVudEBleGFtcGxlLnRlc3Q+wpsGExsKAAAALAWCaaQqQAIZASKh
BiWy2lcRPj+A9r+WGjBA+GrIeY1rI1d+L2ujviyYEohEAAAAACBYIEiC26pM
s17glm/0a0k1U52nqG5gE3uXW79ekxSUq9UPuzcJWcEi24U+jQ0ePpdLv6/0
UIbiRL+fANUxjhDQykvE7v+s86TUVvduFNufoUpngz9WAtGneY1h/t6dTa59
A84qBmmkKkAZAAAAIKtQgiZlnEYq5l5KN3Ol9I0+tjafAGCpiAYyglmWCS8/
wpsGGBsKAAAALAWCaaQqQAKbDCKhBiWy2lcRPj+A9r+WGjBA+GrIeY1rI1d+
L2ujviyYEohEAAAAALocIGIQoKgfly/rSsVKox1LHlwsYzTmAhFzRQzPoqyr
bogu4W2w2pO+Q2bQzRYcS3lVIWXdXWWuEhVSgA9YqqS1hGomR2EIEK5NvRA2
1KeWLw9GSTG6FOFUh7eQvEd4+VHhCQ==
-----END PGP PUBLIC KEY BLOCK-----
"""
"""Made by openpgp.js 6.3.2."""


@pytest.fixture(scope="module")
def certificates(gnupg):
    """Certificates of several programs: rotated, with several subkeys, of several kinds of key."""
    rotated = gnupg.usual(expires="1y")
    gnupg.add_key(rotated, "nistp256", "encr")
    gnupg.revoke_subkey(rotated, 1, reason=2, at=MADE)
    rsa = gnupg.generate("rsa2048", "sign,encrypt")
    return [
        gnupg.export(rotated),
        gnupg.export(rsa),
        OWNER.certificate(OWNER.user_id(), OWNER.direct(), OWNER.subkey(), OWNER.subkey()),
        tool("sqop", "extract-cert", "--no-armor", data=tool("sqop", "generate-key", "Bank")),
    ]


@pytest.fixture(scope="module")
def armored(gnupg):
    return gnupg.export(gnupg.usual(), armor=True)


def owners_keys(certificate):
    """The pin, and the fingerprints of every key that the owner bound, usable or not."""
    found = examine(certificate, at=NOW)
    return found.fingerprint, {key.fingerprint for key in found.keys}


def check(data, pin, own):
    """Refuse `data` by a named error, or accept it for keys of its owner alone."""
    try:
        certificate = vet(data, at=NOW, fingerprint=pin)
    except KeyProblem as problem:
        return str(problem)
    assert certificate.fingerprint == pin
    assert certificate.encryption_keys
    assert {key.fingerprint for key in certificate.encryption_keys} <= own
    return "".join(certificate.warnings)


@examples(150)
@given(data=st.data(), number=st.integers(0, 3))
def test_a_certificate_tampered_with_is_refused_or_used_for_its_owners_keys_alone(
    certificates, data, number
):
    original = certificates[number]
    pin, own = owners_keys(original)
    tampered = data.draw(changed(packets(original), FOREIGN))
    assert check(tampered, pin, own).isprintable()


@examples(80)
@given(data=st.data())
def test_an_armored_certificate_typed_anew_is_refused_or_used_for_its_owners_keys_alone(
    armored, data
):
    pin, own = owners_keys(armored)
    assert check(data.draw(retyped(armored)), pin, own).isprintable()


@examples(60)
@given(data=st.data())
def test_a_certificate_of_version_6_is_refused_whatever_was_done_to_it(data):
    text = VERSION_6.encode()
    with pytest.raises(KeyParse, match="version 6"):
        vet(text, at=NOW)
    with pytest.raises(KeyProblem):
        vet(data.draw(retyped(text)), at=NOW)


# -- time ------------------------------------------------------------------------------------------


def within(seconds, work):
    started = time.monotonic()
    work()
    assert time.monotonic() - started < seconds


@pytest.mark.parametrize(
    "signatures",
    [packet(Tag.SIGNATURE, bytes(38)) * 10_000, OWNER.direct() * 10_000, STRANGER.direct() * 4_900],
    ids=["broken", "own", "a stranger's"],
)
def test_ten_thousand_signatures_cost_no_time(signatures):
    certificate = OWNER.certificate(OWNER.user_id(), OWNER.subkey())
    pin, own = owners_keys(certificate)

    def work():
        check(certificate + signatures, pin, own)

    within(20, work)


def test_packets_within_packets_and_lengths_beyond_the_end_are_refused_in_time():
    nested = OWNER.certificate(OWNER.user_id())
    for _ in range(1_000):
        nested = packet(Tag.PUBLIC_KEY, nested)

    def work():
        for data in (
            nested,
            b"\xc6\xff\xff\xff\xff\xff" + bytes(100),
            b"\x9a\xff\xff\xff\xff" + bytes(100),
            b"\xc6" * 100_000,
            packet(Tag.PUBLIC_KEY, OWNER.body) + b"\xcd\x00" * (PACKETS_LIMIT + 1),
            packet(Tag.PUBLIC_KEY, OWNER.body) + packet(Tag.USER_ID, bytes(SIZE_LIMIT - 200)),
        ):
            with pytest.raises(KeyProblem):
                vet(data, at=NOW)

    within(20, work)


def test_slow_signatures_over_a_long_name_are_given_up_in_time():
    """The costliest that fits: as many self-signatures as are looked at, over as much as possible."""
    name = OWNER.user_id(name=b"n" * (SIZE_LIMIT - 100_000))
    signatures = packets(OWNER.user_id(name=b"n"))[1]

    def work():
        with pytest.raises(KeyParse):
            vet(OWNER.certificate(name, signatures * 700), at=NOW)

    within(20, work)


# -- messages and secret keys ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(gnupg):
    return key_pair(gnupg, "several")


@pytest.fixture(scope="module")
def messages(gnupg, pair):
    """The same plaintext in messages of several programs and forms."""
    command = ["--encrypt", "--recipient", pair.certificate.fingerprint]
    forms = (
        ["--compress-algo", "bzip2"],
        ["--compress-algo", "zip", "--throw-keyids"],
        ["--armor"],
    )
    return [
        encrypt(pair.certificate.encryption_keys, PLAIN),
        *(gnupg.run(*form, *command, data=PLAIN, at=NOW) for form in forms),
    ]


def plaintext(message, keyring):
    found = bytearray()
    decrypt(BytesIO(message), keyring, found.extend)
    return bytes(found)


@examples(150)
@given(data=st.data(), number=st.integers(0, 3))
def test_a_message_tampered_with_is_unreadable_or_says_what_it_said(pair, messages, data, number):
    message = messages[number]
    if message.startswith(b"-----"):
        tampered = data.draw(retyped(message))
    else:
        cuts = sorted({0, 2, 40, 90, 200, len(message) // 2, len(message) - 30, len(message)})
        parts = [message[one:other] for one, other in pairwise(cuts)]
        tampered = data.draw(changed(parts, FOREIGN))
    with contextlib.suppress(MessageUnreadable):
        assert plaintext(tampered, pair.keyring) == PLAIN


@examples(100)
@given(numbers=st.lists(st.binary(max_size=300), min_size=1, max_size=6), key=st.integers(0, 3))
def test_session_keys_of_any_content_are_unreadable(gnupg, pair, messages, numbers, key):
    rsa = key_pair(gnupg, "RSA 2048")
    keyring = rsa.keyring if key == 3 else pair.keyring
    key_id = bytes.fromhex(keyring.key_ids[key % len(keyring.key_ids)])
    algorithm = b"\1" if key == 3 else b"\x12"
    wrapped = b"".join(
        packet(Tag.SESSION_KEY, b"\3" + key_id + algorithm + integer(number) + number)
        for number in numbers
    )
    encrypted = messages[0][-200:]
    with pytest.raises(MessageUnreadable):
        plaintext(wrapped + packet(Tag.ENCRYPTED, b"\1" + encrypted), keyring)


@pytest.fixture(scope="module")
def secrets(pair):
    """Secret keys as they are, and one with a passphrase."""
    rsa = rsa_pair(2048)
    primary, secret = (one for one in whole_packets(rsa.secret) if one.tag in SECRETS)
    public = next(one for one in whole_packets(rsa.public) if one.tag == Tag.PUBLIC_SUBKEY).body
    numbers = secret.body[len(public) + 1 : -2]
    locked = public + protected(
        numbers, b"opensesame", usage=254, cipher=9, specifier=3, hash_number=8
    )
    keys = packet(primary.tag, primary.body) + packet(Tag.SECRET_SUBKEY, locked)
    assert load_secret_key(keys, Secret(b"opensesame")).key_ids
    return [pair.secret, rsa.secret, keys]


@examples(80)
@given(data=st.data(), number=st.integers(0, 2))
def test_a_secret_key_tampered_with_is_refused_or_read(secrets, data, number):
    tampered = data.draw(changed(packets(secrets[number]), FOREIGN, most=3))
    with contextlib.suppress(MessageUnreadable):
        assert load_secret_key(tampered, Secret(b"opensesame")).key_ids
