"""A bundle while it is being built: files of one hidden folder, then one rename."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress

from mxdeliver.core.errors import Internal, SpoolCorrupt, SpoolFull, StopRequested
from mxdeliver.core.model import Bundle, DeliveryKey
from mxdeliver.core.naming import parse_file_name
from mxdeliver.core.streams import Buffer
from mxdeliver.edge.spool import bundle_file
from mxdeliver.edge.spool.folders import (
    BUNDLE_FILE,
    CREATE,
    empty_out,
    folder_name,
    from_os_error,
    mapped,
)

KEPT_FREE = 4 << 20
"""Bytes of the disk that are not filled: the ledger beside the spool must be able to say what became
of this delivery, and of the others that go on meanwhile."""

_SYNC_EVERY = 32 << 20
"""Bytes after which what was written is synced meanwhile: at the end little is left to wait for."""
_SYNC_THREADS = 4


class SpoolFile:
    """A file of the staging folder, open for writing; `size` counts its bytes."""

    def __init__(
        self, descriptor: int, name: str, grown: Callable[[], object] = lambda: None
    ) -> None:
        self.name = name
        self.size = 0
        self._descriptor = descriptor
        self._grown = grown
        self._unsynced = 0

    def detach(self) -> None:
        """Take nothing more: the descriptor's number will soon be another file's."""
        self._descriptor = -1

    def write(self, data: Buffer) -> None:
        """Append all of `data`; SpoolFull, SpoolIO (also behind the end of `create`)."""
        rest = memoryview(data).cast("B")
        try:
            self._require_room(len(rest))
            while rest:
                written = os.write(self._descriptor, rest)
                self.size += written
                self._unsynced += written
                rest = rest[written:]
        except OSError as error:
            raise from_os_error(error, self.name) from error
        if self._unsynced >= _SYNC_EVERY:
            self._unsynced = 0
            self._grown()

    def _require_room(self, size: int) -> None:
        disk = os.fstatvfs(self._descriptor)
        # A file system that cannot tell its size says that it has no blocks.
        if disk.f_blocks and disk.f_bavail * disk.f_frsize < size + KEPT_FREE:
            raise SpoolFull(
                f"no space left for {self.name}: {disk.f_bavail * disk.f_frsize:,} bytes are free, "
                f"of which {KEPT_FREE:,} are kept for the ledger"
            )


class Staging:
    """The folder of a bundle that is not sealed yet; made by `Spool.stage`, which cleans up."""

    def __init__(self, key: DeliveryKey, *, spool: int, folder: int, name: str) -> None:
        self.key = key
        self._spool = spool
        self._folder = folder
        self._name = name
        self._sealed = False
        self._abandoned = False
        self._sizes: dict[str, int] = {}
        # A finished file is synced while the next one is written.
        self._pool = ThreadPoolExecutor(_SYNC_THREADS, thread_name_prefix="spool-sync")
        self._syncs: list[Future[None]] = []

    @contextmanager
    def create(self, name: str) -> Iterator[SpoolFile]:
        """Open a new file under its final name; ValueError for a name that is none of ours."""
        parse_file_name(name)
        with mapped(name):
            descriptor = os.open(name, CREATE, 0o600, dir_fd=self._folder)
        early: list[Future[None]] = []
        file = SpoolFile(
            descriptor, name, lambda: early.append(self._pool.submit(self._sync, descriptor, name))
        )
        try:
            yield file
        except BaseException:
            self._pool.submit(self._sync_and_close, descriptor, name, early)
            raise
        finally:
            file.detach()
        self._sizes[name] = file.size
        self._syncs.append(self._pool.submit(self._sync_and_close, descriptor, name, early))

    def _sync(self, descriptor: int, name: str) -> None:
        if not self._abandoned:
            # After a failed fsync the kernel may have dropped the pages: no second try.
            with mapped(name):
                os.fsync(descriptor)

    def _sync_and_close(self, descriptor: int, name: str, early: Sequence[Future[None]]) -> None:
        try:
            for sync in early:
                sync.result()
            self._sync(descriptor, name)
        finally:
            os.close(descriptor)

    def seal(self, bundle: Bundle, stop: Callable[[], bool] = lambda: False) -> None:
        """Make the bundle durable under its own name, unless `stop` says otherwise at the last moment.

        Raises StopRequested, SpoolFull and SpoolIO, SpoolCorrupt where this revision is sealed
        already, Internal where the bundle does not list what was written.
        """
        written = dict(self._sizes)
        listed = {artifact.name: artifact.encrypted_file_size for artifact in bundle.files}
        if bundle.key != self.key or written != listed:
            raise Internal(f"the bundle of {folder_name(self.key)} does not list what was written")
        for sync in self._syncs:
            sync.result()
        with mapped(folder_name(self.key)):
            self._write_bundle_file(bundle)
            os.fsync(self._folder)
            if stop():
                raise StopRequested("stopped before the day was sealed; nothing was")
            self._rename()

    def _write_bundle_file(self, bundle: Bundle) -> None:
        descriptor = os.open(BUNDLE_FILE, CREATE, 0o600, dir_fd=self._folder)
        try:
            SpoolFile(descriptor, BUNDLE_FILE).write(bundle_file.to_json(bundle))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _rename(self) -> None:
        final = folder_name(self.key)
        try:
            os.rename(self._name, final, src_dir_fd=self._spool, dst_dir_fd=self._spool)
        except FileExistsError as error:
            raise SpoolCorrupt(f"{final} is sealed already") from error
        except OSError as error:
            if _has(final, self._spool):
                raise SpoolCorrupt(f"{final} is sealed already") from error
            raise
        try:
            os.fsync(self._spool)
        except OSError:
            # Nobody knows whether the new name would survive a power cut, so it is not kept.
            os.rename(final, self._name, src_dir_fd=self._spool, dst_dir_fd=self._spool)
            raise
        self._sealed = True

    def finish(self) -> None:
        """Let go of everything; without a seal nothing of it stays."""
        self._abandoned = not self._sealed
        self._pool.shutdown()
        if not self._sealed:
            with suppress(OSError):
                empty_out(self._name, within=self._spool)


def _has(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True
