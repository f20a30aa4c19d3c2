"""What a DuckDB source hands out: which rows, in which order, in which columns."""

import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pyarrow as pa
import pytest

from mxdeliver.core.calendar import Window
from mxdeliver.core.errors import SourceIncomplete
from mxdeliver.core.model import EndOfStream, EventType
from mxdeliver.edge.sources.slices import slices
from tests.support.sources import (
    CLIENT,
    DAY,
    OTHER_CLIENT,
    START,
    database,
    guids,
    read,
    resource,
    rows_of,
    source,
    users,
)

CREATED, UPDATED, DELETED = EventType
END = DAY.end


def timestamp(microseconds, column_type):
    """A moment as SQL of a column type."""
    if column_type in {"bigint", "integer", "uinteger", "decimal(18,0)", "hugeint"}:
        return f"{microseconds // 1_000_000}::{column_type}"
    if column_type == "timestamptz":
        return f"make_timestamptz({microseconds})"
    return f"make_timestamp({microseconds})::{column_type}"


@pytest.mark.parametrize("few_rows", [None, 0])
@pytest.mark.parametrize("event", EventType)
@pytest.mark.parametrize(
    "column_type",
    [
        *("bigint", "integer", "uinteger", "decimal(18,0)", "hugeint"),
        *("timestamp", "timestamptz", "timestamp_s", "timestamp_ms", "timestamp_ns"),
    ],
)
def test_the_window_begins_with_its_first_second_and_ends_before_its_last(
    tmp_path, column_type, event, few_rows
):
    seconds = {"before": START - 1, "first": START, "last": END - 1, "after": END}
    column = f"{event.value.lower()}_at"
    users(tmp_path, times=column_type)
    for guid, second in seconds.items():
        moment = timestamp(second * 1_000_000, column_type)
        database(
            tmp_path,
            f"insert into users (guid, client_guid, {column}) values ('{guid}', '{CLIENT}', {moment})",
        )

    with source(tmp_path, few_rows=few_rows).snapshot() as snapshot:
        assert guids(snapshot, event) == ["first", "last"]


@pytest.mark.parametrize("few_rows", [None, 0])
@pytest.mark.parametrize("column_type", ["timestamp", "timestamptz", "timestamp_ns"])
def test_the_window_s_borders_hold_to_the_microsecond(tmp_path, column_type, few_rows):
    moments = {
        "before": START * 1_000_000 - 1,
        "first": START * 1_000_000,
        "last": END * 1_000_000 - 1,
        "after": END * 1_000_000,
    }
    rows = [
        f"('{guid}', '{CLIENT}', {timestamp(moment, column_type)}, null, null)"
        for guid, moment in moments.items()
    ]
    users(tmp_path, *rows, times=column_type)

    assert [row["guid"] for row in read(source(tmp_path, few_rows=few_rows))] == ["first", "last"]


def test_the_last_nanosecond_belongs_to_the_day_also_in_slices(tmp_path):
    users(tmp_path, times="timestamp_ns")
    database(
        tmp_path,
        f"insert into users select 'u' || i, '', '{CLIENT}', moment, null, null from "
        "(values (1, timestamp_ns '2026-01-01 23:59:59.999999999'), "
        "(2, timestamp_ns '2026-01-01 10:00:00.999999999'), "
        "(3, timestamp_ns '2026-01-01 10:00:01')) v(i, moment)",
    )

    for few_rows in (None, 0):
        rows = read(source(tmp_path, slice_rows=1, slice_bytes=1, few_rows=few_rows))
        assert [row["guid"] for row in rows] == ["u2", "u3", "u1"]


@pytest.mark.parametrize(
    ("created_type", "updated_type"),
    [
        ("bigint", "bigint"),
        ("timestamp", "timestamp"),
        ("bigint", "timestamptz"),
        ("timestamp", "integer"),
        ("timestamptz", "timestamp"),
    ],
)
def test_an_update_is_later_than_the_creation_or_of_a_record_without_one(
    tmp_path, created_type, updated_type
):
    database(
        tmp_path,
        "create table users (guid varchar, name varchar, client_guid varchar, "
        f"created_at {created_type}, updated_at {updated_type}, deleted_at bigint)",
    )
    noon = (START + 43_200) * 1_000_000
    created = {"later": noon - 1_000_000, "same": noon, "earlier": noon + 1_000_000, "none": None}
    for guid, moment in created.items():
        creation = "null" if moment is None else timestamp(moment, created_type)
        database(
            tmp_path,
            f"insert into users values ('{guid}', '', '{CLIENT}', {creation}, "
            f"{timestamp(noon, updated_type)}, null)",
        )

    for few_rows in (None, 0):
        rows = read(source(tmp_path, few_rows=few_rows), UPDATED)
        assert [row["guid"] for row in rows] == ["later", "none"]


