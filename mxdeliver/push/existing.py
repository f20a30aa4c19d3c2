"""What lies on the client's server already: ours and whole, ours and torn, or somebody else's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from hashlib import sha256
from typing import BinaryIO, Protocol

from mxdeliver.core.errors import RemoteConflict, RemoteDenied, RemoteFailure, SpoolCorrupt, SpoolIO
from mxdeliver.core.log import Log
from mxdeliver.core.model import Artifact, Bundle, Client, DeliveryKey, ReplacePolicy
from mxdeliver.edge.ledger import FileStage, FileState, HalfWritten, Standing
from mxdeliver.edge.sftp import RemoteAttributes, RenameOutcome, Session
from mxdeliver.edge.spool import Spool

_READ_BACK_SLACK = 1
_NAMES_SHOWN = 3


class Records(Protocol):
    """What is asked of the ledger here."""

    def standing(self, key: DeliveryKey) -> Standing:
        """Give how far the files are, and what else is known of the day and the server."""

    def temporaries(self, key: DeliveryKey) -> Sequence[str]:
        """Give the temporary names that may still lie on the server."""

    def forget_temporaries(self, key: DeliveryKey, names: Sequence[str]) -> None:
        """Take note that these temporary names are gone."""

    def forget_half_written(self, key: DeliveryKey, names: Sequence[str]) -> None:
        """Take note that nothing of ours lies half-written under these names."""

    def bundle(self, key: DeliveryKey) -> Bundle | None:
        """Give what was sealed for a revision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found under final names.

    `there`: whole, with how it came there and how well it was compared. `replaced`: whole files of
    an earlier revision, which may be taken away. `torn`: what an attempt has begun to write.
    """

    there: dict[str, tuple[RenameOutcome, str]] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)


class Existing:
    """Looks at what lies there, and removes what may be removed."""

    def __init__(
        self,
        bundle: Bundle,
        client: Client,
        *,
        session: Session,
        records: Records,
        spool: Spool,
        log: Log,
    ) -> None:
        self._bundle = bundle
        self._client = client
        self._session = session
        self._records = records
        self._spool = spool
        self._log = log

    def look(self, wanted: Sequence[Artifact], standing: Standing, *, sweeps: bool) -> Found:
        """Tell what lies under the wanted final names, with a receiver that `sweeps` or does not.

        Raises RemoteConflict for all that is neither ours nor to be replaced.
        """
        seen = self._session.look([file.name for file in wanted])
        half_written = self._half_written(standing.half_written, seen)
        progress = standing.files
        found = Found()
        in_doubt = {
            file.name
            for file in wanted
            if file.name in progress and progress[file.name].state is FileStage.PUBLISHING
        }
        conflicts: dict[str, str] = {}
        for file in wanted:
            attributes = seen[file.name]
            if attributes is None or attributes.denied:
                continue
            half = half_written.get(file.name)
            level = self._ours(file, attributes, half, in_doubt=file.name in in_doubt)
            if level is not None:
                found.there[file.name] = RenameOutcome.ALREADY_PUBLISHED, level
            elif self._is_torn(half, attributes):
                found.torn.append(file.name)
            elif (conflict := self._conflict(file, attributes)) is None:
                found.replaced.append(file.name)
            else:
                conflicts[file.name] = conflict
        self._refuse(conflicts)
        absent = {name for name in in_doubt if seen[name] is None}
        for name in self._swept(absent, progress, sweeps=sweeps):
            found.there[name] = RenameOutcome.SWEPT, "ack"
        return found

    def _refuse(self, conflicts: Mapping[str, str]) -> None:
        """Raise RemoteConflict for names that are in the way, naming the first few."""
        if not conflicts:
            return
        names = list(conflicts)
        text = f"{self.place(names[0])} {conflicts[names[0]]}"
        if others := names[1:]:
            listed = ", ".join(others[:_NAMES_SHOWN])
            left = len(others) - _NAMES_SHOWN
            rest = f" and {left} more" if left > 0 else ""
            text += f"; {len(names)} names are in the way, also {listed}{rest}"
        raise RemoteConflict(text)

    def _swept(
        self, names: AbstractSet[str], progress: Mapping[str, FileState], *, sweeps: bool
    ) -> list[str]:
        """Tell which files were renamed and taken by the receiver while the answer was lost.

        Only where the receiver is known to take files: then a file of which neither name is there
        has been taken, too, and sending it again would deliver it twice. Anywhere else such a file
        is sent again, because a temporary name can vanish in other ways.
        """
        # Evidence of a file that is to be sent again may be from a server before this one.
        takes_files = sweeps or any(
            state.state is FileStage.PUBLISHED
            and state.evidence is not None
            and state.evidence.outcome == RenameOutcome.SWEPT.value
            for state in progress.values()
        )
        temporaries = {
            name: temporary
            for name in names
            if takes_files and (temporary := progress[name].temporary) is not None
        }
        seen = self._session.attributes(list(temporaries.values()))
        return [name for name, temporary in temporaries.items() if seen[temporary] is None]

    def _ours(
        self,
        file: Artifact,
        attributes: RemoteAttributes,
        half: HalfWritten | None,
        *,
        in_doubt: bool,
    ) -> str | None:
        """Give how well a file that lies there whole was compared; None where it is not that file."""
        if not attributes.is_regular or attributes.size != file.encrypted_file_size:
            return None
        if in_doubt:
            return "size"
        try:
            return "readback" if self._content(file) == file.encrypted_checksum else None
        except (RemoteDenied, RemoteFailure):
            if half is not None and half.created:
                return None  # not known to be whole: it is written again
            raise

    def _content(self, file: Artifact) -> str:
        """Give the SHA-256 of what lies under the file's final name."""
        digest = sha256()
        for piece in self._session.read(file.name, file.encrypted_file_size + _READ_BACK_SLACK):
            digest.update(piece)
        return digest.hexdigest()

    # -- what an attempt has begun to write ----------------------------------------------------------

    def _half_written(
        self, half_written: Sequence[HalfWritten], seen: Mapping[str, RemoteAttributes | None]
    ) -> dict[str, HalfWritten]:
        """Give what may be half-written under names that exist; others are free, whoever freed them."""
        marked = {one.name: one for one in half_written}
        free = [name for name in marked if name in seen and seen[name] is None]
        if free:
            self._records.forget_half_written(self._bundle.key, free)
        return {name: one for name, one in marked.items() if name not in free}

    def _is_torn(self, half: HalfWritten | None, attributes: RemoteAttributes) -> bool:
        """Tell whether what lies there is what we have begun to write, and may remove.

        What the server has made for us holds nothing but bytes that we sealed, or none yet. Where
        the crash came before its answer was written down, not even one byte was sent.
        """
        if half is None or not attributes.is_regular:
            return False
        if not half.created:
            return attributes.size == 0
        sealed = self._records.bundle(half.key)
        file = (
            next((one for one in sealed.files if one.name == half.name), None) if sealed else None
        )
        if file is None or (attributes.size or 0) > file.encrypted_file_size:
            return False
        try:
            with self._spool.read(half.key, file) as ours:
                return all(
                    _is_piece_of(piece, ours.read(len(piece)))
                    for piece in self._session.read(half.name, file.encrypted_file_size)
                )
        except (RemoteDenied, RemoteFailure, SpoolCorrupt, SpoolIO):
            return True  # it cannot be compared: the ledger's word counts

    def clear(self, names: Sequence[str]) -> None:
        """Remove what was torn; RemoteConflict where the server does not let us."""
        if not names:
            return
        removed = self._session.remove(names)
        gone = [name for name, is_gone in removed.items() if is_gone]
        self._records.forget_half_written(self._bundle.key, gone)
        why = (
            "holds a part of the file, from an attempt that broke off, and the server does not let "
            "it be removed"
        )
        self._refuse({name: why for name in names if name not in gone})

    # -- files of earlier revisions ------------------------------------------------------------------

    def _is_of_earlier_revision(self, file: Artifact, attributes: RemoteAttributes) -> bool:
        """Tell whether what lies there is exactly a file that an earlier revision sealed."""
        if not attributes.is_regular:
            return False
        return any(
            (sealed.name, sealed.encrypted_file_size) == (file.name, attributes.size)
            and self._content(sealed) == sealed.encrypted_checksum
            for sealed in self._sealed_earlier()
        )

    def _sealed_earlier(self) -> Iterator[Artifact]:
        key = self._bundle.key
        for revision in range(1, key.revision):
            earlier = self._records.bundle(
                DeliveryKey(
                    client_guid=key.client_guid, snapshot_date=key.snapshot_date, revision=revision
                )
            )
            yield from earlier.files if earlier is not None else ()

    def _conflict(self, file: Artifact, attributes: RemoteAttributes) -> str | None:
        """Tell why what lies there is in the way; None where it may be replaced."""
        if not self._is_of_earlier_revision(file, attributes):
            kind = "another file" if attributes.is_regular else "not a regular file"
            return f"exists already and is not what was to be delivered ({kind})"
        if self._client.endpoint.replace is ReplacePolicy.OURS:
            return None
        return (
            "is there from an earlier revision of this day; it is replaced only where the client's "
            "`sftp.replace` is `ours`"
        )

    def take_away(self, names: Sequence[str]) -> None:
        """Remove files of ours that lie there whole, the manifest first."""
        manifest = self._bundle.manifest.name
        for batch in ([manifest] if manifest in names else [], [n for n in names if n != manifest]):
            removed = self._session.remove(batch) if batch else {}
            why = "is of an earlier delivery of this day and cannot be removed"
            self._refuse({name: why for name, gone in removed.items() if not gone})

    # -- temporary files -----------------------------------------------------------------------------

    def remove(self, leftovers: Sequence[str]) -> None:
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

    def open(self, file: Artifact) -> BinaryIO:
        """Open a sealed file of the bundle."""
        return self._spool.read(self._bundle.key, file)

    def place(self, name: str) -> str:
        """Name a file on the client's server for people."""
        endpoint = self._client.endpoint
        directory = endpoint.directory.rstrip("/")
        path = f"{directory}/{name}" if endpoint.directory else name
        return f"{path} on {endpoint.server_name}"


def _is_piece_of(theirs: bytes, ours: bytes) -> bool:
    """Tell whether `theirs` is `ours`, but for bytes that have not arrived and read as zero."""
    if theirs == ours:
        return True
    return len(theirs) == len(ours) and all(
        one in {0, other} for one, other in zip(theirs, ours, strict=True)
    )
