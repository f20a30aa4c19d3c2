"""The script that most people would write: DuckDB rows, fastavro, gpg, OpenSSH's sftp.

    python -m bench.plain PARQUET SCHEMA CLIENT_GUID START END GNUPGHOME RECIPIENT SFTP_TARGET PORT KEY NAME

It is kept fair: rows come in batches, gpg does not compress what is compressed already, the upload
gets a temporary name and a rename. It checks nothing and remembers nothing.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import fastavro

BATCH_ROWS = 10_000


def read(parquet: str, fields: list[str], client: str, start: int, end: int) -> Iterator[Any]:
    """Yield the day's created records as dictionaries."""
    listed = ", ".join(f'"{name}"' for name in fields)
    cursor = duckdb.connect().execute(
        f"SELECT {listed} FROM read_parquet(?) WHERE client_guid = ? AND created_at >= ? "
        "AND created_at < ? ORDER BY created_at, guid",
        [parquet, client, start, end],
    )
    while rows := cursor.fetchmany(BATCH_ROWS):
        for row in rows:
            yield dict(zip(fields, row, strict=True))


def main() -> None:
    """Deliver one file."""
    (parquet, schema_file, client, start, end, home, recipient, target, port, key, name) = sys.argv[
        1:
    ]
    schema = json.loads(Path(schema_file).read_text(encoding="utf-8"))
    fields = [field["name"] for field in schema["fields"]]
    with tempfile.TemporaryDirectory() as folder:
        plain, cipher = Path(folder) / name, Path(folder) / f"{name}.pgp"
        with plain.open("wb") as file:
            fastavro.writer(
                file,
                fastavro.parse_schema(schema),
                read(parquet, fields, client, int(start), int(end)),
                codec="deflate",
            )
        with plain.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        subprocess.run(
            ["gpg", "--homedir", home, "--batch", "--quiet", "--trust-model", "always",
             "--compress-algo", "none", "--recipient", recipient, "--output", cipher,
             "--encrypt", plain],
            check=True,
        )  # fmt: skip
        subprocess.run(
            ["sftp", "-q", "-b", "-", "-P", port, "-i", key, "-o", "StrictHostKeyChecking=no",
             "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", target],
            input=f"put {cipher} {name}.part\nrename {name}.part {name}.pgp\n",
            encoding="utf-8", stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip
    print(checksum)


if __name__ == "__main__":
    main()
