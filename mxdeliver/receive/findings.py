"""What a check of received files finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from mxdeliver.core.errors import peer_text
from mxdeliver.core.model import DailyFile, ManifestFile


class FaultCode(StrEnum):
    """What can be wrong with received files; the values are the codes that `verify` prints."""

    MISSING = "MISSING"
    EXTRA = "EXTRA"
    DUPLICATE_FILE = "DUPLICATE_FILE"
    DUPLICATE_ROW = "DUPLICATE_ROW"
    ENCRYPTED_SIZE = "ENCRYPTED_SIZE"
    SIZE = "SIZE"
    CHECKSUM = "CHECKSUM"
    RECORD_COUNT = "RECORD_COUNT"
    UNREADABLE = "UNREADABLE"
    NOT_ENCRYPTED = "NOT_ENCRYPTED"
    NOT_AVRO = "NOT_AVRO"
    MANIFEST_MISSING = "MANIFEST_MISSING"
    MANIFEST_INVALID = "MANIFEST_INVALID"
    FOREIGN_ROW = "FOREIGN_ROW"
    EFFECTIVE_DATE = "EFFECTIVE_DATE"
    INCOMPLETE_EVENTS = "INCOMPLETE_EVENTS"
    NOTHING_FOUND = "NOTHING_FOUND"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing wrong. `file` is relative to the directory checked, or the name that is missing."""

    file: str
    identity: DailyFile | ManifestFile | None
    code: FaultCode
    problem: str

    def __str__(self) -> str:
        return f"{self.code}: {peer_text(self.file, 4096)}: {self.problem}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedManifest:
    """A manifest that could be read: how many daily files it lists, and their records."""

    file: str
    identity: ManifestFile
    files: int
    records: int


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What was looked at and what is wrong; grows while the check goes on.

    `files_checked` counts the daily files that were compared with a row, `records` what lies in
    those of them that are whole Avro files.
    """

    manifests: list[CheckedManifest] = field(default_factory=list)
    files_checked: int = 0
    records: int = 0
    faults: list[Fault] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
