"""What both contestants get: the same records, the same key, the same server."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb

from mxdeliver.core.calendar import SnapshotDate, window
from mxdeliver.demo.clients import CLIENTS
from mxdeliver.demo.warehouse import RECORDS_A_DAY, write_warehouse
from mxdeliver.edge.avro import load_resources
from tests.support.openssh import OpenSSHServer, key_pair

CLIENT = replace(CLIENTS[0], weight=1.0)
DAY = SnapshotDate(2026, 1, 1)
RESOURCE = "transactions"
_CREATED_SHARE = 0.8


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where everything lies while the comparison runs."""

    folder: Path
    parquet: Path
    schema: Path
    gnupg_home: Path
    fingerprint: str
    secret_key: Path
    ssh_key: Path
    server: OpenSSHServer

    def empty_server(self) -> None:
        """Remove everything that was delivered."""
        for path in self.server.directory.iterdir():
            path.unlink()

    def received(self, suffix: str) -> Path:
        """Give the one file of records that was delivered."""
        (path,) = self.server.directory.glob(f"*.{RESOURCE}.created{suffix}")
        return path

    def decrypt(self, path: Path) -> bytes:
        """Decrypt a received file with gpg."""
        return _gpg(self.gnupg_home, "--decrypt", path)


@contextmanager
def set_up(rows: int, seed: int) -> Iterator[Stage]:
    """Make `rows` transactions of one client and day, a key by gpg, and an OpenSSH server."""
    folder = Path(tempfile.mkdtemp(prefix="b"))
    home = folder / "gnupg"
    home.mkdir(mode=0o700)
    private, public = key_pair("ed25519")
    ssh_key = folder / "ssh_key"
    ssh_key.touch(mode=0o600)
    ssh_key.write_bytes(private)
    try:
        with OpenSSHServer(folder, authorized_keys=[public]) as server:
            fingerprint = _make_key(home, folder)
            stage = Stage(
                folder=folder,
                parquet=folder / "transactions.parquet",
                schema=folder / "transactions.avsc",
                gnupg_home=home,
                fingerprint=fingerprint,
                secret_key=folder / "secret.asc",
                ssh_key=ssh_key,
                server=server,
            )
            _write_records(stage, rows, seed)
            yield stage
    finally:
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
        shutil.rmtree(folder)


def _make_key(home: Path, folder: Path) -> str:
    _gpg(home, "--quick-gen-key", "bench@bank.example", "future-default", "default", "1y")
    listed = _gpg(home, "--with-colons", "--list-keys").decode().splitlines()
    (folder / "public.asc").write_bytes(_gpg(home, "--armor", "--export"))
    secret = folder / "secret.asc"
    secret.touch(mode=0o600)
    secret.write_bytes(_gpg(home, "--armor", "--export-secret-keys"))
    return next(line for line in listed if line.startswith("fpr")).split(":")[9]


def _gpg(home: Path, *arguments: str | Path) -> bytes:
    return subprocess.run(
        ["gpg", "--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback",
         "--passphrase", "", *arguments],
        stdout=subprocess.PIPE, check=True,
    ).stdout  # fmt: skip


def _write_records(stage: Stage, rows: int, seed: int) -> None:
    resource = load_resources()[RESOURCE]
    stage.schema.write_text(resource.schema, encoding="utf-8")
    database = stage.folder / "warehouse.duckdb"
    scale = rows / _CREATED_SHARE / RECORDS_A_DAY[RESOURCE]
    write_warehouse(database, resources=[resource], clients=[CLIENT], days=[DAY], scale=scale)
    start, end = day_window()
    with duckdb.connect(str(database), read_only=True) as connection:
        connection.execute(
            f"COPY (FROM (SELECT * REPLACE (created_at AS updated_at) FROM {RESOURCE} "
            f"WHERE created_at >= {start} AND created_at < {end} "
            f"ORDER BY hash(guid, {seed}) LIMIT {rows}) ORDER BY created_at) "
            f"TO '{stage.parquet}' (FORMAT parquet)"
        )
    database.unlink()
    (written,) = duckdb.sql(f"SELECT count(*) FROM '{stage.parquet}'").fetchall()[0]
    if written != rows:
        raise RuntimeError(f"{written} records were made, not {rows}")


def day_window() -> tuple[int, int]:
    """Give the day's first second and the next day's."""
    of_day = window(DAY, ZoneInfo("UTC"))
    return of_day.start, of_day.end


def write_config(stage: Stage, state: Path) -> Path:
    """Write a configuration of mxdeliver with its own state directory; gives its path."""
    server = stage.server
    client: dict[str, Any] = {
        "guid": CLIENT.guid,
        "name": CLIENT.name,
        "active_since": DAY.isoformat(),
        "source": "warehouse",
        "resources": [RESOURCE],
        "pgp": {"public_key": str(stage.folder / "public.asc"), "fingerprint": stage.fingerprint},
        "sftp": {
            "host": server.host,
            "port": server.port,
            "username": server.username,
            "private_key": {"file": str(stage.ssh_key)},
            "host_keys": list(server.pins.values()),
            "allowed_ips": [server.host],
            "directory": str(server.directory),
        },
    }
    document = {
        "version": 1,
        "state_dir": str(state / "state"),
        "delivery_log": str(state / "deliveries.jsonl"),
        "sources": {
            "warehouse": {
                "type": "duckdb",
                "views": {RESOURCE: f"read_parquet('{stage.parquet}')"},
            }
        },
        "clients": [client],
    }
    path = state / "config.yaml"
    path.write_text(json.dumps(document, indent=2), encoding="utf-8")  # JSON is YAML
    return path
