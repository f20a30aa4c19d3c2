"""A sealed bundle goes to the client's server: one connection, files in parallel, manifest last.

The order is what keeps a day whole (reliability: ledger before action for temporary names, action
before ledger for success):

1. what was done at another server or directory is set aside: it counts only where it was done
2. look at every final name: there already and ours, or somebody else's (REMOTE_CONFLICT)
3. one commit names all temporary names; earlier ones are removed; then everything, the manifest
   included, is uploaded
4. one commit says which names are about to appear; then the daily files are renamed
5. one commit says that they are there; only then is the manifest renamed

Killed anywhere, the next attempt starts again at 1 and leaves alone what has appeared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date
from functools import partial
from hashlib import sha256
from typing import BinaryIO, Protocol

from mxdeliver.core import naming
from mxdeliver.core.errors import (
    ConnectionLost,
    MxdeliverError,
    RemoteConflict,
    Stalled,
    StopRequested,
)
from mxdeliver.core.log import Log
from mxdeliver.core.model import (
    Artifact,
    Bundle,
    Client,
    DailyFile,
    DeliveryKey,
    ReplacePolicy,
)
from mxdeliver.edge.ledger import FileStage, FileState, Lease, PublishEvidence
from mxdeliver.edge.sftp import (
    Credentials,
    Evidence,
    Move,
    RemoteAttributes,
    RenameOutcome,
    Session,
    Upload,
    connect,
)
from mxdeliver.edge.spool import Spool

_READ_BACK_SLACK = 1


class Records(Protocol):
    """What is asked of the ledger here."""

    def files(self, key: DeliveryKey) -> Mapping[str, FileState]:
        """Give each file's progress by its final name."""

    def temporaries(self, key: DeliveryKey) -> Sequence[str]:
        """Give the temporary names that may still lie on the server."""

    def forget_temporaries(self, key: DeliveryKey, names: Sequence[str]) -> None:
        """Take note that these temporary names are gone."""

    def bundle(self, key: DeliveryKey) -> Bundle | None:
        """Give what was sealed for a revision."""


def push(
    bundle: Bundle,
    client: Client,
    *,
    lease: Lease,
    records: Records,
    spool: Spool,
    credentials: Credentials,
    today: date,
    nonce: Callable[[], str],
    log: Log,
    stop: Callable[[], bool],
) -> None:
    """Make every file of the bundle appear on the client's server, the manifest last.

    Returns when the server has acknowledged all of it and the ledger knows. Raises the errors of the
    network, the handshake and the client's server, SpoolCorrupt, LeaseLost, StopRequested.
    """
    left = lease.bound_to(client.endpoint.destination)
    if left:
        log(
            "temporaries.left",
            f"the server or directory has changed; {len(left)} temporary files may lie at the earlier "
            "one",
            level="warning",
        )
    progress = records.files(bundle.key)
    wanted = [file for file in bundle.files if not _is_published(progress, file)]
    if not wanted:
        return
    for file in wanted:
        spool.verify(bundle.key, file)
    started = time.monotonic()
    with connect(client.endpoint, credentials, today=today, stop=stop) as session:
        facts = session.facts
        log(
            "connection.opened",
            f"connected to {facts.address}:{facts.port}",
            host=client.endpoint.host,
            port=facts.port,
            seconds=round(time.monotonic() - started, 3),
        )
        _Push(
            bundle,
            client,
            session=session,
            lease=lease,
            records=records,
            spool=spool,
            nonce=nonce,
            log=log,
        ).carry_out(wanted, progress)


def _is_published(progress: Mapping[str, FileState], file: Artifact) -> bool:
    return file.name in progress and progress[file.name].state is FileStage.PUBLISHED


