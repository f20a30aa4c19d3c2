"""A day's records become a sealed bundle: Avro, SHA-256, OpenPGP, spool; then the manifest.

One pass: batches go from the source through the encoder and the cipher into the spool, a bounded
number of them under way at once, each stage in a thread of its own; plaintext is never in a file.
A bundle is sealed as a whole or not at all, and only after the source has said of every stream that
it is complete.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from functools import partial
from typing import Self

from mxdeliver.core import manifest, naming
from mxdeliver.core.calendar import window
from mxdeliver.core.errors import SourceIncomplete, StopRequested
from mxdeliver.core.log import Log
from mxdeliver.core.model import (
    Artifact,
    Bundle,
    Client,
    DailyFile,
    DeliveryKey,
    EndOfStream,
    EventType,
    ManifestFile,
    Resource,
)
from mxdeliver.core.streams import Tally, ahead
from mxdeliver.edge.avro import ContainerWriter, sync_marker
from mxdeliver.edge.openpgp import Certificate, MessageCheck, MessageWriter
from mxdeliver.edge.sources import Snapshot, Source
from mxdeliver.edge.spool import Spool, Staging

_BATCHES_AHEAD = 2
READ_LIMIT = timedelta(minutes=30)
"""The longest that a source may take for its next batch, a sort of everything before it included."""


def build(
    key: DeliveryKey,
    client: Client,
    *,
    resources: Sequence[Resource],
    source: Source,
    certificate: Certificate,
    spool: Spool,
    threads: Threads,
    log: Log,
    stop: Callable[[], bool],
    read_limit: timedelta = READ_LIMIT,
) -> Bundle:
    """Build and seal all files of one delivery, with threads that no other build uses meanwhile.

    Raises Source…, RecordInvalid, AvroVerify, EncryptVerify, Spool… errors, SourceIncomplete where
    the source gives nothing for longer than `read_limit`, and StopRequested soon after `stop` says
    so; whatever is raised, nothing is sealed.
    """
    by_name = {resource.name: resource for resource in resources}
    pairs = manifest.consumption_order((name, event) for name in by_name for event in EventType)
    with spool.stage(key) as staging:
        work = _Build(
            key,
            client,
            certificate=certificate,
            staging=staging,
            threads=threads,
            log=log,
            stop=stop,
            read_limit=read_limit,
        )
        with source.snapshot() as snapshot:
            artifacts = tuple(
                work.daily_file(by_name[name], event, snapshot) for name, event in pairs
            )
        bundle = Bundle(
            key=key,
            artifacts=artifacts,
            manifest=work.manifest(artifacts),
            key_fingerprints=tuple(part.fingerprint for part in certificate.encryption_keys),
        )
        staging.seal(bundle, stop)
    return bundle


class Threads:
    """The threads of a build beside the one that encodes: one reads ahead, one encrypts behind.

    Both begin with the first build that needs them, and end with a `with`.
    """

    def __init__(self) -> None:
        self.reading = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reading")
        self.encrypting = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encrypting")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.reading.shutdown()
        self.encrypting.shutdown()


class _Build:
    """The files of one delivery, one after the other."""

    def __init__(
        self,
        key: DeliveryKey,
        client: Client,
        *,
        certificate: Certificate,
        staging: Staging,
        threads: Threads,
        log: Log,
        stop: Callable[[], bool],
        read_limit: timedelta,
    ) -> None:
        self._key = key
        self._client = client
        self._certificate = certificate
        self._staging = staging
        self._threads = threads
        self._log = log
        self._stop = stop
        self._read_limit = read_limit
        self._day = window(key.snapshot_date, client.zone)

    def daily_file(self, resource: Resource, event: EventType, snapshot: Snapshot) -> Artifact:
        """Write one resource's records of one event; gives what was sealed of them."""
        started = time.monotonic()
        client = self._client
        identity = DailyFile(
            client_guid=client.guid,
            snapshot_date=self._key.snapshot_date,
            resource=resource.name,
            event=event,
        )
        name = naming.file_name(identity, client.files.suffix)
        with _EncryptedFile(self._staging, name, self._certificate) as file:
            with ContainerWriter(
                resource,
                file.plaintext.write,
                codec=client.files.codec,
                sync_marker=sync_marker(identity, resource),
                verification=client.files.verify,
                worker=self._threads.encrypting,
            ) as container:
                record_count = self._copy(snapshot, resource, container, identity)
            artifact = file.seal(identity, record_count)
        self._log(
            "file.built",
            f"{name}: {record_count} records",
            resource_type=resource.name.upper(),
            event_type=event.value,
            file_name=name,
            record_count=record_count,
            file_size=artifact.file_size,
            encrypted_file_size=artifact.encrypted_file_size,
            checksum=artifact.checksum,
            seconds=round(time.monotonic() - started, 3),
        )
        return artifact

    def _copy(
        self,
        snapshot: Snapshot,
        resource: Resource,
        container: ContainerWriter,
        identity: DailyFile,
    ) -> int:
        """Write the stream's record batches; SourceIncomplete unless all three counts agree."""
        read = 0
        end: EndOfStream | None = None
        what = f"{identity.resource} {identity.event.value}"
        items = ahead(
            snapshot.stream(resource, identity.event, identity.client_guid, self._day),
            self._threads.reading,
            depth=_BATCHES_AHEAD,
            watch=partial(self._watch, what),
            interrupt=snapshot.interrupt,
        )
        with closing(items):
            for item in items:
                self._refuse_to_go_on()
                if isinstance(item, EndOfStream):
                    end = item
                else:
                    read += item.num_rows
                    container.write(item)
        if end is None:
            raise SourceIncomplete(
                f"the source of {what} stopped without saying that it was complete"
            )
        written = container.finish()
        if not read == written == end.rows:
            raise SourceIncomplete(
                f"{what}: the source counts {end.rows} records, {read} were read, {written} written"
            )
        return written

    def _watch(self, what: str, seconds: float) -> None:
        self._refuse_to_go_on()
        if seconds >= self._read_limit.total_seconds():
            raise SourceIncomplete(
                f"the source of {what} gave nothing for {round(seconds)} seconds"
            )

    def _refuse_to_go_on(self) -> None:
        if self._stop():
            raise StopRequested("stopped while the day was being built; nothing was sealed")

    def manifest(self, artifacts: tuple[Artifact, ...]) -> Artifact:
        """Write the manifest of all daily files."""
        client = self._client
        identity = ManifestFile(client_guid=client.guid, snapshot_date=self._key.snapshot_date)
        content = manifest.render(artifacts, client.files.effective_date)
        name = naming.file_name(identity, "")
        with _EncryptedFile(self._staging, name, self._certificate) as file:
            file.plaintext.write(content)
            return file.seal(identity, len(artifacts))


