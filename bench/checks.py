"""Looks at what a contestant made: nobody wins by not doing the work."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from hashlib import file_digest
from itertools import zip_longest
from pathlib import Path
from typing import Any

import fastavro

from bench.ground import Ground, Party
from mxdeliver.core.calendar import SnapshotDate

_MANIFEST = "-manifest.csv.pgp"


class DifferentError(Exception):
    """What was made is not what was asked for."""


def require(holds: object, what: str) -> None:
    """Raise unless something holds."""
    if not holds:
        raise DifferentError(what)


def same_records(one: Iterable[Any], other: Iterable[Any], what: str) -> int:
    """Compare records one by one, in their order; gives how many there are."""
    count = 0
    nothing = object()
    for left, right in zip_longest(one, other, fillvalue=nothing):
        require(left == right, f"{what}: record {count} differs")
        count += 1
    return count


def same_bytes(one: Path, other: Path, what: str) -> None:
    """Compare two files."""
    with one.open("rb") as left, other.open("rb") as right:
        same = file_digest(left, "sha256").digest() == file_digest(right, "sha256").digest()
    require(same, f"{what}: the bytes differ")


def records_of(content: bytes) -> Iterator[Any]:
    """Decode an Avro file."""
    yield from fastavro.reader(io.BytesIO(content))


class Delivered:
    """What the first of several contestants delivered; that of the others is compared with it."""

    def __init__(self, ground: Ground, parties: Sequence[Party], day: SnapshotDate) -> None:
        self._ground = ground
        self._day = f".{day}"
        self._parties = parties
        self._first: dict[str, bytes] | None = None

    def look(self) -> None:
        """Decrypt everything with gpg and compare it, record by record."""
        found = {
            f"{party.guid}/{name}": self._ground.decrypt(path)
            for party in self._parties
            for name, path in party.received().items()
            if self._day in name and not name.endswith(_MANIFEST)
        }
        for party in self._parties:
            manifest = f"{party.guid}{self._day}{_MANIFEST}"
            require(manifest in party.received(), f"{party.guid} has no manifest")
        if self._first is None:
            self._first = found
            return
        require(found.keys() == self._first.keys(), "other files were delivered")
        count = sum(
            same_records(records_of(self._first[name]), records_of(content), name)
            for name, content in found.items()
        )
        require(count, "nothing but files without records was delivered")
