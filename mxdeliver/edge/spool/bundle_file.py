"""`bundle.json`: what was sealed, in a form that later versions of the program still read."""

from __future__ import annotations

import json

from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.errors import peer_text
from mxdeliver.core.model import Artifact, Bundle, DeliveryKey
from mxdeliver.core.naming import parse_file_name

FORMAT = 1


def to_json(bundle: Bundle) -> bytes:
    """Write a bundle down; the manifest is the last of `files`."""
    document = {
        "format": FORMAT,
        "client_guid": bundle.key.client_guid,
        "snapshot_date": bundle.key.snapshot_date.isoformat(),
        "revision": bundle.key.revision,
        "key_fingerprints": list(bundle.key_fingerprints),
        "files": [
            {
                "name": artifact.name,
                "record_count": artifact.record_count,
                "file_size": artifact.file_size,
                "checksum": artifact.checksum,
                "encrypted_file_size": artifact.encrypted_file_size,
                "encrypted_checksum": artifact.encrypted_checksum,
            }
            for artifact in bundle.files
        ],
    }
    return json.dumps(document).encode() + b"\n"


def from_json(data: bytes) -> Bundle:
    """Read a bundle back; ValueError for anything that `to_json` did not write."""
    try:
        document = json.loads(data)
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']!r} is not known to this version")
        *artifacts, manifest = [_artifact(entry) for entry in document["files"]]
        return Bundle(
            key=DeliveryKey(
                client_guid=_text(document["client_guid"]),
                snapshot_date=SnapshotDate.parse(_text(document["snapshot_date"])),
                revision=_number(document["revision"]),
            ),
            artifacts=tuple(artifacts),
            manifest=manifest,
            key_fingerprints=tuple(map(_text, document["key_fingerprints"])),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"it lacks or misuses {peer_text(str(error))}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _artifact(entry: dict[str, object]) -> Artifact:
    name = _text(entry["name"])
    return Artifact(
        identity=parse_file_name(name),
        name=name,
        record_count=_number(entry["record_count"]),
        file_size=_number(entry["file_size"]),
        checksum=_text(entry["checksum"]),
        encrypted_file_size=_number(entry["encrypted_file_size"]),
        encrypted_checksum=_text(entry["encrypted_checksum"]),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} where text belongs")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"{value!r} where a count belongs")
    return value
