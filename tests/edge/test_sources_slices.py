"""Slices learn from what came, are cut within a second where it holds too much, and begin again."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mxdeliver.core.calendar import Window
from mxdeliver.core.errors import SourceMemory
from mxdeliver.core.model import EndOfStream, EventType
from mxdeliver.edge.sources.slices import BATCHES, LEAST_BATCH, MOST_GROWTH, Part, Slices, SliceSize
from tests.support.sources import CLIENT, DAY, START, database, read, resource, source

CREATED = EventType.CREATED


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows as (second, key) in any order; what a database says of them."""

    rows: list[tuple[int, bytes]]

    def by_second(self):
        """The number of rows of each second."""
        seconds = [second for second, _ in self.rows]
        return [(second, seconds.count(second)) for second in sorted(set(seconds))]

    def of(self, part):
        """The rows of a part, in order."""
        return sorted(
            (second, key)
            for second, key in self.rows
            if part.window.start <= second < part.window.end
            and (part.after is None or key > part.after)
            and (part.last is None or key <= part.last)
        )

    def key_at(self, part, number):
        """The key of a part's nth row, or of its last one."""
        assert part.last is None
        keys = sorted(key for _, key in self.of(part))
        return keys[:number][-1] if keys else None


def slices_of(rows, *, first_rows, size, window=DAY):
    return Slices(
        window,
        len(rows.rows),
        size=SliceSize(first_rows=first_rows, bytes=size),
        by_second=rows.by_second,
        key_at=rows.key_at,
    )


def key(second, guid):
    """A key as the database makes it: the time, then the guid."""
    return second.to_bytes(8) + guid.to_bytes(4)


def no_key(*_):
    raise AssertionError("seconds were to be enough")


def days_slices(by_second, *, first_rows, size, window=DAY):
    count = sum(rows for _, rows in by_second)
    return Slices(
        window,
        count,
        size=SliceSize(first_rows=first_rows, bytes=size),
        by_second=lambda: by_second,
        key_at=no_key,
    )


def taken(parts, by_second, bytes_a_row):
    """Read every slice in whole; give the rows of each."""
    rows = []
    for part in parts:
        window = part.window
        held = sum(count for second, count in by_second if window.start <= second < window.end)
        parts.weigh(held, held * bytes_a_row(window))
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
    parts = Slices(
        DAY, 100, size=SliceSize(first_rows=100, bytes=1), by_second=no_key, key_at=no_key
    )

    assert list(parts) == [Part(window=DAY)]


def test_a_slice_that_failed_is_yielded_again_as_a_part_and_later_ones_are_smaller():
    by_second = [(DAY.start + second, 10) for second in range(100)]
    parts = days_slices(by_second, first_rows=800, size=8000)
    walk = iter(parts)

    first = next(walk)
    assert parts.shrink()
    again = next(walk)
    parts.weigh(100, 1000)
    following = next(walk)

    assert first.window == Window(start=DAY.start, end=DAY.start + 80)
    assert again.window == Window(start=DAY.start, end=DAY.start + 10)
    assert following.window == Window(start=DAY.start + 10, end=DAY.start + 50)


def test_a_slice_is_shrunk_down_to_one_key_and_no_further():
    rows = Rows(
        rows=[(DAY.start + 7, key(7, guid)) for guid in [1, *[2] * 70, 3]]
        + [(DAY.start + 90, key(90, 1))]
    )
    parts = slices_of(rows, first_rows=100, size=100)
    seen = []

    for part in parts:
        if len(rows.of(part)) > 70:
            assert parts.shrink()
        elif len(rows.of(part)) == 70:
            assert not parts.shrink()
            break
        else:
            seen += rows.of(part)
            parts.weigh(len(rows.of(part)), 1)

    assert seen == [(DAY.start + 7, key(7, 1))]
    assert rows.of(part) == [(DAY.start + 7, key(7, 2))] * 70


def test_a_slice_of_which_rows_were_handed_out_is_not_begun_again():
    by_second = [(DAY.start + second, 10) for second in range(100)]
    parts = days_slices(by_second, first_rows=800, size=8000)

    next(iter(parts))
    parts.weigh(1, 10)

    assert not parts.shrink()


def test_batches_are_a_part_of_a_slice_but_a_few_rows_are_never_split_up():
    by_second = [(DAY.start + second, 1) for second in range(1000)]

    assert days_slices(by_second, first_rows=400, size=1).batch_rows == 400 // BATCHES
    assert days_slices(by_second[:20], first_rows=400, size=1).batch_rows == LEAST_BATCH


def test_a_second_with_too_many_rows_is_cut_after_keys_and_its_rest_joined_with_what_follows():
    rows = Rows(
        rows=[(DAY.start + 7, key(7, guid)) for guid in range(25)]
        + [(DAY.start + 8, key(8, guid)) for guid in range(4)]
    )
    parts = slices_of(rows, first_rows=10, size=10)
    seen = []

    for part in parts:
        seen.append(rows.of(part))
        parts.weigh(len(seen[-1]), len(seen[-1]))

    assert [len(held) for held in seen] == [10, 10, 9]
    assert [row for held in seen for row in held] == sorted(rows.rows)


@given(data=st.data())
def test_any_rows_come_once_and_in_order_whatever_is_cut_and_whatever_fails(data):
    rows = Rows(
        rows=[
            (DAY.start + second, key(second, guid))
            for second, guid in data.draw(
                st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=60)
            )
        ]
    )
    size = data.draw(st.integers(1, 100))
    parts = slices_of(rows, first_rows=data.draw(st.integers(1, 70)), size=size)
    seen, yielded = [], []

    for part in parts:
        held = rows.of(part)
        if len(held) > 1 and data.draw(st.booleans()) and parts.shrink():
            continue
        parts.weigh(len(held), len(held) * data.draw(st.integers(1, 30)))
        seen += held
        yielded.append(part)

    assert seen == sorted(rows.rows)
    assert yielded[-1].window.end == DAY.end
    assert all(
        left.last == right.after
        if left.last and right.after
        else left.window.end == right.window.start
        for left, right in pairwise(yielded)
    )


