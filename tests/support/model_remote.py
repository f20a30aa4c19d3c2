"""A client's SFTP server in memory that writes down every change a poller could have seen.

    with ModelRemote() as remote:
        remote.begin(Fault(request="rename", number=2, what=Strike.DROP_AFTER))
        …                                # a run against remote.port
        remote.changes                   # what came, went or changed, in order, and by whose hand

It is asyncssh's server over a dict, so that there is one order of events and no file system behind
it. A `Fault` strikes once; `up`, `full`, `keeps_removed`, `taking` and `password` last until changed.
"""

from __future__ import annotations

import asyncio
import re
import stat
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from threading import Event, Thread
from typing import Any, Self

import asyncssh

MANIFEST = "-manifest.csv.pgp"
_WRITABLE = asyncssh.FXF_WRITE
_EXCLUSIVE = asyncssh.FXF_CREAT | asyncssh.FXF_EXCL
_SECONDS = 60


class By(Enum):
    """Whose hand it was."""

    PROGRAM = "the program"
    RECEIVER = "the receiver"
    STRANGER = "somebody else"


class Strike(Enum):
    """What happens at a request."""

    DROP = "the connection breaks before the request is carried out"
    DROP_AFTER = "it is carried out and the answer is lost with the connection"
    FAIL = "it is answered with FAILURE"
    FAIL_AFTER = "it is carried out and answered with FAILURE"
    DENY = "it is answered with PERMISSION_DENIED"
    CRASH = "the sender's process dies before it is carried out"
    CRASH_AFTER = "the sender's process dies when it has been carried out"
    HOLD = "it is carried out when `release` is called"


_AFTER = {Strike.DROP_AFTER, Strike.FAIL_AFTER, Strike.CRASH_AFTER}
ANY = "any"
REQUESTS = (ANY, "open", "write", "close", "lstat", "rename", "posix_rename", "remove")


class Taking(Enum):
    """Which files the receiver takes away as soon as they appear."""

    NOTHING = "nothing"
    FILES = "every file"
    DAYS = "whole days, once their manifest is there"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """The `number`th `request` of a run meets `what`."""

    request: str
    number: int
    what: Strike


@dataclass(frozen=True, kw_only=True)
class Change:
    """A name that came, went or holds something else; None where there is nothing."""

    folder: str
    name: str
    before: bytes | None
    after: bytes | None
    by: By

    @property
    def is_hidden(self) -> bool:
        """Whether a poller leaves the name alone."""
        return self.name.startswith(".")


@cache
def _host_key() -> asyncssh.SSHKey:
    return asyncssh.generate_private_key("ssh-ed25519")


@dataclass(eq=False)
class _Node:
    """A file, whatever its name is by now."""

    content: bytearray = field(default_factory=bytearray)


