"""The sample warehouse: a DuckDB database with one table per resource, made by DuckDB itself.

Each table holds the schema's columns plus `client_guid`, `created_at`, `updated_at` and
`deleted_at`, as the default SQL of a source expects them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb

from mxdeliver.core.calendar import SnapshotDate, window
from mxdeliver.core.model import Resource
from mxdeliver.demo.clients import DemoClient
from mxdeliver.demo.values import roll, value

RECORDS_A_DAY: Mapping[str, int] = {
    "users": 300,
    "members": 450,
    "accounts": 900,
    "transactions": 20_000,
    "holdings": 700,
    "categories": 40,
    "tags": 60,
    "taggings": 1_200,
    "budgets": 300,
    "goals": 80,
    "notification_profiles": 250,
    "beat": 900,
    "devices": 350,
    "discovered_accounts": 120,
    "analytics_events": 7_000,
    "analytics_pageviews": 5_000,
    "analytics_screenviews": 6_000,
    "analytics_timed_events": 2_000,
    "user_communication_profiles": 90,
}
"""Records of a client of weight 1; a resource that is not here has none for anybody."""

_STANDING_COLUMNS = {
    "client_guid": "string",
    "created_at": "long",
    "updated_at": "long",
    "deleted_at": "long",
}
_COLUMN_TYPES = {
    "string": "VARCHAR",
    "int": "INTEGER",
    "long": "BIGINT",
    "double": "DOUBLE",
    "boolean": "BOOLEAN",
}
_FIRST_UPDATED = 85
_FIRST_DELETED = 97
"""Of a hundred records: these and above happened to older records, the rest were created."""


def write_warehouse(
    path: Path,
    *,
    resources: Sequence[Resource],
    clients: Sequence[DemoClient],
    days: Sequence[SnapshotDate],
    scale: float = 1.0,
) -> int:
    """Write a new database to `path` and give the number of its records.

    `days` run from midnight to midnight in UTC; `scale` multiplies the number of records.
    """
    total = 0
    with duckdb.connect(str(path)) as connection:
        for resource in resources:
            columns = _columns(resource)
            listed = ", ".join(f'"{name}" {_column_type(kind)}' for name, kind in columns.items())
            connection.execute(f'CREATE TABLE "{resource.name}" ({listed})')
            for client in clients:
                records = _records(client, scale)
                if count := records.get(resource.name, 0):
                    connection.execute(_insert(resource.name, columns, client, records, days))
                    total += count * len(days)
    return total


def _records(client: DemoClient, scale: float) -> dict[str, int]:
    """Count the client's records of one day by resource."""
    return {
        resource: max(1, round(records * client.weight * scale))
        for resource, records in RECORDS_A_DAY.items()
        if resource not in client.without
    }


def _columns(resource: Resource) -> dict[str, object]:
    """Give the table's columns and their Avro types without the null branch."""
    columns = {field.name: _without_null(field.avro_type) for field in resource.fields}
    return columns | {name: kind for name, kind in _STANDING_COLUMNS.items() if name not in columns}


def _without_null(avro_type: object) -> object:
    if isinstance(avro_type, list):
        return next(branch for branch in avro_type if branch != "null")
    return avro_type


def _column_type(kind: object) -> str:
    return "VARCHAR[]" if isinstance(kind, dict) else _COLUMN_TYPES[str(kind)]


def _insert(
    resource: str,
    columns: Mapping[str, object],
    client: DemoClient,
    records: Mapping[str, int],
    days: Sequence[SnapshotDate],
) -> str:
    count = records[resource]
    totals = {name: number * len(days) for name, number in records.items()}
    values = ", ".join(value(resource, name, kind, totals) for name, kind in columns.items())
    starts = ", ".join(f"{window(day, ZoneInfo('UTC')).start}::BIGINT" for day in days)
    # Analytics are only ever written, never changed.
    event = "0" if resource.startswith("analytics") else f"{roll('event')} % 100"
    return f"""
        INSERT INTO "{resource}" SELECT {values} FROM (
            SELECT *,
                CASE WHEN event < {_FIRST_UPDATED} THEN moment
                     ELSE moment - 86400 * (3 + ({roll("age")} % 400)::BIGINT) END AS row_created,
                CASE WHEN event BETWEEN {_FIRST_UPDATED} AND {_FIRST_DELETED - 1} THEN moment
                     WHEN event BETWEEN 1 AND 8 THEN least(moment + 900, day_start + 86399)
                     ELSE row_created END AS row_updated,
                CASE WHEN event >= {_FIRST_DELETED} THEN moment END AS row_deleted
            FROM (
                SELECT *, day_start + ({roll("moment")} % 86400)::BIGINT AS moment, {event} AS event
                FROM (
                    SELECT number, '{client.guid}' AS row_client,
                        hash('{client.guid}{resource}', number) AS key,
                        [{starts}][1 + number // {count}] AS day_start
                    FROM range({count * len(days)}) AS numbers(number)
                )
            )
        )"""  # noqa: S608 - every part is a constant of this package
