"""The configuration's keys, as pydantic models: what exists, what is required, what it means.

`defaults` are merged into a client before its entry is looked at here. Descriptions and examples
are what editors show (JSON Schema) and what remedies quote.
"""

from __future__ import annotations

from datetime import date, timedelta
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema

from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.manifest import STANDARD_RESOURCES
from mxdeliver.core.secret import SecretReference
from mxdeliver.edge.config import values

_TEXT = {"type": ["string", "integer"]}
_SECRET_SCHEMA = {
    "description": "Where the secret is kept; never the secret itself.",
    "type": "object",
    "minProperties": 1,
    "maxProperties": 1,
    "additionalProperties": False,
    "properties": {
        "env": {"type": "string", "description": "Name of an environment variable."},
        "file": {"type": "string", "description": "Path of a file that only its owner reads."},
        "credential": {"type": "string", "description": "Name of a systemd credential."},
    },
}


def _text(pattern: str | None = None) -> WithJsonSchema:
    return WithJsonSchema(_TEXT if pattern is None else {"type": "string", "pattern": pattern})


def _date() -> WithJsonSchema:
    return _text("^[0-9]{4}-[0-9]{2}-[0-9]{2}$")


# Types that end in `| None` are None where the key is absent; a key that is empty is a mistake.
Text = Annotated[str, PlainValidator(values.text), _text()]
OptionalText = Annotated[str | None, PlainValidator(values.text), _text()]
Sql = Annotated[str, PlainValidator(values.sql), _text(r"\S")]
FilePath = Annotated[str, PlainValidator(values.file_path), _text(r"^[^~\n]")]
OptionalFilePath = Annotated[str | None, PlainValidator(values.file_path), _text(r"^[^~\n]")]
Duration = Annotated[timedelta, PlainValidator(values.duration), _text("^[0-9]+[smhd]$")]
OptionalDuration = Annotated[
    timedelta | None, PlainValidator(values.duration), _text("^[0-9]+[smhd]$")
]
Wait = Annotated[timedelta | None, PlainValidator(values.wait), _text("^[1-9][0-9]*[smhd]$")]
Count = Annotated[int | None, BeforeValidator(values.given, json_schema_input_type=int)]
Day = Annotated[date | None, PlainValidator(values.day), _date()]
SnapshotDay = Annotated[SnapshotDate | None, PlainValidator(values.day), _date()]
Guid = Annotated[str, PlainValidator(values.client_guid), _text("^[A-Z]{3}-[0-9a-f-]{36}$")]
Name = Annotated[str | None, PlainValidator(values.client_name), _text()]
Zone = Annotated[ZoneInfo, PlainValidator(values.zone), _text("^[A-Za-z0-9_+/-]+$")]
ResourceName = Annotated[str, PlainValidator(values.resource_name), _text("^[a-z][a-z0-9_]{0,62}$")]
Fingerprint = Annotated[
    str, PlainValidator(values.fingerprint), _text("^(0x)?([0-9A-Fa-f][ \t]*){40}$")
]
Host = Annotated[str, PlainValidator(values.host), _text(r"^[A-Za-z0-9_.:-]+$")]
Port = Annotated[
    int,
    PlainValidator(values.port),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 65535, "not": {"const": 22}}),
]
Network = Annotated[
    IPv4Network | IPv6Network, PlainValidator(values.network), _text(r"^[0-9A-Fa-f.:]+(/[0-9.]+)?$")
]
Directory = Annotated[str, PlainValidator(values.directory), _text()]
Suffix = Annotated[str, PlainValidator(values.suffix), _text(r"^(\.[A-Za-z0-9]{1,16}){1,4}$")]
Memory = Annotated[str | None, PlainValidator(values.memory), _text("^[1-9]")]
HostKey = Annotated[str, PlainValidator(values.host_key), _text("^(SHA256:|[^ ]+ )")]
Secret = Annotated[SecretReference, PlainValidator(values.secret), WithJsonSchema(_SECRET_SCHEMA)]
OptionalSecret = Annotated[
    SecretReference | None, PlainValidator(values.secret), WithJsonSchema(_SECRET_SCHEMA)
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


def _optional(description: str, *examples: str) -> Any:
    return Field(default=None, description=description, examples=list(examples) or None)


def _required(description: str, *examples: str) -> Any:
    return Field(description=description, examples=list(examples))


# -- one client ------------------------------------------------------------------------------------


class PgpModel(_Model):
    """The client's OpenPGP certificate."""

    public_key: FilePath = _required("File with the client's public key.", "keys/first-example.asc")
    fingerprint: Fingerprint = _required(
        "The certificate's full fingerprint, confirmed with the client; must match the file.",
        "the 40 digits that `mxdeliver key FILE` prints",
    )
    not_before: Day = _optional("First day (UTC) on which this key is used.")
    not_after: Day = _optional("Last day (UTC) on which this key is used.")


class HostKeyModel(_Model):
    """A host key that may be shown until a day."""

    pin: HostKey = _required("`SHA256:…`, or a public key line.", "SHA256:…")
    not_after: Day = _optional("Last day on which this key is accepted.")


def _as_host_keys(value: object) -> object:
    if isinstance(value, list):
        return [{"pin": item} if isinstance(item, str | int) else item for item in value]
    return value


class SftpModel(_Model):
    """The client's server."""

    host: Host = _required("Name or address of the server.", "sftp.first-example.test")
    port: Port = _required("Port of the server; 22 is refused.", "8022")
    username: Text = _required("User name at the server.", "mx")
    password: OptionalSecret = _optional("Where the password is kept.")
    private_key: OptionalSecret = _optional(
        "Where the private key is kept; offered before a password."
    )
    passphrase: OptionalSecret = _optional("Where the private key's passphrase is kept.")
    host_keys: Annotated[
        list[HostKeyModel],
        BeforeValidator(_as_host_keys, json_schema_input_type=list[HostKey | HostKeyModel]),
    ] = Field(
        min_length=1,
        max_length=3,
        description="One to three host keys that the server may show: `SHA256:…`, or public key lines.",
        examples=['["SHA256:…"], as `mxdeliver hostkey HOST:PORT` prints it'],
    )
    allowed_ips: list[Network] = Field(
        min_length=1,
        description="The only addresses that are ever connected to.",
        examples=["[203.0.113.7]"],
    )
    directory: Directory = Field(
        default="",
        description="Directory to deliver into, literally; never created. Left out: the login directory.",
    )
    open_files: int = Field(
        default=64, ge=1, le=1024, description="Files open at once; the server's limits lower it."
    )
    replace: Literal["never", "ours"] = Field(
        default="never",
        description="`ours`: a rebuilt day may take the place of files delivered before.",
    )


class FilesModel(_Model):
    """How the client's files are named and written."""

    suffix: Suffix = Field(default=".avro.pgp", description="What follows a daily file's stem.")
    codec: Literal["null", "deflate"] = Field(
        default="deflate", description="Compression of the Avro blocks."
    )
    effective_date: Literal["date", "timestamp"] = Field(
        default="date",
        description="EffectiveDate in the manifest: 2026-01-01, or 2026-01-01T00:00:00Z.",
    )
    verify: Literal["sample", "full"] = Field(
        default="sample", description="Which Avro blocks are decoded again while they are written."
    )


class RetryModel(_Model):
    """How often and how long a failed delivery is tried again."""

    attempts: Count = Field(default=None, ge=1, le=100, description="Attempts within one run.")
    initial: Wait = _optional("The first wait.", "2s")
    maximum: Wait = _optional("The longest wait.", "60s")
    deadline: Wait = _optional("Given up this long after the first attempt.", "6h")


class ClientModel(_Model):
    """One client: whose data, for which key, to which server."""

    guid: Guid = _required(
        "The client's guid, as in the file names.", "CLT-0858efd1-2d2e-6a5d-f2b5-c7dad42ef184"
    )
    name: Name = _optional("What people call the client; commands take it for the guid.")
    active_since: SnapshotDay = _optional(
        "First day that is owed; by default the day before the client is first seen."
    )
    timezone: Zone = Field(
        default_factory=lambda: ZoneInfo("UTC"),
        description="The zone of the client's days; UTC unless set.",
    )
    due_after: OptionalDuration = _optional("As in `schedule`, for this client.", "75m")
    retry: RetryModel = Field(default_factory=RetryModel, description="As above, for this client.")
    resources: Annotated[
        list[ResourceName],
        BeforeValidator(
            values.resources, json_schema_input_type=Literal["standard"] | list[ResourceName]
        ),
    ] = Field(
        default_factory=lambda: list(STANDARD_RESOURCES),
        min_length=1,
        description="`standard` (21 resources), or a list of lower-case names.",
    )
    source: OptionalText = _optional(
        "Name of an entry under `sources`; needed if there are several."
    )
    pgp: Annotated[
        list[PgpModel],
        BeforeValidator(
            lambda value: [value] if isinstance(value, dict) else value,
            json_schema_input_type=PgpModel | list[PgpModel],
        ),
    ] = Field(
        min_length=1,
        description="The client's certificate, or several with dates; the first valid one is used.",
        examples=["{public_key: keys/first-example.asc, fingerprint: …}"],
    )
    sftp: SftpModel = _required("The client's server.", "the block of the sample configuration")
    files: FilesModel = Field(default_factory=FilesModel, description="File names and format.")


# -- sources ---------------------------------------------------------------------------------------

Queries = dict[ResourceName, dict[Literal["created", "updated", "deleted"], Sql]]
_QUERIES: Any = Field(
    default_factory=dict,
    description="Own SQL by resource and event, with $client_guid, $window_start, $window_end.",
)


class DuckdbModel(_Model):
    """A DuckDB database file, or views over Parquet, CSV and JSON files."""

    type: Literal["duckdb"] = Field(description="The kind of source.")
    database: OptionalFilePath = _optional("The database file.", "data/warehouse.duckdb")
    views: dict[Text, Sql] = Field(
        default_factory=dict, description="Views by name: what stands after `from`, or a select."
    )
    memory_limit: Memory = _optional("Most memory that queries may take.", "512MB")
    threads: Count = Field(default=None, ge=1, le=256, description="Threads for queries.")
    queries: Queries = _QUERIES


class AdbcModel(_Model):
    """A database behind an ADBC driver."""

    type: Literal["adbc"] = Field(description="The kind of source.")
    driver: Text = _required("Name of the ADBC driver.", "adbc_driver_postgresql")
    uri: OptionalSecret = _optional("Where the connection's URI is kept.")
    queries: Queries = _QUERIES


class OtherSourceModel(BaseModel):
    """A source of another package; its further keys are that package's business."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, hide_input_in_errors=True)

    type: Annotated[
        Text,
        WithJsonSchema({"type": "string", "not": {"enum": ["duckdb", "adbc"]}}),
    ] = Field(description="Name under the entry points `mxdeliver.sources`.", examples=["duckdb"])
    queries: Queries = _QUERIES


# -- the file --------------------------------------------------------------------------------------


class ScheduleModel(_Model):
    """When days are due."""

    due_after: Duration = Field(
        default_factory=lambda: timedelta(minutes=75),
        description="A day is due this long after it closed in the client's zone; 75m unless set.",
    )
    catch_up_days: int = Field(
        default=7, ge=1, le=366, description="A missed day is made up for that long, oldest first."
    )
    workers: int = Field(
        default=2, ge=1, le=64, description="Days built, and days sent, side by side."
    )


class LedgerModel(_Model):
    """A ledger in PostgreSQL, for several hosts."""

    url: Secret = _required("Where the database's URL is kept.", "{env: MXDELIVER_LEDGER_URL}")


def _ledger(value: object) -> object:
    if value == "sqlite":
        return None
    if not isinstance(value, dict):
        raise values.wrong("is not a ledger", "write `sqlite` or {url: {env: NAME}}")
    return value


def _version(value: object) -> int:
    if type(value) is not int or value != 1:
        raise values.wrong("is a version that this program does not read", "write `version: 1`")
    return value


class DocumentModel(_Model):
    """The configuration file of mxdeliver."""

    version: Annotated[int, PlainValidator(_version), WithJsonSchema({"const": 1})] = _required(
        "The version of this file's form.", "1"
    )
    state_dir: FilePath = Field(
        default="state",
        description="Folder of the ledger and the spool (ciphertext only), mode 0700.",
    )
    ledger: Annotated[
        LedgerModel | None,
        BeforeValidator(_ledger, json_schema_input_type=Literal["sqlite"] | LedgerModel),
    ] = Field(default=None, description="`sqlite` in state_dir, or {url: …} for PostgreSQL.")
    delivery_log: FilePath = Field(
        default="logs/deliveries.jsonl", description='The delivery log; "-" for standard output.'
    )
    retention_days: int = Field(
        default=7, ge=1, le=3650, description="Days that sealed bundles stay for a resend."
    )
    schemas: list[FilePath] = Field(
        default_factory=list,
        description="Folders of .avsc files beside the shipped ones; the same name replaces.",
    )
    include: list[FilePath] = Field(
        default_factory=list, description="Patterns of further files that hold `clients:` only."
    )
    schedule: ScheduleModel = Field(default_factory=ScheduleModel, description="When days are due.")
    retry: RetryModel = Field(
        default_factory=RetryModel, description="How a failed delivery is retried."
    )
    sources: dict[Text, DuckdbModel | AdbcModel | OtherSourceModel] = Field(
        default_factory=dict, description="Where records come from, by name."
    )
    defaults: dict[str, Any] = Field(
        default_factory=dict, description="Any key of a client, merged under each of them."
    )
    clients: list[ClientModel] = Field(default_factory=list, description="The clients.")
