"""Rows that lie in order already come in the same order as if they had been sorted, without a sort."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mxdeliver.core.errors import SourceIncomplete, SourceMemory
from mxdeliver.core.model import EventType
from mxdeliver.edge.sources.passing import (
    KEY,
    SECOND,
    TIE,
    InOrder,
    keeps_order,
    lie_in_order,
)
from mxdeliver.edge.sources.queries import Relation
from tests.support.sources import CLIENT, DAY, START, database, read, resource, source

ROWS = st.lists(st.tuples(st.integers(0, 6), st.binary(max_size=2), st.integers(0, 3)), max_size=60)


def batches_of(rows, *, at_once):
    """Rows of (second, key, tie), numbered, in batches of so many."""
    table = pa.table(
        {
            "number": pa.array(range(len(rows)), pa.int64()),
            "text": pa.array([str(row) for row in rows], pa.string()),
            KEY: pa.array([bytes([second]) + key for second, key, _ in rows], pa.binary()),
            TIE: pa.array([tie for *_, tie in rows], pa.uint64()),
            SECOND: pa.array([second for second, *_ in rows], pa.int64()),
        }
    )
    batches = table.to_batches(max_chunksize=at_once)
    return [batch.take(pa.array(range(batch.num_rows))) for batch in batches]  # of their own


def in_order(batches, *, rows, size):
    return InOrder(iter(batches), start=0, rows=rows, size=size, where="users")


def seconds_of(seconds, *, at_once):
    return batches_of([(second, b"", 0) for second in seconds], at_once=at_once)


@given(rows=ROWS.map(lambda rows: sorted(rows, key=lambda row: row[0])), data=st.data())
def test_what_passes_in_order_of_its_seconds_comes_out_in_order_of_its_keys(rows, data):
    at_once, most = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20))
    size = data.draw(st.sampled_from([5000, 1 << 20]))
    batches = batches_of(rows, at_once=at_once)

    given_out = list(in_order(batches, rows=most, size=size))

    texts = [text for batch in given_out for text in batch.column("text").to_pylist()]
    assert texts == [str(row) for row in sorted(rows)]
    assert all(batch.schema.names == ["number", "text"] for batch in given_out)
    assert all(0 < batch.num_rows <= most for batch in given_out)
    if size > 1000:
        assert {batch.num_rows for batch in given_out[:-1]} <= {most}


def test_each_batch_is_as_large_as_it_may_be_and_no_more_is_held_than_another_one():
    drawn = 0

    def batches():
        nonlocal drawn
        for batch in seconds_of([number // 3 for number in range(600)], at_once=10):
            drawn += batch.num_rows
            yield batch

    passed = 0
    for batch in in_order(batches(), rows=40, size=1 << 20):
        passed += batch.num_rows
        assert drawn - passed <= 40 + 10 + 3

    assert passed == 600


def test_a_second_that_goes_back_after_all_ends_the_stream():
    batches = seconds_of([1, 2, 3, 4, 5, 4], at_once=3)

    with pytest.raises(SourceIncomplete, match="users: its rows came in another order"):
        list(in_order(batches, rows=2, size=1 << 20))


@pytest.mark.parametrize("at_once", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("seconds", "most_rows", "found"),
    [
        ([], 1, True),
        ([5, 5, 5, 7, 7, 9], 3, True),
        ([5, 5, 5, 7, 7, 9], 2, False),
        ([1, 5, 5, 5, 5], 3, False),
        ([5, 6, 5], 9, False),
        ([5, 6, 7, 1], 9, False),
    ],
)
def test_rows_lie_in_order_where_no_second_goes_back_or_holds_too_many(
    seconds, most_rows, found, at_once
):
    assert lie_in_order(seconds_of(seconds, at_once=at_once), most_rows=most_rows) is found


@given(
    rows=ROWS.filter(bool).map(lambda rows: sorted(rows, key=lambda row: row[0])), data=st.data()
)
def test_where_memory_ends_what_passed_is_whole_up_to_the_second_that_is_told(rows, data):
    batches = batches_of(rows, at_once=data.draw(st.integers(1, 20)))
    passed = data.draw(st.integers(0, len(batches)))

    def broken():
        yield from batches[:passed]
        raise SourceMemory("it ended here")

    taken = in_order(broken(), rows=data.draw(st.integers(1, 20)), size=1 << 20)
    texts = [text for batch in taken for text in batch.column("text").to_pylist()]

    assert texts == [str(row) for row in sorted(rows) if row[0] < taken.rest]
    assert taken.rest <= max(second for second, *_ in rows)


def test_heavy_rows_do_not_pass():
    rows = [(number // 3, b"x" * (5 if number < 60 else 50_000), 0) for number in range(90)]
    taken = in_order(batches_of(rows, at_once=10), rows=40, size=10_000)

    passed = sum(batch.num_rows for batch in taken)

    assert 60 <= passed <= 75
    assert taken.rest == passed // 3


def plan(*names):
    """EXPLAIN's JSON, of which this code reads names and children."""
    nodes = []
    for name in reversed(names):
        nodes = [{"name": name, "children": nodes}]
    return json.dumps(nodes)


