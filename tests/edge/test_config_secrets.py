"""Secrets, read from where the configuration says, and refused where others could have read them."""

import os
import socket

import pytest

from mxdeliver.core.errors import SecretMissing, SecretMode
from mxdeliver.core.secret import SecretKind, SecretReference
from mxdeliver.edge.config import secrets

VALUE = "correct horse"


def reference(kind, name):
    return SecretReference(kind=kind, name=str(name))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "password"
    path.write_text(VALUE + "\n")
    path.chmod(0o600)
    return path


def of_file(path):
    return reference(SecretKind.FILE, path)


def test_an_environment_variable_is_read():
    found = secrets.resolve(reference(SecretKind.ENVIRONMENT, "PW"), {"PW": VALUE})
    assert found.reveal_text() == VALUE
    assert secrets.warnings(reference(SecretKind.ENVIRONMENT, "PW"), {"PW": VALUE}) == ()


def test_the_process_environment_is_the_one_meant(monkeypatch):
    monkeypatch.setenv("MXDELIVER_TEST_SECRET", VALUE)
    found = secrets.resolve(reference(SecretKind.ENVIRONMENT, "MXDELIVER_TEST_SECRET"))
    assert found.reveal_text() == VALUE


@pytest.mark.parametrize("environment", [{}, {"PW": ""}, {"PW": "\n"}])
def test_a_variable_that_is_not_set_or_empty_is_missing_by_name(environment):
    with pytest.raises(SecretMissing, match="environment variable PW"):
        secrets.resolve(reference(SecretKind.ENVIRONMENT, "PW"), environment)


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"a", b"a"),
        (b"a\n", b"a"),
        (b"a\r\n", b"a"),
        (b"a\n\n", b"a\n"),
        (b" a \n", b" a "),
        (b"a\r", b"a\r"),
        (b"\xff\x00\n", b"\xff\x00"),
        (b"x" * 65536, b"x" * 65536),
    ],
)
def test_one_newline_at_the_end_of_a_file_is_dropped(file, content, value):
    file.write_bytes(content)
    assert secrets.resolve(of_file(file)).reveal() == value


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o500])
def test_a_file_of_the_owner_alone_is_accepted(file, mode):
    file.chmod(mode)
    assert secrets.resolve(of_file(file)).reveal_text() == VALUE
    assert secrets.warnings(of_file(file)) == ()


@pytest.mark.parametrize("mode", [0o440, 0o640])
def test_a_file_that_the_group_can_read_is_accepted_with_a_warning(file, mode):
    file.chmod(mode)
    assert secrets.resolve(of_file(file)).reveal_text() == VALUE
    (warning,) = secrets.warnings(of_file(file))
    assert str(file) in warning
    assert VALUE not in warning


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o601, 0o620, 0o660, 0o666, 0o777])
def test_a_file_open_to_others_or_writable_by_its_group_is_refused(file, mode):
    file.chmod(mode)
    with pytest.raises(SecretMode) as caught:
        secrets.resolve(of_file(file))
    assert str(file) in str(caught.value)
    assert f"{mode:04o}" in str(caught.value)
    assert VALUE not in str(caught.value)


@pytest.mark.usefixtures("file")
def test_a_link_is_followed_as_kubernetes_mounts_secrets(tmp_path):
    (tmp_path / "..data").symlink_to(tmp_path)
    link = tmp_path / "link"
    link.symlink_to("..data/password")
    assert secrets.resolve(of_file(link)).reveal_text() == VALUE


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "is empty"), (b"\n", "is empty"), (b"x" * 65537, "larger than 64 KiB")],
)
def test_a_file_without_a_secret_in_it_is_missing(file, content, problem):
    file.write_bytes(content)
    with pytest.raises(SecretMissing, match=problem):
        secrets.resolve(of_file(file))


def test_a_file_that_is_not_there_is_missing(tmp_path):
    with pytest.raises(SecretMissing, match="does not exist"):
        secrets.resolve(of_file(tmp_path / "gone"))
    assert secrets.warnings(of_file(tmp_path / "gone")) == ()


def test_a_way_through_a_file_cannot_be_read(file):
    with pytest.raises(SecretMissing, match="cannot be read"):
        secrets.resolve(of_file(file / "below"))


def test_a_folder_a_pipe_or_a_socket_is_no_secret(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for path in (tmp_path, pipe):
        with pytest.raises(SecretMissing, match=r"not a regular file|cannot be read"):
            secrets.resolve(of_file(path))
    with socket.socket(socket.AF_UNIX) as listener:
        before = os.open(".", os.O_RDONLY)
        os.chdir(tmp_path)  # socket paths are short
        try:
            listener.bind("socket")
        finally:
            os.fchdir(before)
            os.close(before)
        with pytest.raises(SecretMissing, match="cannot be read"):
            secrets.resolve(of_file(tmp_path / "socket"))


def test_a_credential_is_read_from_the_folder_that_systemd_names(tmp_path, file):
    found = secrets.resolve(
        reference(SecretKind.CREDENTIAL, "password"), {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    )
    assert found.reveal_text() == VALUE
    file.chmod(0o644)
    with pytest.raises(SecretMode):
        secrets.resolve(
            reference(SecretKind.CREDENTIAL, "password"), {"CREDENTIALS_DIRECTORY": str(tmp_path)}
        )


def test_a_credential_without_systemd_is_missing(tmp_path):
    credential = reference(SecretKind.CREDENTIAL, "password")
    with pytest.raises(SecretMissing, match="LoadCredential"):
        secrets.resolve(credential, {})
    assert secrets.warnings(credential, {}) == ()
    with pytest.raises(SecretMissing, match="does not exist"):
        secrets.resolve(credential, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
