"""The SQL: default queries over one relation per resource, and the vetting of a user's own.

Default queries run over slices of the window whose sorted results concatenate (`slices`). What they
are ordered and cut by is one binary key that DuckDB makes of the event's time and the guid, with all
its fraction and whatever its type; nulls are last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import duckdb

from mxdeliver.core.calendar import Window
from mxdeliver.core.errors import SourceSchema, peer_text
from mxdeliver.core.model import EventType, Resource
from mxdeliver.edge.sources.checked import CLIENT_COLUMN
from mxdeliver.edge.sources.passing import KEY, SECOND, TIE
from mxdeliver.edge.sources.slices import Part

EVENT_COLUMNS: Mapping[EventType, str] = {
    EventType.CREATED: "created_at",
    EventType.UPDATED: "updated_at",
    EventType.DELETED: "deleted_at",
}
CLIENT_VARIABLE = "mxdeliver_client_of_this_query"
"""A variable of DuckDB's, for a query that is bound once and run for one client after the other."""
PARAMETERS = ("client_guid", "window_start", "window_end")

_WHOLE_NUMBER = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|DECIMAL\([0-9]+,0\)")


class TimeForm(Enum):
    """How a relation keeps the times of its events."""

    SECONDS = "Unix seconds"
    TIMESTAMP = "timestamp, meaning UTC"
    ZONED = "timestamp with time zone"
    TEXT = "text, as a CSV or JSON column without any value is read"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventTime:
    """A relation's column that tells when an event happened; SQL terms for comparing it."""

    column: str
    form: TimeForm

    def at(self, second: int) -> str:
        """Give the term for a Unix second in the column's own type, so that the column is not cast."""
        if self.form is TimeForm.SECONDS:
            return str(second)
        if self.form is TimeForm.ZONED:
            return f"to_timestamp({second})"
        return f"make_timestamp({second * 1_000_000})"

    def between(self, start: int, end: int) -> str:
        """Give the condition for start <= time < end; a column of text holds nothing at all."""
        if self.form is TimeForm.TEXT:
            return "false"
        return f"({self.column} >= {self.at(start)} and {self.column} < {self.at(end)})"

    def later_than(self, other: EventTime) -> str:
        """Give the condition that this time is after `other`'s, or that the other has none."""
        if TimeForm.TEXT in {self.form, other.form}:
            return "true"
        left, right = self.column, other.column
        if self.form is not other.form:
            left, right = self.microseconds(), other.microseconds()
        return f"({other.column} is null or {left} > {right})"

    def microseconds(self) -> str:
        """Give the term for the time in Unix microseconds."""
        if self.form is TimeForm.SECONDS:
            return f"({self.column}::hugeint * 1000000)"
        return f"epoch_us({self.column})"

    def second(self) -> str:
        """Give the term for the time in whole Unix seconds."""
        if self.form is TimeForm.SECONDS:
            return f"{self.column}::bigint"
        return f"(epoch_us({self.column}) // 1000000)"


def time_form(column_type: str) -> TimeForm | None:
    """Tell what a DuckDB column type makes of a time; None where it makes none."""
    if _WHOLE_NUMBER.fullmatch(column_type):
        return TimeForm.SECONDS
    if column_type == "TIMESTAMP WITH TIME ZONE":
        return TimeForm.ZONED
    if column_type in {"TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"}:
        return TimeForm.TIMESTAMP
    if column_type in {"VARCHAR", "JSON", '"NULL"', "NULL"}:
        return TimeForm.TEXT
    return None


