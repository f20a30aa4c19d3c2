"""The few rows of a day, read once for all its events, and put in order here.

DuckDB takes longer to plan a query over all columns than to read some hundred rows of them. So where
a resource's rows are few they are asked for once, as they lie, each with the key of every event that
it belongs to (`queries`), and sorted by that here. Rows that share a key come in the order of a hash,
which takes long to plan over so many columns: an event that has such rows is left to its own query.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from mxdeliver.core.model import EventType
from mxdeliver.edge.sources.passing import KEY

BATCH_ROWS = 64
MOST_BYTES = 4 << 20
"""Rows that turn out to weigh more are left to each event's own query, which reads them in parts."""
HELD_BYTES = 4 << 20
"""The most that waits for the streams of later events, of all resources."""

_EVENTS = tuple(EventType)


@dataclass(slots=True, kw_only=True)
class Day:
    """How many rows of one resource each event has, and those that are held for its stream."""

    counts: Mapping[EventType, int]
    _held: dict[EventType, pa.RecordBatch] = field(default_factory=dict)
    _apart: set[EventType] = field(default_factory=set)

    def to_read(self, event: EventType, *, most_rows: int) -> list[EventType]:
        """Give the events to `hold` before this one is taken: it and later ones, together few enough.

        None where it is held already, or cannot be.
        """
        events: list[EventType] = []
        rows = 0
        for candidate in _EVENTS[_EVENTS.index(event) :]:
            count = self.counts.get(candidate, 0)
            if count and candidate not in self._held and candidate not in self._apart:
                rows += count
                if rows > most_rows:
                    break
                events.append(candidate)
        return events if event in events else []

    def hold(
        self,
        batches: Iterable[pa.RecordBatch],
        events: Sequence[EventType],
        *,
        names: Sequence[str],
        room: int,
    ) -> None:
        """Hold these events' rows, sorted, in columns of these names; later ones within `room` bytes.

        What cannot be held (rows too heavy, keys that repeat, whatever was raised) is not read
        together again.
        """
        self._apart.update(events)
        rows = _joined(batches)
        if rows is None:
            return
        places = {name.casefold(): place for place, name in enumerate(rows.schema.names)}
        if any(name.casefold() not in places for name in names):
            return  # the file has changed since it was looked at, as each event's own query tells
        columns = rows.select([places[name.casefold()] for name in names]).rename_columns(names)
        for event in events:
            order = _order(rows.column(KEY + event))
            if order is None:
                continue
            self._apart.discard(event)
            batch = columns.take(order)
            size = batch.get_total_buffer_size() if event is not events[0] else 0
            if size <= room:
                self._held[event] = batch
                room -= size

    def take(self, event: EventType) -> pa.RecordBatch | None:
        """Give the rows that are held for an event, once."""
        return self._held.pop(event, None)

    @property
    def held_bytes(self) -> int:
        """What waits."""
        return sum(batch.get_total_buffer_size() for batch in self._held.values())


def _joined(batches: Iterable[pa.RecordBatch]) -> pa.RecordBatch | None:
    """Give all rows as one batch; None where there are none, or too heavy ones."""
    read: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        read.append(batch)
        size += batch.get_total_buffer_size()
        if size > MOST_BYTES:
            return None
    if len(read) < 2:
        return read[0] if read else None
    return pa.concat_batches(read)


def _order(keys: pa.Array) -> pa.Array | None:
    """Give the places of the rows that have a key, by it; None where one repeats."""
    places = pc.array_sort_indices(keys, null_placement="at_end")
    places = places[: len(keys) - keys.null_count]
    ordered = keys.take(places)
    repeats = pc.any(pc.equal(ordered[1:], ordered[:-1])).as_py()
    return None if repeats else places
