"""An SFTP server that does what a real one cannot be made to do.

    with ProgrammableServer(tmp_path) as server:
        server.hooks["write"] = fail_at(65536)          # asyncssh's operation by name
        server.raw = garbage                            # or the subsystem's bytes by hand
        connect(server.endpoint(), server.credentials(), today=…)

A hook is called with the operation's arguments before it is carried out; it may raise one of
asyncssh's SFTPError classes, give `SKIP` to leave the operation out and answer OK, or be a coroutine
that waits. A hook named "after close" is called when the operation has been carried out. Login is
by password unless `prompts` (keyboard-interactive) or `change_password` say otherwise.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import struct
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from ipaddress import ip_network
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

import asyncssh
from asyncssh.constants import FXP_EXTENDED_REPLY
from asyncssh.packet import String
from asyncssh.sftp import SFTPServerHandler
from asyncssh.stream import SSHReader, SSHServerStreamSession, SSHWriter

from mxdeliver.core.model import Endpoint, HostKeyPin
from mxdeliver.core.secret import Secret
from mxdeliver.edge.sftp import Credentials

SKIP = object()
PASSWORD = "a-password-for-this-test"
_CHECK_FILE = b"check-file-name"
_OPERATIONS = (
    "open", "close", "write", "read", "lstat", "stat", "fstat", "fsync", "rename", "posix_rename",
    "remove", "statvfs", "setstat", "fsetstat", "lsetstat", "mkdir", "rmdir", "readlink", "symlink",
    "link",
)  # fmt: skip


@cache
def _host_key() -> asyncssh.SSHKey:
    return asyncssh.generate_private_key("ssh-ed25519")


def hash_answer(digest: bytes) -> bytes:
    """Give the body of an answer to check-file-name as the draft has it."""
    return String("check-file") + String("sha256") + digest


def fail_at(offset: int, text: str = "it went wrong") -> Callable[..., None]:
    """Give a hook for "write" that fails for the piece beginning at `offset`."""

    def hook(_file: object, at: int, _data: bytes) -> None:
        if at == offset:
            raise asyncssh.SFTPFailure(text)

    return hook


class ProgrammableServer:
    """asyncssh's server in a thread of its own; a context manager."""

    def __init__(self, tmp_path: Path) -> None:
        self.host = "127.0.0.1"
        self.username = "someone"
        self.password = PASSWORD
        self.root = Path(tempfile.mkdtemp(prefix="programmable-", dir=tmp_path))
        self.directory = self.root / "incoming"
        self.directory.mkdir()
        self.hooks: dict[str, Callable[..., Any]] = {}
        self.operations: list[str] = []
        """Every operation that was asked for, by name, in order."""
        self.reply: Callable[[str, Callable[[], None]], None] | None = None
        """Given the operation just done and a function that answers it: now, later, twice, never."""
        self.raw: Callable[[Any, Any], Awaitable[None]] | None = None
        """Speaks instead of the SFTP server; given asyncssh's reader and writer of bytes."""
        self.user_names: list[str] = []
        """Every user name that a client has sent."""
        self.passwords: list[str] = []
        """Every password that a client has sent."""
        self.prompts: Sequence[Sequence[tuple[str, bool]]] | None = None
        """Rounds of keyboard-interactive prompts; then password login is not offered."""
        self.verdict: Callable[[ProgrammableServer], Awaitable[None]] | None = None
        """Awaited when a password has arrived, before it is judged."""
        self.at_name: Callable[[ProgrammableServer], Awaitable[None]] | None = None
        """Awaited when a user name has arrived, before it is answered."""
        self.strict_key_exchange = True
        """Off: the server is as one written before 2024, when the Terrapin attack was answered."""
        self.change_password = False
        self.offers_sftp = True
        self.most_channels: int | None = None
        """When one connection asks for one more, it is hung up."""
        self.ignores_case = False
        """A file is found under its name in capitals, too, as on Windows."""
        self.limits: asyncssh.SFTPLimits | None = None
        """What is answered to limits@openssh.com."""
        self.file_hash: Callable[[bytes], bytes] | None = None
        """Makes the body of the answer to check-file-name, given the path; then it is offered."""
        self.settings: dict[str, Any] = {}
        """Further arguments for asyncssh.listen, set before entering."""
        self.login: asyncssh.SSHServerConnection | None = None
        self.port = 0
        self._logins: list[asyncssh.SSHServerConnection] = []
        self._loop = asyncio.new_event_loop()
        self._listening = Event()
        self._thread = Thread(target=self._run, daemon=True)
        self._acceptor: asyncssh.SSHAcceptor | None = None

    @property
    def pins(self) -> dict[str, str]:
        """The host key's `SHA256:…` by kind."""
        return {"ed25519": _host_key().get_fingerprint()}

    def remote_path(self, folder: Path) -> str:
        """Give the name under which the user finds a folder: the root is this server's own."""
        return f"/{folder.relative_to(self.root)}"

    def endpoint(self, **changes: Any) -> Endpoint:
        """Give an endpoint that fits this server, with `changes` made to it."""
        endpoint = Endpoint(
            host="127.0.0.1",
            port=self.port,
            username="someone",
            password=None,
            private_key=None,
            passphrase=None,
            host_keys=(HostKeyPin(sha256=_host_key().get_fingerprint()),),
            allowed_ips=(ip_network("127.0.0.1"),),
            directory="/incoming",
        )
        return replace(endpoint, **changes)

    def credentials(self, **changes: Any) -> Credentials:
        """Give the right password, with `changes` made."""
        return replace(Credentials(password=Secret(self.password.encode())), **changes)

    def abort(self) -> None:
        """Reset the connection of whoever logs in at this moment; to be called by the hooks."""
        assert self.login is not None
        connection = self.login.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.login.abort()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listening.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

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
            **self.settings,
        )
        self.port = self._acceptor.get_port()
        self._listening.set()

    async def _end(self) -> None:
        assert self._acceptor
        self._acceptor.close()
        await self._acceptor.wait_closed()
        for login in self._logins:
            login.abort()
            await login.wait_closed()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Session(SSHServerStreamSession[bytes]):
    """The sftp subsystem, served by us instead of by asyncssh's own choice."""

    def __init__(self, server: ProgrammableServer) -> None:
        super().__init__(None)
        self._server = server

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == "sftp" and self._server.offers_sftp

    def session_started(self) -> None:
        assert self._chan is not None
        assert self._conn is not None
        reader, writer = SSHReader(self, self._chan), SSHWriter(self, self._chan)
        if self._server.raw is not None:
            self._conn.create_task(self._server.raw(reader, writer))
            return
        files = _Files(self._server, self._chan)
        self._conn.create_task(_Handler(self._server, files, reader, writer).run())