def test_one_record_may_be_created_updated_and_deleted_on_one_day(tmp_path):
    users(tmp_path, f"('u1', '{CLIENT}', {START}, {START + 1}, {START + 2})")

    with source(tmp_path).snapshot() as snapshot:
        assert [guids(snapshot, event) for event in EventType] == [["u1"]] * 3


def test_a_client_never_sees_another_client_s_rows(tmp_path):
    users(
        tmp_path,
        f"('mine', '{CLIENT}', {START}, null, null)",
        f"('theirs', '{OTHER_CLIENT}', {START}, null, null)",
        f"('nobody', null, {START}, null, null)",
    )

    with source(tmp_path).snapshot() as snapshot:
        assert guids(snapshot) == ["mine"]
        assert guids(snapshot, client_guid=OTHER_CLIENT) == ["theirs"]


def test_a_stream_without_rows_is_its_end_alone(tmp_path):
    users(tmp_path, f"('u1', '{CLIENT}', {START - 1}, null, null)")

    with source(tmp_path).snapshot() as snapshot:
        for event in EventType:
            assert list(snapshot.stream(resource(), event, CLIENT, DAY)) == [EndOfStream(rows=0)]


def test_columns_come_in_the_schema_s_order_without_those_it_lacks(tmp_path):
    users(tmp_path, f"('u1', '{CLIENT}', {START}, null, null)")
    wanted = resource("users", "created_at", "name", "guid")

    with source(tmp_path).snapshot() as snapshot:
        batch, _ = snapshot.stream(wanted, CREATED, CLIENT, DAY)

    assert batch.schema.names == ["created_at", "name", "guid"]
    assert batch.to_pylist() == [{"created_at": START, "name": "name of u1", "guid": "u1"}]


def test_client_guid_stays_where_the_schema_has_it(tmp_path):
    users(tmp_path, f"('u1', '{CLIENT}', {START}, null, null)")

    rows = read(source(tmp_path), wanted=resource("users", "guid", "client_guid"))

    assert rows == [{"guid": "u1", "client_guid": CLIENT}]


def test_column_names_of_a_relation_may_be_in_upper_case(tmp_path):
    database(
        tmp_path,
        f"create table USERS as select 'u1' as GUID, 'x' as NAME, '{CLIENT}' as CLIENT_GUID, "
        f"{START} as CREATED_AT, null::bigint as UPDATED_AT, null::bigint as DELETED_AT",
    )

    assert read(source(tmp_path)) == [{"guid": "u1", "name": "x"}]


def test_a_resource_without_guid_is_ordered_by_time_and_its_first_field(tmp_path):
    database(
        tmp_path,
        "create table events as select i % 7 as value, i as other, "
        f"'{CLIENT}' as client_guid, {START} + i % 3 as created_at, "
        "null::bigint as updated_at, null::bigint as deleted_at from range(5000) t(i)",
    )
    wanted = resource("events", "value", "created_at")

    rows = read(source(tmp_path), wanted=wanted)

    assert rows == sorted(rows, key=lambda row: (row["created_at"], row["value"]))
    assert len(rows) == 5000


def test_order_and_content_do_not_depend_on_batches_slices_or_threads(tmp_path):
    # times and guids repeat: what is equal in both must still come in one order
    database(
        tmp_path,
        "create table users as select 'u' || (i % 4000) as guid, 'n' || i as name, "
        f"case when i % 5 = 0 then '{OTHER_CLIENT}' else '{CLIENT}' end as client_guid, "
        f"{START} + (i * 7919) % 86400 // 600 * 600 as created_at, null::bigint as updated_at, "
        "null::bigint as deleted_at from range(30000) t(i)",
    )
    shapes = [
        (16_384, 10**6, 1, None),
        (2048, 1000, 2, 90_000),
        (4096, 900, 4, 40_000),
        (10**5, 9, 3, None),
    ]

    results = [
        read(
            source(
                tmp_path,
                batch_rows=batch_rows,
                slice_rows=slice_rows,
                threads=threads,
                slice_bytes=slice_bytes,
            )
        )
        for batch_rows, slice_rows, threads, slice_bytes in shapes
    ]

    assert len(results[0]) == 24_000
    assert all(result == results[0] for result in results[1:])


