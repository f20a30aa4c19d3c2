"""The script that most people would write: DuckDB rows, fastavro, gpg, OpenSSH's sftp.

    python -m bench.peers.script PLAN

One process for all clients, one after the other; one gpg for each file, one sftp for each client. It
is kept fair: rows come in batches, gpg needs no key ring and does not compress what is compressed
already, the upload gets temporary names and renames, the manifest is last. It checks nothing and
remembers nothing.
"""

from __future__ import annotations

import csv
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import fastavro

from bench.peers.plan import DailyFile, Plan

BATCH_ROWS = 10_000


def main() -> None:
    """Deliver the day to each client."""
    plan = Plan(sys.argv[1])
    schemas = {name: fastavro.parse_schema(schema) for name, schema in plan.schemas.items()}
    with duckdb.connect(plan.database, read_only=plan.database != ":memory:") as connection:
        for client in plan.clients:
            with tempfile.TemporaryDirectory() as folder:
                names = build(plan, client, schemas, connection, Path(folder))
                send(plan, client["directory"], Path(folder), names)


def build(
    plan: Plan,
    client: dict[str, str],
    schemas: dict[str, Any],
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
) -> list[str]:
    """Write a client's files, encrypted, and the manifest; gives their names, the manifest last."""
    names, rows = [], []
    plain = folder / "plain"
    for file in plan.files(client["guid"]):
        cipher = folder / file.name
        with plain.open("wb") as stream:
            fastavro.writer(stream, schemas[file.resource], read(connection, file), codec="deflate")
        with plain.open("rb") as stream:
            checksum = hashlib.file_digest(stream, "sha256").hexdigest()
        encrypt(plan, client["public_key"], plain, cipher)
        names.append(file.name)
        rows.append(
            (file.resource.upper(), file.event.upper(), plan.day, plain.stat().st_size,
             cipher.stat().st_size, checksum, file.name.removesuffix(".avro.pgp"))
        )  # fmt: skip
    with plain.open("w", encoding="utf-8") as text:
        csv.writer(text).writerows(rows)
    names.append(plan.manifest_name(client["guid"]))
    encrypt(plan, client["public_key"], plain, folder / names[-1])
    return names


def read(connection: duckdb.DuckDBPyConnection, file: DailyFile) -> Iterator[dict[str, Any]]:
    """Yield a file's records as dictionaries."""
    cursor = connection.execute(file.sql)
    while rows := cursor.fetchmany(BATCH_ROWS):
        for row in rows:
            yield dict(zip(file.fields, row, strict=True))


def encrypt(plan: Plan, public_key: str, plain: Path, cipher: Path) -> None:
    """Encrypt one file."""
    subprocess.run(
        ["gpg", "--homedir", plan.document["gnupg_home"], "--batch", "--quiet", "--no-auto-check-trustdb",
         "--trust-model", "always", "--compress-algo", "none", "--recipient-file", public_key,
         "--output", cipher, "--encrypt", plain],
        check=True,
    )  # fmt: skip


def send(plan: Plan, directory: str, folder: Path, names: list[str]) -> None:
    """Upload under temporary names, then rename, the manifest last."""
    batch = [f"put {folder}/{name} {directory}/{name}.part" for name in names]
    batch += [f"rename {directory}/{name}.part {directory}/{name}" for name in names]
    document = plan.document
    subprocess.run(
        ["sftp", "-q", "-b", "-", "-P", str(document["port"]), "-i", document["ssh_key"],
         "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
         "-o", "LogLevel=ERROR", f"{document['username']}@{document['host']}"],
        input="\n".join(batch), encoding="utf-8", stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
