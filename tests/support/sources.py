"""Small DuckDB sources for tests, and what their streams give."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from mxdeliver.core.calendar import Window
from mxdeliver.core.model import EndOfStream, EventType, Field, Resource, SourceSettings
from mxdeliver.edge.sources import Snapshot, Source
from mxdeliver.edge.sources.warehouse import DuckDBSource

CLIENT = "CLT-0858efd1-2d2e-6a5d-f2b5-c7dad42ef184"
OTHER_CLIENT = "CLT-ffffffff-0000-0000-0000-000000000000"
START = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
DAY = Window(start=START, end=START + 86_400)
QUERIES = Mapping[str, Mapping[EventType, str]]


def resource(name: str = "users", *fields: str) -> Resource:
    """A resource of text fields; users with guid and name by default."""
    names = fields or ("guid", "name")
    return Resource(
        name=name,
        fields=tuple(Field(name=field, avro_type=["null", "string"]) for field in names),
        schema="{}",
    )


def settings(
    folder: Path, *, queries: QUERIES | None = None, source_type: str = "duckdb", **options: object
) -> SourceSettings:
    """Settings of a source named `warehouse`; its database is warehouse.duckdb unless views are given."""
    if "views" not in options:
        options.setdefault("database", "warehouse.duckdb")
    return SourceSettings(
        name="warehouse", type=source_type, folder=folder, queries=queries or {}, options=options
    )


def source(
    folder: Path,
    *,
    queries: QUERIES | None = None,
    batch_rows: int = 4096,
    slice_rows: int = 10_000,
    slice_bytes: int | None = None,
    few_rows: int | None = None,
    **options: Any,
) -> DuckDBSource:
    """A source as `settings` describe it; without few rows, none are read for all events at once."""
    return DuckDBSource(
        settings(folder, queries=queries, **options),
        batch_rows=batch_rows,
        slice_rows=slice_rows,
        slice_bytes=slice_bytes,
        few_rows=few_rows,
    )


def database(folder: Path, *statements: str) -> Path:
    """Make or change warehouse.duckdb."""
    path = folder / "warehouse.duckdb"
    with duckdb.connect(str(path)) as connection:
        for statement in statements:
            connection.execute(statement)
    return path


def can_write(path: Path) -> bool:
    """Whether another process can open a database to write to it."""
    script = "import duckdb, sys; duckdb.connect(sys.argv[1])"
    tried = subprocess.run([sys.executable, "-c", script, path], capture_output=True, check=False)
    assert tried.returncode == 0 or b"Conflicting lock" in tried.stderr
    return tried.returncode == 0


def users(folder: Path, *rows: str, times: str = "bigint") -> Path:
    """Make a database with table users; a row is SQL for (guid, client_guid, created, updated, deleted)."""
    columns = f"created_at {times}, updated_at {times}, deleted_at {times}"
    statements = [
        f"create table users (guid varchar, name varchar, client_guid varchar, {columns})"
    ]
    if rows:
        statements.append(
            "insert into users select guid, 'name of ' || guid, client, created, updated, deleted"
            f" from (values {', '.join(rows)}) v(guid, client, created, updated, deleted)"
        )
    return database(folder, *statements)


def rows_of(items: Iterator[pa.RecordBatch | EndOfStream]) -> list[dict[str, Any]]:
    """All rows of a stream, which must end with its EndOfStream."""
    rows: list[dict[str, Any]] = []
    for item in items:
        if isinstance(item, EndOfStream):
            assert item.rows == len(rows)
            assert next(items, None) is None
            return rows
        rows += item.to_pylist()
    raise AssertionError("the stream has no end")


def guids(
    snapshot: Snapshot,
    event: EventType = EventType.CREATED,
    wanted: Resource | None = None,
    client_guid: str = CLIENT,
) -> list[str]:
    """The guids of one stream in their order."""
    rows = rows_of(snapshot.stream(wanted or resource(), event, client_guid, DAY))
    return [row["guid"] for row in rows]


def read(
    origin: Source, event: EventType = EventType.CREATED, wanted: Resource | None = None
) -> list[dict[str, Any]]:
    """The rows of one stream, out of a snapshot of its own."""
    with origin.snapshot() as snapshot:
        return rows_of(snapshot.stream(wanted or resource(), event, CLIENT, DAY))
