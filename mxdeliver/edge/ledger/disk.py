"""Files of the state directory beside the database: their errors, the random key, the file system."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mxdeliver.core.errors import (
    ConfigInvalid,
    LedgerCorrupt,
    MxdeliverError,
    SpoolFull,
    SpoolIO,
    SpoolMode,
)

KEY_BYTES = 32
# File systems whose locks do not hold between hosts, or not at all: SQLite's own warning,
# https://www.sqlite.org/howtocorrupt.html section 2.1.
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "9p", "fuse.sshfs", "fuse.rclone"}
)
UNFINISHED = "ledger.db.rebuilding"
"""A new ledger that is still being made; its name goes when it takes the ledger's place."""
_FULL = {errno.ENOSPC, errno.EDQUOT}


def from_os_error(error: OSError, path: Path) -> MxdeliverError:
    """Give the program's error for one of the operating system at `path`."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return SpoolFull(f"no space left for {path}: {reason}")
    if error.errno in {errno.EACCES, errno.EPERM, errno.ELOOP}:
        return SpoolMode(f"{path} cannot be used: {reason}")
    return SpoolIO(f"{path} cannot be used: {reason}")


@contextmanager
def mapped(path: Path) -> Iterator[None]:
    """Turn errors of the operating system into the program's; `path` is named in them."""
    try:
        yield
    except OSError as error:
        raise from_os_error(error, path) from error


def require_place(state_dir: Path, url: str | None) -> None:
    """Raise ConfigInvalid where no ledger can be kept; makes nothing."""
    if url is not None:
        raise ConfigInvalid("a ledger in PostgreSQL is not available yet; use `ledger: sqlite`")
    with mapped(state_dir):
        if state_dir.exists():
            refuse_network(state_dir)


def make_place(state_dir: Path) -> None:
    """Make the folder that the ledger lies in, unless it is there."""
    with mapped(state_dir):
        state_dir.mkdir(mode=0o700, exist_ok=True)
        refuse_network(state_dir)


def refuse_network(state_dir: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> None:
    """Raise ConfigInvalid where `state_dir` lies on a network file system.

    Read from proc(5)'s mountinfo by device number; an unknown device is taken for a local one.
    """
    device = state_dir.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mountinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        mount, _, system = line.partition(" - ")
        if mount.split()[2:3] != [wanted]:
            continue
        kind = system.partition(" ")[0]
        if kind in NETWORK_FILE_SYSTEMS:
            raise ConfigInvalid(
                f"state_dir {state_dir} lies on {kind}, where locks cannot be relied on; "
                "put it on a local disk"
            )


def refuse_unfinished(state_dir: Path) -> None:
    """Raise LedgerCorrupt while a rebuild is under way, or after one that was broken off.

    What lies in the ledger's place meanwhile may be nothing, from which a run would begin anew.
    """
    path = state_dir / UNFINISHED
    with mapped(path):
        if os.path.lexists(path):
            raise LedgerCorrupt(f"{path}: a rebuild is under way, or was broken off")


def secret_key(state_dir: Path, random: Callable[[int], bytes]) -> bytes:
    """Give the state directory's random key, made when there is none (`ledger.key`, mode 0600)."""
    path = state_dir / "ledger.key"
    with mapped(path):
        while True:
            with suppress(FileNotFoundError):
                return _read_key(path)
            _make_key(path, random)


def is_key_sound(state_dir: Path) -> bool:
    """Tell whether there is a random key, and a whole one."""
    path = state_dir / "ledger.key"
    with mapped(path):
        try:
            _read_key(path)
        except (FileNotFoundError, LedgerCorrupt):
            return False
    return True


def renew_key(state_dir: Path, random: Callable[[int], bytes]) -> list[Path]:
    """Make a new random key; gives where a damaged one lies now.

    With another key every credential counts as changed once: what is parked is tried once more.
    """
    path = state_dir / "ledger.key"
    aside = path.with_name(f"{path.name}.damaged-{os.urandom(4).hex()}")
    with mapped(path):
        try:
            path.rename(aside)
            moved = [aside]
        except FileNotFoundError:
            moved = []
        _make_key(path, random)
    return moved


def _read_key(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if status.st_mode & 0o077:
            raise SpoolMode(
                f"{path} can be read by others (mode {stat.S_IMODE(status.st_mode):04o}): "
                f"`chmod 0600 {path}`"
            )
        key = os.read(descriptor, KEY_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(key) != KEY_BYTES:
        raise LedgerCorrupt(f"{path} does not hold {KEY_BYTES} bytes")
    return key


def _make_key(path: Path, random: Callable[[int], bytes]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}")
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    try:
        os.write(descriptor, random(KEY_BYTES))
        os.fsync(descriptor)
        # A link refuses an existing name: of two processes the first one's key counts.
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.close(descriptor)
        temporary.unlink()
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
