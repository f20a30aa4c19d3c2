"""The same script from the fastest parts that are to be had: DuckDB, polars, pysequoia, lftp.

    python -m bench.peers.best_parts PLAN

Records go from DuckDB to polars as Arrow; files are built and encrypted in memory file systems; lftp
sends eight at once, under temporary names.
"""

from __future__ import annotations

import csv
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb
import pysequoia

from bench.folders import memory_folder
from bench.peers import transfer
from bench.peers.plan import Plan


def main() -> None:
    """Deliver the day to each client."""
    plan = Plan(sys.argv[1])
    with duckdb.connect(plan.database, read_only=plan.database != ":memory:") as connection:
        for client in plan.clients:
            with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
                build(plan, client, connection, Path(folder))
                send(plan, client, Path(folder))


def build(
    plan: Plan, client: dict[str, str], connection: duckdb.DuckDBPyConnection, folder: Path
) -> None:
    """Write a client's files, encrypted, and the manifest."""
    certificate = pysequoia.Cert.from_file(client["public_key"])
    plain = folder / "plain"
    rows = []
    for file in plan.files(client["guid"]):
        frame = connection.sql(file.sql).pl()
        frame.write_avro(plain, compression="deflate", name=file.schema["name"])
        with plain.open("rb") as stream:
            checksum = hashlib.file_digest(stream, "sha256").hexdigest()
        cipher = folder / file.name
        pysequoia.encrypt_file(str(plain), str(cipher), recipients=[certificate], armor=False)
        rows.append(
            (file.resource.upper(), file.event.upper(), frame.height, plan.day,
             plain.stat().st_size, cipher.stat().st_size, checksum, file.name)
        )  # fmt: skip
    with plain.open("w", encoding="utf-8") as text:
        csv.writer(text).writerows(rows)
    manifest = folder / plan.manifest_name(client["guid"])
    pysequoia.encrypt_file(str(plain), str(manifest), recipients=[certificate], armor=False)
    plain.unlink()


def send(plan: Plan, client: dict[str, str], folder: Path) -> None:
    """Upload with lftp, the manifest last."""
    document = plan.document
    login = transfer.Login(
        host=document["host"],
        port=document["port"],
        username=document["username"],
        key=Path(document["ssh_key"]),
        directory=client["directory"],
    )
    command = transfer.lftp(login, folder, plan.manifest_name(client["guid"]))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