@pytest.mark.parametrize(
    ("names", "keeps"),
    [
        (["SEQ_SCAN "], True),
        (["PROJECTION", "FILTER", "READ_CSV"], True),
        (["PROJECTION", "HASH_GROUP_BY", "SEQ_SCAN"], False),
        (["UNNEST", "SEQ_SCAN"], False),
    ],
)
def test_a_scan_that_is_filtered_and_projected_keeps_its_order(names, keeps):
    assert keeps_order(plan(*names)) is keeps


# -- against DuckDB --------------------------------------------------------------------------------

_TIMES = {
    "bigint": f"({START} + second)::bigint",
    "hugeint": f"({START} + second)::hugeint",
    "timestamp": f"make_timestamp(({START} + second::bigint) * 1000000 + (number * 7) % 5)",
    "timestamp_ns": f"make_timestamp_ns(({START} + second::bigint) * 1000000000 + (number * 7) % 5)",
    "timestamptz": f"to_timestamp({START} + second) + to_microseconds((number * 7) % 5)",
}


@pytest.fixture
def never_sorted(monkeypatch):
    def rows(*_):
        raise AssertionError("the rows were sorted")

    monkeypatch.setattr(Relation, "rows", rows)


def in_time(folder, *, rows, times="bigint", guid="md5(number::varchar)", name="'n' || number"):
    """Users in the order of their times, a few of them in each second."""
    return database(
        folder,
        f"create table users as select {guid} as guid, {name} as name, '{CLIENT}' as client_guid, "
        f"{_TIMES[times]} as created_at, null::bigint as updated_at, null::bigint as deleted_at "
        f"from (select i as number, i // 7 as second from range({rows}) t(i))",
    )


@pytest.mark.parametrize("times", list(_TIMES))
@pytest.mark.parametrize(
    "guid", ["md5(number::varchar)", "md5(number::varchar)::uuid", "number % 3", "null"]
)
@pytest.mark.usefixtures("never_sorted")
def test_a_table_in_the_order_of_its_times_gives_what_a_sort_gives(tmp_path, times, guid):
    path = in_time(tmp_path, rows=500, times=times, guid=guid)
    with duckdb.connect(str(path), read_only=True) as connection:
        wanted = connection.execute(
            "select name from users order by created_at, guid, hash(guid, name)"
        ).fetchall()

    rows = read(source(tmp_path, batch_rows=64, slice_rows=100))

    assert [row["name"] for row in rows] == [name for (name,) in wanted]


@pytest.mark.usefixtures("never_sorted")
def test_a_parquet_file_in_order_is_not_sorted_with_two_threads_either(tmp_path):
    path = in_time(tmp_path, rows=30_000)
    with duckdb.connect(str(path), read_only=True) as connection:
        connection.execute(
            f"copy users to '{tmp_path}/users.parquet' (format parquet, row_group_size 3000)"
        )
        wanted = connection.execute("select name from users order by created_at, guid").fetchall()

    views = {"users": "read_parquet('users.parquet')"}
    rows = read(source(tmp_path, views=views, slice_rows=100, threads=2))

    assert [row["name"] for row in rows] == [name for (name,) in wanted]


_VALUES = {
    "boolean": "number % 2 = 0",
    "decimal": "(number / 100)::decimal(12, 2)",
    "hugeint": "number::hugeint",
    "double": "number / 7",
    "blob": "('b' || number)::blob",
    "uuid": "md5(number::varchar)::uuid",
    "enum": "(['x', 'y', 'z'])[1 + number % 3]::enum('z', 'y', 'x')",
    "date": "date '2026-01-01' + number::int",
    "time": "time '00:00:00' + to_seconds(number)",
    "timestamptz": "to_timestamp(number)",
    "list": "range(number % 4)",
    "struct": "{'a': number, 'b': 'b' || number}",
    "map": "map([number, number + 1], ['v', 'w'])",
    "nested": "[{'a': [number]}, null]",
    "nothing": "null",
}


