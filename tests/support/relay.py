"""Somebody in the middle: an SSH server with a host key of its own that logs in to the real one.

    with Relay(tmp_path, real_server) as relay:
        relay.endpoint(), relay.credentials()     # of the relay, with its own host key pinned
        relay.passwords, relay.user_names         # what it has overheard
        relay.passed                              # bytes of SFTP that went through it

Whoever believes its host key is served by the real server, and notices nothing.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncssh

from tests.support.openssh import OpenSSHServer
from tests.support.programmable import ProgrammableServer

_PIECE = 64 * 1024


class Relay(ProgrammableServer):
    """Takes any password that the real server takes; a context manager."""

    def __init__(self, tmp_path: Path, real: OpenSSHServer) -> None:
        super().__init__(tmp_path)
        self.username = real.username
        self.password = real.password
        self.directory = real.directory
        self.passed = 0
        self.raw = self._pass_on
        self._real = real

    def remote_path(self, folder: Path) -> str:
        """Give the name under which the user finds a folder: the real server's."""
        return self._real.remote_path(folder)

    async def _pass_on(self, reader: Any, writer: Any) -> None:
        async with asyncssh.connect(
            self._real.host,
            self._real.port,
            username=self.user_names[-1],
            password=self.passwords[-1],
            known_hosts=None,
            config=None,
            client_keys=None,
        ) as connection:
            process = await connection.create_process(subsystem="sftp", encoding=None)
            await asyncio.gather(
                self._pump(reader, process.stdin), self._pump(process.stdout, writer)
            )

    async def _pump(self, source: Any, sink: Any) -> None:
        while data := await source.read(_PIECE):
            self.passed += len(data)
            sink.write(data)
            await sink.drain()
        sink.write_eof()
