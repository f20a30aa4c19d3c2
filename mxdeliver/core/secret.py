"""Secrets as values that cannot be printed by accident.

A configuration holds a `SecretReference`; `mxdeliver.edge.config.secrets` turns it into a `Secret`
at the moment of use. There is no I/O here.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256


class SecretKind(Enum):
    """Where a secret is kept; the values are the configuration's words."""

    ENVIRONMENT = "env"
    FILE = "file"
    CREDENTIAL = "credential"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretReference:
    """Names a secret without holding it.

    `name` is an environment variable, an absolute path, or a systemd credential's name.
    """

    kind: SecretKind
    name: str

    def __str__(self) -> str:
        return f"{{{self.kind.value}: {self.name}}}"


class Secret:
    """Bytes that show themselves only to `reveal`."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """Give the bytes themselves; the caller must not keep, log or raise them."""
        return self._value

    def reveal_text(self) -> str:
        """Give the secret as UTF-8 text."""
        return self._value.decode("utf-8")

    def version(self, key: bytes) -> str:
        """Tell one value from another without revealing either: HMAC-SHA-256 as hex."""
        return hmac.new(key, self._value, sha256).hexdigest()

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a Secret is not pickled")
