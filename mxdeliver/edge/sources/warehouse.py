"""The embedded source: a DuckDB database file, views over Parquet, CSV and JSON files, or both.

DuckDB here never spills to disk, loads no extension, sees no Python variable, and reads no file but
those that the configuration names. Each snapshot has a DuckDB to itself, in memory, with the database
attached read-only: clients are delivered side by side, and each must see the file as it is when its own
delivery begins. To make such a DuckDB takes as long as a small client's whole day, so one that ended
well is used again, with what it knows of a file that is still the same. Attaching takes a tenth of that:
where the next day is about to come (`linger`) it keeps the database, too, unless it is another one then.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress

import duckdb

from mxdeliver.core.errors import MxdeliverError, SourceIncomplete
from mxdeliver.core.model import EventType, Resource, SourceSettings
from mxdeliver.edge.sources.engines import Engine
from mxdeliver.edge.sources.failures import FOREIGN_ERRORS, Stage, translate
from mxdeliver.edge.sources.files import Files, database_files, with_absolute_files
from mxdeliver.edge.sources.known import Known
from mxdeliver.edge.sources.queries import OwnQuery, quoted, vet
from mxdeliver.edge.sources.settings import parse_options
from mxdeliver.edge.sources.slices import SliceSize
from mxdeliver.edge.sources.snapshot import DuckDBSnapshot

BATCH_ROWS = 4096
"""As many as are encoded at a time; more of them would only be held for longer."""
FIRST_SLICE_ROWS = 2500
"""Few enough to fit where each row has 10 kB of text; how much they have is not yet known."""
SLICE_SHARE = 5
"""A slice aims at this part of the memory limit: sorting holds its values more than once, beside what
of a file is unpacked."""

_FRUGAL = {
    "allocator_flush_threshold": "8MB",
    "allocator_bulk_deallocation_flush_threshold": "8MB",
    "disable_parquet_prefetching": "true",
    "streaming_buffer_size": "1MB",
}
"""What DuckDB holds beside its memory limit: memory that it freed, a row group's columns read ahead,
results waiting to be taken. Smaller, they cost no time and save a fifth of what a large file takes."""

_Key = tuple[str, EventType]


class DuckDBSource:
    """See `sources.Source` for the contract. Rows and bytes of batches and slices are for tests."""

    def __init__(
        self,
        settings: SourceSettings,
        *,
        batch_rows: int = BATCH_ROWS,
        slice_rows: int = FIRST_SLICE_ROWS,
        slice_bytes: int | None = None,
        few_rows: int | None = None,
    ) -> None:
        self._settings = settings
        self._options = parse_options(settings)
        self._batch_rows = batch_rows
        self._slice_size = SliceSize(
            first_rows=slice_rows, bytes=slice_bytes or self._options.memory_bytes // SLICE_SHARE
        )
        self._few_rows = slice_rows if few_rows is None else few_rows
        self._idle: deque[Engine] = deque()
        self._lingers = False

    def snapshot(self) -> AbstractContextManager[DuckDBSnapshot]:
        """Hold one state of the data, in one read transaction."""
        return self._snapshot()

    def linger(self) -> None:
        """Keep the database attached from one snapshot to the next: see `sources.Lingering`."""
        self._lingers = True

    def let_go(self) -> None:
        """Let others write to the database, until the next snapshot."""
        for _ in range(len(self._idle)):
            engine = self._idle.popleft()
            try:
                engine.let_go()
            except duckdb.Error:
                engine.connection.close()
            else:
                self._idle.append(engine)

    def check(self, resources: Sequence[Resource]) -> None:
        """Raise the first of `problems`."""
        for problem in self.problems(resources):
            raise problem

    def problems(self, resources: Sequence[Resource]) -> list[MxdeliverError]:
        """Open the source and fit every resource's queries to its schema, reading no records."""
        found: dict[str, MxdeliverError] = {}
        try:
            with self._snapshot() as snapshot:
                for resource in resources:
                    for event in EventType:
                        try:
                            snapshot.fit(resource, event)
                        except MxdeliverError as error:
                            found.setdefault(str(error), error)
        except MxdeliverError as error:
            found.setdefault(str(error), error)
        return list(found.values())

    @contextmanager
    def _snapshot(self) -> Iterator[DuckDBSnapshot]:
        engine = self._take()
        connection = engine.connection
        ended_well = False
        try:
            is_same = engine.files.remember()
            if not is_same:
                engine.known.forget()
            if engine.database != self._real_path():
                raise SourceIncomplete(f"source {self._settings.name}: its database was replaced")
            self._attach(engine, anew=not is_same)
            failed_views = self._create_views(connection, engine.views)
            self._begin(connection)
            snapshot = DuckDBSnapshot(
                connection,
                name=self._settings.name,
                files=engine.files,
                known=engine.known,
                own_queries=engine.own_queries,
                failed_views=failed_views,
                batch_rows=self._batch_rows,
                slice_size=self._slice_size,
                few_rows=self._few_rows,
            )
            yield snapshot
            snapshot.close()
            engine.files.refuse_changes()
            ended_well = True
        finally:
            self._leave(engine, ended_well=ended_well)

    def _take(self) -> Engine:
        """Give a DuckDB that nobody uses; a new one where there is none, or the database has moved."""
        database = self._real_path()
        with suppress(IndexError):
            while (engine := self._idle.pop()).database != database:
                engine.connection.close()
            return engine
        return self._make(database)

    def _real_path(self) -> str | None:
        named = self._options.database
        return None if named is None else os.path.realpath(named)

    def _leave(self, engine: Engine, *, ended_well: bool) -> None:
        """Keep a DuckDB for the next snapshot, or end it.

        One that has views, or has read other files, may have kept something of them.
        """
        if ended_well and engine.database and not (engine.views or engine.patterns):
            with suppress(duckdb.Error):
                engine.connection.execute("rollback")
                if not self._lingers:
                    engine.let_go()
                self._idle.append(engine)
                return
        engine.connection.close()

    def _make(self, database: str | None) -> Engine:
        connection = self._connect()
        try:
            own_queries, views, patterns = self._read_sql(connection)
            files = self._files(connection, patterns)
            self._lock(connection, files, database)
        except BaseException:
            connection.close()
            raise
        return Engine(
            database=database,
            connection=connection,
            files=files,
            known=Known(connection=connection),
            own_queries=own_queries,
            views=views,
            patterns=patterns,
        )

    def _files(self, connection: duckdb.DuckDBPyConnection, patterns: frozenset[str]) -> Files:
        return Files(
            connection.cursor(),
            source=self._settings.name,
            database=self._options.database,
            patterns=patterns,
        )

    def _connect(self) -> duckdb.DuckDBPyConnection:
        where = f"source {self._settings.name}"
        try:
            connection = duckdb.connect(
                ":memory:",
                config={
                    "temp_directory": "",
                    "memory_limit": self._options.memory_limit,
                    "threads": str(self._options.threads),
                    "autoinstall_known_extensions": "false",
                    "autoload_known_extensions": "false",
                    "python_enable_replacements": "false",
                },
            )
        except FOREIGN_ERRORS as error:
            raise translate(error, Stage.OPEN, where) from error
        # In a Python that looks interactive it would print how far a long query has come.
        with suppress(duckdb.Error):
            connection.execute("set enable_progress_bar = false")
        # Only icu has the setting. Without icu DuckDB knows no zone but UTC.
        with suppress(duckdb.Error):
            connection.execute("set TimeZone = 'UTC'")
        for name, value in _FRUGAL.items():
            with suppress(duckdb.Error):  # some versions lack one
                connection.execute(f"set {name} = '{value}'")
        return connection

    def _read_sql(
        self, connection: duckdb.DuckDBPyConnection
    ) -> tuple[
        dict[_Key, OwnQuery | MxdeliverError], dict[str, str | MxdeliverError], frozenset[str]
    ]:
        """Give the own queries and views with absolute file names, or what is wrong with each."""
        patterns: set[str] = set()
        own_queries: dict[_Key, OwnQuery | MxdeliverError] = {}
        for resource, by_event in self._settings.queries.items():
            for event, sql in by_event.items():
                where = f"source {self._settings.name}: {resource} {event}"
                try:
                    vetted = vet(connection, sql, where)
                    named = with_absolute_files(
                        connection, vetted.sql, self._settings.folder, where
                    )
                    own_queries[resource, event] = OwnQuery(
                        sql=named.sql, parameters=vetted.parameters
                    )
                    patterns.update(named.patterns)
                except MxdeliverError as error:
                    own_queries[resource, event] = error
        views: dict[str, str | MxdeliverError] = {}
        for name, expression in self._options.views.items():
            where = f"source {self._settings.name}: view {name}"
            try:
                named = with_absolute_files(
                    connection,
                    f"select * from {expression}",  # noqa: S608 - the configuration's own SQL
                    self._settings.folder,
                    where,
                )
                views[name] = named.sql
                patterns.update(named.patterns)
            except MxdeliverError as error:
                views[name] = error
        return own_queries, views, frozenset(patterns)

    def _attach(self, engine: Engine, *, anew: bool) -> None:
        try:
            if anew:
                engine.let_go()
            engine.attach()
        except FOREIGN_ERRORS as error:
            where = f"source {self._settings.name}: {self._options.database}"
            raise translate(error, Stage.OPEN, where) from error

    def _create_views(
        self, connection: duckdb.DuckDBPyConnection, views: Mapping[str, str | MxdeliverError]
    ) -> dict[str, MxdeliverError]:
        """Create what can be created; what cannot fails the resource of that name, not the others."""
        failed: dict[str, MxdeliverError] = {}
        for name, sql in views.items():
            if isinstance(sql, MxdeliverError):
                failed[name] = sql
                continue
            try:
                connection.execute(f"create temp view {quoted(name)} as {sql}")
            except FOREIGN_ERRORS as error:
                where = f"source {self._settings.name}: view {name}"
                failed[name] = translate(error, Stage.VIEW, where)
        return failed

    def _lock(
        self, connection: duckdb.DuckDBPyConnection, files: Files, database: str | None
    ) -> None:
        try:
            files.restrict([] if database is None else database_files(database))
            connection.execute("set lock_configuration = true")
        except FOREIGN_ERRORS as error:
            raise translate(error, Stage.OPEN, f"source {self._settings.name}") from error

    def _begin(self, connection: duckdb.DuckDBPyConnection) -> None:
        try:
            connection.execute("begin transaction read only")
        except FOREIGN_ERRORS as error:
            raise translate(error, Stage.OPEN, f"source {self._settings.name}") from error