class _Handler(SFTPServerHandler):
    def __init__(self, server: ProgrammableServer, files: _Files, reader: Any, writer: Any) -> None:
        super().__init__(files, reader, writer, 3)
        self._programmable = server
        if server.limits is not None:
            self._packet_handlers = {
                **self._packet_handlers,
                b"limits@openssh.com": self._tell_limits,
            }

        if server.file_hash is not None:
            self._extensions = [*self._extensions, (b"check-file", b"check-file-name")]
            self._return_types = {**self._return_types, _CHECK_FILE: FXP_EXTENDED_REPLY}
            self._packet_handlers = {**self._packet_handlers, _CHECK_FILE: self._tell_hash}

    @staticmethod
    async def _tell_hash(handler: SFTPServerHandler, packet: Any) -> object:
        assert isinstance(handler, _Handler)
        path, algorithms = packet.get_string(), packet.get_string()
        server = handler._programmable
        server.operations.append("check-file-name")
        assert algorithms == b"sha256"
        assert server.file_hash is not None
        return _FileHash(server.file_hash(path))

    @staticmethod
    async def _tell_limits(handler: SFTPServerHandler, _packet: object) -> object:
        assert isinstance(handler, _Handler)
        return handler._programmable.limits

    def send_packet(self, pkttype: int, pktid: int | None, *args: bytes) -> None:
        answer = partial(super().send_packet, pkttype, pktid, *args)
        reply = self._programmable.reply
        if reply is None or not self._programmable.operations:
            answer()
        else:
            reply(self._programmable.operations[-1], answer)


