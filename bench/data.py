"""Records, made by DuckDB from the sample's expressions, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import pyarrow.parquet as pq

from mxdeliver.core.calendar import SnapshotDate, window
from mxdeliver.core.manifest import STANDARD_RESOURCES
from mxdeliver.core.model import EventType
from mxdeliver.demo.clients import CLIENTS
from mxdeliver.demo.warehouse import RECORDS_A_DAY, write_warehouse
from mxdeliver.edge.avro import load_resources

DAYS = (SnapshotDate(2026, 1, 1), SnapshotDate(2026, 1, 2))
RESOURCE = "transactions"
_CREATED_SHARE = 0.8
_SLICE_ROWS = 500_000
_GROUP_ROWS = 122_880
_UPDATED_TOO = ("users", "members", "accounts", "transactions", "holdings", "devices")
_PIECE = 1 << 24


def day_window(day: SnapshotDate) -> tuple[int, int]:
    """Give the day's first second and the next day's, in UTC."""
    of_day = window(day, ZoneInfo("UTC"))
    return of_day.start, of_day.end


def write_transactions(path: Path, rows: int, seed: int, *, client: str) -> None:
    """Write a Parquet file of transactions that were created on the first day, in their order.

    Many rows are the first ones again and again, each time with other guids and in a later part of
    the day: that is quick, and they compress no better, since what is alike lies far apart.
    """
    base = min(rows, _SLICE_ROWS)
    database = path.with_suffix(".duckdb")
    scale = base / _CREATED_SHARE / RECORDS_A_DAY[RESOURCE]
    resource = load_resources()[RESOURCE]
    sample = replace(CLIENTS[0], guid=client, weight=1.0)
    write_warehouse(database, resources=[resource], clients=[sample], days=DAYS[:1], scale=scale)
    start, end = day_window(DAYS[0])
    with duckdb.connect(str(database)) as connection:
        connection.execute(
            f"CREATE TABLE base AS SELECT * FROM (SELECT * FROM {RESOURCE} "
            f"WHERE created_at >= {start} AND created_at < {end} "
            f"ORDER BY hash(guid, {seed}) LIMIT {base}) ORDER BY created_at"
        )
        copies = -(-rows // base)
        written = 0
        with pq.ParquetWriter(path, connection.table("base").to_arrow_table().schema) as writer:
            for copy in range(copies):
                part = connection.sql(_moved(copy, copies, start, end)).to_arrow_table()
                part = part.slice(0, rows - written)
                writer.write_table(part, row_group_size=_GROUP_ROWS)
                written += part.num_rows
    database.unlink()
    if written != rows:
        raise RuntimeError(f"{written} records were made, not {rows}")


def _moved(copy: int, copies: int, start: int, end: int) -> str:
    """Give the query for one part of the day."""
    moment = f"{start + (end - start) * copy // copies} + (created_at - {start}) // {copies}"
    guid = f"'TRN-' || md5(guid || {copy})::UUID::VARCHAR" if copy else "guid"
    return (
        f"SELECT * REPLACE ({moment} AS created_at, {moment} AS updated_at, {guid} AS guid) "
        "FROM base"
    )


def write_days(path: Path, *, clients: Mapping[str, float], seed: int) -> None:
    """Write a DuckDB database with two days of all standard resources.

    `clients` are the weights of clients by guid; 1 is some 45,000 records a day. Of the 63 files of
    a client's day 23 have records: what was created of 17 resources, and what was updated of six.
    """
    known = load_resources()
    samples = [
        replace(CLIENTS[0], guid=client, weight=weight, without=frozenset[str]())
        for client, weight in clients.items()
    ]
    resources = [known[name] for name in STANDARD_RESOURCES]
    write_warehouse(path, resources=resources, clients=samples, days=DAYS)
    filled = [name for name in STANDARD_RESOURCES if name in RECORDS_A_DAY][:17]
    with duckdb.connect(str(path)) as connection:
        for name in STANDARD_RESOURCES:
            unwanted = "deleted_at IS NOT NULL"
            if name not in filled:
                unwanted = "true"
            elif name not in _UPDATED_TOO:
                unwanted += " OR updated_at > created_at"
            connection.execute(f'DELETE FROM "{name}" WHERE {unwanted}')
            connection.execute(
                f'CREATE OR REPLACE TABLE "{name}" AS SELECT * FROM "{name}" '
                f"ORDER BY client_guid, hash(guid, {seed})"
            )


def write_clients(path: Path, clients: Sequence[str]) -> None:
    """Give all these clients the records of the one whose records are there."""
    listed = ", ".join(f"('{client}')" for client in clients)
    with duckdb.connect(str(path)) as connection:
        for name in STANDARD_RESOURCES:
            connection.execute(
                f'CREATE OR REPLACE TABLE "{name}" AS SELECT one.* REPLACE (client AS client_guid) '
                f'FROM "{name}" AS one, (VALUES {listed}) AS clients(client) '
                "ORDER BY client, one.created_at"
            )


def count_files(
    path: Path, client: str, day: SnapshotDate, resources: Sequence[str] = STANDARD_RESOURCES
) -> tuple[int, int]:
    """Give how many of a client's files of a day have records, and how many records those are."""
    start, end = day_window(day)
    counts = []
    with duckdb.connect(str(path), read_only=True) as connection:
        for name in resources:
            for event in EventType:
                found = connection.execute(
                    f'SELECT count(*) FROM "{name}" WHERE client_guid = ? AND '
                    f"{condition(event.value, start, end)}",
                    [client],
                ).fetchall()
                counts.append(int(found[0][0]))
    return sum(count > 0 for count in counts), sum(counts)


def condition(event: str, start: int, end: int) -> str:
    """Give the SQL condition under which a record belongs to an event's file."""
    column = f"{event.lower()}_at"
    inside = f"{column} >= {start} AND {column} < {end}"
    return f"{inside} AND updated_at > created_at" if column == "updated_at" else inside


def write_noise(path: Path, size: int, seed: int) -> None:
    """Write bytes that cannot be compressed."""
    generator = random.Random(seed)
    with path.open("wb") as file:
        for start in range(0, size, _PIECE):
            file.write(generator.randbytes(min(_PIECE, size - start)))


def names(resources: Sequence[str] | None = None) -> list[str]:
    """Give the standard resources, or those that are named."""
    return list(STANDARD_RESOURCES if resources is None else resources)
