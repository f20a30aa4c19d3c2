"""A real ProFTPD with mod_sftp on a free port of 127.0.0.1: the second implementation.

    with ProFTPDServer(tmp_path) as server:
        server.endpoint(), server.credentials(), server.directory   # as with OpenSSHServer

Its defaults differ where it matters: a file that exists may not be opened for writing again, a
plain RENAME onto an existing name fails with status 11, which belongs to another SFTP version.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Self

from mxdeliver.core.model import Endpoint, HostKeyPin
from mxdeliver.core.secret import Secret, SecretKind, SecretReference
from mxdeliver.edge.sftp import Credentials
from tests.support.accounts import PASSWORD, USERNAME, account
from tests.support.openssh import Workspace, fingerprint, free_port, key_pair, wait_until


class ProFTPDServer:
    """ProFTPD; a context manager. `settings` are further lines of its configuration."""

    def __init__(self, tmp_path: Path, *, settings: Sequence[str] = ()) -> None:
        account()
        self.host = "127.0.0.1"
        self.port = free_port()
        self.username = USERNAME
        self.password = PASSWORD
        self._folder = Path(tempfile.mkdtemp(prefix="proftpd-", dir=tmp_path))
        self._settings = tuple(settings)
        self._workspace = Workspace()
        self.home = self._workspace.folder("home")
        self.directory = self._workspace.folder("home/incoming")
        self._private_key, self.public_key = key_pair("rsa", 2048)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pins(self) -> dict[str, str]:
        """The host key's `SHA256:…` by kind."""
        return {"rsa": fingerprint(self.public_key)}

    def remote_path(self, folder: Path) -> str:
        """Give the name under which the user finds a folder."""
        return str(folder)

    def endpoint(self, **changes: Any) -> Endpoint:
        """Give an endpoint that fits this server, with `changes` made to it."""
        endpoint = Endpoint(
            host=self.host,
            port=self.port,
            username=self.username,
            password=SecretReference(kind=SecretKind.ENVIRONMENT, name="TEST_SFTP_PASSWORD"),
            private_key=None,
            passphrase=None,
            host_keys=(HostKeyPin(sha256=fingerprint(self.public_key)),),
            allowed_ips=(ip_network("127.0.0.1"),),
            directory=str(self.directory),
        )
        return replace(endpoint, **changes)

    def credentials(self, **changes: Any) -> Credentials:
        """Give the right password, with `changes` made."""
        return replace(Credentials(password=Secret(self.password.encode())), **changes)

    def log(self) -> str:
        """Give everything that the server has logged so far."""
        logs = [self._folder / "sftp.log", self._folder / "output"]
        return "".join(log.read_text(errors="replace") for log in logs if log.exists())

    def __enter__(self) -> Self:
        key = self._folder / "host_key"
        key.touch(mode=0o600)
        key.write_bytes(self._private_key)
        configuration = self._folder / "proftpd.conf"
        configuration.write_text("\n".join(self._configuration(key)) + "\n")
        with (self._folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                ["/usr/sbin/proftpd", "--nodaemon", "--config", configuration],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        wait_until(self._answers, "ProFTPD to listen")
        return self

    def _answers(self) -> bool:
        assert self._process
        assert self._process.poll() is None, self.log()
        with socket.socket() as probe:
            return probe.connect_ex((self.host, self.port)) == 0

    def _configuration(self, key: Path) -> list[str]:
        return [
            "LoadModule mod_sftp.c",
            'ServerName "test"',
            "ServerType standalone",
            "SocketBindTight on",
            f"DefaultAddress {self.host}",
            f"Port {self.port}",
            "UseIPv6 off",
            "UseReverseDNS off",
            "WtmpLog off",
            "TransferLog none",
            "RequireValidShell off",
            "AuthOrder mod_auth_unix.c",
            f"PidFile {self._folder}/pid",
            f"ScoreboardFile {self._folder}/scoreboard",
            f"DelayTable {self._folder}/delay",
            f"SystemLog {self._folder}/system.log",
            f"DefaultChdir {self.home}",
            "SFTPEngine on",
            f"SFTPLog {self._folder}/sftp.log",
            f"SFTPHostKey {key}",
            "SFTPAuthMethods password",
            *self._settings,
        ]

    def __exit__(self, *_: object) -> None:
        assert self._process
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(10)
        self._workspace.remove()
