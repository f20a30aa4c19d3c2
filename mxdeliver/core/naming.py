"""Every file name, made in one place and parsed back here.

The forms of daily files and manifests are given by the seed: `{client_guid}.{date}.{resource}.{event}`
and `{client_guid}.{date}-manifest.csv.pgp`.
"""

from __future__ import annotations

import re

from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.model import DailyFile, EventType, ManifestFile

CLIENT_GUID = re.compile(r"[A-Z]{3}-[0-9a-f-]{36}")
RESOURCE_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
FILE_SUFFIX = re.compile(r"(\.[A-Za-z0-9]{1,16}){1,4}")
MANIFEST_SUFFIX = "-manifest.csv.pgp"

_STEM = re.compile(
    rf"(?P<guid>{CLIENT_GUID.pattern})\.(?P<date>[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})"
    rf"\.(?P<resource>{RESOURCE_NAME.pattern})\.(?P<event>created|updated|deleted)"
)
_MANIFEST = re.compile(
    rf"(?P<guid>{CLIENT_GUID.pattern})\.(?P<date>[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})"
    + re.escape(MANIFEST_SUFFIX)
)
_TEMPORARY = re.compile(r"\.(?P<final>.+)\.(?P<token>[0-9]+)-(?P<nonce>[0-9a-f]{8})\.part")


def file_stem(file: DailyFile) -> str:
    """Give the daily file's name without its suffix."""
    return f"{file.client_guid}.{file.snapshot_date.isoformat()}.{file.resource}.{file.event.value.lower()}"


def file_name(file: DailyFile | ManifestFile, suffix: str) -> str:
    """Give the name under which the client finds the file; a manifest's suffix is fixed."""
    if isinstance(file, ManifestFile):
        return f"{file.client_guid}.{file.snapshot_date.isoformat()}{MANIFEST_SUFFIX}"
    return file_stem(file) + suffix


def parse_stem(stem: str) -> DailyFile:
    """Read a daily file's stem back; ValueError if it is none."""
    match = _STEM.fullmatch(stem)
    if match is None:
        raise ValueError(f"{stem!r} is not the name of a daily file")
    return DailyFile(
        client_guid=match["guid"],
        snapshot_date=SnapshotDate.parse(match["date"]),
        resource=match["resource"],
        event=EventType(match["event"].upper()),
    )


def parse_file_name(name: str) -> DailyFile | ManifestFile:
    """Read a file name back, whatever its suffix; ValueError if it is none of ours."""
    if match := _MANIFEST.fullmatch(name):
        return ManifestFile(
            client_guid=match["guid"], snapshot_date=SnapshotDate.parse(match["date"])
        )
    if match := _STEM.match(name):
        rest = name[match.end() :]
        if not rest or rest.startswith("."):
            return parse_stem(match.group())
    raise ValueError(f"{name!r} is neither a daily file nor a manifest")


def temporary_name(final_name: str, *, token: int, nonce: str) -> str:
    """Name an upload under way: hidden, and unique to a lease token and a random nonce."""
    return f".{final_name}.{token}-{nonce}.part"


def final_name_of(temporary: str) -> str:
    """Give the final name that a temporary name stands for; ValueError if it is none."""
    match = _TEMPORARY.fullmatch(temporary)
    if match is None:
        raise ValueError(f"{temporary!r} is not a temporary name")
    return match["final"]