def test_rows_of_one_second_come_in_the_order_of_its_fractions(tmp_path):
    database(
        tmp_path,
        "create table users as select 'u' || i as guid, '' as name, "
        f"'{CLIENT}' as client_guid, make_timestamp({(START + 5) * 1_000_000} + i) as created_at, "
        "null::bigint as updated_at, null::bigint as deleted_at from range(20000) t(i)",
    )

    rows = read(source(tmp_path, slice_rows=1000, slice_bytes=100_000))

    assert [row["guid"] for row in rows] == [f"u{number}" for number in range(20_000)]


@pytest.mark.parametrize("slice_rows", [1, 10, 1000, 10**9])
def test_slices_meet_and_cover_the_window(slice_rows):
    chance = random.Random(slice_rows)
    by_second = [(second, chance.randrange(1, 9)) for second in range(DAY.start, DAY.end, 97)]

    cut = list(slices(by_second, DAY, slice_rows))

    assert cut[0].start == DAY.start
    assert cut[-1].end == DAY.end
    assert all(left.end == right.start for left, right in pairwise(cut))
    assert all(part.start < part.end for part in cut)
    held = [sum(n for second, n in by_second if part.start <= second < part.end) for part in cut]
    assert all(rows <= max(slice_rows, 8) for rows in held)


def test_a_slice_border_outside_the_window_is_not_used():
    window = Window(start=100, end=103)

    cut = list(slices([(99, 5), (100, 5), (103, 5)], window, 5))

    assert cut == [window]


def test_timestamps_do_not_depend_on_the_host_s_zone(tmp_path):
    users(
        tmp_path,
        f"('plain', '{CLIENT}', timestamp '2026-01-01 00:00:00', null, null)",
        f"('late', '{CLIENT}', timestamp '2026-01-01 23:59:59.999999', null, null)",
        f"('out', '{CLIENT}', timestamp '2026-01-02 00:00:00', null, null)",
        times="timestamp",
    )
    (tmp_path / "zoned.csv").write_text(
        "guid,name,client_guid,created_at,updated_at,deleted_at\n"
        f"z1,,{CLIENT},2026-01-01 05:44:59+05:45,,\n"
        f"z2,,{CLIENT},2026-01-01 05:45:00+05:45,,\n"
        f"z3,,{CLIENT},2026-01-01 18:59:59-05:00,,\n"
        f"z4,,{CLIENT},2026-01-01 19:00:00-05:00,,\n"
    )
    script = (
        "import sys; from pathlib import Path\n"
        "from tests.support.sources import *\n"
        "origin = source(Path(sys.argv[1]), database='warehouse.duckdb',"
        " views={'zoned': \"'zoned.csv'\"},"
        " queries={'own': {EventType.CREATED: 'select guid, created_at::timestamptz as at,"
        " client_guid from users where client_guid = $client_guid order by guid'}})\n"
        "print(read(origin)); print(read(origin, wanted=resource('zoned', 'guid', 'created_at')))\n"
        "print([(row['guid'], row['at'].timestamp()) for row in"
        " read(origin, wanted=resource('own', 'guid', 'at'))])\n"
    )

    seen = {
        zone: subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)],
            env={**os.environ, "TZ": zone},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for zone in ("UTC", "America/New_York", "Asia/Kathmandu")
    }

    assert len(set(seen.values())) == 1
    plain, zoned, own = seen["UTC"].splitlines()
    assert "'plain'" in plain
    assert "'late'" in plain
    assert "'out'" not in plain
    assert [name for name in ("z1", "z2", "z3", "z4") if name in zoned] == ["z2", "z3"]
    assert f"('plain', {START}.0)" in own


