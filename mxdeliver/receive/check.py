"""Manifests against files, files against manifests."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from mxdeliver.core import naming
from mxdeliver.core.errors import MessageUnreadable, peer_text
from mxdeliver.core.manifest import ManifestRow, effective_date
from mxdeliver.core.model import DailyFile, EffectiveDateForm, EventType, ManifestFile
from mxdeliver.edge.openpgp import SecretKeyring
from mxdeliver.receive.files import (
    Content,
    Folder,
    day_of,
    folders,
    read_daily_file,
    read_manifest,
    reason,
)
from mxdeliver.receive.findings import CheckedManifest, Fault, FaultCode, Verdict

# Decryption and hashing release the interpreter lock for most of their time.
_FILES_AT_ONCE = 2


def verify(
    directory: Path, keyring: SecretKeyring, on_fault: Callable[[Fault], None] | None = None
) -> Verdict:
    """Check every file in `directory` and below; `on_fault` hears of each fault as it is found."""
    check = _Check(directory, keyring, on_fault)
    check.run()
    return check.verdict


class _Check:
    """One check of one directory."""

    def __init__(
        self,
        directory: Path,
        keyring: SecretKeyring,
        on_fault: Callable[[Fault], None] | None,
    ) -> None:
        self._directory = directory
        self._keyring = keyring
        self._on_fault = on_fault
        self.verdict = Verdict()

    def run(self) -> None:
        """Check folder by folder, in the order of their names."""
        found = False
        with ThreadPoolExecutor(_FILES_AT_ONCE) as workers:
            for folder in folders(self._directory, self._unreadable_directory):
                found = found or not folder.is_empty
                self._tell_useless(folder)
                for day in folder.days():
                    self._check_day(folder, day, workers)
        if not found:
            problem = "holds no daily file and no manifest"
            self._fault(self._directory, None, FaultCode.NOTHING_FOUND, problem)

    def _unreadable_directory(self, path: Path, problem: str) -> None:
        self._fault(path, None, FaultCode.UNREADABLE, problem)

    def _tell_useless(self, folder: Folder) -> None:
        for path, (identity, problem) in folder.unopened.items():
            self._fault(path, identity, FaultCode.UNREADABLE, problem)
        for path, plain in folder.unencrypted.items():
            self._fault(path, plain, FaultCode.NOT_ENCRYPTED, "not encrypted")
        self.verdict.ignored += [self._shown(path) for path in folder.ignored]

    def _check_day(self, folder: Folder, day: ManifestFile, workers: ThreadPoolExecutor) -> None:
        files = folder.of_day(day)
        rows = self._rows(folder, day, files)
        if rows is None:
            return
        self._check_missing(folder, day, rows)
        self._check_extra(files, rows)
        listed = [(path, row) for who, row in rows.items() for path in files.get(who, ())]
        contents = workers.map(lambda pair: read_daily_file(pair[0], self._keyring), listed)
        for (path, row), content in zip(listed, contents, strict=True):
            self._compare(path, row, content)

    def _check_missing(
        self, folder: Folder, day: ManifestFile, rows: dict[DailyFile, ManifestRow]
    ) -> None:
        useless = folder.useless()
        for identity in rows:
            if identity not in folder.daily_files and identity not in useless:
                path = folder.manifests[day].with_name(naming.file_stem(identity))
                self._fault(path, identity, FaultCode.MISSING, "missing, the manifest lists it")

    def _check_extra(
        self, files: dict[DailyFile, list[Path]], rows: dict[DailyFile, ManifestRow]
    ) -> None:
        for identity, paths in files.items():
            for path in paths:
                if identity not in rows:
                    self._fault(path, identity, FaultCode.EXTRA, "the manifest does not list it")
                elif path != paths[0]:
                    problem = f"the same daily file as {peer_text(paths[0].name, 300)}"
                    self._fault(path, identity, FaultCode.DUPLICATE_FILE, problem)

    def _rows(
        self, folder: Folder, day: ManifestFile, files: dict[DailyFile, list[Path]]
    ) -> dict[DailyFile, ManifestRow] | None:
        """Read the day's manifest; None, and a fault, where there is nothing to compare with."""
        unchecked = f"; so {_counted(files)} of its day could not be checked"
        path = folder.manifests.get(day)
        if path is None:
            if day not in folder.useless():
                name = next(iter(files.values()))[0].with_name(naming.file_name(day, ""))
                self._fault(name, day, FaultCode.MANIFEST_MISSING, f"missing{unchecked}")
            return None
        try:
            listed = read_manifest(path, self._keyring)
        except (MessageUnreadable, OSError) as error:
            self._fault(path, day, FaultCode.UNREADABLE, reason(error) + unchecked)
            return None
        except ValueError as error:
            problem = peer_text(str(error)) + unchecked
            self._fault(path, day, FaultCode.MANIFEST_INVALID, problem)
            return None
        rows = self._own_rows(path, day, listed)
        self._check_events(path, day, rows)
        self.verdict.manifests.append(
            CheckedManifest(
                file=self._shown(path),
                identity=day,
                files=len(rows),
                records=sum(row.record_count for row in rows.values()),
            )
        )
        return rows

    def _own_rows(
        self, path: Path, day: ManifestFile, listed: tuple[ManifestRow, ...]
    ) -> dict[DailyFile, ManifestRow]:
        """Keep one row for each daily file of the manifest's own client and day."""
        rows: dict[DailyFile, ManifestRow] = {}
        for row in listed:
            stem = naming.file_stem(row.identity)
            if day_of(row.identity) != day:
                problem = f"lists {stem}, which is another client's or another day's"
                self._fault(path, day, FaultCode.FOREIGN_ROW, problem)
                continue
            if row.identity in rows:
                problem = f"lists {stem} more than once"
                self._fault(path, day, FaultCode.DUPLICATE_ROW, problem)
                continue
            if row.effective_date not in {
                effective_date(row.identity, form) for form in EffectiveDateForm
            }:
                problem = f"EffectiveDate of {stem} is {peer_text(row.effective_date, 40)}"
                self._fault(path, day, FaultCode.EFFECTIVE_DATE, problem)
            rows[row.identity] = row
        return rows

    def _check_events(
        self, path: Path, day: ManifestFile, rows: dict[DailyFile, ManifestRow]
    ) -> None:
        if not rows:
            problem = "lists no daily file of its client and day"
            self._fault(path, day, FaultCode.MANIFEST_INVALID, problem)
        for identity in rows:
            siblings = [replace(identity, event=event) for event in EventType]
            absent = [sibling.event.value for sibling in siblings if sibling not in rows]
            listed = [sibling for sibling in siblings if sibling in rows]
            if absent and identity == listed[0]:
                problem = f"lists {identity.resource.upper()} without {' and '.join(absent)}"
                self._fault(path, day, FaultCode.INCOMPLETE_EVENTS, problem)

    def _compare(self, path: Path, row: ManifestRow, content: Content) -> None:
        def differs(code: FaultCode, column: str, there: object, listed: object) -> None:
            if there != listed:
                problem = f"{column} is {there}, the manifest says {listed}"
                self._fault(path, row.identity, code, problem)

        self.verdict.files_checked += 1
        if content.encrypted_size is not None:
            sizes = content.encrypted_size, row.encrypted_file_size
            differs(FaultCode.ENCRYPTED_SIZE, "EncryptedFileSize", *sizes)
        if content.unreadable:
            self._fault(path, row.identity, FaultCode.UNREADABLE, content.unreadable)
            return
        differs(FaultCode.SIZE, "FileSize", content.size, row.file_size)
        differs(FaultCode.CHECKSUM, "Checksum", content.checksum, row.checksum)
        if content.records is None:
            self._fault(path, row.identity, FaultCode.NOT_AVRO, content.not_avro)
            return
        self.verdict.records += content.records
        differs(FaultCode.RECORD_COUNT, "RecordCount", content.records, row.record_count)

    def _fault(
        self, path: Path, identity: DailyFile | ManifestFile | None, code: FaultCode, problem: str
    ) -> None:
        fault = Fault(file=self._shown(path), identity=identity, code=code, problem=problem)
        self.verdict.faults.append(fault)
        if self._on_fault:
            self._on_fault(fault)

    def _shown(self, path: Path) -> str:
        return path.relative_to(self._directory).as_posix()


def _counted(files: dict[DailyFile, list[Path]]) -> str:
    number = sum(map(len, files.values()))
    return "1 daily file was" if number == 1 else f"{number} daily files were"