def long_texts(folder, *, rows, width, seconds, guids):
    """Users of whom each has a text of `width` characters, over so many seconds, out of order."""
    database(
        folder,
        f"create table users as select 'u' || (i % {guids}) as guid, "
        f"repeat((i % 10)::varchar, {width}) as name, '{CLIENT}' as client_guid, "
        f"{START} + (i * 7919) % {seconds} as created_at, "
        f"null::bigint as updated_at, null::bigint as deleted_at from range({rows}) t(i)",
    )


@pytest.mark.parametrize("seconds", [3000, 1])
def test_a_slice_that_needs_more_memory_than_there_is_is_read_in_parts(tmp_path, seconds):
    # 120 MB of texts, all asked for at once under a limit of 60 MB
    long_texts(tmp_path, rows=60_000, width=2000, seconds=seconds, guids=60_000)
    origin = source(tmp_path, memory_limit="60MB", threads=1, batch_rows=2048, slice_rows=60_000)
    parts = []

    with origin.snapshot() as snapshot:
        seen, rows = [], 0
        relation = type(snapshot._relation(resource()))
        plain = relation.rows

        def noted(self, event, part):
            parts.append(part)
            return plain(self, event, part)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(relation, "rows", noted)
            for item in snapshot.stream(resource(), CREATED, CLIENT, DAY):
                if isinstance(item, EndOfStream):
                    assert item.rows == rows
                else:
                    rows += item.num_rows
                    seen += item.column("guid").to_pylist()

    expected = sorted(range(60_000), key=lambda i: ((i * 7919) % seconds, f"u{i}"))
    assert seen == [f"u{i}" for i in expected]
    assert parts[0] == Part(window=DAY)
    assert parts[1].window.start == DAY.start
    assert parts[1].window.end < DAY.end if seconds > 1 else parts[1].last is not None


def test_a_single_key_beyond_the_memory_limit_names_the_setting(tmp_path):
    long_texts(tmp_path, rows=60_000, width=2000, seconds=1, guids=1)

    with pytest.raises(SourceMemory, match=r"users CREATED.*memory_limit"):
        read(source(tmp_path, memory_limit="60MB", threads=1))


def test_another_stream_works_after_one_ran_out_of_memory(tmp_path):
    long_texts(tmp_path, rows=60_000, width=2000, seconds=1, guids=1)
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


# -- the same against DuckDB: its own sort of everything decides -----------------------------------

_TIMES = {
    "bigint": f"({START} + second)::bigint",
    "timestamp": f"make_timestamp(({START} + second::bigint) * 1000000 + fraction)",
    "timestamp_ns": f"make_timestamp_ns(({START} + second::bigint) * 1000000000 + fraction)",
    "timestamptz": f"to_timestamp({START} + second) + to_microseconds(fraction)",
}
_ORDER = {"nocase": 'created_at, guid collate "binary"'}
_GUIDS = {
    "varchar": "'é-' || guid",
    "uuid": "md5(guid::varchar)::uuid",
    "enum": "(['z', 'a', 'm', 'b'])[1 + guid % 4]::enum('z', 'a', 'm', 'b')",
    "nocase": "(case when guid % 2 = 0 then 'A' else 'a' end || guid % 3) collate nocase",
}


@pytest.mark.parametrize(("times", "guid_type"), list(zip(_TIMES, _GUIDS, strict=True)))
@hypothesis_settings(max_examples=3)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.one_of(st.none(), st.integers(0, 8))),
        min_size=1,
        max_size=20,
    ),
    slice_rows=st.integers(1, 12),
    slice_bytes=st.integers(1, 400),
)
def test_slices_of_any_size_give_what_one_sort_gives(
    times, guid_type, rows, slice_rows, slice_bytes
):
    made = ", ".join(
        f"({second}, {fraction}, {'null' if guid is None else guid}, {number})"
        for number, (second, fraction, guid) in enumerate(rows)
    )
    with TemporaryDirectory() as folder:
        path = database(
            Path(folder),
            f"create table users as select {_GUIDS[guid_type]} as guid, 'n' || number as name, "
            f"'{CLIENT}' as client_guid, {_TIMES[times]} as created_at, null::bigint as updated_at, "
            f"null::bigint as deleted_at from (values {made}) v(second, fraction, guid, number)",
        )
        with duckdb.connect(str(path), read_only=True) as connection:
            sorted_once = connection.execute(
                f"select name from users order by {_ORDER.get(guid_type, 'created_at, guid')}, "
                "hash(guid, name)"
            ).fetchall()

        sliced = read(
            source(Path(folder), slice_rows=slice_rows, slice_bytes=slice_bytes, few_rows=0)
        )
        whole = read(source(Path(folder), few_rows=0))

    assert [row["name"] for row in sliced] == [name for (name,) in sorted_once]
    assert sliced == whole


def test_a_column_may_be_called_second(tmp_path):
    numbers = sorted(range(100), key=lambda number: number * 7 % 100)
    database(
        tmp_path,
        "create table users as select 'U' || i as guid, '' as name, 1 as second, "
        f"'{CLIENT}' as client_guid, {START} + i * 7 % 100 as created_at, "
        "null::bigint as updated_at, null::bigint as deleted_at from range(100) t(i)",
    )

    rows = read(source(tmp_path, slice_rows=10))

    assert [row["guid"] for row in rows] == [f"U{number}" for number in numbers]