def test_a_query_of_the_user_s_own_gets_the_parameters_it_mentions(tmp_path):
    users(
        tmp_path,
        f"('u1', '{CLIENT}', {START}, null, null)",
        f"('u2', '{CLIENT}', {END}, null, null)",
        f"('u3', '{OTHER_CLIENT}', {START}, null, null)",
    )
    columns = "select name, client_guid, guid from users where client_guid = $client_guid"
    queries = {
        CREATED: f"{columns} and created_at >= $window_start and created_at < $window_end",
        UPDATED: f"{columns} order by guid desc; -- without $window_start",
        DELETED: f"with mine as ({columns}) select guid, '$window_end' as name, client_guid from mine"
        " order by guid;",
    }

    with source(tmp_path, queries={"users": queries}).snapshot() as snapshot:
        assert guids(snapshot, CREATED) == ["u1"]
        assert guids(snapshot, UPDATED) == ["u2", "u1"]
        rows = rows_of(snapshot.stream(resource(), DELETED, CLIENT, DAY))
        assert rows[0] == {"guid": "u1", "name": "$window_end"}


def test_own_queries_stand_beside_default_ones_that_need_no_other_times(tmp_path):
    database(
        tmp_path,
        f"create table users as select 'u1' as guid, '' as name, '{CLIENT}' as client_guid, "
        f"{START} as created_at",
    )
    none = "select guid, name, client_guid from users where client_guid = $client_guid and false"
    origin = source(tmp_path, queries={"users": {UPDATED: none, DELETED: none}})

    assert origin.problems([resource()]) == []
    with origin.snapshot() as snapshot:
        assert [guids(snapshot, event) for event in EventType] == [["u1"], [], []]


def test_an_enum_column_gives_its_text(tmp_path):
    database(
        tmp_path,
        "create table users as select 'u' || i as guid, "
        "('n' || (i % 2))::enum('n0', 'n1') as name, "
        f"'{CLIENT}'::enum('{CLIENT}', '{OTHER_CLIENT}') as client_guid, {START} as created_at, "
        "null::bigint as updated_at, null::bigint as deleted_at from range(3) t(i)",
    )
    query = "select * exclude (created_at, updated_at, deleted_at) from users"
    queries = {"users": {UPDATED: f"{query} where client_guid = $client_guid order by guid"}}

    with source(tmp_path, queries=queries).snapshot() as snapshot:
        for event in (CREATED, UPDATED):
            batch, _ = snapshot.stream(resource(), event, CLIENT, DAY)
            assert batch.column("name").type == pa.string()
            assert batch.column("name").to_pylist() == ["n0", "n1", "n0"]


def test_duplicates_are_given_as_they_are(tmp_path):
    users(tmp_path, *[f"('u1', '{CLIENT}', {START}, null, null)"] * 3)

    with source(tmp_path).snapshot() as snapshot:
        assert guids(snapshot) == ["u1", "u1", "u1"]


def test_a_stream_ends_when_the_next_one_begins(tmp_path):
    database(
        tmp_path,
        f"create table users as select 'u' || i as guid, '' as name, '{CLIENT}' as client_guid, "
        f"{START} as created_at, {START + 1} as updated_at, null::bigint as deleted_at "
        "from range(10000) t(i)",
    )

    with source(tmp_path, batch_rows=2048).snapshot() as snapshot:
        first = snapshot.stream(resource(), CREATED, CLIENT, DAY)
        next(first)
        assert len(guids(snapshot, UPDATED)) == 10_000
        with pytest.raises(SourceIncomplete, match="another stream"):
            next(first)


def test_a_stream_left_early_leaves_the_snapshot_usable(tmp_path):
    database(
        tmp_path,
        f"create table users as select 'u' || i as guid, '' as name, '{CLIENT}' as client_guid, "
        f"{START} as created_at, null::bigint as updated_at, null::bigint as deleted_at "
        "from range(10000) t(i)",
    )

    with source(tmp_path, batch_rows=2048).snapshot() as snapshot:
        stream = snapshot.stream(resource(), CREATED, CLIENT, DAY)
        next(stream)
        stream.close()
        assert len(guids(snapshot)) == 10_000


def test_several_clients_are_read_side_by_side(tmp_path):
    clients = [f"CLT-{number}" for number in range(6)]
    database(
        tmp_path,
        f"create table users as select 'u' || i as guid, '' as name, 'CLT-' || (i % 6) as "
        f"client_guid, {START} + i as created_at, null::bigint as updated_at, "
        "null::bigint as deleted_at from range(30000) t(i)",
    )
    origin = source(tmp_path, threads=1)

    def deliver(client):
        with origin.snapshot() as snapshot:
            return [guids(snapshot, event, client_guid=client) for event in EventType]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(deliver, clients))

    for number, (created, updated, deleted) in enumerate(results):
        assert created == [f"u{i}" for i in range(number, 30_000, 6)]
        assert updated == deleted == []