class _Push:
    """The steps of one push over one open session."""

    def __init__(
        self,
        bundle: Bundle,
        client: Client,
        *,
        session: Session,
        lease: Lease,
        records: Records,
        spool: Spool,
        nonce: Callable[[], str],
        log: Log,
    ) -> None:
        self._bundle = bundle
        self._client = client
        self._session = session
        self._lease = lease
        self._records = records
        self._spool = spool
        self._nonce = nonce
        self._log = log

    def carry_out(self, wanted: Sequence[Artifact], progress: Mapping[str, FileState]) -> None:
        """Publish what is wanted and not yet there."""
        self._session.check_directory()
        there, replaced = self._reconcile(wanted, progress)
        if there:
            self._note_published(there, {})
        leftovers = self._records.temporaries(self._bundle.key)
        missing = [file for file in wanted if file.name not in there]
        temporaries = {
            file.name: naming.temporary_name(
                file.name, token=self._lease.token, nonce=self._nonce()
            )
            for file in missing
        }
        # Before the earlier ones are removed: a name that is gone must never look like one renamed.
        self._lease.uploading(temporaries)
        self._remove(leftovers)
        if not missing:
            return
        evidence = self._session.upload(
            [
                Upload(
                    name=file.name,
                    temporary=temporaries[file.name],
                    size=file.encrypted_file_size,
                    open=partial(self._open, file),
                )
                for file in missing
            ]
        )
        self._take_away(replaced)
        manifest = self._bundle.manifest
        for files in (
            [file for file in missing if file is not manifest],
            [file for file in missing if file is manifest],
        ):
            self._publish(files, temporaries, evidence)
        self._records.forget_temporaries(self._bundle.key, list(temporaries.values()))

    def _open(self, file: Artifact) -> BinaryIO:
        return self._spool.read(self._bundle.key, file)

    def _publish(
        self,
        files: Sequence[Artifact],
        temporaries: Mapping[str, str],
        evidence: Mapping[str, Evidence],
    ) -> None:
        if not files:
            return
        names = [file.name for file in files]
        self._lease.publishing(names)
        moves = [
            Move(temporary=temporaries[file.name], final=file.name, size=file.encrypted_file_size)
            for file in files
        ]
        try:
            outcomes = self._session.rename(moves)
        except (ConnectionLost, Stalled, StopRequested):
            raise  # the answers are unknown: the next attempt looks at both names
        except MxdeliverError:
            self._lease.not_renamed(names)
            raise
        levels = {name: seen.level for name, seen in evidence.items()}
        self._note_published({file.name: outcomes[file.name] for file in files}, levels)

    def _note_published(
        self, outcomes: Mapping[str, RenameOutcome], levels: Mapping[str, str]
    ) -> None:
        """Tell the ledger, then the log, what the server has acknowledged."""
        files = [file for file in self._bundle.files if file.name in outcomes]
        facts = self._session.facts
        self._lease.published(
            {
                file.name: PublishEvidence(
                    level=levels.get(file.name, "seen"),
                    size=file.encrypted_file_size,
                    outcome=outcomes[file.name].value,
                    address=facts.address,
                    host_key=facts.host_key,
                    server=facts.server,
                )
                for file in files
            }
        )
        for file in files:
            self._log_published(file)

    def _log_published(self, file: Artifact) -> None:
        fields: dict[str, object] = {
            "file_name": file.name,
            "record_count": file.record_count,
            "file_size": file.file_size,
            "encrypted_file_size": file.encrypted_file_size,
            "checksum": file.checksum,
            "host": self._client.endpoint.host,
            "port": self._client.endpoint.port,
        }
        if isinstance(file.identity, DailyFile):
            fields["resource_type"] = file.identity.resource.upper()
            fields["event_type"] = file.identity.event.value
            self._log("file.delivered", f"{file.name} delivered", **fields)
        else:
            self._log("manifest.delivered", f"{file.name} delivered", **fields)

    # -- what lies there already -------------------------------------------------------------------

    def _reconcile(
        self, wanted: Sequence[Artifact], progress: Mapping[str, FileState]
    ) -> tuple[dict[str, RenameOutcome], list[str]]:
        """Tell which of the wanted files have appeared already, and which are to be replaced.

        Raises RemoteConflict where something else lies under a final name.
        """
        found = self._session.attributes([file.name for file in wanted])
        there: dict[str, RenameOutcome] = {}
        replaced: list[str] = []
        in_doubt = {
            file.name
            for file in wanted
            if file.name in progress and progress[file.name].state is FileStage.PUBLISHING
        }
        for file in wanted:
            attributes = found[file.name]
            if attributes is None or attributes.denied:
                continue
            if self._is_ours(file, attributes, in_doubt=file.name in in_doubt):
                there[file.name] = RenameOutcome.ALREADY_PUBLISHED
            elif self._is_of_earlier_revision(file, attributes):
                self._refuse_unless_replacing(file)
                replaced.append(file.name)
            else:
                raise RemoteConflict(
                    f"{self._place(file.name)} exists already and is not what was to be delivered "
                    f"({'another file' if attributes.is_regular else 'not a regular file'})"
                )
        absent = {name for name in in_doubt if found[name] is None}
        return there | self._swept(absent, progress), replaced

    def _swept(
        self, names: AbstractSet[str], progress: Mapping[str, FileState]
    ) -> dict[str, RenameOutcome]:
        """Tell which files were renamed and taken by the receiver while the answer was lost.

        Only where the receiver was seen to take files of this day: then a file of which neither name
        is there has been taken, too, and sending it again would deliver it twice. Anywhere else such
        a file is sent again, because a temporary name can vanish in other ways.
        """
        takes_files = any(
            state.evidence is not None and state.evidence.outcome == RenameOutcome.SWEPT.value
            for state in progress.values()
        )
        temporaries = {
            name: temporary
            for name in names
            if takes_files and (temporary := progress[name].temporary) is not None
        }
        seen = self._session.attributes(list(temporaries.values()))
        return {
            name: RenameOutcome.SWEPT
            for name, temporary in temporaries.items()
            if seen[temporary] is None
        }

    def _is_ours(self, file: Artifact, attributes: RemoteAttributes, *, in_doubt: bool) -> bool:
        if not attributes.is_regular or attributes.size != file.encrypted_file_size:
            return False
        return in_doubt or self._content(file) == file.encrypted_checksum

    def _content(self, file: Artifact) -> str:
        """Give the SHA-256 of what lies under the file's final name."""
        digest = sha256()
        for piece in self._session.read(file.name, file.encrypted_file_size + _READ_BACK_SLACK):
            digest.update(piece)
        return digest.hexdigest()

    def _is_of_earlier_revision(self, file: Artifact, attributes: RemoteAttributes) -> bool:
        """Tell whether what lies there is exactly a file that an earlier revision sealed."""
        key = self._bundle.key
        if not attributes.is_regular:
            return False
        for revision in range(1, key.revision):
            earlier = self._records.bundle(
                DeliveryKey(
                    client_guid=key.client_guid, snapshot_date=key.snapshot_date, revision=revision
                )
            )
            for sealed in earlier.files if earlier is not None else ():
                same = (sealed.name, sealed.encrypted_file_size) == (file.name, attributes.size)
                if same and self._content(sealed) == sealed.encrypted_checksum:
                    return True
        return False

    def _refuse_unless_replacing(self, file: Artifact) -> None:
        if self._client.endpoint.replace is not ReplacePolicy.OURS:
            raise RemoteConflict(
                f"{self._place(file.name)} is there from an earlier revision of this day; it is "
                "replaced only where the client's `sftp.replace` is `ours`"
            )

    def _take_away(self, names: Sequence[str]) -> None:
        """Remove an earlier revision's files, its manifest first, once the new ones are uploaded."""
        manifest = self._bundle.manifest.name
        for batch in ([manifest] if manifest in names else [], [n for n in names if n != manifest]):
            removed = self._session.remove(batch) if batch else {}
            for name in (name for name, gone in removed.items() if not gone):
                raise RemoteConflict(
                    f"{self._place(name)} is of an earlier revision and cannot be removed"
                )

    def _remove(self, leftovers: Sequence[str]) -> None:
        """Remove temporary files of earlier attempts: only names that the ledger gave out."""
        if not leftovers:
            return
        removed = self._session.remove(leftovers)
        gone = [name for name, is_gone in removed.items() if is_gone]
        self._records.forget_temporaries(self._bundle.key, gone)
        if len(gone) < len(leftovers):
            self._log(
                "temporaries.left",
                f"the server does not let {len(leftovers) - len(gone)} temporary files be removed",
                level="warning",
            )

    def _place(self, name: str) -> str:
        endpoint = self._client.endpoint
        directory = endpoint.directory.rstrip("/")
        path = f"{directory}/{name}" if endpoint.directory else name
        return f"{path} on {endpoint.host}:{endpoint.port}"
