"""Locks that the kernel gives back with the process: one for each client and day.

Each holder opens the lock's file itself, so that flock(2) also keeps the threads of one process
apart. A day has one lock whatever its revision: all revisions write the same names on the server.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.errors import LeaseHeld
from mxdeliver.edge.ledger import disk


class Locks:
    """The lock files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def hold(self, client_guid: str, day: SnapshotDate) -> Iterator[int]:
        """Hold the day's lock, an open file; LeaseHeld at once when somebody else does."""
        path = self._folder / f"{client_guid}.{day.isoformat()}.lock"
        descriptor = _take(path)
        if descriptor is None:
            raise LeaseHeld(f"{client_guid} {day.isoformat()}: another run is at this delivery")
        try:
            yield descriptor
        finally:
            # Unlinked while still held: whoever opened the old file sees below that it is gone.
            with suppress(OSError):
                path.unlink()
            os.close(descriptor)

    def is_free(self, client_guid: str, day: SnapshotDate) -> bool:
        """Tell whether nobody holds the day's lock at this moment."""
        try:
            with self.hold(client_guid, day):
                return True
        except LeaseHeld:
            return False

    def held(self) -> list[str]:
        """Give the `client.day` of each lock that somebody holds at this moment."""
        with disk.mapped(self._folder):
            names = sorted(path.name for path in self._folder.glob("*.lock"))
        found = []
        for name in names:
            guid, _, day = name.removesuffix(".lock").rpartition(".")
            with suppress(ValueError):  # not of our making
                if not self.is_free(guid, SnapshotDate.parse(day)):
                    found.append(f"{guid} {day}")
        return found


def _take(path: Path) -> int | None:
    with disk.mapped(path):
        while True:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            if _still_named(descriptor, path):
                return descriptor
            os.close(descriptor)


def _still_named(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False
