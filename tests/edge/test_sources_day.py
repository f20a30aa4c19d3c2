"""Rows that were read for several events at once, held and sorted until each one's stream."""

import pyarrow as pa
import pytest

from mxdeliver.core.errors import RecordInvalid
from mxdeliver.core.model import EventType
from mxdeliver.edge.sources import together
from mxdeliver.edge.sources.passing import KEY
from mxdeliver.edge.sources.together import Day

CREATED, UPDATED, DELETED = EventType


def batch(*rows):
    """Rows of (text, key when created, key when updated)."""
    text, created, updated = zip(*rows, strict=True)
    return pa.record_batch(
        {
            "TEXT": pa.array(text),
            KEY + CREATED: pa.array(created, pa.binary()),
            KEY + UPDATED: pa.array(updated, pa.binary()),
        }
    )


def texts(held):
    return None if held is None else held.column("text").to_pylist()


def held(*batches, counts, room=1 << 20):
    day = Day(counts=counts)
    events = day.to_read(CREATED, most_rows=100)
    day.hold(batches, events, names=["text"], room=room)
    return day


def test_each_event_s_rows_are_held_in_the_order_of_its_own_keys_and_given_once():
    day = held(
        batch(("a", b"\xff", b"1"), ("b", b"\x01", None)),
        batch(("c", None, b"0"), ("d", b"\x7f", None)),
        counts={CREATED: 3, UPDATED: 2, DELETED: 0},
    )

    assert texts(day.take(CREATED)) == ["b", "d", "a"]
    assert day.held_bytes > 0
    assert texts(day.take(UPDATED)) == ["c", "a"]
    assert day.take(UPDATED) is None
    assert day.held_bytes == 0


def test_without_room_the_first_event_alone_is_held_and_the_later_one_read_again():
    counts = {CREATED: 1, UPDATED: 1}

    day = held(batch(("a", b"1", b"1")), counts=counts, room=0)

    assert texts(day.take(CREATED)) == ["a"]
    assert day.take(UPDATED) is None
    assert day.to_read(UPDATED, most_rows=100) == [UPDATED]


@pytest.mark.parametrize("counts", [{CREATED: 2}, {CREATED: 2, UPDATED: 1}])
def test_what_could_not_be_held_is_not_read_together_again(counts):
    day = held(batch(("a", b"1", None), ("b", b"1", b"2")), counts=counts)

    assert day.take(CREATED) is None
    assert day.to_read(CREATED, most_rows=100) == []
    assert texts(day.take(UPDATED)) == (["b"] if UPDATED in counts else None)


def test_rows_that_vanished_since_they_were_counted_are_left_to_the_query_that_finds_it_out():
    day = held(counts={CREATED: 1})

    assert day.take(CREATED) is None
    assert day.to_read(CREATED, most_rows=100) == []


def test_a_column_that_is_gone_is_left_to_the_query_that_finds_it_out():
    day = Day(counts={CREATED: 1})

    day.hold([batch(("a", b"1", None))], [CREATED], names=["text", "other"], room=1 << 20)

    assert day.take(CREATED) is None
    assert day.to_read(CREATED, most_rows=100) == []


def test_rows_are_no_longer_read_when_they_turn_out_heavy(monkeypatch):
    monkeypatch.setattr(together, "MOST_BYTES", 1000)
    drawn = []

    def batches():
        for number in range(9):
            drawn.append(number)
            yield batch((str(number) * 400, bytes([number]), None))

    day = Day(counts={CREATED: 9})
    day.hold(batches(), [CREATED], names=["text"], room=1 << 20)

    assert drawn == [0, 1, 2]
    assert day.take(CREATED) is None


def test_an_error_while_rows_are_read_together_leaves_them_to_each_event_s_own_query():
    def broken():
        yield batch(("a", b"1", b"2"))
        raise RecordInvalid("somewhere")

    day = Day(counts={CREATED: 1, UPDATED: 1})
    with pytest.raises(RecordInvalid):
        day.hold(broken(), [CREATED, UPDATED], names=["text"], room=1 << 20)

    assert [day.to_read(event, most_rows=9) for event in (CREATED, UPDATED)] == [[], []]
