"""Columns, client and row count of whatever a source hands out, checked while it passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import pyarrow as pa
import pyarrow.compute as pc

from mxdeliver.core.errors import RecordInvalid, SourceIncomplete, SourceSchema, peer_text
from mxdeliver.core.model import EndOfStream, Resource

CLIENT_COLUMN = "client_guid"
_NAMED = 8
"""So many columns are named; a table that is quite another one lacks fifty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the schema's columns and the client's guid are found in what a query gives."""

    names: tuple[str, ...]
    places: tuple[int, ...]
    client_place: int


def fit(resource: Resource, columns: Sequence[str], where: str) -> Layout:
    """Fit a query's columns to the schema; SourceSchema names what is missing, extra or double."""
    names = tuple(field.name for field in resource.fields)
    wanted = dict.fromkeys((*names, CLIENT_COLUMN))
    places = {name: place for place, name in enumerate(columns)}
    missing = [name for name in wanted if name not in places]
    extra = [name for name in dict.fromkeys(columns) if name not in wanted]
    double = [name for name, times in Counter(columns).items() if times > 1 and name in wanted]
    wrong = (
        _said([f"{name}{_near(name, extra)}" for name in missing], "missing"),
        _said([peer_text(name, 60) for name in extra], "not in the schema"),
        _said(double, "there more than once"),
    )
    if any(wrong):
        raise SourceSchema(f"{where}: {'; '.join(filter(None, wrong))}")
    return Layout(
        names=names,
        places=tuple(places[name] for name in names),
        client_place=places[CLIENT_COLUMN],
    )


def missing_columns(wanted: Iterable[str], columns: Sequence[str], where: str) -> None:
    """Raise SourceSchema naming the wanted columns that a relation lacks; case does not matter."""
    present = {name.casefold() for name in columns}
    names = {name.casefold(): name for name in wanted}
    others = [name for name in columns if name.casefold() not in names]
    missing = [f"{name}{_near(name, others)}" for key, name in names.items() if key not in present]
    if missing:
        raise SourceSchema(f"{where}: {_said(missing, 'missing')}")


def _said(names: Sequence[str], what: str) -> str:
    """Say what some columns are, naming the first few; empty where there are none."""
    if len(names) < 2:
        return f"column {names[0]} is {what}" if names else ""
    if len(names) > _NAMED:
        return f"columns {', '.join(names[:_NAMED])} and {len(names) - _NAMED} more are {what}"
    return f"columns {', '.join(names[:-1])} and {names[-1]} are {what}"


def _near(name: str, candidates: Sequence[str]) -> str:
    lowered = {candidate.casefold(): candidate for candidate in candidates}
    near = get_close_matches(name.casefold(), list(lowered), n=1, cutoff=0.75)
    return f" (there is {peer_text(lowered[near[0]], 60)})" if near else ""


def checked(
    batches: Iterable[pa.RecordBatch],
    resource: Resource,
    client_guid: str,
    where: str,
    expected_rows: int | None,
) -> Iterator[pa.RecordBatch | EndOfStream]:
    """Yield the batches in the schema's form, then EndOfStream.

    Raises SourceSchema, RecordInvalid for a row of another client, SourceIncomplete when the rows
    are not `expected_rows`, the source's own count (None: it has none but the end of its rows).
    """
    layout: Layout | None = None
    client = pa.scalar(client_guid, pa.string())
    encoded = False
    rows = 0
    for batch in batches:
        if layout is None:
            layout = fit(resource, batch.schema.names, where)
            encoded = any(map(pa.types.is_dictionary, batch.schema.types))
        _refuse_other_clients(batch.column(layout.client_place), client, where)
        rows += batch.num_rows
        if batch.num_rows:
            yield _decoded(batch, layout) if encoded else batch.select(layout.places)
    if expected_rows is not None and rows != expected_rows:
        raise SourceIncomplete(f"{where}: {rows} rows came where {expected_rows} were counted")
    yield EndOfStream(rows=rows)


def _decoded(batch: pa.RecordBatch, layout: Layout) -> pa.RecordBatch:
    columns = [_plain(batch.column(place)) for place in layout.places]
    return pa.RecordBatch.from_arrays(columns, names=layout.names)


def _refuse_other_clients(column: pa.Array, client: pa.Scalar, where: str) -> None:
    column = _plain(column)
    if pa.types.is_null(column.type):
        same = len(column) == 0
    elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        same = pc.all(pc.equal(column, client), skip_nulls=False, min_count=0).as_py() is True
    else:
        raise SourceSchema(f"{where}: column {CLIENT_COLUMN} must be text, it is {column.type}")
    if not same:
        raise RecordInvalid(f"{where}: a row has another client's {CLIENT_COLUMN}, or none")


def _plain(column: pa.Array) -> pa.Array:
    """Give an enum's text instead of places in a dictionary, which may differ from batch to batch."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
