"""Clients, bundles and times for tests of the ledger and the spool."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import IPv4Network
from pathlib import Path
from zoneinfo import ZoneInfo

from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.model import (
    Artifact,
    Bundle,
    Client,
    DailyFile,
    DeliveryKey,
    Endpoint,
    EventType,
    HostKeyPin,
    ManifestFile,
    Recipient,
)
from mxdeliver.core.naming import file_name, parse_file_name

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
TODAY = SnapshotDate(2026, 3, 10)
YESTERDAY = SnapshotDate(2026, 3, 9)


def client(
    number: int = 1,
    *,
    zone: str = "UTC",
    active_since: SnapshotDate | None = None,
    due_after: timedelta = timedelta(minutes=75),
) -> Client:
    """Make the `number`th client."""
    return Client(
        guid=guid(number),
        name=f"Client {number}",
        active_since=active_since,
        zone=ZoneInfo(zone),
        due_after=due_after,
        resources=("users",),
        source="warehouse",
        recipients=(Recipient(public_key=Path("key.asc"), fingerprint="AB" * 20),),
        endpoint=Endpoint(
            host="sftp.example",
            port=8022,
            username="mx",
            password=None,
            private_key=None,
            passphrase=None,
            host_keys=(HostKeyPin(sha256="SHA256:abc"),),
            allowed_ips=(IPv4Network("127.0.0.1/32"),),
        ),
    )


def guid(number: int = 1) -> str:
    """Give the `number`th client's guid."""
    return f"CLT-00000000-0000-0000-0000-{number:012d}"


def key(day: SnapshotDate = YESTERDAY, *, number: int = 1, revision: int = 1) -> DeliveryKey:
    """Give a delivery's key."""
    return DeliveryKey(client_guid=guid(number), snapshot_date=day, revision=revision)


def contents(delivery: DeliveryKey, *, salt: str = "") -> dict[str, bytes]:
    """Give the files of a small delivery by name, the manifest last."""
    identities: list[DailyFile | ManifestFile] = [
        *(
            DailyFile(
                client_guid=delivery.client_guid,
                snapshot_date=delivery.snapshot_date,
                resource="users",
                event=event,
            )
            for event in EventType
        ),
        ManifestFile(client_guid=delivery.client_guid, snapshot_date=delivery.snapshot_date),
    ]
    names = [file_name(identity, ".avro.pgp") for identity in identities]
    return {name: f"{name} {delivery.revision} {salt}".encode() * 3 for name in names}


def bundle(delivery: DeliveryKey, *, salt: str = "") -> Bundle:
    """Give the bundle that `contents` make."""
    *artifacts, manifest = [
        _artifact(name, data) for name, data in contents(delivery, salt=salt).items()
    ]
    return Bundle(
        key=delivery,
        artifacts=tuple(artifacts),
        manifest=manifest,
        key_fingerprints=("AB" * 20,),
    )


def _artifact(name: str, data: bytes) -> Artifact:
    return Artifact(
        identity=parse_file_name(name),
        name=name,
        record_count=5,
        file_size=100,
        checksum="0" * 64,
        encrypted_file_size=len(data),
        encrypted_checksum=sha256(data).hexdigest(),
    )


@contextmanager
def process(code: str, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run Python code in a process of its own; it is gone afterwards."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def line_from(child: subprocess.Popen[str]) -> str:
    """Wait for the process's next line."""
    assert child.stdout is not None
    return child.stdout.readline().strip()
