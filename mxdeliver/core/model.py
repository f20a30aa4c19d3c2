"""What flows through a delivery, in the order in which it comes to life.

Everything is frozen and built by keyword; a later stage makes a new type instead of filling in
blanks. Nothing here knows YAML, SQL, Avro, OpenPGP or SFTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from zoneinfo import ZoneInfo

from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.secret import SecretReference

# -- who gets what, from the configuration ---------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """One OpenPGP certificate of a client, pinned by its full fingerprint (upper-case hex).

    Used from `not_before` until the end of `not_after` (dates in UTC), without limit where None.
    """

    public_key: Path
    fingerprint: str
    not_before: date | None = None
    not_after: date | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKeyPin:
    """A host key the client's server may show: `SHA256:` and unpadded base64, as OpenSSH prints it."""

    sha256: str
    not_after: date | None = None


class ReplacePolicy(StrEnum):
    """Whether a rebuilt day may take the place of files that the ledger published."""

    NEVER = "never"
    OURS = "ours"


def server_name(host: str, port: int) -> str:
    """Name a server for people: an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A client's SFTP server. `directory` is literal; "" is the login directory."""

    host: str
    port: int
    username: str
    password: SecretReference | None
    private_key: SecretReference | None
    passphrase: SecretReference | None
    host_keys: tuple[HostKeyPin, ...]
    allowed_ips: tuple[IPv4Network | IPv6Network, ...]
    directory: str = ""
    open_files: int = 64
    replace: ReplacePolicy = ReplacePolicy.NEVER

    @property
    def server_name(self) -> str:
        """The server for people."""
        return server_name(self.host, self.port)

    @property
    def destination(self) -> str:
        """Where files go, as one text: what was done or found out there holds for nowhere else."""
        return f"{self.host}:{self.port}/{self.directory}"


class Codec(StrEnum):
    """Compression of Avro blocks: the two that every reader has."""

    NULL = "null"
    DEFLATE = "deflate"


class EffectiveDateForm(StrEnum):
    """How the manifest writes EffectiveDate: `2026-01-01` or `2026-01-01T00:00:00Z`."""

    DATE = "date"
    TIMESTAMP = "timestamp"


class Verification(StrEnum):
    """Which Avro blocks are decoded again while they pass."""

    SAMPLE = "sample"
    FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """How a client's files are written and named."""

    suffix: str = ".avro.pgp"
    codec: Codec = Codec.DEFLATE
    effective_date: EffectiveDateForm = EffectiveDateForm.DATE
    verify: Verification = Verification.SAMPLE


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Waits grow from `initial` to `maximum`; `attempts` bound one run, `deadline` all of them."""

    attempts: int = 6
    initial: timedelta = timedelta(seconds=2)
    maximum: timedelta = timedelta(seconds=60)
    deadline: timedelta = timedelta(hours=6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One client: whose data, from where, for whom to read, to which server."""

    guid: str
    name: str
    active_since: SnapshotDate | None
    zone: ZoneInfo
    due_after: timedelta
    resources: tuple[str, ...]
    source: str
    recipients: tuple[Recipient, ...]
    endpoint: Endpoint
    files: FileOptions = FileOptions()
    retry: RetryPolicy = RetryPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """One entry under `sources`: its name, its type, and what that type's own module reads.

    `queries` are the user's own SQL by resource and event; relative paths in `options` count from
    `folder`, the folder of the configuration file that names them.
    """

    name: str
    type: str
    folder: Path
    queries: Mapping[str, Mapping[EventType, str]] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)


# -- what there is to deliver ----------------------------------------------------------------------


class EventType(StrEnum):
    """What happened to a record on the day; the values are the manifest's words."""

    CREATED = "CREATED"
    UPDATED = "UPDATED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a resource; `avro_type` is its type as JSON values (str, list, dict)."""

    name: str
    avro_type: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A resource type: its lower-case name, its fields in order, its Avro schema as JSON text."""

    name: str
    fields: tuple[Field, ...]
    schema: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DailyFile:
    """Which daily file: pure identity."""

    client_guid: str
    snapshot_date: SnapshotDate
    resource: str
    event: EventType


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFile:
    """Which manifest: pure identity."""

    client_guid: str
    snapshot_date: SnapshotDate


@dataclass(frozen=True, slots=True, kw_only=True)
class EndOfStream:
    """The source's explicit word that a stream is complete, and how many rows it gave."""

    rows: int


# -- what was made and sent ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A sealed file: the plaintext's and the ciphertext's size (bytes) and SHA-256 (hex)."""

    identity: DailyFile | ManifestFile
    name: str
    record_count: int
    file_size: int
    checksum: str
    encrypted_file_size: int
    encrypted_checksum: str


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class DeliveryKey:
    """One client's one day, and how often it was built anew (first revision: 1)."""

    client_guid: str
    snapshot_date: SnapshotDate
    revision: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """All files of one delivery, sealed in the spool; the manifest is separate and goes last."""

    key: DeliveryKey
    artifacts: tuple[Artifact, ...]
    manifest: Artifact
    key_fingerprints: tuple[str, ...]

    @property
    def files(self) -> tuple[Artifact, ...]:
        """Every file in the order of sending, the manifest last."""
        return (*self.artifacts, self.manifest)

    @property
    def record_count(self) -> int:
        """Records in all daily files."""
        return sum(artifact.record_count for artifact in self.artifacts)

    @property
    def encrypted_size(self) -> int:
        """Bytes to send, the manifest included."""
        return sum(artifact.encrypted_file_size for artifact in self.files)


class DeliveryState(StrEnum):
    """Where a delivery stands; what each state allows is written in `edge.ledger`."""

    WAITING = "waiting"
    RUNNING = "running"
    PARKED = "parked"
    FAILED = "failed"
    DELIVERED = "delivered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A delivery as the ledger knows it. All times are in UTC."""

    key: DeliveryKey
    state: DeliveryState
    due_at: datetime
    not_before: datetime | None = None
    deadline: datetime | None = None
    attempts: int = 0
    sealed: bool = False
    delivered_at: datetime | None = None
    changed_at: datetime | None = None
    error_code: str | None = None
    error: str | None = None
    files: int = 0
    records: int = 0
    bytes: int = 0
    seconds: float | None = None
    """How long the last attempt took; None where it has not ended, or was not asked for."""
    fingerprint: str | None = field(default=None, repr=False)


class Outcome(StrEnum):
    """How an attempt ended."""

    DELIVERED = "delivered"
    RETRY = "retry"
    PARKED = "parked"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt of a delivery, as the ledger keeps it."""

    number: int
    started_at: datetime
    ended_at: datetime
    outcome: Outcome
    error_code: str | None = None
    error: str | None = None
    """What went wrong and what to do, in the words of the moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What follows an attempt that failed; `retry_at` only with `Outcome.RETRY`."""

    outcome: Outcome
    error_code: str
    retry_at: datetime | None = None
