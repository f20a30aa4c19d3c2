"""All streams of one delivery, out of one state of a DuckDB database and its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import duckdb
import pyarrow as pa

from mxdeliver.core.calendar import Window
from mxdeliver.core.errors import (
    MxdeliverError,
    NeedsPerson,
    SourceIncomplete,
    SourceMemory,
    SourceSchema,
)
from mxdeliver.core.model import EndOfStream, EventType, Resource
from mxdeliver.edge.sources import passing
from mxdeliver.edge.sources.checked import CLIENT_COLUMN, checked
from mxdeliver.edge.sources.exported import Columns, fit_query, fit_relation, refuse_lossy
from mxdeliver.edge.sources.failures import FOREIGN_ERRORS, Stage, translate
from mxdeliver.edge.sources.files import Files
from mxdeliver.edge.sources.known import Known
from mxdeliver.edge.sources.queries import (
    EventTime,
    OwnQuery,
    Relation,
    TimeForm,
    needed_times,
    quoted,
    time_form,
    values,
)
from mxdeliver.edge.sources.slices import Part, Slices, SliceSize
from mxdeliver.edge.sources.together import BATCH_ROWS, HELD_BYTES, Day

_Key = tuple[str, EventType]
_SECONDS_ROWS = 1 << 16
_WEIGHED_ROWS = 64
_PASSING_ROWS = 1024
_PASSING_BYTES = 4 << 20
"""Rows that pass are read so many at a time, and wait up to so many bytes; wider ones are sorted."""
_WORTH_PASSING_ON = 256 << 10
"""Bytes of a batch below which it waits for the next one."""


class DuckDBSnapshot:
    """Streams from one connection, one at a time. See `sources.Snapshot` for the contract.

    The rows of a default query are compared with a count of their own from the same transaction. A
    user's own query is not run twice: its count is that of the rows up to the reader's end, which
    DuckDB tells apart from an error.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        *,
        name: str,
        files: Files,
        known: Known,
        own_queries: Mapping[_Key, OwnQuery | MxdeliverError],
        failed_views: Mapping[str, MxdeliverError],
        batch_rows: int,
        slice_size: SliceSize,
        few_rows: int,
    ) -> None:
        self._connection = connection
        self._name = name
        self._files = files
        self._own_queries = own_queries
        self._failed_views = failed_views
        self._batch_rows = batch_rows
        self._slice_size = slice_size
        self._few_rows = few_rows
        self._known = known
        self._relations: dict[str, Relation] = {}
        self._days: dict[tuple[str, str, Window], Day] = {}
        self._reader: pa.RecordBatchReader | None = None
        self._turn = 0

    def stream(
        self, resource: Resource, event: EventType, client_guid: str, window: Window
    ) -> Iterator[pa.RecordBatch | EndOfStream]:
        """Yield the records of one daily file, and last EndOfStream."""
        self._turn += 1
        turn = self._turn
        self.close()
        where = self._where(resource, event)
        own = self._own(resource, event)
        try:
            if own is None:
                day = self._day(resource, client_guid, window)
                expected = day.counts[event]
                batches = self._default_rows(resource, event, client_guid, window, day)
            else:
                expected = None
                batches = self._own_rows(own, client_guid, window, where)
            for item in checked(batches, resource, client_guid, where, expected):
                if isinstance(item, EndOfStream):
                    self._files.refuse_changes()
                yield item
                if turn != self._turn:
                    raise SourceIncomplete(f"{where}: another stream was begun before its end")
        except NeedsPerson as error:
            # a file that is being written looks like a wrong one; only its change tells them apart
            if self._files.changed():
                raise SourceIncomplete(
                    f"{where}: its files changed while they were read"
                ) from error
            raise
        finally:
            if turn == self._turn:
                self.close()

    def fit(self, resource: Resource, event: EventType) -> None:
        """Raise what stands against streaming this resource and event, reading no records."""
        own = self._own(resource, event)
        if own is None:
            self._relation(resource)
            return
        where = self._where(resource, event)
        bound = own.values("", Window(start=0, end=0))
        fit_query(resource, self._columns(own.sql, bound, where), where)

    def interrupt(self) -> None:
        """End the query that runs at this moment; see `sources.Snapshot`."""
        self._connection.interrupt()

    def close(self) -> None:
        """End the open stream, if there is one."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _where(self, resource: Resource, event: EventType | None = None) -> str:
        return f"source {self._name}: {resource.name}" + (f" {event}" if event else "")

    def _own(self, resource: Resource, event: EventType) -> OwnQuery | None:
        own = self._own_queries.get((resource.name, event))
        if isinstance(own, MxdeliverError):
            raise own
        return own

    def _default_events(self, resource: Resource) -> list[EventType]:
        return [event for event in EventType if (resource.name, event) not in self._own_queries]

    def _own_rows(
        self, own: OwnQuery, client_guid: str, window: Window, where: str
    ) -> Iterator[pa.RecordBatch]:
        def bind() -> duckdb.DuckDBPyRelation:
            relation = self._connection.sql(own.sql, params=own.values(client_guid, window))
            refuse_lossy(zip(relation.columns, relation.types, strict=True), where)
            return relation

        return self._run(bind, where, self._batch_rows)

    # -- default queries ---------------------------------------------------------------------------

    def _default_rows(
        self,
        resource: Resource,
        event: EventType,
        client_guid: str,
        window: Window,
        day: Day,
    ) -> Iterator[pa.RecordBatch]:
        count = day.counts[event]
        if count == 0:
            return
        relation = self._relation(resource)
        where = self._where(resource, event)
        self._read_together(relation, event, client_guid, window, day)
        few = day.take(event)
        if few is not None:
            yield few
            return
        if count > self._slice_size.first_rows and self._lie_in_order(
            relation, event, client_guid, window
        ):
            query = relation.rows_as_they_lie(event, window)
            rows = passing.InOrder(
                self._read(query, values(client_guid), where, min(self._batch_rows, _PASSING_ROWS)),
                start=window.start,
                rows=self._batch_rows,
                size=_PASSING_BYTES,
                where=where,
            )
            for batch in rows:
                count -= batch.num_rows
                yield batch
            if rows.rest is None:
                return
            self._begin_again(where)
            window = replace(window, start=rows.rest)
        yield from _gathered(self._sliced(relation, event, client_guid, window, count))

    def _read_together(
        self, relation: Relation, event: EventType, client_guid: str, window: Window, day: Day
    ) -> None:
        """Let the day hold this event's rows, and later events' with them, where all are few."""
        events = day.to_read(event, most_rows=self._few_rows)
        if not events:
            return
        where = self._where(relation.resource, event)
        query = relation.rows_together(events, window)
        room = HELD_BYTES - sum(other.held_bytes for other in self._days.values())
        try:
            day.hold(
                self._run(lambda: self._known.query(query, client_guid), where, BATCH_ROWS),
                events,
                names=relation.columns(),
                room=room,
            )
        except NeedsPerson:
            # of which event, and whether for want of memory, each event's own query tells
            self._begin_again(where)
        finally:
            self.close()

    def _lie_in_order(
        self, relation: Relation, event: EventType, client_guid: str, window: Window
    ) -> bool:
        """Tell whether the rows may pass as they lie: by the plan, by some rows' weight, by all times."""
        where = self._where(relation.resource, event)
        bound = values(client_guid)
        query = relation.rows_as_they_lie(event, window)
        try:
            ((_, plan),) = self._fetch(f"explain (format json) {query}", bound, where)
            if not passing.keeps_order(plan):
                return False
            for batch in self._read(f"{query} limit {_WEIGHED_ROWS}", bound, where, _WEIGHED_ROWS):
                if batch.nbytes * _PASSING_ROWS > _PASSING_BYTES * batch.num_rows:
                    return False
            query = relation.seconds_as_they_lie(event, window)
            batches = self._read(query, bound, where, _SECONDS_ROWS)
            return passing.lie_in_order(batches, most_rows=self._slice_size.first_rows)
        except SourceMemory:
            self._begin_again(where)
            return False
        finally:
            self.close()

    def _sliced(
        self,
        relation: Relation,
        event: EventType,
        client_guid: str,
        window: Window,
        count: int,
    ) -> Iterator[pa.RecordBatch]:
        where = self._where(relation.resource, event)

        def by_second() -> list[tuple[int, int]]:
            query = relation.seconds(event, window)
            # as `seconds` says; a copy would take some megabytes
            return cast("list[tuple[int, int]]", self._fetch(query, values(client_guid), where))

        def key_at(part: Part, rows: int) -> bytes | None:
            query = relation.key_at(event, part, rows)
            ((key,),) = self._fetch(query, values(client_guid, part), where)
            return cast("bytes | None", key)

        parts = Slices(window, count, size=self._slice_size, by_second=by_second, key_at=key_at)
        for part in parts:
            batch_rows = min(self._batch_rows, parts.batch_rows)
            try:
                for batch in self._read(
                    relation.rows(event, part), values(client_guid, part), where, batch_rows
                ):
                    parts.weigh(batch.num_rows, batch.get_total_buffer_size())
                    yield batch
            except SourceMemory:
                self._begin_again(where)
                if not parts.shrink():
                    raise

    def _begin_again(self, where: str) -> None:
        """Leave a transaction that ran out of memory; it takes no further query.

        The next one sees the same: the database is attached read-only to a DuckDB that nobody else
        uses, and files are compared before and after.
        """
        self.close()
        with suppress(duckdb.Error):
            self._connection.execute("rollback")
        self._fetch("begin transaction read only", {}, where)

    def _day(self, resource: Resource, client_guid: str, window: Window) -> Day:
        key = (resource.name, client_guid, window)
        if key not in self._days:
            events = self._default_events(resource)
            query = self._relation(resource).count(events, window)
            statement = self._known.statement(query)
            ((*counts,),) = self._fetch(statement, values(client_guid), self._where(resource))
            self._days[key] = Day(counts=dict(zip(events, counts, strict=True)))
        return self._days[key]

    def _relation(self, resource: Resource) -> Relation:
        if resource.name not in self._relations:
            if resource.name in self._failed_views:
                raise self._failed_views[resource.name]
            known = self._known.relations.get(resource.name)
            if known is None or known.resource != resource:
                known = self._look_at(resource)
            self._relations[resource.name] = known
            if known.lasting:
                self._known.relations[resource.name] = known
        return self._relations[resource.name]

    def _look_at(self, resource: Resource) -> Relation:
        where = self._where(resource)
        columns = self._columns(f"from {quoted(resource.name)}", {}, where)
        times = needed_times(self._default_events(resource))
        wanted = [*(field.name for field in resource.fields), CLIENT_COLUMN, *times]
        types = fit_relation(resource, wanted, columns, where)
        return Relation(
            resource=resource,
            times={name: self._event_time(resource, name, str(types[name])) for name in times},
            bare=len(columns) == len(types) == len({name.casefold() for name in wanted}),
        )

    def _event_time(self, resource: Resource, column: str, column_type: str) -> EventTime:
        where = self._where(resource)
        form = time_form(column_type)
        if form is TimeForm.TEXT and self._fetch(
            f"select 1 from {quoted(resource.name)} where {quoted(column)} is not null limit 1",  # noqa: S608 - quoted
            {},
            where,
        ):
            form = None
        if form is None:
            raise SourceSchema(
                f"{where}: column {column} must hold Unix seconds or timestamps, it is {column_type}"
            )
        return EventTime(column=quoted(column), form=form)

    # -- DuckDB ------------------------------------------------------------------------------------

    def _columns(self, sql: str, bound: Mapping[str, object], where: str) -> Columns:
        try:
            relation = self._connection.sql(sql, params=dict(bound))
            return list(zip(relation.columns, relation.types, strict=True))
        except FOREIGN_ERRORS as error:
            raise translate(error, Stage.BIND, where) from error

    def _fetch(
        self, sql: str | duckdb.Statement, bound: Mapping[str, object], where: str
    ) -> list[tuple[Any, ...]]:
        try:
            found: list[tuple[Any, ...]] = self._connection.execute(sql, dict(bound)).fetchall()
        except FOREIGN_ERRORS as error:
            raise translate(error, Stage.READ, where) from error
        return found

    def _read(
        self, sql: str, bound: Mapping[str, object], where: str, batch_rows: int
    ) -> Iterator[pa.RecordBatch]:
        return self._run(lambda: self._connection.sql(sql, params=dict(bound)), where, batch_rows)

    def _run(
        self, bind: Callable[[], duckdb.DuckDBPyRelation], where: str, batch_rows: int
    ) -> Iterator[pa.RecordBatch]:
        # execute() would hold the whole result; a relation's reader holds a few batches
        try:
            reader = bind().to_arrow_reader(batch_rows)
            self._reader = reader
            batch = _next(reader)
            while batch is not None:
                yield batch
                batch = _next(reader)
        except FOREIGN_ERRORS as error:
            raise translate(error, Stage.READ, where) from error
        self.close()


def _gathered(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Join what is small: what follows costs more for a batch than for its few rows."""
    waiting: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        waiting.append(batch)
        size += batch.get_total_buffer_size()
        if size >= _WORTH_PASSING_ON:
            yield waiting[0] if len(waiting) == 1 else pa.concat_batches(waiting)
            waiting, size = [], 0
    if waiting:
        yield pa.concat_batches(waiting)


def _next(reader: pa.RecordBatchReader) -> pa.RecordBatch | None:
    try:
        return reader.read_next_batch()
    except StopIteration:
        return None