class _FileHash:
    """The body of the answer to check-file-name."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def encode(self, _version: int) -> bytes:
        return self._body


class _NotStrict(asyncssh.SSHServerConnection):
    """A connection that neither offers nor keeps to the strict key exchange."""

    _strict_kex = property(lambda _: False, lambda _, _value: None)

    def _get_extra_kex_algs(self) -> list[bytes]:
        return [b"ext-info-s"]


class _Login(asyncssh.SSHServer):
    def __init__(self, server: ProgrammableServer) -> None:
        self._server = server
        self._rounds = 0
        self._channels = 0
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        if not self._server.strict_key_exchange:
            conn.__class__ = _NotStrict  # asyncssh has no setting for it
        self._connection = conn
        self._server.login = conn
        self._server._logins.append(conn)

    def session_requested(self) -> Any:
        assert self._connection
        self._channels += 1
        if self._channels - 1 == self._server.most_channels:
            self._connection.abort()
            return False
        return self._connection.create_server_channel(encoding=None), _Session(self._server)

    async def begin_auth(self, username: str) -> bool:
        self._server.user_names.append(username)
        if self._server.at_name is not None:
            await self._server.at_name(self._server)
        return True

    def password_auth_supported(self) -> bool:
        return self._server.prompts is None

    async def validate_password(self, username: str, password: str) -> bool:
        del username
        self._server.passwords.append(password)
        if self._server.verdict is not None:
            await self._server.verdict(self._server)
        if self._server.change_password:
            raise asyncssh.PasswordChangeRequired("change it")
        return password == self._server.password

    def kbdint_auth_supported(self) -> bool:
        return self._server.prompts is not None

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> Any:
        del username, lang, submethods
        return self._challenge()

    async def validate_kbdint_response(self, username: str, responses: Any) -> Any:
        del username
        assert self._server.prompts is not None
        self._server.passwords += responses
        if self._server.verdict is not None:
            await self._server.verdict(self._server)
        self._rounds += 1
        if self._rounds < len(self._server.prompts):
            return self._challenge()
        return list(responses) == [self._server.password] or (not responses and self._rounds > 1)

    def _challenge(self) -> Any:
        assert self._server.prompts is not None
        return "", "", "", self._server.prompts[self._rounds]


class _Files(asyncssh.SFTPServer):
    def __init__(self, server: ProgrammableServer, channel: Any) -> None:
        super().__init__(channel, chroot=str(server.root).encode())
        self._ignores_case = server.ignores_case
        self._operations = server.operations
        for name in _OPERATIONS:
            setattr(self, name, self._hooked(server, name, getattr(super(), name)))

    def scandir(self, path: bytes) -> Any:
        """List a directory; no hook is asked."""
        self._operations.append("scandir")
        return super().scandir(path)

    def map_path(self, path: bytes) -> bytes:
        """Give the local path, of a file that is there already where only the case differs."""
        local: bytes = super().map_path(path)
        if not self._ignores_case:
            return local
        wanted = Path(os.fsdecode(local))
        same = (one for one in wanted.parent.iterdir() if one.name.lower() == wanted.name.lower())
        return os.fsencode(next(same, wanted))

    def _hooked(
        self, server: ProgrammableServer, name: str, operation: Callable[..., Any]
    ) -> Callable[..., Any]:
        async def carry_out(*arguments: Any) -> Any:
            server.operations.append(name)
            if hook := server.hooks.get(name):
                decision = hook(*arguments)
                if inspect.isawaitable(decision):
                    decision = await decision
                if decision is SKIP:
                    return None
                if decision is not None:
                    return decision
            result = operation(*arguments)
            if inspect.isawaitable(result):
                result = await result
            if hook := server.hooks.get(f"after {name}"):
                changed = hook(*arguments)
                if inspect.isawaitable(changed):
                    await changed
            return result

        return carry_out