def quoted(name: str) -> str:
    """Quote an identifier."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """One resource's table or view, with the event times that its default queries need.

    It is `bare` where it has no other columns than these, the schema's and the client's.
    """

    resource: Resource
    times: Mapping[str, EventTime]
    bare: bool

    @property
    def lasting(self) -> bool:
        """Tell whether the catalog alone says so; that a column of text is empty, rows have said."""
        return all(time.form is not TimeForm.TEXT for time in self.times.values())

    def condition(self, event: EventType, window: Window) -> str:
        """Give the condition under which a row belongs to the event's file."""
        time = self.times[EVENT_COLUMNS[event]]
        inside = time.between(window.start, window.end)
        if event is not EventType.UPDATED:
            return inside
        return f"({inside} and {time.later_than(self.times['created_at'])})"

    def count(self, events: Sequence[EventType], window: Window) -> str:
        """Give the query for the number of rows of each event, in one pass."""
        counts = ", ".join(f"count(*) filter ({self.condition(one, window)})" for one in events)
        return f"select {counts} from {self._from()}"  # noqa: S608 - names are quoted

    def seconds(self, event: EventType, window: Window) -> str:
        """Give the query for the number of rows of an event by Unix second, in their order."""
        return (
            f"select {self._second(event)} as {quoted(SECOND)}, count(*) from {self._from()}"  # noqa: S608 - names are quoted
            f" and {self.condition(event, window)} group by all order by all"
        )

    def rows(self, event: EventType, part: Part) -> str:
        """Give the query for the rows themselves; `values` gives what to bind.

        Ordered by the key; where it is equal, by a hash of the row, so that threads and batches
        never decide.
        """
        return (
            f"select {self._columns()} from {self._from()} and {self._within(event, part)}"  # noqa: S608 - names are quoted
            f" order by {self._key(event)}, {self._tie()}"
        )

    def seconds_as_they_lie(self, event: EventType, window: Window) -> str:
        """Give the query for the Unix second of each row of an event, in the order they lie in."""
        return (
            f"select {self._second(event)} as {quoted(SECOND)} from {self._from()}"  # noqa: S608 - names are quoted
            f" and {self.condition(event, window)}"
        )

    def rows_as_they_lie(self, event: EventType, window: Window) -> str:
        """Give the query for the rows in the order they lie in, each with what `rows` orders by."""
        return (
            f"select {self._columns()}, {self._key(event)} as {quoted(KEY)}, "  # noqa: S608 - names are quoted
            f"{self._tie()} as {quoted(TIE)}, {self._second(event)} as {quoted(SECOND)} "
            f"from {self._from()} and {self.condition(event, window)}"
        )

    def rows_together(self, events: Sequence[EventType], window: Window) -> str:
        """Give the query for the rows of several events, in any order and under the relation's names.

        Each has the key of every event that it belongs to, else null, as the last columns. A star is
        read and bound in less time than so many names. The client is that of CLIENT_VARIABLE.
        """
        client = f"getvariable('{CLIENT_VARIABLE}')"
        conditions = [self.condition(event, window) for event in events]
        keys = ", ".join(
            f"case when {condition} then {self._key(event)} end as {quoted(KEY + event)}"
            for event, condition in zip(events, conditions, strict=True)
        )
        columns = "*" if self.bare else ", ".join(map(quoted, self.columns()))
        return f"select {columns}, {keys} from {self._from(client)} and ({' or '.join(conditions)})"  # noqa: S608 - names are quoted

    def columns(self) -> list[str]:
        """Give the columns of a stream: the schema's and the client's."""
        return list(dict.fromkeys([*(field.name for field in self.resource.fields), CLIENT_COLUMN]))

    def key_at(self, event: EventType, part: Part, rows: int) -> str:
        """Give the query for the key of a part's nth row, of its last where it has fewer.

        It holds n keys at most, however many rows there are.
        """
        return (
            f"select list_last(min({self._key(event)}, {rows})) from {self._from()}"  # noqa: S608 - names are quoted
            f" and {self._within(event, part)}"
        )

    def _within(self, event: EventType, part: Part) -> str:
        conditions = [self.condition(event, part.window)]
        if part.after is not None:
            conditions.append(f"{self._key(event)} > $after")
        if part.last is not None:
            conditions.append(f"{self._key(event)} <= $last")
        return " and ".join(conditions)

    def _columns(self) -> str:
        return ", ".join(f"{quoted(name)} as {quoted(name)}" for name in self.columns())

    def _second(self, event: EventType) -> str:
        return self.times[EVENT_COLUMNS[event]].second()

    def _tie(self) -> str:
        """Give the term that orders rows of one key, whichever batch or thread they came in."""
        return f"hash({', '.join(quoted(field.name) for field in self.resource.fields)})"

    def _key(self, event: EventType) -> str:
        """Give the term for the key: of the event's time, and of `guid` or the schema's first field."""
        names = [field.name for field in self.resource.fields]
        second = "guid" if "guid" in names else names[0]
        time = self.times[EVENT_COLUMNS[event]].column
        order = "'asc nulls last'"
        return f"create_sort_key({time}, {order}, {quoted(second)}, {order})"

    def _from(self, client: str = "$client_guid") -> str:
        # the cast costs nothing on text, and lets a UUID or enum column be compared
        return f"{quoted(self.resource.name)} where {quoted(CLIENT_COLUMN)}::varchar = {client}"


def values(client_guid: str, part: Part | None = None) -> dict[str, object]:
    """Give the values to bind in a default query, of a part or of the whole window."""
    keys = {} if part is None else {"after": part.after, "last": part.last}
    return {"client_guid": client_guid} | {
        name: key for name, key in keys.items() if key is not None
    }


def needed_times(events: Iterable[EventType]) -> list[str]:
    """Give the columns that the default queries for these events compare."""
    columns = [EVENT_COLUMNS[event] for event in events]
    if EventType.UPDATED in events and "created_at" not in columns:
        columns.append("created_at")
    return columns


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnQuery:
    """A user's own query and those of the parameters that it mentions."""

    sql: str
    parameters: frozenset[str]

    def values(self, client_guid: str, window: Window) -> dict[str, object]:
        """Give the values to bind."""
        values: dict[str, object] = {
            "client_guid": client_guid,
            "window_start": window.start,
            "window_end": window.end,
        }
        return {name: values[name] for name in self.parameters}


def vet(connection: duckdb.DuckDBPyConnection, sql: str, where: str) -> OwnQuery:
    """Accept a single SELECT that asks for the client; SourceSchema for anything else."""
    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        first_line = peer_text(str(error).partition("\n")[0])
        raise SourceSchema(f"{where}: the query cannot be read: {first_line}") from error
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise SourceSchema(f"{where}: the query must be a single SELECT")
    parameters = frozenset(statements[0].named_parameters)
    unknown = sorted(parameters - set(PARAMETERS))
    if unknown:
        known = ", ".join(f"${name}" for name in PARAMETERS)
        raise SourceSchema(f"{where}: there is no parameter ${unknown[0]}; there are {known}")
    if "client_guid" not in parameters:
        raise SourceSchema(f"{where}: the query must choose its rows by $client_guid")
    return OwnQuery(sql=statements[0].query.rstrip().rstrip(";"), parameters=parameters)
