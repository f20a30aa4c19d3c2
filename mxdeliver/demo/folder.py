"""What lies where in the demo's folder, and the files that make it a working configuration."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.demo.clients import DemoClient
from mxdeliver.demo.keys import KeyPair

MARK = ".mxdeliver-demo"
_MARK_TEXT = "Made by `mxdeliver demo`, which replaces this whole folder when it runs again.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoFolder:
    """Names every path of the demo; `root` is as the user gave it, so that commands stay short."""

    root: Path

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.root / "config.yaml"

    @property
    def warehouse(self) -> Path:
        """The source's database."""
        return self.root / "warehouse.duckdb"

    @property
    def log(self) -> Path:
        """The delivery log."""
        return self.root / "logs" / "deliveries.jsonl"

    @property
    def ledger(self) -> Path:
        """The ledger's database."""
        return self.root / "state" / "ledger.db"

    def public_key(self, client: DemoClient) -> Path:
        """Where the client's public key lies."""
        return self.root / "keys" / f"{client.short_name}.asc"

    def secret_key(self, client: DemoClient) -> Path:
        """Where the client's secret key lies, which in earnest never leaves the client."""
        return self.root / "clients" / f"{client.short_name}.secret.asc"

    def password(self, client: DemoClient) -> Path:
        """Where the password for the client's server lies."""
        return self.root / "secrets" / f"{client.short_name}.password"

    def received(self, client: DemoClient) -> Path:
        """The directory of the client's server."""
        return self.root / "received" / client.short_name


def prepare(root: Path) -> DemoFolder:
    """Make an empty folder with the demo's mark, in place of an older one.

    FileExistsError if something else lies there, which is left alone.
    """
    if root.is_symlink() or root.exists():
        if root.is_symlink() or not (root / MARK).is_file():
            raise FileExistsError(
                f"{root} exists and was not made by the demo (it has no {MARK}); move it away or "
                "name another folder with --folder"
            )
        shutil.rmtree(root)
    root.mkdir(mode=0o700)
    (root / MARK).write_text(_MARK_TEXT, encoding="utf-8")
    for name in ("keys", "clients", "secrets", "received"):
        (root / name).mkdir(mode=0o700)
    return DemoFolder(root=root)


def write_clients_side(folder: DemoFolder, client: DemoClient, pair: KeyPair) -> str:
    """Write a client's keys, server directory and a new password; gives the password."""
    password = secrets.token_urlsafe(18)
    folder.public_key(client).write_text(pair.public, encoding="utf-8")
    for path, text in (
        (folder.secret_key(client), pair.secret),
        (folder.password(client), password + "\n"),
    ):
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
    folder.received(client).mkdir(mode=0o700)
    return password


def write_config(
    folder: DemoFolder,
    fingerprints: Mapping[DemoClient, str],
    *,
    port: int,
    host_key_pin: str,
    first_day: SnapshotDate,
) -> None:
    """Write the configuration that `mxdeliver run` reads."""
    entries = "".join(
        _CLIENT.format(
            guid=client.guid,
            name=client.name.replace("'", "''"),
            first_day=first_day,
            short_name=client.short_name,
            fingerprint=fingerprint,
            port=port,
            pin=host_key_pin,
        )
        for client, fingerprint in fingerprints.items()
    )
    folder.config.write_text(_HEAD + entries, encoding="utf-8")


_HEAD = """\
# Written by `mxdeliver demo`. The three servers ran on this machine and are gone now.
version: 1
state_dir: state
delivery_log: logs/deliveries.jsonl

sources:
  warehouse:
    type: duckdb
    database: warehouse.duckdb

defaults:
  source: warehouse
  resources: standard

clients:
"""
_CLIENT = """\
  - guid: {guid}
    name: '{name}'
    active_since: {first_day}
    pgp:
      public_key: keys/{short_name}.asc
      fingerprint: {fingerprint}
    sftp:
      host: 127.0.0.1
      port: {port}
      username: {short_name}
      password: {{file: secrets/{short_name}.password}}
      host_keys: ["{pin}"]
      allowed_ips: [127.0.0.1]
"""
