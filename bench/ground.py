"""The ground that all contestants stand on: clients with their keys, and one OpenSSH server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.data import DAYS, day_window
from bench.folders import memory_folder
from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.edge.avro import load_resources
from tests.support.openssh import OpenSSHServer, key_pair


@dataclass(frozen=True, kw_only=True)
class Party:
    """One client: its key, and its directory on the server."""

    guid: str
    public_key: Path
    fingerprint: str
    directory: Path

    def received(self) -> dict[str, Path]:
        """Give what lies in the client's directory, by name."""
        return {path.name: path for path in self.directory.iterdir()}

    def empty(self) -> None:
        """Remove everything that was delivered."""
        for path in self.directory.iterdir():
            path.unlink()


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Where everything lies; `folder` is on the disk."""

    folder: Path
    server: OpenSSHServer
    ssh_key: Path
    gnupg_home: Path
    parties: Sequence[Party]

    def empty(self) -> None:
        """Remove everything that was delivered."""
        for party in self.parties:
            party.empty()

    def decrypt(self, path: Path) -> bytes:
        """Decrypt a received file with gpg."""
        return _gpg(self.gnupg_home, "--decrypt", path)

    def new_state(self) -> Path:
        """Give an empty folder for mxdeliver's state; the one before is gone."""
        state = self.folder / "state"
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir()
        return state

    def write_config(
        self,
        state: Path,
        source: Mapping[str, Any],
        resources: Sequence[str] | str,
        *,
        codec: str = "deflate",
        port: int | None = None,
    ) -> Path:
        """Write a configuration of mxdeliver, all else as it is by default; gives its path."""
        clients = [
            {
                "guid": party.guid,
                "name": f"Client {number}",
                "active_since": DAYS[0].isoformat(),
                "source": "warehouse",
                "resources": resources,
                "files": {"codec": codec},
                "pgp": {"public_key": str(party.public_key), "fingerprint": party.fingerprint},
                "sftp": {
                    "host": self.server.host,
                    "port": port or self.server.port,
                    "username": self.server.username,
                    "private_key": {"file": str(self.ssh_key)},
                    "host_keys": list(self.server.pins.values()),
                    "allowed_ips": [self.server.host],
                    "directory": str(party.directory),
                },
            }
            for number, party in enumerate(self.parties)
        ]
        document = {
            "version": 1,
            "state_dir": str(state / "state"),
            "delivery_log": str(state / "deliveries.jsonl"),
            "sources": {"warehouse": {"type": "duckdb", **source}},
            "clients": clients,
        }
        path = state / "config.yaml"
        path.write_text(json.dumps(document, indent=2), encoding="utf-8")  # JSON is YAML
        return path

    def write_plan(
        self,
        source: Mapping[str, Any],
        resources: Sequence[str],
        day: SnapshotDate,
        *,
        name: str = "plan.json",
    ) -> Path:
        """Write the same for the scripts of `peers`; gives its path."""
        known = load_resources()
        start, end = day_window(day)
        document = {
            **source,
            "day": day.isoformat(),
            "start": start,
            "end": end,
            "schemas": {resource: known[resource].schema for resource in resources},
            "host": self.server.host,
            "port": self.server.port,
            "username": self.server.username,
            "ssh_key": str(self.ssh_key),
            "gnupg_home": str(self.gnupg_home),
            "clients": [
                {
                    "guid": party.guid,
                    "public_key": str(party.public_key),
                    "directory": str(party.directory),
                }
                for party in self.parties
            ],
        }
        path = self.folder / name
        path.write_text(json.dumps(document), encoding="utf-8")
        return path


def guid(number: int) -> str:
    """Give the guid of a client."""
    return f"CLT-{number:08x}-2d2e-6a5d-f2b5-c7dad42ef184"


@contextmanager
def set_up(folder: Path, *, clients: int = 1) -> Iterator[Ground]:
    """Start the server and make the clients' keys, in a folder of its own below `folder`."""
    own = Path(tempfile.mkdtemp(dir=folder))
    home = own / "gnupg"
    home.mkdir(mode=0o700)
    private, public = key_pair("ed25519")
    ssh_key = _secret_file(own / "ssh_key", private)
    try:
        with _server(own, public) as server:
            yield Ground(
                folder=own,
                server=server,
                ssh_key=ssh_key,
                gnupg_home=home,
                parties=[_party(number, own, home, server) for number in range(clients)],
            )
    finally:
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
        shutil.rmtree(own)


def _server(folder: Path, public_key: str) -> OpenSSHServer:
    """Give a server whose directory lies in memory and which logs no more than usual."""
    usual = tempfile.tempdir
    tempfile.tempdir = str(memory_folder())
    try:
        return OpenSSHServer(folder, authorized_keys=[public_key], settings=["LogLevel INFO"])
    finally:
        tempfile.tempdir = usual


def _party(number: int, folder: Path, home: Path, server: OpenSSHServer) -> Party:
    user = f"client{number}@bank.example"
    _gpg(home, "--quick-gen-key", user, "future-default", "default", "1y")
    listed = _gpg(home, "--with-colons", "--list-keys", user).decode().splitlines()
    public_key = folder / f"client{number}.asc"
    public_key.write_bytes(_gpg(home, "--armor", "--export", user))
    directory = server.directory / f"client{number}"
    directory.mkdir()
    owner = server.directory.stat()
    os.chown(directory, owner.st_uid, owner.st_gid)
    return Party(
        guid=guid(number),
        public_key=public_key,
        fingerprint=next(line for line in listed if line.startswith("fpr")).split(":")[9],
        directory=directory,
    )


def export_secret_key(ground: Ground, path: Path) -> Path:
    """Write all secret keys, as the recipient would have them."""
    return _secret_file(path, _gpg(ground.gnupg_home, "--armor", "--export-secret-keys"))


def _secret_file(path: Path, content: bytes) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(content)
    return path


def _gpg(home: Path, *arguments: str | Path) -> bytes:
    return subprocess.run(
        ["gpg", "--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback",
         "--passphrase", "", *arguments],
        stdout=subprocess.PIPE, check=True,
    ).stdout  # fmt: skip
