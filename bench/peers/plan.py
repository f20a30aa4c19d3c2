"""What the scripts are told: the source, the day, the schemas, the server, and the clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVENTS = ("created", "updated", "deleted")


@dataclass(frozen=True, kw_only=True)
class DailyFile:
    """One file of the day: the query for its records, its parameters, its schema and its name."""

    resource: str
    event: str
    sql: str
    schema: dict[str, Any]
    fields: list[str]
    name: str


class Plan:
    """A plan as it was read."""

    def __init__(self, path: str) -> None:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        self.document: dict[str, Any] = document
        self.database: str = document.get("database", ":memory:")
        self.day: str = document["day"]
        self.clients: list[dict[str, str]] = document["clients"]
        self.schemas = {name: json.loads(text) for name, text in document["schemas"].items()}

    def files(self, client: str) -> Iterator[DailyFile]:
        """Yield the files of a client's day."""
        for event in EVENTS:
            for resource, schema in self.schemas.items():
                fields = [field["name"] for field in schema["fields"]]
                yield DailyFile(
                    resource=resource,
                    event=event,
                    sql=self._sql(resource, event, fields, client),
                    schema=schema,
                    fields=fields,
                    name=f"{client}.{self.day}.{resource}.{event}.avro.pgp",
                )

    def manifest_name(self, client: str) -> str:
        """Give the name of a client's manifest."""
        return f"{client}.{self.day}-manifest.csv.pgp"

    def _sql(self, resource: str, event: str, fields: list[str], client: str) -> str:
        relation = self.document.get("views", {}).get(resource, f'"{resource}"')
        listed = ", ".join(f'"{name}"' for name in fields)
        column = f"{event}_at"
        later = " AND updated_at > created_at" if event == "updated" else ""
        return (
            f"SELECT {listed} FROM {relation} WHERE client_guid = '{client}' "
            f"AND {column} >= {self.document['start']} AND {column} < {self.document['end']}{later} "
            f"ORDER BY {column}, guid"
        )
