"""Slices learn from what came, and one that runs out of memory is cut again."""

import pytest

from mxdeliver.core.calendar import Window
from mxdeliver.core.errors import SourceMemory
from mxdeliver.core.model import EndOfStream, EventType
from mxdeliver.edge.sources.slices import MOST_GROWTH, Slices, SliceSize
from tests.support.sources import CLIENT, DAY, START, database, read, resource, source

CREATED = EventType.CREATED


def days_slices(by_second, *, first_rows, size, window=DAY):
    count = sum(rows for _, rows in by_second)
    return Slices(
        window,
        count,
        size=SliceSize(first_rows=first_rows, bytes=size),
        by_second=lambda: by_second,
    )


def taken(parts, by_second, bytes_a_row):
    """Read every slice in whole; give the rows of each."""
    rows = []
    for part in parts:
        held = sum(count for second, count in by_second if part.start <= second < part.end)
        parts.weigh(held, held * bytes_a_row(part))
        rows.append(held)
    return rows


def test_slices_grow_step_by_step_to_the_bytes_they_aim_at():
    by_second = [(DAY.start + second, 1) for second in range(40_000)]
    parts = days_slices(by_second, first_rows=100, size=500_000)

    rows = taken(parts, by_second, lambda _: 100)

    assert rows[:5] == [100, 100 * MOST_GROWTH, 100 * MOST_GROWTH**2, 5000, 5000]
    assert set(rows[3:-1]) == {5000}
    assert sum(rows) == 40_000


def test_slices_shrink_where_texts_grow_longer():
    by_second = [(DAY.start + second, 1) for second in range(40_000)]
    parts = days_slices(by_second, first_rows=5000, size=500_000)

    rows = taken(parts, by_second, lambda part: 100 if part.start < DAY.start + 20_000 else 10_000)

    assert rows[:5] == [5000, 5000, 5000, 5000, 5000]
    assert set(rows[5:]) == {50}


def test_what_fits_the_first_slice_is_not_counted_by_second():
    def refused():
        raise AssertionError

    parts = Slices(DAY, 100, size=SliceSize(first_rows=100, bytes=1), by_second=refused)

    assert list(parts) == [DAY]


def test_a_slice_that_failed_is_yielded_again_as_its_half_and_later_ones_are_smaller():
    by_second = [(DAY.start + second, 10) for second in range(100)]
    parts = days_slices(by_second, first_rows=800, size=8000)
    walk = iter(parts)

    first = next(walk)
    assert parts.halve()
    again = next(walk)
    parts.weigh(400, 4000)
    following = next(walk)

    assert first == Window(start=DAY.start, end=DAY.start + 80)
    assert again == Window(start=DAY.start, end=DAY.start + 40)
    assert following == Window(start=DAY.start + 40, end=DAY.start + 80)


def test_a_slice_is_halved_down_to_one_second_and_no_further():
    by_second = [(DAY.start + 7, 5), (DAY.start + 90, 1)]
    parts = days_slices(by_second, first_rows=100, size=100)
    walk = iter(parts)

    assert next(walk) == DAY
    assert parts.halve()
    assert next(walk) == Window(start=DAY.start, end=DAY.start + 90)
    assert not parts.halve()


def test_a_slice_of_which_rows_were_handed_out_is_not_begun_again():
    by_second = [(DAY.start + second, 10) for second in range(100)]
    parts = days_slices(by_second, first_rows=800, size=8000)

    next(iter(parts))
    parts.weigh(1, 10)

    assert not parts.halve()


def long_texts(folder, *, rows, width, seconds):
    """Users of whom each has a text of `width` characters, over so many seconds, out of order."""
    database(
        folder,
        f"create table users as select 'u' || i as guid, repeat((i % 10)::varchar, {width}) as name, "
        f"'{CLIENT}' as client_guid, {START} + (i * 7919) % {seconds} as created_at, "
        f"null::bigint as updated_at, null::bigint as deleted_at from range({rows}) t(i)",
    )


def test_a_slice_that_needs_more_memory_than_there_is_is_read_in_halves(tmp_path):
    # 120 MB of texts, all asked for at once under a limit of 60 MB
    long_texts(tmp_path, rows=60_000, width=2000, seconds=3000)
    origin = source(tmp_path, memory_limit="60MB", threads=1, batch_rows=2048, slice_rows=60_000)
    windows = []

    with origin.snapshot() as snapshot:
        seen, rows = [], 0
        relation = type(snapshot._relation(resource()))
        plain = relation.rows

        def noted(self, event, window):
            windows.append(window)
            return plain(self, event, window)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(relation, "rows", noted)
            for item in snapshot.stream(resource(), CREATED, CLIENT, DAY):
                if isinstance(item, EndOfStream):
                    assert item.rows == rows
                else:
                    rows += item.num_rows
                    seen += item.column("guid").to_pylist()

    expected = sorted(range(60_000), key=lambda i: ((i * 7919) % 3000, f"u{i}"))
    assert seen == [f"u{i}" for i in expected]
    assert windows[0] == DAY
    assert windows[1].start == DAY.start
    assert windows[1].end < DAY.end


def test_a_single_second_beyond_the_memory_limit_names_the_setting(tmp_path):
    long_texts(tmp_path, rows=6000, width=20_000, seconds=1)

    with pytest.raises(SourceMemory, match=r"users CREATED.*memory_limit"):
        read(source(tmp_path, memory_limit="60MB", threads=1))


def test_another_stream_works_after_one_ran_out_of_memory(tmp_path):
    long_texts(tmp_path, rows=6000, width=20_000, seconds=1)
    database(
        tmp_path,
        f"create table tags as select 't1' as guid, '' as name, '{CLIENT}' as client_guid, "
        f"{START} as created_at, null::bigint as updated_at, null::bigint as deleted_at",
    )

    with source(tmp_path, memory_limit="60MB", threads=1).snapshot() as snapshot:
        with pytest.raises(SourceMemory):
            list(snapshot.stream(resource(), CREATED, CLIENT, DAY))
        batch, _ = snapshot.stream(resource("tags"), CREATED, CLIENT, DAY)

    assert batch.column("guid").to_pylist() == ["t1"]
