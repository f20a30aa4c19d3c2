"""The spool: staging, reading, checking and removing bundles."""

from __future__ import annotations

import fcntl
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from mxdeliver.core.errors import SpoolCorrupt, StopRequested
from mxdeliver.core.model import Artifact, Bundle, DeliveryKey
from mxdeliver.edge.spool import bundle_file
from mxdeliver.edge.spool.folders import (
    BUNDLE_FILE,
    READ,
    empty_out,
    folder_name,
    hidden_name,
    is_hidden,
    is_sealed,
    mapped,
    names_in,
    opened,
    parse_folder,
    require_private,
)
from mxdeliver.edge.spool.staging import Staging

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_CHUNK = 1 << 20


class Spool:
    """The sealed bundles under `state_dir`. Any method may raise SpoolIO and SpoolMode."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._path = state_dir / "spool"

    def check(self) -> bool:
        """Make sure of both folders, mode 0700; True when the state directory was new or empty.

        Raises SpoolMode where one is a link, belongs to somebody else or is open to others.
        """
        with mapped(str(self._state_dir)):
            created = self._make_state_dir()
            require_private(self._state_dir.lstat(), self._state_dir)
            with suppress(FileExistsError):
                self._path.mkdir(mode=0o700)
                with opened(self._state_dir) as folder:
                    os.fsync(folder)
            require_private(self._path.lstat(), self._path)
        return created

    def _make_state_dir(self) -> bool:
        try:
            self._state_dir.mkdir(mode=0o700, parents=True)
            with opened(self._state_dir.parent) as parent:
                os.fsync(parent)
        except FileExistsError:
            status = self._state_dir.lstat()
            if not stat.S_ISDIR(status.st_mode) or any(self._state_dir.iterdir()):
                return False
            # Made by hand or by a container's volume: nothing in it could have been seen yet.
            if status.st_uid == os.geteuid():
                self._state_dir.chmod(0o700)
        return True

    @contextmanager
    def _opened(self) -> Iterator[int]:
        with mapped(str(self._path)), opened(self._path) as spool:
            require_private(os.fstat(spool), self._path)
            yield spool

    @contextmanager
    def stage(self, key: DeliveryKey) -> Iterator[Staging]:
        """Begin a bundle; leaving the `with` unsealed removes everything written."""
        name = hidden_name(key)
        with ExitStack() as descriptors:
            # The caller's own errors pass through the `yield` and must not be mapped.
            with mapped(str(self._path)):
                spool = descriptors.enter_context(opened(self._path))
                require_private(os.fstat(spool), self._path)
                folder = descriptors.enter_context(_locked_folder(name, spool))
            staging = Staging(key, spool=spool, folder=folder, name=name)
            try:
                yield staging
            finally:
                staging.finish()

    def read(self, key: DeliveryKey, artifact: Artifact) -> BinaryIO:
        """Open a sealed file, unbuffered; SpoolCorrupt where it is missing or has another size."""
        what = f"{folder_name(key)}/{artifact.name}"
        with self._opened() as spool:
            try:
                with opened(folder_name(key), within=spool) as folder:
                    descriptor = os.open(artifact.name, READ, dir_fd=folder)
            except FileNotFoundError as error:
                raise SpoolCorrupt(f"the sealed file {what} is missing") from error
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size != artifact.encrypted_file_size:
                os.close(descriptor)
                raise SpoolCorrupt(
                    f"the sealed file {what} has {status.st_size} bytes instead of "
                    f"{artifact.encrypted_file_size}"
                )
        return cast("BinaryIO", _SealedFile(descriptor, what))

    def verify(
        self, key: DeliveryKey, artifact: Artifact, stop: Callable[[], bool] = lambda: False
    ) -> None:
        """Read a sealed file whole; SpoolCorrupt unless size and SHA-256 are what was sealed.

        StopRequested once `stop` says so.
        """
        digest = sha256()
        with self.read(key, artifact) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                if stop():
                    raise StopRequested("stopped while sealed files were compared")
        if digest.hexdigest() != artifact.encrypted_checksum:
            raise SpoolCorrupt(
                f"the sealed file {folder_name(key)}/{artifact.name} was changed after it was sealed"
            )

    def bundle(self, key: DeliveryKey) -> Bundle | None:
        """Give a sealed bundle, None where there is none; SpoolCorrupt for a damaged `bundle.json`."""
        with self._opened() as spool:
            # A run may have died between its rename and making that durable.
            os.fsync(spool)
            return self._bundle(spool, key)

    def has(self, key: DeliveryKey) -> bool:
        """Tell whether this bundle is sealed, damaged or not."""
        with mapped(str(self._path)):
            return (self._path / folder_name(key)).exists()

    def sealed_keys(self) -> list[DeliveryKey]:
        """Give the keys of all sealed bundles, damaged or not, by name; [] without a spool."""
        if not self._path.exists():
            return []
        with self._opened() as spool:
            found = []
            for name in filter(is_sealed, names_in(spool)):
                with suppress(ValueError):  # such as the 31st of February: not of our making
                    found.append(parse_folder(name))
            return found

    def has_bundles(self) -> bool:
        """Tell whether anything sealed lies here, damaged or not."""
        if not self._path.exists():
            return False
        with self._opened() as spool:
            return any(is_sealed(name) for name in names_in(spool))

    def bundles(self) -> Iterator[Bundle]:
        """Yield all sealed bundles by name; none where the spool does not exist."""
        for key in self.sealed_keys():
            bundle = self.bundle(key)
            if bundle is not None:
                yield bundle

    def _bundle(self, spool: int, key: DeliveryKey) -> Bundle | None:
        name = folder_name(key)
        try:
            with opened(name, within=spool) as folder:
                data = _read_whole(folder, name)
        except FileNotFoundError:
            return None
        try:
            bundle = bundle_file.from_json(data)
        except ValueError as error:
            raise SpoolCorrupt(f"{name}/{BUNDLE_FILE} cannot be read: {error}") from error
        if bundle.key != key:
            raise SpoolCorrupt(f"{name}/{BUNDLE_FILE} speaks of {folder_name(bundle.key)}")
        return bundle

    def remove(self, key: DeliveryKey) -> None:
        """Remove a sealed bundle, whole or (killed meanwhile) to be swept; none is fine."""
        hidden = hidden_name(key)
        with self._opened() as spool:
            try:
                os.rename(folder_name(key), hidden, src_dir_fd=spool, dst_dir_fd=spool)
            except FileNotFoundError:
                return
            empty_out(hidden, within=spool)

    def sweep(self) -> None:
        """Remove what processes that died left unsealed or half removed."""
        with self._opened() as spool:
            try:
                fcntl.flock(spool, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # somebody stages or sweeps at this moment; the next run looks again
            for name in filter(is_hidden, names_in(spool)):
                with (
                    suppress(FileNotFoundError, BlockingIOError),
                    opened(name, within=spool) as folder,
                ):
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    empty_out(name, within=spool)


@contextmanager
def _locked_folder(name: str, spool: int) -> Iterator[int]:
    # Shared against `sweep`, which must not see the folder before its lock is held.
    fcntl.flock(spool, fcntl.LOCK_SH)
    try:
        os.mkdir(name, mode=0o700, dir_fd=spool)
        with opened(name, within=spool) as folder:
            fcntl.flock(folder, fcntl.LOCK_EX)
            fcntl.flock(spool, fcntl.LOCK_UN)
            yield folder
    finally:
        fcntl.flock(spool, fcntl.LOCK_UN)


class _SealedFile(io.FileIO):
    """A sealed file whose read errors are the program's, also in the middle."""

    def __init__(self, descriptor: int, what: str) -> None:
        super().__init__(descriptor, "rb")
        self._what = what

    def read(self, size: int | None = -1, /) -> bytes:
        with mapped(self._what):
            return super().read(size) or b""

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        with mapped(self._what):
            return super().readinto(buffer)

    def readall(self) -> bytes:
        with mapped(self._what):
            return super().readall()


def _read_whole(folder: int, name: str) -> bytes:
    try:
        descriptor = os.open(BUNDLE_FILE, READ, dir_fd=folder)
    except FileNotFoundError as error:
        raise SpoolCorrupt(f"{name}/{BUNDLE_FILE} is missing") from error
    with io.FileIO(descriptor, "rb") as file:
        return file.readall()
