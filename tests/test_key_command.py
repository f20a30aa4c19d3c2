"""`mxdeliver key`, run as people run it."""

import json
import os
import subprocess
import sys
from datetime import timedelta

import pytest
import yaml

from mxdeliver.core.errors import KeyExpired
from tests.support.certificates import (
    CERTIFY,
    LIFETIME,
    MADE,
    Forge,
    GnuPG,
    days,
    packet,
    subpacket,
)


def run(*arguments):
    command = [sys.executable, "-m", "mxdeliver", "key", *map(str, arguments)]
    environment = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, timeout=60
    )


@pytest.fixture
def forge():
    return Forge()


def test_an_accepted_key_is_shown_with_the_lines_to_paste(tmp_path, forge):
    file = tmp_path / "bank é.pgp"
    ends = subpacket(LIFETIME, days(36500))
    file.write_bytes(forge.certificate(forge.user_id(CERTIFY, ends), forge.subkey()))
    done = run(file)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Client <client@example.test>" in done.stdout
    assert "Curve25519" in done.stdout
    assert "may encrypt" in done.stdout
    assert "Accepted     until 2126-02-05" in done.stdout
    assert "counts from the configuration file's folder" in done.stdout
    pasted = yaml.safe_load(done.stdout[done.stdout.index("pgp:") :])["pgp"]
    assert pasted["public_key"] == str(file)
    assert pasted["fingerprint"].replace(" ", "") == forge.fingerprint


def test_a_key_without_an_end_and_its_warnings_are_shown(tmp_path, forge):
    file = tmp_path / "key.pgp"
    unbound = packet(14, forge.subkey_body())
    file.write_bytes(forge.certificate(forge.user_id(), forge.subkey(), unbound))
    done = run(file)
    assert done.returncode == 0
    assert "Accepted     without an end" in done.stdout
    assert "Warning      subkey" in done.stdout


def test_a_refused_key_is_shown_and_named_with_its_remedy(tmp_path, forge):
    file = tmp_path / "key.pgp"
    ends = subpacket(LIFETIME, days(1))
    file.write_bytes(forge.certificate(forge.user_id(CERTIFY, ends), forge.subkey()))
    done = run(file)
    assert done.returncode == 1
    assert "Curve25519" in done.stdout
    assert "pgp:" not in done.stdout
    assert done.stderr.startswith(f"mxdeliver: KEY_EXPIRED: {file}: the certificate expired on")
    assert KeyExpired.remedy in done.stderr


def test_json_tells_everything_and_nothing_else_is_printed(tmp_path, forge):
    file = tmp_path / "key.pgp"
    file.write_bytes(forge.certificate(forge.user_id(), forge.subkey()))
    done = run("--json", file)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["accepted"] is True
    assert told["fingerprint"] == forge.fingerprint
    assert told["created_at"] == f"{MADE:%Y-%m-%dT%H:%M:%SZ}"
    assert (told["expires_at"], told["warnings"], told["error"]) == (None, [], None)
    assert [key["used"] for key in told["keys"]] == [False, True]
    assert told["keys"][1]["capabilities"] == ["encrypt"]


def test_json_of_an_expired_key_says_when_it_ended(tmp_path, forge):
    file = tmp_path / "key.pgp"
    ends = subpacket(LIFETIME, days(1))
    file.write_bytes(forge.certificate(forge.user_id(CERTIFY, ends), forge.subkey()))
    told = json.loads(run("--json", file).stdout)
    assert (told["accepted"], told["error"]["code"]) == (False, "KEY_EXPIRED")
    assert told["expires_at"] == f"{MADE + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"
    assert told["expires_at"] == told["keys"][1]["expires_at"]


def test_json_of_a_refused_key_carries_the_error(tmp_path, forge):
    file = tmp_path / "key.pgp"
    file.write_bytes(forge.certificate(forge.user_id()))
    done = run("--json", file)
    told = json.loads(done.stdout)
    assert done.returncode == 1
    assert (told["accepted"], told["error"]["code"]) == (False, "KEY_NO_ENC_SUBKEY")
    assert len(told["keys"]) == 1


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"ssh-ed25519 AAAA", "KEY_PARSE"), (b"", "KEY_PARSE"), (None, "KEY_MISSING")],
)
def test_what_is_no_key_is_refused_in_words_and_in_json(tmp_path, content, code):
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    done = run(file)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"mxdeliver: {code}: {file}: ")
    assert "`pgp.public_key`" not in done.stderr, "no configuration was asked for"
    told = json.loads(run("--json", file).stdout)
    assert (told["accepted"], told["error"]["code"]) == (False, code)


def test_a_key_too_weak_to_be_verified_is_shown_with_its_user_id(tmp_path):
    file = tmp_path / "key.pgp"
    with GnuPG() as gnupg:
        file.write_bytes(gnupg.export(gnupg.generate("rsa1024", "sign,encrypt")))
    done = run(file)
    assert done.returncode == 1
    assert "\nUser id      " in done.stdout
    assert "Warning      the user ids are shown unverified" in done.stdout
    assert done.stderr.startswith(f"mxdeliver: KEY_WEAK: {file}: ")


def test_a_name_cannot_write_on_the_terminal(tmp_path, forge):
    file = tmp_path / "key.pgp"
    parts = (forge.user_id(name=b"\x1b[31mred\x07"), forge.subkey())
    file.write_bytes(forge.certificate(*parts))
    assert "\x1b" not in run(file).stdout


def test_a_key_comes_through_a_pipe_but_nobody_is_waited_for(tmp_path, forge):
    file = tmp_path / "key.pgp"
    file.write_bytes(forge.certificate(forge.user_id(), forge.subkey()))
    command = [sys.executable, "-m", "mxdeliver", "key", "/dev/stdin"]
    piped = subprocess.run(
        ["bash", "-c", f"cat {file} | {' '.join(command)}"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (piped.returncode, piped.stderr) == (0, "")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    done = run(pipe)
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"mxdeliver: KEY_MISSING: {pipe}: cannot be read: nobody writes into the pipe. "
    )
