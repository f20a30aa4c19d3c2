"""A real OpenSSH server on a free port of 127.0.0.1, with its own host keys and log.

    with OpenSSHServer(tmp_path) as server:
        endpoint = server.endpoint()            # core.model.Endpoint, pinned to the server's keys
        credentials = server.credentials()      # edge.sftp.Credentials with the right password
        server.directory                        # where uploads appear, writable for the user

Runs in the foreground and is ended by its own process id.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Self

from mxdeliver.core.model import Endpoint, HostKeyPin
from mxdeliver.core.secret import Secret, SecretKind, SecretReference
from mxdeliver.edge.sftp import Credentials
from tests.support.accounts import PASSWORD, USERNAME, account

HOST_KEY_TYPES = ("ed25519", "ecdsa", "rsa")
_STARTED = "Server listening on 127.0.0.1"


@cache
def key_pair(kind: str, bits: int | None = None, passphrase: str = "") -> tuple[bytes, str]:
    """Make an SSH key with ssh-keygen once per process: private key file, public key line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "key"
        size = ["-b", str(bits)] if bits else []
        subprocess.run(
            ["ssh-keygen", "-q", "-t", kind, *size, "-N", passphrase, "-C", "test", "-f", path],
            check=True,
        )
        return path.read_bytes(), path.with_suffix(".pub").read_text().strip()


@cache
def fingerprint(public_line: str) -> str:
    """Give a public key's `SHA256:…` as OpenSSH's own ssh-keygen prints it."""
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", "-"],
        input=public_line.encode(),
        capture_output=True,
        check=True,
    )
    return shown.stdout.decode().split()[1]


def free_port() -> int:
    """Give a port of 127.0.0.1 that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Workspace:
    """A folder that the servers' user can reach (pytest's own is closed to others), gone afterwards."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="mxdeliver-sftp-"))
        self.root.chmod(0o711)

    def folder(self, name: str) -> Path:
        """Make a folder that belongs to the servers' user."""
        path = self.root / name
        path.mkdir()
        entry = account()
        os.chown(path, entry.pw_uid, entry.pw_gid)
        return path

    def remove(self) -> None:
        """Remove everything, whoever owns it."""
        shutil.rmtree(self.root)


class OpenSSHServer:
    """OpenSSH's sshd with internal-sftp; a context manager.

    `sftp_options` go to the sftp server (`-P posix-rename`, `-R`), `sftp_program` is another one
    than sshd's own (`/usr/lib/openssh/sftp-server`; None: there is no subsystem), `settings` are
    further lines of sshd_config and win over ours, `host_keys` are the kinds of host key it shows,
    `authorized_keys` the public keys that may log in. A new session starts in `home`, which holds
    `directory`.
    """

    def __init__(
        self,
        tmp_path: Path,
        *,
        sftp_options: str = "",
        sftp_program: str | None = "internal-sftp",
        settings: Sequence[str] = (),
        host_keys: Sequence[str] = HOST_KEY_TYPES,
        authorized_keys: Sequence[str] = (),
        rsa_bits: int = 2048,
    ) -> None:
        self.host = "127.0.0.1"
        self.port = free_port()
        self.username = USERNAME
        self.password = PASSWORD
        self._folder = Path(tempfile.mkdtemp(prefix="sshd-", dir=tmp_path))
        self._log = self._folder / "log"
        self._log.touch()
        self._options = sftp_options
        self._program = sftp_program
        self._settings = tuple(settings)
        self._authorized_keys = tuple(authorized_keys)
        self._workspace = Workspace()
        self.home = self._workspace.folder("home")
        self.directory = self._workspace.folder("home/incoming")
        self.public_keys = {
            kind: key_pair(kind, rsa_bits if kind == "rsa" else None)[1] for kind in host_keys
        }
        self._private_keys = {
            kind: key_pair(kind, rsa_bits if kind == "rsa" else None)[0] for kind in host_keys
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pins(self) -> dict[str, str]:
        """The host keys' `SHA256:…` by kind."""
        return {kind: fingerprint(line) for kind, line in self.public_keys.items()}

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
            host_keys=tuple(HostKeyPin(sha256=pin) for pin in self.pins.values()),
            allowed_ips=(ip_network("127.0.0.1"),),
            directory=str(self.directory),
        )
        return replace(endpoint, **changes)

    def credentials(self, **changes: Any) -> Credentials:
        """Give the right password, with `changes` made."""
        return replace(Credentials(password=Secret(self.password.encode())), **changes)

    def log(self) -> str:
        """Give everything that the server has logged so far, at its DEBUG1 level."""
        return self._log.read_text(errors="replace")

    def log_size(self) -> int:
        """Give the bytes that the server has logged so far."""
        return self._log.stat().st_size

    def login_attempts(self, since: int = 0) -> list[str]:
        """Give the log's lines, from a size of it on, that show a user name reaching the server."""
        with self._log.open("rb") as log:
            log.seek(since)
            lines = log.read().decode(errors="replace").splitlines()
        return [line for line in lines if "userauth-request for user" in line]

    def sessions(self) -> list[int]:
        """Give the ids of the processes that serve connections, the listener itself not."""
        assert self._process
        found = [self._process.pid]
        for parent in found:
            with contextlib.suppress(OSError):  # it has just ended
                children = Path(f"/proc/{parent}/task/{parent}/children").read_text()
                found += [int(child) for child in children.split()]
        return found[1:]

    def __enter__(self) -> Self:
        account()
        Path("/run/sshd").mkdir(exist_ok=True)
        (self._workspace.root / "authorized_keys").write_text(
            "".join(f"{line}\n" for line in self._authorized_keys)
        )
        configuration = self._folder / "sshd_config"
        configuration.write_text("\n".join(self._configuration()) + "\n")
        for kind, private in self._private_keys.items():
            path = self._folder / kind
            path.touch(mode=0o600)
            path.write_bytes(private)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["/usr/sbin/sshd", "-D", "-e", "-f", configuration],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        wait_until(lambda: _STARTED in self.log() or self._process_ended(), "sshd to listen")
        assert not self._process_ended(), self.log()
        return self

    def _process_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def _configuration(self) -> list[str]:
        return [
            *self._settings,
            f"Port {self.port}",
            f"ListenAddress {self.host}",
            *(f"HostKey {self._folder / kind}" for kind in self._private_keys),
            "PidFile none",
            "LogLevel DEBUG1",
            "UsePAM no",
            "UseDNS no",
            "StrictModes no",
            "PasswordAuthentication yes",
            "KbdInteractiveAuthentication no",
            f"AuthorizedKeysFile {self._workspace.root}/authorized_keys",
            f"AllowUsers {self.username}",
            *self._subsystem(),
        ]

    def _subsystem(self) -> list[str]:
        if self._program is None:
            return []
        return [f"Subsystem sftp {self._program} -d {self.home} {self._options}"]

    def __exit__(self, *_: object) -> None:
        assert self._process
        sessions = self.sessions()
        self._process.terminate()
        for session in sessions:
            _end(session)
        self._process.wait(10)
        self._workspace.remove()


def _end(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def wait_until(condition: Any, what: str, seconds: float = 20) -> None:
    """Look every few milliseconds until `condition()` is true; fail after `seconds`."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"waited {seconds} s for {what}"
        time.sleep(0.01)