class _EncryptedFile:
    """A file of the bundle: what is written to `plaintext` lies encrypted in the spool."""

    def __init__(self, staging: Staging, name: str, certificate: Certificate) -> None:
        self._name = name
        self._spool_file = staging.create(name)
        self._check = MessageCheck(certificate.encryption_keys)
        self._certificate = certificate

    def __enter__(self) -> Self:
        file, check = self._spool_file.__enter__(), self._check

        def keep(data: bytes | bytearray | memoryview) -> None:  # without self: buffers go at once
            check.write(data)
            file.write(data)

        self._ciphertext = Tally(keep)
        self._message = MessageWriter(self._certificate.encryption_keys, self._ciphertext.write)
        self.plaintext = Tally(self._message.write)
        return self

    def __exit__(self, *raised: object) -> None:
        self._spool_file.__exit__(*raised)  # type: ignore[arg-type]  # the triple of a with block

    def seal(self, identity: DailyFile | ManifestFile, record_count: int) -> Artifact:
        """End the message, look at its recipients, and tell what was written."""
        self._message.finish()
        self._check.finish()
        return Artifact(
            identity=identity,
            name=self._name,
            record_count=record_count,
            file_size=self.plaintext.size,
            checksum=self.plaintext.checksum,
            encrypted_file_size=self._ciphertext.size,
            encrypted_checksum=self._ciphertext.checksum,
        )
