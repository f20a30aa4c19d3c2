"""Small DuckDB warehouses with every standard resource, made by SQL from the shipped schemas."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb

from mxdeliver.core.calendar import SnapshotDate, window
from mxdeliver.core.model import Resource
from mxdeliver.edge.avro import load_resources

_SQL_TYPES = {"string": "VARCHAR", "long": "BIGINT", "double": "DOUBLE", "boolean": "BOOLEAN"}
_EXPRESSIONS = {
    "VARCHAR": "'{name}-' || n || ' é✓'",
    "BIGINT": "n * 1000003 - 7",
    "DOUBLE": "n / 8.0",
    "BOOLEAN": "n % 2 = 0",
    "VARCHAR[]": "['a' || n, 'b']",
}
_TIMES = ("created_at", "updated_at", "deleted_at")


def sql_type(avro_type: object) -> str:
    """Give DuckDB's type for a field of the shipped schemas."""
    if isinstance(avro_type, list):
        return sql_type(next(part for part in avro_type if part != "null"))
    if isinstance(avro_type, dict):
        return f"{sql_type(avro_type['items'])}[]"
    return _SQL_TYPES[str(avro_type)]


def columns(resource: Resource) -> dict[str, str]:
    """Give a relation's columns: the schema's, and what every relation has besides."""
    found = {field.name: sql_type(field.avro_type) for field in resource.fields}
    return {"client_guid": "VARCHAR", **dict.fromkeys(_TIMES, "BIGINT"), **found}


def make_warehouse(
    path: Path,
    *,
    clients: Sequence[str],
    days: Sequence[date],
    rows: int = 5,
    filled: Sequence[str] | None = None,
    zone: str = "UTC",
) -> None:
    """Make a warehouse in which each client has `rows` records a day and event in each resource.

    `filled` names the resources that have records; the others have none.
    """
    resources = load_resources()
    with duckdb.connect(str(path)) as connection:
        for resource in resources.values():
            names = columns(resource)
            spelled = ", ".join(f'"{name}" {kind}' for name, kind in names.items())
            connection.execute(f'CREATE TABLE "{resource.name}" ({spelled})')
            if filled is not None and resource.name not in filled:
                continue
            for client in clients:
                for day in days:
                    _fill(connection, resource.name, names, client, day, rows, zone)


def _fill(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    names: dict[str, str],
    client: str,
    day: date,
    rows: int,
    zone: str,
) -> None:
    span = window(SnapshotDate.of(day), ZoneInfo(zone))
    cells = {name: _EXPRESSIONS[kind].replace("{name}", name) for name, kind in names.items()}
    cells["client_guid"] = f"'{client}'"
    if "guid" in cells:
        cells["guid"] = f"'{table[:3].upper()}-' || '{day}' || '-' || lpad(n::VARCHAR, 9, '0')"
    inside = f"{span.start} + (n * 7919) % {span.end - span.start}"
    before = f"{span.start} - 1 - n"
    for times in (
        {"created_at": inside, "updated_at": "NULL", "deleted_at": "NULL"},
        {"created_at": before, "updated_at": inside, "deleted_at": "NULL"},
        {"created_at": before, "updated_at": "NULL", "deleted_at": inside},
    ):
        select = ", ".join(f'{cell} AS "{name}"' for name, cell in {**cells, **times}.items())
        connection.execute(f'INSERT INTO "{table}" SELECT {select} FROM range({rows}) AS t(n)')
