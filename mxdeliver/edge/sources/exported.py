"""Columns before any row is read: those that the schema needs, and types of which Arrow keeps all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from duckdb.sqltypes import DuckDBPyType

from mxdeliver.core.errors import SourceSchema, peer_text
from mxdeliver.core.model import Resource
from mxdeliver.edge.sources import checked

Columns: TypeAlias = Sequence[tuple[str, DuckDBPyType]]

_LOSSY = {
    "uhugeint": "whose numbers from 2**127 on would come out negative: cast it to HUGEINT or VARCHAR",
    "time with time zone": "whose offset would be lost: cast it to TIME or VARCHAR",
    "bit": "which would come out in a form of DuckDB's own: cast it to VARCHAR or BLOB",
}
_NESTED = frozenset({"list", "array", "struct", "map", "union"})


def fit_query(resource: Resource, columns: Columns, where: str) -> None:
    """Raise SourceSchema where a query of the user's own gives other columns than the schema's."""
    checked.fit(resource, [name for name, _ in columns], where)
    refuse_lossy(columns, where)


def fit_relation(
    resource: Resource, wanted: Sequence[str], columns: Columns, where: str
) -> Mapping[str, DuckDBPyType]:
    """Give the types of a relation's columns by their names in lower case.

    Raises SourceSchema where one that is wanted is missing, or a field's type loses something.
    """
    fields = [field.name for field in resource.fields]
    _refuse_alike(fields, where)
    checked.missing_columns(wanted, [name for name, _ in columns], where)
    types = {name.casefold(): column_type for name, column_type in columns}
    refuse_lossy([(name, types[name.casefold()]) for name in fields], where)
    return types


def _refuse_alike(fields: Sequence[str], where: str) -> None:
    names: dict[str, str] = {}
    for name in fields:
        other = names.setdefault(name.casefold(), name)
        if other != name:
            raise SourceSchema(
                f"{where}: fields {other} and {name} differ in case alone, and columns of a table "
                "cannot: give this resource queries of its own"
            )


def refuse_lossy(columns: Iterable[tuple[str, DuckDBPyType]], where: str) -> None:
    """Raise SourceSchema for a column of a type that loses something, or that holds one."""
    for name, column_type in columns:
        for inner in _types(column_type):
            if inner.id in _LOSSY:
                raise SourceSchema(
                    f"{where}: column {peer_text(name, 60)} is of type {inner}, {_LOSSY[inner.id]}"
                )


def _types(column_type: DuckDBPyType) -> Iterator[DuckDBPyType]:
    """Give a type and all types within it."""
    yield column_type
    if column_type.id in _NESTED:
        for _, child in column_type.children:
            if isinstance(child, DuckDBPyType):
                yield from _types(child)
