"""What certificates come to: the keys to encrypt to, and what people are shown."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mxdeliver.core.errors import KeyProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptionKey:
    """One key to encrypt to. `ciphers` are the AES algorithms that its owner reads, strongest first.

    `body` is its public key packet's body, of which `wrapping` makes what pgpy understands.
    """

    fingerprint: str
    key_id: str
    algorithm: str
    expires_at: datetime | None
    algorithm_number: int
    ciphers: tuple[int, ...]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate that may be encrypted to. `expires_at`: when its last encryption key ends."""

    fingerprint: str
    user_ids: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    encryption_keys: tuple[EncryptionKey, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFacts:
    """One key of a certificate, for people. `problem` is why it is not encrypted to, or empty."""

    fingerprint: str
    key_id: str
    algorithm: str
    is_primary: bool
    created_at: datetime
    expires_at: datetime | None
    capabilities: tuple[str, ...]
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What a certificate is: `certificate` when it is accepted, `refusal` when it is not."""

    fingerprint: str
    user_ids: tuple[str, ...]
    created_at: datetime
    keys: tuple[KeyFacts, ...]
    warnings: tuple[str, ...]
    certificate: Certificate | None
    refusal: KeyProblem | None

    @property
    def expires_at(self) -> datetime | None:
        """When the last encryption key ends or has ended; None for no end, or no such key."""
        if self.certificate is not None:
            return self.certificate.expires_at
        ends = [one.expires_at for one in self.keys if "encrypt" in one.capabilities]
        known = [one for one in ends if one is not None]
        return max(known) if known and len(known) == len(ends) else None
