"""Names, modes and errors of the spool's folders; everything is reached from an open folder.

Opening below a descriptor with O_NOFOLLOW keeps links, also ones planted meanwhile, out of the
path.
"""

from __future__ import annotations

import errno
import os
import pwd
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.errors import MxdeliverError, SpoolFull, SpoolIO, SpoolMode
from mxdeliver.core.model import DeliveryKey
from mxdeliver.core.naming import CLIENT_GUID

BUNDLE_FILE = "bundle.json"
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC

_FOLDER = re.compile(
    rf"(?P<guid>{CLIENT_GUID.pattern})"
    r"\.(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})\.r(?P<revision>[1-9][0-9]*)"
)
_LEFTOVER = re.compile(rf"\.{_FOLDER.pattern}\.[0-9]+-[0-9a-f]{{8}}\.tmp")
_FULL = {errno.ENOSPC, errno.EDQUOT}
_MODE = {errno.ELOOP, errno.ENOTDIR, errno.EACCES, errno.EPERM}


def folder_name(key: DeliveryKey) -> str:
    """Name a sealed bundle's folder."""
    return f"{key.client_guid}.{key.snapshot_date.isoformat()}.r{key.revision}"


def parse_folder(name: str) -> DeliveryKey:
    """Read a sealed bundle's folder name back; ValueError if it is none."""
    match = _FOLDER.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not the folder of a sealed bundle")
    return DeliveryKey(
        client_guid=match["guid"],
        snapshot_date=SnapshotDate.parse(match["date"]),
        revision=int(match["revision"]),
    )


def hidden_name(key: DeliveryKey) -> str:
    """Name a folder that is being filled or removed; no two are ever equal."""
    return f".{folder_name(key)}.{os.getpid()}-{os.urandom(4).hex()}.tmp"


def is_hidden(name: str) -> bool:
    """Tell whether a folder is one that was being filled or removed."""
    return _LEFTOVER.fullmatch(name) is not None


def is_sealed(name: str) -> bool:
    """Tell whether a name is that of a sealed bundle's folder."""
    return _FOLDER.fullmatch(name) is not None


def from_os_error(error: OSError, what: str) -> MxdeliverError:
    """Give the program's error for one of the operating system; `what` is named in it."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return SpoolFull(f"no space left for {what}: {reason}")
    if error.errno in _MODE:
        return SpoolMode(f"{what} cannot be used: {reason}")
    return SpoolIO(f"{what} cannot be read or written: {reason}")


@contextmanager
def mapped(what: str) -> Iterator[None]:
    """Turn errors of the operating system into the program's."""
    try:
        yield
    except OSError as error:
        raise from_os_error(error, what) from error


@contextmanager
def opened(name: str | Path, *, within: int | None = None) -> Iterator[int]:
    """Open a folder, below another one where `within` is given."""
    descriptor = os.open(name, DIRECTORY, dir_fd=within)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def require_private(status: os.stat_result, path: Path) -> None:
    """Raise SpoolMode unless the folder is this user's, and nobody else's."""
    if not stat.S_ISDIR(status.st_mode):
        raise SpoolMode(
            f"{path} is not a directory (or is a link to one); put the directory itself there, or "
            "name the real place in `state_dir`"
        )
    if status.st_uid != os.geteuid():
        owner, user = _user(status.st_uid), _user(os.geteuid())
        raise SpoolMode(
            f"{path} belongs to {owner}, and this is {user}: run mxdeliver as the owner "
            f"(`runuser -u {owner} -- mxdeliver …`), or give it to the right user with `chown -R`"
        )
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise SpoolMode(f"{path} is open to others (mode {mode:04o}): `chmod 0700 {path}`")


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def names_in(folder: int) -> list[str]:
    """Give the names in an open folder, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries)


def empty_out(name: str, *, within: int) -> None:
    """Remove a folder and the files in it; what is gone already does not matter."""
    with suppress(FileNotFoundError), opened(name, within=within) as folder:
        for name_inside in names_in(folder):
            with suppress(FileNotFoundError):
                os.unlink(name_inside, dir_fd=folder)
    with suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=within)
