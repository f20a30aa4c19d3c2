"""Where records come from: one consistent snapshot of a client's day as Arrow record batches.

    settings      what the configuration may say about a DuckDB source
    warehouse     the source itself: opens DuckDB so that it neither spills nor reaches further
                  than the configuration says
    engines       a DuckDB of the source's own, and the database that it has attached
    snapshot      all streams of one delivery, out of one state of the data
    known         what was found out about a database file, for the next client
    queries       the SQL: default queries, the vetting of a user's own
    together      the few rows of a day, read once for all its events
    passing       rows that lie in order already: ordered as they pass
    slices        how much of the window is sorted at once, within the memory limit
    files         which files are behind it, and whether they changed meanwhile
    exported      columns before any row is read: those that are needed, types that Arrow keeps whole
    checked       columns, client and row count of whatever a source hands out
    failures      DuckDB's errors in the words of core.errors

Turning values into Avro is not done here: columns keep the types that the source gave them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, cast, runtime_checkable

import pyarrow as pa

from mxdeliver.core.calendar import Window
from mxdeliver.core.errors import ConfigInvalid, MxdeliverError
from mxdeliver.core.model import EndOfStream, EventType, Resource, SourceSettings

ENTRY_POINT_GROUP = "mxdeliver.sources"


class Snapshot(Protocol):
    """One state of a source; every stream taken from it sees the same data."""

    def stream(
        self, resource: Resource, event: EventType, client_guid: str, window: Window
    ) -> Iterator[pa.RecordBatch | EndOfStream]:
        """Yield the records of one daily file in a stable order, and last one EndOfStream.

        Batches hold exactly the schema's columns in the schema's order, and `client_guid` was
        compared with the client's on every row. A stream without EndOfStream is incomplete. One
        stream is open at a time: taking the next one ends the one before.
        """
        ...

    def interrupt(self) -> None:
        """Make a query that runs at this moment fail soon; called from another thread.

        Where none runs it does nothing, and may be called again. Afterwards the snapshot is only
        left.
        """
        ...


class Source(Protocol):
    """Something that holds clients' records. Opening one does no I/O; each use of it does."""

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """Hold one state of the data. May be used from several threads, each with its own.

        Leaving it without an exception raises SourceIncomplete where the data changed meanwhile, so
        nothing may be sealed before that.
        """
        ...

    def check(self, resources: Sequence[Resource]) -> None:
        """Raise the first of `problems`."""
        ...

    def problems(self, resources: Sequence[Resource]) -> list[MxdeliverError]:
        """Open the source and fit every resource's queries to its schema, reading no records."""
        ...


@runtime_checkable
class Lingering(Protocol):
    """A source that can stay at its data while the next snapshot is about to come.

    As long as it does nobody else may write to them, so whoever lets it linger tells it to let go
    when nothing has come for a while.
    """

    def linger(self) -> None:
        """Stay at the data between snapshots from now on."""
        ...

    def let_go(self) -> None:
        """Leave the data until the next snapshot."""
        ...


def open_source(settings: SourceSettings) -> Source:
    """Give the source that `settings` describe; ConfigInvalid when its type or options are wrong."""
    if settings.type == "duckdb":
        from mxdeliver.edge.sources.warehouse import (  # noqa: PLC0415 - duckdb takes its time to load
            DuckDBSource,
        )

        return DuckDBSource(settings)
    if settings.type == "adbc":
        raise ConfigInvalid(
            f"source {settings.name}: type adbc is not available in this version; use duckdb"
        )
    registered = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if settings.type not in registered:
        known = ", ".join(sorted({"duckdb", *registered}))
        raise ConfigInvalid(
            f"source {settings.name}: there is no type {settings.type!r}; there are: {known}"
        )
    return _registered(registered[settings.type])(settings)


def _registered(point: EntryPoint) -> Callable[[SourceSettings], Source]:
    try:
        return cast("Callable[[SourceSettings], Source]", point.load())
    except (ImportError, AttributeError) as error:
        raise ConfigInvalid(
            f"the source type {point.name} is registered as {point.value}, which cannot be loaded: "
            f"{type(error).__name__}"
        ) from error
