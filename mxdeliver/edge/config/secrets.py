"""A reference to a secret → the secret, read at the moment of use and kept nowhere."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from mxdeliver.core.errors import SecretMissing, SecretMode
from mxdeliver.core.secret import Secret, SecretKind, SecretReference

SIZE_LIMIT = 64 * 1024

_OPEN_TO_OTHERS = stat.S_IRWXO
_WRITABLE_BY_GROUP = stat.S_IWGRP


def resolve(reference: SecretReference, environment: Mapping[str, str] = os.environ) -> Secret:
    """Read the secret; one newline at its end is dropped, also from an environment variable.

    Raises SecretMissing if it is not there, empty, or larger than 64 KiB; SecretMode if its file
    can be read, written or run by others or written by its group. A link is followed: Kubernetes
    mounts secrets as links.
    """
    if reference.kind is SecretKind.ENVIRONMENT:
        return _from_environment(reference.name, environment)
    return _from_file(_path(reference, environment), reference)


def warnings(
    reference: SecretReference, environment: Mapping[str, str] = os.environ
) -> tuple[str, ...]:
    """Tell what is allowed but not good: a secret's file that its group can read."""
    if reference.kind is SecretKind.ENVIRONMENT:
        return ()
    try:
        path = _path(reference, environment)
        mode = path.stat().st_mode
    except (OSError, SecretMissing):
        return ()
    if mode & stat.S_IRGRP:
        return (f"{path} can be read by its group; `chmod 600` unless the platform mounts it so",)
    return ()


def _from_environment(name: str, environment: Mapping[str, str]) -> Secret:
    value = environment.get(name)
    if value is None:
        raise SecretMissing(f"the environment variable {name} is not set")
    return _secret(os.fsencode(value), f"the environment variable {name}")


def _path(reference: SecretReference, environment: Mapping[str, str]) -> Path:
    if reference.kind is SecretKind.FILE:
        return Path(reference.name)
    folder = environment.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise SecretMissing(
            f"the credential {reference.name} needs CREDENTIALS_DIRECTORY, which systemd sets for "
            "a unit with LoadCredential="
        )
    return Path(folder) / reference.name


def _from_file(path: Path, reference: SecretReference) -> Secret:
    what = f"the secret file {path}"
    try:
        # Without O_NONBLOCK a pipe in its place would hang the program.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with open(descriptor, "rb", closefd=True) as stream:  # noqa: PTH123 - from a descriptor
            status = os.fstat(stream.fileno())
            _vet(status, what, reference)
            data = stream.read(SIZE_LIMIT + 1)
    except OSError as error:
        why = "does not exist" if isinstance(error, FileNotFoundError) else "cannot be read"
        detail = "" if why == "does not exist" else f" ({error.strerror})"
        raise SecretMissing(f"{what} {why}{detail}") from error
    if len(data) > SIZE_LIMIT:
        raise SecretMissing(f"{what} is larger than 64 KiB and so is no secret")
    return _secret(data, what)


def _vet(status: os.stat_result, what: str, reference: SecretReference) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise SecretMissing(f"{what} is not a regular file")
    mode = stat.S_IMODE(status.st_mode)
    if mode & _OPEN_TO_OTHERS:
        raise SecretMode(f"{what} is open to others (mode {mode:04o})")
    # systemd shows a credential's access list as group bits; only its own folder holds them
    if mode & _WRITABLE_BY_GROUP and reference.kind is SecretKind.FILE:
        raise SecretMode(f"{what} can be written by its group (mode {mode:04o})")


def _secret(data: bytes, what: str) -> Secret:
    if data.endswith(b"\r\n"):
        data = data[:-2]
    elif data.endswith(b"\n"):
        data = data[:-1]
    if not data:
        raise SecretMissing(f"{what} is empty")
    return Secret(data)
