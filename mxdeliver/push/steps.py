"""The steps of a push: connect, look, upload, publish."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from functools import partial

from mxdeliver.core import naming
from mxdeliver.core.errors import (
    ConnectionLost,
    LeaseLost,
    MxdeliverError,
    SpoolCorrupt,
    SpoolIO,
    SpoolMode,
    Stalled,
    StopRequested,
)
from mxdeliver.core.log import Log
from mxdeliver.core.model import Artifact, Bundle, Client
from mxdeliver.edge.ledger import FileStage, FileState, Lease, Publishing, Standing
from mxdeliver.edge.sftp import (
    Credentials,
    Evidence,
    Move,
    Ownership,
    RenameOutcome,
    RenameRefused,
    Session,
    TemporaryVanished,
    Upload,
    connect,
)
from mxdeliver.edge.spool import Spool
from mxdeliver.push.acknowledged import Acknowledged
from mxdeliver.push.existing import Existing, Found, Records
from mxdeliver.push.profile import Profile
from mxdeliver.push.sealed import SealedFiles


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
    for name in lease.bound_to(client.endpoint.destination):
        log(
            "file.left",
            f"{name} may lie in part where the client was delivered to before: ask them to remove it",
            level="warning",
            file_name=name,
        )
    standing = records.standing(bundle.key)
    wanted = [file for file in bundle.files if not _is_published(standing.files, file)]
    if not wanted:
        return
    started = time.monotonic()
    # A server that takes further channels, or what is sent ahead, amiss is tried again without.
    files = {file.name: file.encrypted_file_size for file in wanted} if lease.number == 1 else {}
    # The manifest may be sent again though it is there: see `_withdraw_manifest`.
    needed = wanted if bundle.manifest in wanted else [*wanted, bundle.manifest]
    known = standing.server
    # While they are compared nothing may be said for long, at which a server may end the connection:
    # it is tried again without. Where no name is temporary all must be compared first, in any case.
    beside = lease.number == 1 and (known is None or known.publishing is Publishing.RENAME)
    with (
        SealedFiles(needed, key=bundle.key, spool=spool, stop=stop, beside=beside) as sealed,
        connect(client.endpoint, credentials, today=today, stop=stop, files=files) as session,
    ):
        facts = session.facts
        log(
            "connection.opened",
            f"connected to {facts.address}:{facts.port}",
            host=client.endpoint.host,
            port=facts.port,
            seconds=round(time.monotonic() - started, 3),
        )
        if not facts.is_strict:
            log(
                "connection.not_strict",
                f"{client.endpoint.host}:{facts.port} does not know the strict key exchange; "
                f"negotiated were {facts.negotiated}, which are accepted without it. Ask the client "
                "to update the server",
                level="warning",
                host=client.endpoint.host,
                port=facts.port,
            )
        _Push(
            bundle,
            session=session,
            lease=lease,
            records=records,
            sealed=sealed,
            acknowledged=Acknowledged(bundle, client, session=session, lease=lease, log=log),
            existing=Existing(
                bundle, client, session=session, records=records, spool=spool, log=log
            ),
            profile=Profile(
                known,
                destination=client.endpoint.destination,
                software=facts.server,
                today=today,
                lease=lease,
            ),
            nonce=nonce,
            log=log,
        ).carry_out(standing)


def _is_published(progress: Mapping[str, FileState], file: Artifact) -> bool:
    return file.name in progress and progress[file.name].state is FileStage.PUBLISHED


class _Push:
    """The steps of one push over one open session."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        session: Session,
        lease: Lease,
        records: Records,
        sealed: SealedFiles,
        acknowledged: Acknowledged,
        existing: Existing,
        profile: Profile,
        nonce: Callable[[], str],
        log: Log,
    ) -> None:
        self._bundle = bundle
        self._session = session
        self._lease = lease
        self._records = records
        self._sealed = sealed
        self._acknowledged = acknowledged
        self._existing = existing
        self._profile = profile
        self._nonce = nonce
        self._log = log

    def carry_out(self, standing: Standing) -> None:
        """Publish what is not there yet, by renaming unless that is known to be impossible."""
        if not self._profile.is_direct:
            try:
                self._upload_and_rename(standing)
            except (RenameRefused, TemporaryVanished) as error:
                if not self._profile.is_direct:
                    raise
                self._log(
                    "server.direct",
                    f"{error}: files are written under their final names, the manifest last",
                    level="warning",
                )
                standing = self._records.standing(self._bundle.key)
        if self._profile.is_direct:
            self._write_directly(standing)

    def _look(self, standing: Standing) -> tuple[list[Artifact], Found]:
        """Give the files that are still to be sent, after writing down which are there."""
        progress = standing.files
        wanted = [file for file in self._bundle.files if not _is_published(progress, file)]
        found = self._existing.look(wanted, standing, sweeps=self._profile.sweeps)
        # Before anything on the server is changed.
        self._lease.require_certainty(
            progress, [file.name for file in wanted if file.name not in found.there]
        )
        if self._profile.is_direct and self._withdraw_manifest(wanted, progress, found):
            wanted = [file for file in wanted if file is not self._bundle.manifest]
            wanted.append(self._bundle.manifest)
        if found.there:
            self._lease.check()  # before anything is told to the log
        self._acknowledged.note(
            {name: outcome for name, (outcome, _) in found.there.items()},
            {name: level for name, (_, level) in found.there.items()},
        )
        return [file for file in wanted if file.name not in found.there], found

    # -- with temporary names ------------------------------------------------------------------------

    def _upload_and_rename(self, standing: Standing) -> None:
        missing, found = self._look(standing)
        leftovers = self._leftovers(standing)
        temporaries = {
            file.name: naming.temporary_name(
                file.name, token=self._lease.token, nonce=self._nonce()
            )
            for file in missing
        }
        # Before the earlier ones are removed: a name that is gone must never look like one renamed.
        self._lease.uploading(temporaries)
        self._existing.remove(leftovers)
        if not missing:
            return
        uploads = [self._upload(file, temporaries) for file in missing]
        with self._tidy(temporaries, SpoolCorrupt, SpoolIO, SpoolMode), self._sealed.told_first():
            evidence = self._session.upload(uploads, give_up=lambda: self._sealed.is_damaged)
        with self._tidy(temporaries, MxdeliverError):
            self._sealed.settle()
            self._lease.check()  # what lies there may be another run's by now
        self._existing.clear(found.torn)
        self._existing.take_away(found.replaced)
        for files, is_last in self._in_order(missing):
            self._publish(files, temporaries, evidence, is_last=is_last)

    def _leftovers(self, standing: Standing) -> Sequence[str]:
        """Give the temporary names of earlier attempts, without those that are known to be gone by now."""
        return self._records.temporaries(self._bundle.key) if standing.temporaries else []

    def _upload(self, file: Artifact, temporaries: Mapping[str, str]) -> Upload:
        return Upload(
            name=file.name,
            temporary=temporaries.get(file.name, file.name),
            size=file.encrypted_file_size,
            open=partial(self._existing.open, file),
            sha256=file.encrypted_checksum,
        )

    def _in_order(self, files: Sequence[Artifact]) -> list[tuple[list[Artifact], bool]]:
        """Give the daily files, then the manifest, without what is empty; and whether it is the last."""
        manifest = self._bundle.manifest
        groups = [
            [file for file in files if file is not manifest],
            [file for file in files if file is manifest],
        ]
        filled = [group for group in groups if group]
        return [(group, group is filled[-1]) for group in filled]

    def _publish(
        self,
        files: Sequence[Artifact],
        temporaries: Mapping[str, str],
        evidence: Mapping[str, Evidence],
        *,
        is_last: bool,
    ) -> None:
        names = [file.name for file in files]
        with self._tidy(temporaries, LeaseLost):
            self._lease.publishing(names)
        moves = [
            Move(temporary=temporaries[file.name], final=file.name, size=file.encrypted_file_size)
            for file in files
        ]
        try:
            renaming = self._session.rename(moves)
        except (ConnectionLost, Stalled, StopRequested):
            raise  # the answers are unknown: the next attempt looks at both names
        except MxdeliverError:
            self._lease.not_renamed(names)
            raise
        is_whole = is_last and renaming.failure is None
        self._note_sent(renaming.outcomes, evidence, moved=True, is_whole=is_whole)
        if renaming.failure is not None:
            settled = renaming.outcomes.keys() | renaming.unconfirmed
            self._lease.not_renamed([name for name in names if name not in settled])
            if _shows_that_only_writing_helps(renaming.failure, evidence):
                self._profile.rename_is_impossible(evidence)
            raise renaming.failure

    @contextmanager
    def _tidy(
        self, temporaries: Mapping[str, str], *errors: type[MxdeliverError]
    ) -> Iterator[None]:
        """Remove our temporary files at one of these errors, after which none of them is renamed.

        Where the lease is lost the other run has removed those that it found, and knows of none that
        were made since; where what was sealed is damaged there is no other attempt.
        """
        try:
            yield
        except errors:
            with suppress(MxdeliverError):
                self._existing.remove(list(temporaries.values()))
            raise

    # -- with final names alone ----------------------------------------------------------------------

    def _write_directly(self, standing: Standing) -> None:
        self._sealed.settle()
        missing, found = self._look(standing)
        self._lease.check()  # what lies there may be another run's by now
        self._existing.remove(self._leftovers(standing))
        self._existing.clear(found.torn)
        self._existing.take_away(found.replaced)
        for files, is_last in self._in_order(missing):
            self._write(files, is_last=is_last)

    def _write(self, files: Sequence[Artifact], *, is_last: bool) -> None:
        names = [file.name for file in files]
        self._lease.writing(names)
        evidence = self._session.write(
            [self._upload(file, {}) for file in files],
            Ownership(
                created=self._lease.created,
                may_remove=self._lease.check,
                removed=partial(self._records.forget_half_written, self._bundle.key),
            ),
        )
        outcomes = {
            name: RenameOutcome.SWEPT if one.taken else RenameOutcome.WRITTEN
            for name, one in evidence.items()
        }
        self._note_sent(outcomes, evidence, is_whole=is_last)

    def _withdraw_manifest(
        self, wanted: Sequence[Artifact], progress: Mapping[str, FileState], found: Found
    ) -> bool:
        """Take our manifest away while daily files are missing: it must not lie beside partial ones.

        Tells whether it was there, and is to be sent again.
        """
        manifest = self._bundle.manifest
        if all(file is manifest or file.name in found.there for file in wanted):
            return False
        if _is_published(progress, manifest):
            self._lease.withdrawn([manifest.name])
        elif found.there.pop(manifest.name, None) is None:
            return False
        self._lease.check()
        self._existing.take_away([manifest.name])
        return True

    # -- what the server has acknowledged ------------------------------------------------------------

    def _note_sent(
        self,
        outcomes: Mapping[str, RenameOutcome],
        evidence: Mapping[str, Evidence],
        *,
        moved: bool = False,
        is_whole: bool,
    ) -> None:
        """Take note of what was sent; once it `is_whole`, also of what that has shown of the server."""
        sent = {name: evidence[name] for name in outcomes}
        self._profile.saw(sent, outcomes.values())
        levels = {name: one.level for name, one in sent.items()}
        news = self._profile.news() if is_whole else None
        self._acknowledged.note(outcomes, levels, moved=moved, profile=news)


def _shows_that_only_writing_helps(
    failure: MxdeliverError, evidence: Mapping[str, Evidence]
) -> bool:
    """Tell whether no temporary file can be renamed here, now or by trying again.

    The server refused it with both names looked at, or the receiver takes temporary files away
    too: one was gone right after the upload, and RENAME has found none.
    """
    if isinstance(failure, TemporaryVanished):
        return any(one.taken for one in evidence.values())
    return isinstance(failure, RenameRefused)
