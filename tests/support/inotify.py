"""inotify(7) by its three calls: every change of some directories, in the order of the kernel."""

from __future__ import annotations

import ctypes
import os
import select
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

# linux/inotify.h
MODIFY, CLOSE_WRITE = 0x002, 0x008
MOVED_FROM, MOVED_TO = 0x040, 0x080
CREATE, DELETE = 0x100, 0x200
_OVERFLOW, _DIRECTORY = 0x4000, 0x40000000
_ONLY_DIRECTORIES, _NEVER_LINKS = 0x01000000, 0x02000000
_HEADER = struct.Struct("iIII")
_LARGEST_READ = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change: `mask` says what, `directory` and `name` where."""

    directory: Path
    name: str
    mask: int

    @property
    def is_directory(self) -> bool:
        """Whether what changed is itself a directory."""
        return bool(self.mask & _DIRECTORY)


class Inotify:
    """Changes of the directories that were asked for; a context manager."""

    def __init__(self) -> None:
        self._calls = ctypes.CDLL(None, use_errno=True)
        self._directories: dict[int, Path] = {}
        self._descriptor = -1

    def __enter__(self) -> Self:
        self._descriptor = self._checked(
            self._calls.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify_init1"
        )
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def watch(self, directory: Path, mask: int) -> None:
        """Tell of the changes in `directory` from now on; FileNotFoundError where there is none."""
        flags = mask | _ONLY_DIRECTORIES | _NEVER_LINKS
        number = self._checked(
            self._calls.inotify_add_watch(self._descriptor, os.fsencode(directory), flags),
            str(directory),
        )
        self._directories[number] = directory

    def wait(self, seconds: float) -> None:
        """Wait until there is a change to read, or so long."""
        select.select([self._descriptor], [], [], seconds)

    def read(self) -> Iterator[Change]:
        """Yield what has changed since the last time, without waiting."""
        with suppress(BlockingIOError):
            while True:
                data = os.read(self._descriptor, _LARGEST_READ)
                while data:
                    watch, mask, _, length = _HEADER.unpack_from(data)
                    name = data[_HEADER.size : _HEADER.size + length].rstrip(b"\0")
                    data = data[_HEADER.size + length :]
                    if mask & _OVERFLOW:
                        raise OverflowError("changes came faster than they were read")
                    if name:
                        yield Change(
                            directory=self._directories[watch], name=os.fsdecode(name), mask=mask
                        )

    def _checked(self, result: int, what: str) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), what)
        return result