class ModelRemote:
    """The server in a thread of its own; a context manager. Folders are made when first named."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.logins = 0
        self.failed_logins: Counter[str] = Counter()
        """Refused logins by the password that was sent."""
        self.password = "the-first-password"
        self.up = True
        self.full = False
        self.keeps_removed = False
        self.taking = Taking.NOTHING
        self.on_crash: Callable[[], None] = lambda: None
        """Called, in the server's thread, when the sender's process is to die."""
        self.held = Event()
        """Set while a request is held."""
        self.port = 0
        self.struck = False
        """Whether the run's fault was met."""
        self._folders: dict[str, dict[str, _Node]] = {}
        self.fault: Fault | None = None
        """What strikes this run."""
        self._met: Counter[str] = Counter()
        self._sessions: set[_Session] = set()
        self._loop = asyncio.new_event_loop()
        self._listening = Event()
        self._release = asyncio.Event()
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listening.wait(_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_SECONDS)
        self._loop.close()

    @property
    def pin(self) -> str:
        """The host key's fingerprint."""
        return _host_key().get_fingerprint()

    def clear(self) -> None:
        """Begin anew with empty folders, an empty log and no faults."""
        self.changes = []
        self.logins = 0
        self.failed_logins.clear()
        self.up, self.full, self.keeps_removed = True, False, False
        self.taking = Taking.NOTHING
        self._folders = {}
        self.begin()

    def begin(self, fault: Fault | None = None) -> None:
        """Begin a run, which `fault` strikes; an earlier one is gone."""
        self.fault, self.struck = fault, False
        self._met.clear()
        self.held.clear()
        self._release.clear()

    def release(self) -> None:
        """Carry out the request that is held."""
        self._loop.call_soon_threadsafe(self._release.set)

    def cut(self) -> None:
        """Break every connection; nothing that was sent on them is carried out any more."""
        for session in list(self._sessions):
            session.end()

    # -- what lies there -----------------------------------------------------------------------

    def visible(self, folder: str) -> dict[str, bytes]:
        """Give what a poller sees in the folder."""
        return {
            name: bytes(node.content)
            for name, node in self._folder(folder).items()
            if not name.startswith(".")
        }

    def hidden(self, folder: str) -> list[str]:
        """Give the hidden names in the folder."""
        return [name for name in self._folder(folder) if name.startswith(".")]

    def put(self, folder: str, name: str, content: bytes) -> None:
        """Lay a file there, as somebody else."""
        before = self._content(folder, name)
        self._folder(folder)[name] = _Node(bytearray(content))
        self._note(folder, name, before, By.STRANGER)

    def take(self, folder: str, name: str, by: By) -> None:
        """Take a file away, as somebody else."""
        before = self._content(folder, name)
        self._folder(folder).pop(name, None)
        self._note(folder, name, before, by)

    def _folder(self, folder: str) -> dict[str, _Node]:
        return self._folders.setdefault(folder, {})

    def _content(self, folder: str, name: str) -> bytes | None:
        node = self._folder(folder).get(name)
        return None if node is None else bytes(node.content)

    def _note(self, folder: str, name: str, before: bytes | None, by: By) -> None:
        after = self._content(folder, name)
        if before != after or (before is None) != (after is None):
            self.changes.append(Change(folder=folder, name=name, before=before, after=after, by=by))

    def _receive(self, folder: str, name: str) -> None:
        """Let the receiver take what has just appeared, as it uses to."""
        taken: list[str] = []
        if self.taking is Taking.FILES and not name.startswith("."):
            taken = [name]
        elif self.taking is Taking.DAYS and name.endswith(MANIFEST):
            day = name.removesuffix(MANIFEST)
            taken = [one for one in self._folder(folder) if one.startswith(day)]
        for one in taken:
            self.take(folder, one, By.RECEIVER)

    # -- the server ----------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._loop.run_forever()

    async def _listen(self) -> None:
        self._acceptor = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[_host_key()],
            server_factory=lambda: _Login(self),
            sftp_factory=lambda channel: _Session(self, channel),
            sftp_version=3,
        )
        self.port = self._acceptor.get_port()
        self._listening.set()

    async def _end(self) -> None:
        self._acceptor.close()
        await self._acceptor.wait_closed()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _strike_at(self, request: str) -> Strike | None:
        self._met[request] += 1
        self._met[ANY] += 1
        fault = self.fault
        if fault is None or self.struck or fault.request not in {request, ANY}:
            return None
        if self._met[fault.request] < fault.number:
            return None
        self.struck = True
        return fault.what

    async def _meet(self, what: Strike, session: _Session) -> None:
        if what is Strike.HOLD:
            self.held.set()
            await self._release.wait()
            if session.is_ended:
                raise asyncssh.SFTPConnectionLost("the sender is gone")
        elif what in {Strike.FAIL, Strike.FAIL_AFTER}:
            raise asyncssh.SFTPFailure("it went wrong")
        elif what is Strike.DENY:
            raise asyncssh.SFTPPermissionDenied("it is not allowed")
        else:
            if what in {Strike.CRASH, Strike.CRASH_AFTER}:
                self.on_crash()
            session.end()
            raise asyncssh.SFTPConnectionLost("the connection broke")


class _Login(asyncssh.SSHServer):
    def __init__(self, remote: ModelRemote) -> None:
        self._remote = remote

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._remote.logins += 1
        if not self._remote.up:
            conn.abort()

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        del username
        if password == self._remote.password:
            return True
        self._remote.failed_logins[password] += 1
        return False


