"""What a client is bound to at this moment: the certificate to encrypt to, and the login.

Both are read anew for each attempt, so that a key or password that was replaced is used by the next
one. `version` tells whether anything a parked delivery waits for has changed.
"""

from __future__ import annotations

import hmac
import os
import stat
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path

from mxdeliver.core.errors import ConfigInvalid, KeyMissing, KeyProblem, MxdeliverError
from mxdeliver.core.log import Log
from mxdeliver.core.model import Client, Recipient, Resource, SourceSettings
from mxdeliver.core.secret import Secret, SecretReference
from mxdeliver.edge.config import secrets
from mxdeliver.edge.openpgp import SIZE_LIMIT, Certificate, vet
from mxdeliver.edge.sftp import Credentials

_EXPIRY_WARNING = timedelta(days=30)
_VERSION_DIGITS = 32


def recipient_on(client: Client, day: date) -> Recipient:
    """Give the first certificate that is to be used on `day` (UTC); KeyMissing if there is none."""
    for recipient in client.recipients:
        begun = recipient.not_before is None or recipient.not_before <= day
        ended = recipient.not_after is not None and recipient.not_after < day
        if begun and not ended:
            return recipient
    raise KeyMissing(f"no certificate of {client.name} is valid on {day}")


def certificate(client: Client, now: datetime) -> Certificate:
    """Read and vet the certificate that the client's files are encrypted to; Key… errors."""
    recipient = recipient_on(client, now.astimezone(UTC).date())
    data = key_file(recipient.public_key)
    try:
        return vet(data, at=now, fingerprint=recipient.fingerprint)
    except KeyProblem as error:
        raise type(error)(f"{recipient.public_key}: {error}") from error


def warn_of_expiry(client: Client, certificate: Certificate, now: datetime, log: Log) -> None:
    """Log that the client's key is about to expire."""
    ends = certificate.expires_at
    if ends is not None and ends - now <= _EXPIRY_WARNING:
        log(
            "key.expiring",
            f"the key of {client.name} can be used until {ends:%Y-%m-%d}; ask for its renewal",
            level="warning",
        )


def key_file(path: Path) -> bytes:
    """Read a public key's file, one byte past the size that `vet` takes at most; KeyMissing."""
    try:
        # Without O_NONBLOCK a pipe in its place would hang the program.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with open(descriptor, "rb") as stream:  # noqa: PTH123 - from a descriptor
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise KeyMissing(f"the public key {path} is not a regular file")
            return stream.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise KeyMissing(
            f"the public key {path} cannot be read ({error.strerror or type(error).__name__})"
        ) from error


def credentials(client: Client) -> Credentials:
    """Read the login's secrets; SecretMissing, SecretMode."""
    endpoint = client.endpoint
    return Credentials(
        password=_secret(endpoint.password),
        private_key=_secret(endpoint.private_key),
        passphrase=_secret(endpoint.passphrase),
    )


def _secret(reference: SecretReference | None) -> Secret | None:
    return None if reference is None else secrets.resolve(reference)


def resources_of(client: Client, known: Mapping[str, Resource]) -> tuple[Resource, ...]:
    """Give the client's resources; ConfigInvalid for a name that has no schema."""
    missing = [name for name in client.resources if name not in known]
    if missing:
        raise ConfigInvalid(
            f"{client.name} is to get {', '.join(missing)}, but there is no schema of that name"
        )
    return tuple(known[name] for name in client.resources)


def version(
    client: Client, known: Mapping[str, Resource], source: SourceSettings, key: bytes
) -> str:
    """Give `part=version` pairs of all that deliveries depend on besides records and network.

    A version is an HMAC. The parts are the configuration, each key file, each secret, and the
    schemas; a file or secret that this process cannot read has no part. Raises nothing, so that no
    client's files can stop the others.
    """
    endpoint = client.endpoint
    parts: dict[str, bytes | None] = {"configuration": repr((client, source)).encode()}
    for number, recipient in enumerate(client.recipients, start=1):
        parts[f"key{number}"] = _if_readable(partial(key_file, recipient.public_key))
    for name, reference in (
        ("password", endpoint.password),
        ("private_key", endpoint.private_key),
        ("passphrase", endpoint.passphrase),
    ):
        if reference is not None:
            parts[name] = _if_readable(partial(_revealed, reference))
    schemas = [known[name].schema if name in known else "" for name in client.resources]
    parts["schemas"] = "\0".join(schemas).encode()
    return " ".join(
        f"{name}={hmac.new(key, data, sha256).hexdigest()[:_VERSION_DIGITS]}"
        for name, data in parts.items()
        if data is not None
    )


def _revealed(reference: SecretReference) -> bytes:
    return secrets.resolve(reference).reveal()


def _if_readable(read: Callable[[], bytes]) -> bytes | None:
    try:
        return read()
    except MxdeliverError:
        return None