@pytest.mark.parametrize("kind", list(_VALUES))
@pytest.mark.parametrize("sparse", [False, True])
def test_columns_of_every_type_come_as_they_do_from_a_sort(tmp_path, kind, sparse):
    value = _VALUES[kind]
    name = f"case when number % 5 > 0 then {value} end" if sparse else value
    in_time(tmp_path, rows=400, name=name)

    passed = read(source(tmp_path, batch_rows=64, slice_rows=100))

    assert passed == read(source(tmp_path, slice_rows=400, few_rows=0))


def test_a_second_of_more_rows_than_a_slice_is_sorted(tmp_path):
    database(
        tmp_path,
        f"create table users as select md5(i::varchar) as guid, 'n' || i as name, "
        f"'{CLIENT}' as client_guid, {START} as created_at, null::bigint as updated_at, "
        "null::bigint as deleted_at from range(500) t(i)",
    )

    rows = read(source(tmp_path, slice_rows=100))

    assert len(rows) == 500
    assert [row["guid"] for row in rows] == sorted(row["guid"] for row in rows)


@hypothesis_settings(max_examples=5)
@given(
    seconds=st.lists(st.integers(0, 3), min_size=1, max_size=30).map(sorted),
    batch_rows=st.integers(1, 12),
)
def test_updates_that_lie_in_order_among_others_come_alone(seconds, batch_rows):
    made = ", ".join(f"({second}, {number})" for number, second in enumerate(seconds))
    with TemporaryDirectory() as folder:
        database(
            Path(folder),
            f"create table users as select md5(number::varchar) as guid, 'n' || number as name, "
            f"case when number % 3 = 0 then 'other' else '{CLIENT}' end as client_guid, "
            f"{START} + second - number % 2 as created_at, {START} + second as updated_at, "
            f"null::bigint as deleted_at from (values {made}) v(second, number)",
        )
        sorted_once = read(source(Path(folder), few_rows=0), EventType.UPDATED, resource())

        passed = read(
            source(Path(folder), batch_rows=batch_rows, slice_rows=8, few_rows=0),
            EventType.UPDATED,
            resource(),
        )

    assert passed == sorted_once
    assert len(passed) == sum(
        number % 3 > 0 and number % 2 == 1 for number, _ in enumerate(seconds)
    )


def test_a_view_that_joins_is_sorted_whichever_side_duckdb_begins_with(tmp_path):
    """With more columns it begins with the other side, and gives that one's order."""
    columns = ", ".join(f"'some text ' || i as c{number}" for number in range(8))
    path = in_time(tmp_path, rows=6000, guid="number")
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            f"create table d as select i as account, {columns} from range(1000) t(i)"
        )
    fields = [f"c{number}" for number in range(8)]
    joined = (
        "(select * from warehouse.users left join warehouse.d on guid::bigint % 1000 = account)"
    )
    origin = source(tmp_path, views={"both": joined}, database="warehouse.duckdb", slice_rows=500)

    rows = read(origin, wanted=resource("both", "guid", *fields))

    assert [int(row["guid"]) for row in rows] == sorted(
        range(6000), key=lambda number: (number // 7, number)
    )


def wide(folder, *, rows, first, width):
    """Users in Parquet, 16 rows at a time; from the `first` on their names are wide."""
    in_time(
        folder, rows=rows, name=f"repeat('x', case when number < {first} then 1 else {width} end)"
    )
    with duckdb.connect(str(folder / "warehouse.duckdb")) as connection:
        connection.execute(
            f"copy users to '{folder}/users.parquet' (format parquet, row_group_size 16)"
        )
    return {"views": {"users": "read_parquet('users.parquet')"}}


@pytest.mark.parametrize(("first", "largest"), [(0, 8 << 20), (2000, 40 << 20)])
def test_wide_rows_are_held_a_few_at_a_time(tmp_path, first, largest):
    views = wide(tmp_path, rows=3600, first=first, width=30_000)

    with source(tmp_path, slice_rows=1500, memory_limit="104MB", **views).snapshot() as snapshot:
        items = snapshot.stream(resource(), EventType.CREATED, CLIENT, DAY)
        guids, sizes = [], []
        for item in items:
            if isinstance(item, pa.RecordBatch):
                guids += item.column("guid").to_pylist()
                sizes.append(item.get_total_buffer_size())

    assert max(sizes) < largest
    assert guids == [
        row["guid"] for row in read(source(tmp_path, slice_rows=10_000, memory_limit="2GB"))
    ]