class _Session(asyncssh.SFTPServer):
    """One connection's requests, which asyncssh carries out one after the other."""

    def __init__(self, remote: ModelRemote, channel: Any) -> None:
        # Whatever is not answered from memory below finds nothing.
        super().__init__(channel, chroot=_empty_folder())
        self.is_ended = False
        self._channel = channel
        self._remote = remote
        remote._sessions.add(self)

    def end(self) -> None:
        self.is_ended = True
        connection = self._channel.get_connection()
        self._remote._loop.call_soon_threadsafe(connection.abort)

    def exit(self) -> None:
        self.is_ended = True
        self._remote._sessions.discard(self)

    async def _carry_out(self, request: str, action: Callable[[], Any]) -> Any:
        if self.is_ended:
            raise asyncssh.SFTPConnectionLost("the connection is gone")
        strike = self._remote._strike_at(request)
        if strike is not None and strike not in _AFTER:
            await self._remote._meet(strike, self)
        result = action()
        if strike is not None and strike in _AFTER:
            await self._remote._meet(strike, self)
        return result

    def open(self, path: bytes, pflags: int, attrs: Any) -> Any:
        del attrs
        return self._carry_out("open", lambda: self._open(path, pflags))

    def _open(self, path: bytes, flags: int) -> _Opened:
        folder, name = _split(path)
        files = self._remote._folder(folder)
        node = files.get(name)
        if not flags & _WRITABLE:
            if node is None:
                raise asyncssh.SFTPNoSuchFile("there is nothing")
            return _Opened(folder, name, node)
        assert flags & _EXCLUSIVE == _EXCLUSIVE, "what is there could be written to"
        if node is not None:
            raise asyncssh.SFTPFailure("it exists")
        if self._remote.full:
            raise asyncssh.SFTPFailure("No space left on device")
        node = files[name] = _Node()
        self._remote._note(folder, name, None, By.PROGRAM)
        return _Opened(folder, name, node)

    def write(self, file_obj: Any, offset: int, data: bytes) -> Any:
        return self._carry_out("write", lambda: self._write(file_obj, offset, data))

    def _write(self, file: _Opened, offset: int, data: bytes) -> int:
        if self._remote.full:
            raise asyncssh.SFTPFailure("No space left on device")
        name = next(
            (one for one, node in self._remote._folder(file.folder).items() if node is file.node),
            None,
        )
        before = bytes(file.node.content)
        file.node.content[offset : offset + len(data)] = data
        if name is not None and not name.startswith("."):
            self._remote._note(file.folder, name, before, By.PROGRAM)
        return len(data)

    def read(self, file_obj: Any, offset: int, size: int) -> Any:
        return self._carry_out("read", lambda: bytes(file_obj.node.content[offset : offset + size]))

    def close(self, file_obj: Any) -> Any:
        del file_obj
        if self.is_ended:
            return None
        return self._carry_out("close", lambda: None)

    def lstat(self, path: bytes) -> Any:
        return self._carry_out("lstat", lambda: self._attributes(path))

    def stat(self, path: bytes) -> Any:
        return self._carry_out("stat", lambda: self._attributes(path))

    def fstat(self, file_obj: Any) -> Any:
        return self._carry_out("fstat", lambda: _regular(len(file_obj.node.content)))

    def _attributes(self, path: bytes) -> asyncssh.SFTPAttrs:
        folder, name = _split(path)
        if not folder:  # a client's folder itself
            return asyncssh.SFTPAttrs(type=2, permissions=stat.S_IFDIR | 0o755)
        node = self._remote._folder(folder).get(name)
        if node is None:
            raise asyncssh.SFTPNoSuchFile("there is nothing")
        return _regular(len(node.content))

    def fsync(self, file_obj: Any) -> Any:
        del file_obj
        return self._carry_out("fsync", lambda: None)

    def statvfs(self, path: bytes) -> Any:
        del path
        free = 0 if self._remote.full else 1 << 30
        return asyncssh.SFTPVFSAttrs(
            bsize=4096, frsize=4096, blocks=1 << 31, bfree=free, bavail=free
        )

    def rename(self, oldpath: bytes, newpath: bytes) -> Any:
        return self._carry_out("rename", lambda: self._rename(oldpath, newpath, replace=False))

    def posix_rename(self, oldpath: bytes, newpath: bytes) -> Any:
        return self._carry_out("posix_rename", lambda: self._rename(oldpath, newpath, replace=True))

    def _rename(self, old: bytes, new: bytes, *, replace: bool) -> None:
        (folder, name), (_, final) = _split(old), _split(new)
        files = self._remote._folder(folder)
        if name not in files:
            raise asyncssh.SFTPNoSuchFile("there is nothing")
        if final in files and not replace:
            raise asyncssh.SFTPFailure("it exists")
        was, before = self._remote._content(folder, name), self._remote._content(folder, final)
        files[final] = files.pop(name)
        self._remote._note(folder, final, before, By.PROGRAM)
        self._remote._note(folder, name, was, By.PROGRAM)
        self._remote._receive(folder, final)

    def remove(self, path: bytes) -> Any:
        return self._carry_out("remove", lambda: self._remove(path))

    def _remove(self, path: bytes) -> None:
        folder, name = _split(path)
        if self._remote.keeps_removed:
            raise asyncssh.SFTPPermissionDenied("nothing is removed here")
        before = self._remote._content(folder, name)
        if self._remote._folder(folder).pop(name, None) is None:
            raise asyncssh.SFTPNoSuchFile("there is nothing")
        self._remote._note(folder, name, before, By.PROGRAM)


@dataclass(frozen=True)
class _Opened:
    folder: str
    name: str
    node: _Node


def _regular(size: int) -> asyncssh.SFTPAttrs:
    return asyncssh.SFTPAttrs(type=1, permissions=stat.S_IFREG | 0o644, size=size)


def _split(path: bytes) -> tuple[str, str]:
    match = re.fullmatch(r"/?(?:([^/]+)/)?([^/]+)/?", path.decode())
    assert match is not None, path
    return match[1] or "", match[2]


@cache
def _empty_folder() -> bytes:
    return tempfile.mkdtemp(prefix="nothing-").encode()
