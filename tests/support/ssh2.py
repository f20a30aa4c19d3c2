"""An SFTP server written with npm's ssh2, on a free port of 127.0.0.1: another make altogether.

    with Ssh2Server(tmp_path) as server:
        server.endpoint(), server.credentials(), server.directory   # as with OpenSSHServer

`ssh2_server/` holds the server and the pinned versions of what it needs; `npm ci` installs them
there once. It knows no extensions, and its RENAME replaces what is there (reliability.md F75).
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Self

from mxdeliver.core.model import Endpoint, HostKeyPin
from mxdeliver.core.secret import Secret
from mxdeliver.edge.sftp import Credentials
from tests.support.npm import install
from tests.support.openssh import fingerprint, key_pair

_SOURCE = Path(__file__).with_name("ssh2_server")


class Ssh2Server:
    """A process of node; a context manager."""

    def __init__(self, tmp_path: Path) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self.username = "someone"
        self.password = "a-password-for-node"
        self.directory = Path(tempfile.mkdtemp(prefix="ssh2-", dir=tmp_path))
        self._private_key, self.public_key = key_pair("ed25519")
        self._process: subprocess.Popen[str] | None = None

    @property
    def pins(self) -> dict[str, str]:
        """The host key's `SHA256:…` by kind."""
        return {"ed25519": fingerprint(self.public_key)}

    def remote_path(self, folder: Path) -> str:
        """Give the name under which the user finds a folder."""
        return str(folder)

    def endpoint(self, **changes: Any) -> Endpoint:
        """Give an endpoint that fits this server, with `changes` made to it."""
        endpoint = Endpoint(
            host=self.host,
            port=self.port,
            username=self.username,
            password=None,
            private_key=None,
            passphrase=None,
            host_keys=(HostKeyPin(sha256=self.pins["ed25519"]),),
            allowed_ips=(ip_network(self.host),),
            directory=str(self.directory),
        )
        return replace(endpoint, **changes)

    def credentials(self, **changes: Any) -> Credentials:
        """Give the right password, with `changes` made."""
        return replace(Credentials(password=Secret(self.password.encode())), **changes)

    def __enter__(self) -> Self:
        install(_SOURCE)
        self._process = subprocess.Popen(
            ["node", _SOURCE / "server.js"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        settings = {
            "username": self.username,
            "password": self.password,
            "hostKey": self._private_key.decode(),
        }
        self._process.stdin.write(f"{json.dumps(settings)}\n")
        self._process.stdin.flush()
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.communicate(timeout=20)
