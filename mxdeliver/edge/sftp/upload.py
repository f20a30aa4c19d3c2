"""Many files to their temporary names at once, every answer looked at.

Where there are several channels, each has a share of the files, and a thread of its own.

Files are opened as others close, at most as many as endpoint and server allow; their pieces follow
as handles arrive, within a bound of bytes under way; each file is flushed and closed once all of its
pieces are acknowledged. On any error the rest is given up, answers still under way are awaited,
handles closed and the files created here removed.

Files that are written under their final names are opened in groups instead: before the first byte
of a group is sent, it is told which of its names the server has made for us.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event
from typing import BinaryIO

from paramiko import SSHException

from mxdeliver.core.errors import (
    ConnectionLost,
    MxdeliverError,
    RemoteFailure,
    RemoteFull,
    SpoolCorrupt,
    SpoolIO,
    StopRequested,
)
from mxdeliver.edge.sftp.engine import DEFAULT_PIECE, Engine, Kind, Reply, Status, read_string, text
from mxdeliver.edge.sftp.failures import failure
from mxdeliver.edge.sftp.looks import Looks
from mxdeliver.edge.sftp.model import Ownership, Upload

_BYTES_UNDER_WAY = 4 * 1024 * 1024
_PIECES_UNDER_WAY = 1024  # counts where a server's limit makes pieces tiny
_CREATE_NEW = 0x02 | 0x08 | 0x20  # WRITE, CREAT, EXCL
_PROMPT = 2.0
_FILE_WEIGHT = 4096  # what opening and closing a file costs, as bytes
_FSYNC = "fsync@openssh.com"
_FSYNC_REFUSED = {Status.OK, Status.UNSUPPORTED, Status.PERMISSION_DENIED}


class _File:
    """One file on its way."""

    __slots__ = ("handle", "is_closed", "offset", "path", "source", "unanswered", "upload")

    def __init__(self, upload: Upload, path: str) -> None:
        self.upload = upload
        self.path = path
        self.handle = b""
        self.source: BinaryIO | None = None
        self.offset = 0
        self.unanswered = 0
        self.is_closed = False

    def read(self, size: int) -> bytes:
        """Read the next piece; SpoolCorrupt where the file is not as long as it was to be."""
        try:
            if self.source is None:
                self.source = self.upload.open()
            data = self.source.read(min(size, self.upload.size - self.offset))
        except OSError as error:
            raise SpoolIO(f"{self.upload.name} cannot be read: {error.strerror}") from error
        if not data:
            raise SpoolCorrupt(
                f"{self.upload.name} has {self.offset} bytes instead of {self.upload.size}"
            )
        return data

    def close(self) -> None:
        if self.source is not None:
            self.source.close()


def upload_all(
    uploads: Sequence[Upload],
    engines: Sequence[Engine],
    *,
    path: Callable[[str], str],
    open_files: int,
    place: str,
    is_full: Callable[[Engine], bool],
    stop_requested: Callable[[], bool],
    progress: Callable[[int], None] | None,
    ownership: Ownership | None = None,
) -> Looks:
    """Send all files over these engines, each file over one; whatever fails ends all of it.

    The files then lie complete and closed under their temporary names. Gives what LSTAT behind a
    file's close has shown of its temporary and its final name, where the server answers in order;
    nothing of final names that are written themselves: what lies there is looked at when it is closed.
    """
    shares = _shares(uploads, min(len(engines), open_files, len(uploads)))
    spare = max(0, open_files - len(shares))
    failed = Event()

    looks = Looks()

    def send(engine: Engine, share: Sequence[Upload]) -> None:
        try:
            Uploader(
                engine,
                share,
                path=path,
                looks=looks,
                open_files=1 + spare * len(share) // max(1, len(uploads)),
                place=place,
                is_full=is_full,
                stop_requested=lambda: failed.is_set() or stop_requested(),
                progress=progress,
                ownership=ownership,
            ).run()
        except BaseException:
            failed.set()
            raise

    if len(shares) == 1:
        send(engines[0], uploads)
        return looks
    with ThreadPoolExecutor(len(shares), thread_name_prefix="upload") as pool:
        ends = [pool.submit(send, engine, share) for engine, share in zip(engines, shares)]  # noqa: B905 - no more engines than there are shares for
    errors = [error for end in ends if (error := end.exception()) is not None]
    if errors:
        # what failed has tidied up for itself; with a broken connection the next attempt does it
        with suppress(SSHException, OSError, EOFError, MxdeliverError):
            for engine, share, end in zip(engines, shares, ends):  # noqa: B905 - as above
                if end.exception() is None:
                    engine.call_all(
                        (Kind.REMOVE, text(path(upload.temporary).encode())) for upload in share
                    )
    # StopRequested is what the others' failure makes of a share, unless it is all there is.
    errors.sort(key=lambda error: isinstance(error, StopRequested))
    if errors:
        raise errors[0]
    return looks


def _shares(uploads: Sequence[Upload], number: int) -> list[list[Upload]]:
    """Part files into so many shares of about the same size, each of one file at least."""
    shares: list[list[Upload]] = [[] for _ in range(max(1, number))]
    weights = [0] * len(shares)
    for upload in sorted(uploads, key=lambda one: one.size, reverse=True):
        lightest = weights.index(min(weights))
        shares[lightest].append(upload)
        weights[lightest] += upload.size + _FILE_WEIGHT
    return shares


class Uploader:
    """The files of one engine."""

    def __init__(
        self,
        engine: Engine,
        uploads: Sequence[Upload],
        *,
        path: Callable[[str], str],
        looks: Looks,
        open_files: int,
        place: str,
        is_full: Callable[[Engine], bool],
        stop_requested: Callable[[], bool],
        progress: Callable[[int], None] | None,
        ownership: Ownership | None = None,
    ) -> None:
        self._engine = engine
        self._path = path
        self._looks = looks
        self._ownership = ownership
        self._place = place
        self._is_full = is_full
        self._stop_requested = stop_requested
        self._progress = progress
        self._unopened = deque(_File(upload, path(upload.temporary)) for upload in uploads)
        self._unfinished = len(self._unopened)
        self._writing: deque[_File] = deque()
        self._open_files = max(1, open_files)
        self._opening = 0
        self._held: dict[str, _File] = {}
        self._created: list[_File] = []
        self._unclaimed: list[_File] = []
        self._bytes_under_way = 0
        self._piece = DEFAULT_PIECE
        self._failure: MxdeliverError | None = None

    def run(self) -> None:
        """Send everything; the files then lie complete and closed under their temporary names."""
        try:
            self._send_all()
        except ConnectionLost:
            raise
        except MxdeliverError as error:
            self._failure = self._failure or error
        finally:
            for file in self._held.values():
                file.close()
        if self._failure is not None:
            # what goes wrong now is met again by the next attempt
            with suppress(SSHException, OSError, EOFError, MxdeliverError):
                self._give_up()
            raise self._failure

    def _send_all(self) -> None:
        engine = self._engine
        engine.settle()
        self._open_files = min(self._open_files, engine.most_handles or self._open_files)
        self._piece = min(DEFAULT_PIECE, engine.piece)
        while self._unfinished and self._failure is None:
            if self._stop_requested():
                raise StopRequested("stopped while files were being sent")
            self._open_more()
            if self._unclaimed and not self._opening:
                self._claim()
            elif self._writing and self._has_room():
                self._write_piece(self._writing[0])
                self._engine.reap_ready()
            else:
                self._engine.reap()

    def _has_room(self) -> bool:
        return (
            self._bytes_under_way < _BYTES_UNDER_WAY and self._engine.under_way < _PIECES_UNDER_WAY
        )

    # -- one file ----------------------------------------------------------------------------------

    def _open_more(self) -> None:
        if self._ownership is not None and self._held:
            return
        while self._unopened and self._opening + len(self._held) < self._open_files:
            file = self._unopened.popleft()
            self._opening += 1
            body = text(file.path.encode()) + struct.pack(">II", _CREATE_NEW, 0)
            self._engine.send(Kind.OPEN, body, lambda reply, file=file: self._opened(file, reply))  # type: ignore[misc] # mypy cannot infer defaults of a lambda

    def _opened(self, file: _File, reply: Reply) -> None:
        self._opening -= 1
        if reply.kind == Kind.HANDLE:
            file.handle, _ = read_string(reply.body)
            self._held[file.path] = file
            self._created.append(file)
            if self._ownership is None:
                self._begin(file)
            else:
                self._unclaimed.append(file)
        elif reply.status == Status.FAILURE and self._held and self._failure is None:
            # too many open for this server: this one waits until another is closed
            self._open_files = max(1, min(self._open_files - 1, len(self._held)))
            self._unopened.append(file)
        else:
            self._fail(reply, "creating", file)

    def _claim(self) -> None:
        """Have it written down that the group's names are ours, then begin with their bytes."""
        group, self._unclaimed = self._unclaimed, []
        if self._ownership is not None:
            self._ownership.created([file.upload.name for file in group])
        for file in group:
            self._begin(file)

    def _begin(self, file: _File) -> None:
        if not file.upload.size:
            self._end(file)
        elif file.upload.size <= self._piece and self._unopened:
            self._writing.appendleft(file)  # soon closed, which makes room for one that waits
        else:
            self._writing.append(file)

    def _write_piece(self, file: _File) -> None:
        data = file.read(self._piece)
        size = len(data)
        body = text(file.handle) + struct.pack(">QI", file.offset, size)
        sent_at = time.monotonic()
        file.offset += size
        file.unanswered += 1
        self._bytes_under_way += size
        if file.offset == file.upload.size:
            self._writing.popleft()
        self._engine.send(
            Kind.WRITE, body, lambda reply: self._written(file, size, sent_at, reply), data
        )
        if file.offset == file.upload.size and self._engine.answers_in_order:
            self._end(file)  # its pieces are answered before that

    def _written(self, file: _File, size: int, sent_at: float, reply: Reply) -> None:
        self._bytes_under_way -= size
        self._answered(file)
        if not reply.ok:
            self._fail(reply, "writing", file)
            return
        # Large pieces only where answers come at once: on a slow line each must be small enough
        # to be acknowledged before the connection counts as stalled.
        prompt = time.monotonic() - sent_at < _PROMPT
        self._piece = (
            min(self._piece * 2, self._engine.piece)
            if prompt
            else min(DEFAULT_PIECE, self._engine.piece)
        )
        if self._progress is not None:
            self._progress(size)
        done = file.offset == file.upload.size and not file.unanswered
        if done and not self._engine.answers_in_order:
            self._end(file)

    def _end(self, file: _File) -> None:
        """Flush and close a file; without waiting in between where the server answers in order."""
        if self._failure is not None:
            return
        flushes = _FSYNC in self._engine.extensions
        if flushes:
            body = text(_FSYNC.encode()) + text(file.handle)
            file.unanswered += 1
            self._engine.send(Kind.EXTENDED, body, lambda reply: self._flushed(file, reply))
        if not flushes or self._engine.answers_in_order:
            self._close(file)

    def _flushed(self, file: _File, reply: Reply) -> None:
        self._answered(file)
        if reply.status not in _FSYNC_REFUSED:
            self._fail(reply, "flushing", file)
        elif not self._engine.answers_in_order:
            self._close(file)

    def _close(self, file: _File) -> None:
        file.unanswered += 1
        self._engine.send(Kind.CLOSE, text(file.handle), lambda reply: self._closed(file, reply))
        if self._engine.answers_in_order and self._ownership is None:
            self._look(file)

    def _closed(self, file: _File, reply: Reply) -> None:
        del self._held[file.path]
        file.close()
        file.is_closed = reply.ok
        self._answered(file)
        if not reply.ok:
            self._fail(reply, "closing", file)

    def _look(self, file: _File) -> None:
        asked_at = time.monotonic()
        for name in (file.upload.temporary, file.upload.name):
            body = text(self._path(name).encode())
            file.unanswered += 1
            self._engine.send(
                Kind.LSTAT,
                body,
                lambda reply, name=name: self._looked(file, name, asked_at, reply),  # type: ignore[misc] # as above
            )

    def _looked(self, file: _File, name: str, asked_at: float, reply: Reply) -> None:
        self._looks.note(name, asked_at, reply)
        self._answered(file)

    def _answered(self, file: _File) -> None:
        """Count an answer; a file is finished when it is closed and the last one has come."""
        file.unanswered -= 1
        if file.is_closed and not file.unanswered:
            self._unfinished -= 1

    # -- when something goes wrong -----------------------------------------------------------------

    def _fail(self, reply: Reply, did: str, file: _File) -> None:
        if self._failure is None:
            self._failure = failure(reply, did, file.path, self._place)

    def _give_up(self) -> None:
        """Await what is under way, close handles, remove what was created here."""
        engine = self._engine
        engine.settle()
        if isinstance(self._failure, RemoteFailure) and self._is_full(engine):
            self._failure = RemoteFull(f"{self._failure}; the server's disk or quota is used up")
        engine.call_all((Kind.CLOSE, text(file.handle)) for file in self._held.values())
        if self._ownership is not None:
            self._ownership.may_remove()
        replies = engine.call_all((Kind.REMOVE, text(file.path.encode())) for file in self._created)
        if self._ownership is not None:
            self._ownership.removed(
                [
                    file.upload.name
                    for file, reply in zip(self._created, replies, strict=True)
                    if reply.status in {Status.OK, Status.NO_SUCH_FILE}
                ]
            )
