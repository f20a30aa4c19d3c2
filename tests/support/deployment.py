"""A working directory of the program: configuration, keys, warehouse; commands run as processes.

with OpenSSHServer(tmp_path) as server:
    deployment = Deployment(tmp_path, server)
    party = deployment.add_client("First Union")
    deployment.run("run", "--date", "2026-11-20")
    party.received()                       # names and bytes in the client's directory
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import yaml

from tests.support.preloaded import Preloaded, preloaded

PROGRAM = (sys.executable, "-m", "mxdeliver")


class DeliveryServer(Protocol):
    """What a deployment asks of a server; `remote_path` tells how it names one of its folders."""

    host: str
    port: int
    username: str
    password: str
    directory: Path

    @property
    def pins(self) -> dict[str, str]:
        """The host keys' `SHA256:…` by kind."""

    def remote_path(self, folder: Path) -> str:
        """Give the name under which the server's user finds a folder."""


@dataclass(frozen=True, kw_only=True)
class KeyPair:
    """An OpenPGP key that gpg made, without passphrase: armored public and secret key."""

    fingerprint: str
    public: bytes
    secret: bytes


@contextmanager
def gpg_home() -> Iterator[Path]:
    """Give an empty GnuPG home under a short path; its agent is ended afterwards."""
    home = Path(tempfile.mkdtemp(prefix="g"))
    try:
        yield home
    finally:
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
        shutil.rmtree(home, ignore_errors=True)  # the agent removes its sockets meanwhile


def gpg(home: Path, *arguments: str | Path, data: bytes = b"") -> bytes:
    """Run gpg without questions; its status is checked."""
    done = subprocess.run(
        ["gpg", "--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback",
         "--passphrase", "", "--trust-model", "always", *arguments],
        input=data, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@cache
def key_pair(number: int = 0) -> KeyPair:
    """Make a Curve25519 key with gpg, once per process and number."""
    with gpg_home() as home:
        gpg(
            home,
            "--quick-gen-key",
            f"client{number}@example.test",
            "future-default",
            "default",
            "5y",
        )
        listed = gpg(home, "--with-colons", "--list-keys").decode().splitlines()
        fingerprint = next(line for line in listed if line.startswith("fpr")).split(":")[9]
        return KeyPair(
            fingerprint=fingerprint,
            public=gpg(home, "--armor", "--export"),
            secret=gpg(home, "--armor", "--export-secret-keys"),
        )


class Party:
    """A client of the deployment: its entry in the configuration, its key, its directory."""

    def __init__(self, entry: dict[str, Any], directory: Path, key: KeyPair) -> None:
        self.entry = entry
        self.directory = directory
        self.key = key

    @property
    def guid(self) -> str:
        """The client's guid."""
        guid: str = self.entry["guid"]
        return guid

    def received(self) -> dict[str, bytes]:
        """Give what a poller sees in the client's directory: no hidden names."""
        return {
            path.name: path.read_bytes()
            for path in sorted(self.directory.iterdir())
            if not path.name.startswith(".")
        }

    def leftovers(self) -> list[str]:
        """Give the hidden names in the client's directory."""
        return [path.name for path in self.directory.iterdir() if path.name.startswith(".")]

    def decrypted(self) -> dict[str, bytes]:
        """Decrypt everything that was received with gpg alone."""
        with gpg_home() as home:
            gpg(home, "--import", data=self.key.secret)
            return {
                name: gpg(home, "--decrypt", data=content)
                for name, content in self.received().items()
            }


class Deployment:
    """A configuration file with its surroundings under `folder`."""

    def __init__(self, folder: Path, server: DeliveryServer) -> None:
        self.folder = folder
        self.server = server
        self.config_path = folder / "config.yaml"
        self.warehouse = folder / "warehouse.duckdb"
        self.parties: list[Party] = []
        self.program: Preloaded | None = None
        self.when_added: Callable[[Party], None] = lambda _: None
        self.secret_path = folder / "password"
        self.write_secret(server.password)
        self.document: dict[str, Any] = {
            "version": 1,
            "state_dir": "state",
            "delivery_log": "logs/deliveries.jsonl",
            "sources": {"warehouse": {"type": "duckdb", "database": "warehouse.duckdb"}},
            "retry": {"attempts": 2, "initial": "1s", "maximum": "1s"},
            "clients": [],
        }

    def write_secret(self, password: str) -> None:
        """Put the password into its file, for the owner alone."""
        self.secret_path.touch(mode=0o600)
        self.secret_path.write_text(f"{password}\n")

    def add_client(
        self, name: str = "First Union", *, key: int | None = None, **changes: Any
    ) -> Party:
        """Add a client with a directory of its own; `changes` go into its entry.

        Its key pair is its own, too, unless `key` gives the number of one to share.
        """
        number = len(self.parties)
        pair = key_pair(number if key is None else key)
        key_path = self.folder / f"client{number}.asc"
        key_path.write_bytes(pair.public)
        directory = Path(tempfile.mkdtemp(prefix=f"client{number}-", dir=self.server.directory))
        directory.chmod(0o755)
        owner = self.server.directory.stat()
        os.chown(directory, owner.st_uid, owner.st_gid)
        entry: dict[str, Any] = {
            "guid": f"CLT-{number:08d}-2d2e-6a5d-f2b5-c7dad42ef184",
            "name": name,
            "source": "warehouse",
            "resources": "standard",
            "pgp": {"public_key": key_path.name, "fingerprint": pair.fingerprint},
            "sftp": {
                "host": self.server.host,
                "port": self.server.port,
                "username": self.server.username,
                "password": {"file": self.secret_path.name},
                "host_keys": list(self.server.pins.values()),
                "allowed_ips": [self.server.host],
                "directory": self.server.remote_path(directory),
            },
        }
        party = Party(_merged(entry, changes), directory, pair)
        self.parties.append(party)
        self.document["clients"].append(party.entry)
        self.when_added(party)
        return party

    def write(self) -> None:
        """Write the configuration file from `document`."""
        self.config_path.write_text(yaml.safe_dump(self.document, sort_keys=False))

    def command(self, *arguments: str) -> list[str]:
        """Give the command line of the program on this configuration."""
        return [*PROGRAM, *arguments, "-c", str(self.config_path)]

    def run(
        self, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Write the configuration and run a command of the program to its end."""
        self.write()
        if environment is None:
            return (self.program or preloaded()).run(self.command(*arguments))
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
            env={**os.environ, **environment},
        )

    def run_json(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Run a command with --json; give its exit status and document."""
        done = self.run(*arguments, "--json")
        assert done.stdout, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return done.returncode, document

    def start(
        self,
        *arguments: str,
        wrapper: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Write the configuration and start a command without waiting for it."""
        self.write()
        return subprocess.Popen(
            [*wrapper, *self.command(*arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=None if environment is None else dict(environment),
        )

    def log_lines(self) -> list[dict[str, Any]]:
        """Give the delivery log's lines."""
        path = self.folder / "logs/deliveries.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]


def _merged(entry: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(entry)
    for name, value in changes.items():
        nested = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], value) if nested else value
    return merged


def kill(process: subprocess.Popen[str]) -> None:
    """End a process with SIGKILL and wait for it."""
    process.send_signal(signal.SIGKILL)
    process.communicate()
