"""The manifest: one CSV row per daily file, in the order in which they are to be consumed.

Columns, order and names are the seed's. Resource and event are upper case here and lower case in
file names; FileName is the stem, without suffix.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass

from mxdeliver.core import naming
from mxdeliver.core.model import Artifact, DailyFile, EffectiveDateForm, EventType

COLUMNS = (
    "ResourceType",
    "EventType",
    "RecordCount",
    "EffectiveDate",
    "FileSize",
    "EncryptedFileSize",
    "Checksum",
    "FileName",
)

STANDARD_RESOURCES = (
    "users", "members", "accounts", "transactions", "holdings", "categories", "tags", "taggings",
    "goals", "budgets", "notification_profiles", "beat", "beat_feedback", "devices",
    "analytics_events", "analytics_pageviews", "analytics_screenviews", "analytics_timed_events",
    "discovered_accounts", "discovered_transactions", "user_communication_profiles",
)  # fmt: skip
"""The 21 resource types of the seed: what `resources: standard` means."""

_CONSUMPTION_ORDER = (*STANDARD_RESOURCES[:18], "insights")
_FORBIDDEN_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRow:
    """One row: what the client can check a received file against."""

    identity: DailyFile
    record_count: int
    effective_date: str
    file_size: int
    encrypted_file_size: int
    checksum: str


def consumption_order(
    pairs: Iterable[tuple[str, EventType]],
) -> list[tuple[str, EventType]]:
    """Sort (resource, event): creates, then updates, each from users on; deletes in reverse order."""

    def place(resource: str) -> tuple[int, str]:
        known = resource in _CONSUMPTION_ORDER
        return (_CONSUMPTION_ORDER.index(resource) if known else len(_CONSUMPTION_ORDER), resource)

    chosen = list(pairs)
    ordered: list[tuple[str, EventType]] = []
    for event in EventType:
        resources = sorted((name for name, kind in chosen if kind is event), key=place)
        if event is EventType.DELETED:
            resources.reverse()
        ordered += [(name, event) for name in resources]
    return ordered


def effective_date(identity: DailyFile, form: EffectiveDateForm) -> str:
    """Write the day as the client wants to read it."""
    day = identity.snapshot_date.isoformat()
    return f"{day}T00:00:00Z" if form is EffectiveDateForm.TIMESTAMP else day


def render(artifacts: Iterable[Artifact], form: EffectiveDateForm) -> bytes:
    """Write the manifest of daily files, rows as given: UTF-8, LF line ends, header first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for artifact in artifacts:
        identity = artifact.identity
        if not isinstance(identity, DailyFile):
            raise TypeError("a manifest does not list itself")
        row = (
            identity.resource.upper(),
            identity.event.value,
            str(artifact.record_count),
            effective_date(identity, form),
            str(artifact.file_size),
            str(artifact.encrypted_file_size),
            artifact.checksum,
            naming.file_stem(identity),
        )
        for cell in row:
            # A spreadsheet takes such a cell for a formula; none of our grammars can produce one.
            if cell.startswith(_FORBIDDEN_STARTS):
                raise ValueError("a manifest cell must not start with a formula character")
        writer.writerow(row)
    return text.getvalue().encode("utf-8")


def parse(content: bytes) -> tuple[ManifestRow, ...]:
    """Read a manifest back, columns found by name; ValueError tells the line that is wrong."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("the manifest is not UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, None)
        if header is None or not set(COLUMNS) <= set(header):
            raise ValueError("the manifest's first line lacks columns")
        places = {name: header.index(name) for name in COLUMNS}
        return tuple(_parse_row(cells, places, len(header), reader.line_num) for cells in reader)
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: not CSV ({error})") from None


def _parse_row(cells: list[str], places: dict[str, int], width: int, line: int) -> ManifestRow:
    if len(cells) != width:
        raise ValueError(f"line {line}: {len(cells)} cells instead of {width}")
    cell = {name: cells[place] for name, place in places.items()}
    try:
        identity = naming.parse_stem(cell["FileName"])
    except ValueError:
        raise ValueError(f"line {line}: FileName is not a daily file's name") from None
    if (identity.resource.upper(), identity.event.value) != (
        cell["ResourceType"],
        cell["EventType"],
    ):
        raise ValueError(f"line {line}: ResourceType or EventType differ from FileName")
    checksum = cell["Checksum"]
    if len(checksum) != 64 or not set(checksum) <= set("0123456789abcdef"):
        raise ValueError(f"line {line}: Checksum is not 64 lower-case hex digits")
    return ManifestRow(
        identity=identity,
        record_count=_whole_number(cell["RecordCount"], "RecordCount", line),
        effective_date=cell["EffectiveDate"],
        file_size=_whole_number(cell["FileSize"], "FileSize", line),
        encrypted_file_size=_whole_number(cell["EncryptedFileSize"], "EncryptedFileSize", line),
        checksum=checksum,
    )


def _whole_number(text: str, column: str, line: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise ValueError(f"line {line}: {column} is not a whole number")
    return int(text)
