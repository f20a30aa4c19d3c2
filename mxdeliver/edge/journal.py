"""The delivery log: JSON Lines, one object an event, described by `delivery-log.schema.json`.

Each line is one write to a file opened for appending, so that several processes may share the file
and a reader never sees half a line; a file that was renamed or removed (logrotate) is opened anew.
Only the fields named here can be written, and no text reaches the log unescaped.

A log that cannot be written stops nothing, because the ledger is the record; that it cannot is said
once on standard error.
"""

from __future__ import annotations

import errno
import io
import json
import os
import select
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime
from enum import Enum
from pathlib import Path
from threading import Lock
from typing import Self, TextIO

from mxdeliver.core.errors import peer_text

FIELDS = (
    "client_guid",
    "snapshot_date",
    "revision",
    "attempt",
    "resource_type",
    "event_type",
    "file_name",
    "record_count",
    "file_size",
    "encrypted_file_size",
    "checksum",
    "seconds",
    "error_code",
    "retryable",
    "retry_at",
    "host",
    "port",
)
"""What an event may say beside `ts`, `level`, `event`, `run_id` and `message`, in this order."""

DURABLE = frozenset({"delivery.delivered"})
"""Events whose line in a file survives a power cut: once the ledger says the same, nothing says it again."""

LEVELS = frozenset({"info", "warning", "error"})
_PLACES = {name: place for place, name in enumerate(FIELDS)}
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_LONGEST_TEXT = 1000


class Journal:
    """Writes events; safe for threads. Made by `open`, ended by `close` or a `with`."""

    def __init__(
        self,
        *,
        path: Path | None,
        stream: TextIO | None,
        run_id: str,
        clock: Callable[[], datetime],
        complaints: TextIO | None,
        observer: Callable[[str, Mapping[str, object]], None] | None = None,
    ) -> None:
        self._observer = observer
        self._path = path
        self._stream = stream
        self._run_id = run_id
        self._clock = clock
        self._complaints = complaints
        self._descriptor: int | None = None
        self._lock = Lock()
        self._complained = False
        self._torn = False

    @classmethod
    def open(
        cls,
        path: Path | None,
        *,
        run_id: str,
        clock: Callable[[], datetime],
        stream: TextIO | None = None,
        complaints: TextIO | None = None,
        observer: Callable[[str, Mapping[str, object]], None] | None = None,
    ) -> Self:
        """Append to `path` (folder 0750, file 0640); None: to `stream`, or standard output.

        `clock` gives aware times. `observer` is told each event and its fields, one at a time. That a line could not be written is said on `complaints`, or
        standard error.
        """
        journal = cls(
            path=path,
            stream=stream,
            run_id=run_id,
            clock=clock,
            complaints=complaints,
            observer=observer,
        )
        if path is not None:
            with journal._lock:
                journal._guarded(lambda: journal._current(path))
        return journal

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._close()

    def write(self, event: str, message: str, *, level: str = "info", **fields: object) -> None:
        """Write one event; TypeError for a field or level that the log does not have.

        Dates, aware times, enums, text, numbers and truth values are written; None is left out. A
        full disk or a closed pipe is no error here.
        """
        line = self._line(event, message, level=level, fields=fields)
        with self._lock:
            self._guarded(lambda: self._append(line, durable=event in DURABLE))
            if self._observer is not None:
                self._observer(event, fields)

    def _line(self, event: str, message: str, *, level: str, fields: dict[str, object]) -> bytes:
        if level not in LEVELS:
            raise TypeError(f"{level!r} is not a level of the delivery log")
        if unknown := fields.keys() - _PLACES.keys():
            raise TypeError(f"the delivery log has no field {', '.join(sorted(unknown))}")
        document: dict[str, object] = {
            "ts": _plain(self._clock()),
            "level": level,
            "event": event,
            "run_id": self._run_id,
            "message": _plain(message),
        }
        for name in sorted(fields, key=_PLACES.__getitem__):
            if fields[name] is not None:
                document[name] = _plain(fields[name])
        return _ENCODER.encode(document).encode() + b"\n"

    def _guarded(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (OSError, ValueError) as error:  # ValueError: the stream was closed
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        if self._complained:
            return
        self._complained = True
        complaints = self._complaints or sys.stderr
        where = "standard output" if self._path is None else self._path
        with suppress(OSError, ValueError):
            complaints.write(
                f"mxdeliver: the delivery log {where} cannot be written: {_reason(error, self._path)}; "
                "deliveries go on without it\n"
            )
            complaints.flush()

    def _append(self, line: bytes, *, durable: bool) -> None:
        if self._path is not None:
            descriptor = self._current(self._path)
            self._send(descriptor, line)
            if durable:
                _sync(descriptor)
            return
        stream = self._stream or sys.stdout
        stream.flush()
        try:
            descriptor = stream.fileno()
        except io.UnsupportedOperation:
            stream.write(line.decode())
            stream.flush()
        else:
            # Past the stream's buffer: nothing is left to fail when the interpreter ends.
            self._send(descriptor, line)

    def _send(self, descriptor: int, line: bytes) -> None:
        """Write the line, after a full disk cut the last one short on a line of its own."""
        rest = b"\n" + line if self._torn else line
        while rest:
            try:
                written = os.write(descriptor, rest)
            except BlockingIOError:
                _wait_for_reader(descriptor)
            else:
                rest = rest[written:]
                self._torn = bool(rest)

    def _current(self, path: Path) -> int:
        """Give the open file, opened (again) where `path` names another one by now."""
        if self._descriptor is not None and _is_at(self._descriptor, path):
            return self._descriptor
        self._close()
        self._descriptor = _open(path)
        return self._descriptor

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            self._torn = False


def _wait_for_reader(descriptor: int) -> None:
    """Wait on a pipe that does not block, as its reader may have made it, like on any other."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()


def _open(path: Path) -> int:
    new_folders = [folder for folder in path.parents if not folder.exists()]
    if new_folders:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o750)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_EXCL, 0o640)
    except FileExistsError:
        return os.open(path, flags, 0o640)
    try:
        # The process's umask is stricter than the log is meant to be.
        os.fchmod(descriptor, 0o640)
        # Without its name a line that was synced is lost with the power.
        for folder in (path.parent, *(folder.parent for folder in new_folders)):
            _sync_folder(folder)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # files may be made there, but not listed: nothing can be synced
        return
    try:
        _sync(descriptor, os.fsync)
    finally:
        os.close(descriptor)


def _sync(descriptor: int, call: Callable[[int], None] = os.fdatasync) -> None:
    try:
        call(descriptor)
    except OSError as error:
        # A pipe, a device, or a folder whose file system knows no such thing: nothing to sync.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise


def _reason(error: Exception, path: Path | None) -> str:
    if not isinstance(error, OSError):
        return "it is closed"
    reason = error.strerror or type(error).__name__
    elsewhere = error.filename is not None and Path(str(error.filename)) != path
    return f"{error.filename}: {reason}" if elsewhere else reason


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _plain(value: object) -> object:
    """Give a value as JSON has it; TypeError for a kind that the log does not write."""
    if type(value) is str:  # most are
        return peer_text(value, _LONGEST_TEXT)
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise TypeError("the delivery log writes points in time, not local times")
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return peer_text(value, _LONGEST_TEXT)
    raise TypeError(f"the delivery log does not write a {type(value).__name__}")
