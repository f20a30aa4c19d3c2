"""The demo clients' SFTP server: paramiko's server side on the loopback address, one login each.

It knows what a delivery needs (open, write, close, stat, lstat, rename that refuses to replace,
remove, list) and confines each user to their own directory. It is no server for anything else.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hmac import compare_digest
from pathlib import Path
from typing import TYPE_CHECKING

import paramiko
from paramiko.common import (
    AUTH_FAILED,
    AUTH_SUCCESSFUL,
    OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED,
    OPEN_SUCCEEDED,
)
from paramiko.sftp import SFTP_OK

if TYPE_CHECKING:
    from typing_extensions import Buffer  # paramiko's own type for what is written

ADDRESS = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """One user of the server, and the only directory that the user sees."""

    password: str = field(repr=False)
    directory: Path


@contextmanager
def serve(logins: Mapping[str, Login], host_key: paramiko.PKey) -> Iterator[int]:
    """Serve `logins` (by user name) until the context is left; gives the port."""
    logger = logging.getLogger("mxdeliver.demo.server")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    transports: list[paramiko.Transport] = []
    with socket.create_server((ADDRESS, 0)) as listener:

        def accept() -> None:
            with suppress(OSError):  # the listener is shut down
                while True:
                    connection, _ = listener.accept()
                    transports.append(_start_session(connection, host_key, logins, logger.name))

        accepting = threading.Thread(target=accept, name="demo server", daemon=True)
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for transport in transports:
                transport.close()


def _start_session(
    connection: socket.socket,
    host_key: paramiko.PKey,
    logins: Mapping[str, Login],
    log_channel: str,
) -> paramiko.Transport:
    transport = paramiko.Transport(connection)
    transport.set_log_channel(log_channel)
    transport.add_server_key(host_key)
    transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Files)
    # The event makes the negotiation go on in paramiko's own thread: a peer that says nothing
    # must not keep the next one waiting.
    transport.start_server(event=threading.Event(), server=_Session(logins))
    return transport


class _Session(paramiko.ServerInterface):
    """Lets the known users in with their passwords, for the sftp subsystem only."""

    def __init__(self, logins: Mapping[str, Login]) -> None:
        self._logins = logins
        self.directory: Path | None = None

    def get_allowed_auths(self, username: str) -> str:
        del username
        return "password"

    def check_auth_password(self, username: str, password: str) -> int:
        login = self._logins.get(username)
        if login is None or not compare_digest(password.encode(), login.password.encode()):
            return AUTH_FAILED
        self.directory = login.directory
        return AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        del chanid
        if kind == "session":
            return OPEN_SUCCEEDED
        return OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED


class _Handle(paramiko.SFTPHandle):
    """An open file, read and written at offsets."""

    def __init__(self, descriptor: int, flags: int) -> None:
        super().__init__(flags)
        self._descriptor = descriptor

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def read(self, offset: int, length: int) -> bytes | int:
        try:
            return os.pread(self._descriptor, length, offset)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)

    def write(self, offset: int, data: Buffer) -> int:
        data = memoryview(data)
        try:
            while data:
                written = os.pwrite(self._descriptor, data, offset)
                data, offset = data[written:], offset + written
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)
        return SFTP_OK

    def stat(self) -> paramiko.SFTPAttributes | int:
        return paramiko.SFTPAttributes.from_stat(os.fstat(self._descriptor))


class _Files(paramiko.SFTPServerInterface):
    """The user's directory as the root of the file system."""

    def __init__(self, server: _Session, *args: object, **kwargs: object) -> None:
        super().__init__(server, *args, **kwargs)
        assert server.directory is not None  # noqa: S101 - the subsystem starts after the login
        self._root = server.directory

    def _local(self, path: str) -> Path:
        # canonicalize resolves `..` against "/", so nothing above the root can be named; the
        # server makes no links.
        return self._root / self.canonicalize(path).lstrip("/")

    def open(self, path: str, flags: int, attr: paramiko.SFTPAttributes) -> _Handle | int:
        del attr
        try:
            return _Handle(os.open(self._local(path), flags | os.O_NOFOLLOW, 0o600), flags)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)

    def stat(self, path: str) -> paramiko.SFTPAttributes | int:
        try:
            return paramiko.SFTPAttributes.from_stat(self._local(path).lstat())
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)

    lstat = stat

    def list_folder(self, path: str) -> list[paramiko.SFTPAttributes] | int:
        try:
            return [
                paramiko.SFTPAttributes.from_stat(entry.stat(follow_symlinks=False), entry.name)
                for entry in os.scandir(self._local(path))
            ]
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)

    def rename(self, oldpath: str, newpath: str) -> int:
        """Rename without replacing, as draft-ietf-secsh-filexfer-02 section 6.5 asks."""
        old, new = self._local(oldpath), self._local(newpath)
        try:
            # A hard link fails where the name is taken, in one step; os.rename would replace.
            os.link(old, new, follow_symlinks=False)
            old.unlink()
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)
        return SFTP_OK

    def remove(self, path: str) -> int:
        try:
            self._local(path).unlink()
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)
        return SFTP_OK
