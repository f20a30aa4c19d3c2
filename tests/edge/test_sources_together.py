"""The few rows of a day, read once for all events, are those that each event's own query gives."""

from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mxdeliver.core.errors import RecordInvalid, SourceIncomplete, SourceMemory
from mxdeliver.core.model import EndOfStream, EventType
from mxdeliver.edge.sources.queries import Relation
from mxdeliver.edge.sources.together import MOST_BYTES
from tests.edge.test_sources_passing import _VALUES
from tests.support.sources import (
    CLIENT,
    DAY,
    OTHER_CLIENT,
    START,
    database,
    guids,
    resource,
    rows_of,
    source,
    users,
)

CREATED, UPDATED, DELETED = EventType


def day_of(snapshot, wanted=None, client_guid=CLIENT):
    """All streams of a resource, in the order in which a day is built."""
    return [
        rows_of(snapshot.stream(wanted or resource(), event, client_guid, DAY))
        for event in EventType
    ]


def read_day(origin, wanted=None):
    with origin.snapshot() as snapshot:
        return day_of(snapshot, wanted)


@pytest.fixture
def queries(monkeypatch):
    """What is asked of DuckDB for whole rows: the events of each query that reads several at once,
    the single event of each that reads one alone."""
    asked = []
    at_once, alone = Relation.rows_together, Relation.rows

    def rows_together(self, events, window):
        asked.append(list(events))
        return at_once(self, events, window)

    def rows(self, event, part):
        asked.append(event)
        return alone(self, event, part)

    monkeypatch.setattr(Relation, "rows_together", rows_together)
    monkeypatch.setattr(Relation, "rows", rows)
    return asked


# -- the same rows in the same order ---------------------------------------------------------------

_FORMS = {
    "bigint": "({})::bigint",
    "decimal(18,0)": "({})::decimal(18,0)",
    "timestamp": "make_timestamp(({})::bigint * 1000000 + fraction)",
    "timestamp_ns": "make_timestamp_ns(({})::bigint * 1000000000 + fraction)",
    "timestamptz": "to_timestamp({}) + to_microseconds(fraction)",
}
_GUIDS = {
    "integer": "guid",
    "varchar": "'é' || guid",
    "uuid": "md5(guid::varchar)::uuid",
    "enum": "(['z', 'a', 'm', 'b'])[1 + guid % 4]::enum('z', 'a', 'm', 'b')",
    "nocase": "(case when guid % 2 = 0 then 'A' else 'a' end || guid) collate nocase",
}
_MOMENTS = st.one_of(
    st.none(),
    st.sampled_from([-1, 0, 86_399, 86_400]),  # around the day's borders
    st.integers(0, 5),
)
_ROWS = st.tuples(
    st.tuples(_MOMENTS, _MOMENTS, _MOMENTS),
    st.integers(0, 2),  # fraction
    st.one_of(st.none(), st.integers(0, 40)),  # guid
    st.booleans(),  # whether it is the client's
)


@pytest.mark.parametrize(("form", "guid"), list(zip(_FORMS, _GUIDS, strict=True)))
@pytest.mark.parametrize("further", ["", ", 7 as further"])
@hypothesis_settings(max_examples=5)
@given(rows=st.lists(_ROWS, min_size=1, max_size=25))
def test_rows_of_any_times_and_guids_come_as_each_event_s_own_query_gives_them(
    form, guid, further, rows
):
    made = ", ".join(
        "({})".format(
            ", ".join(
                "null" if value is None else str(value)
                for value in (*times, fraction, number, mine, position)
            )
        )
        for position, (times, fraction, number, mine) in enumerate(rows)
    )
    times = ", ".join(
        f"{_FORMS[form].format(f'{START} + {column}')} as {column}_at"
        for column in ("created", "updated", "deleted")
    )
    with TemporaryDirectory() as folder:
        database(
            Path(folder),
            f"create table users as select {_GUIDS[guid]} as guid, 'n' || position as name, "
            f"case when mine then '{CLIENT}' else '{OTHER_CLIENT}' end as client_guid, {times} "
            f"{further} from (select created::bigint as created, updated::bigint as updated, "
            "deleted::bigint as deleted, fraction, guid::bigint as guid, mine, position "
            f"from (values {made}) v(created, updated, deleted, fraction, guid, mine, position))",
        )

        together = read_day(source(Path(folder)))
        sorted_alone = read_day(source(Path(folder), few_rows=0))
        in_slices = read_day(source(Path(folder), few_rows=0, slice_rows=2, slice_bytes=100))

    assert together == sorted_alone == in_slices


@pytest.mark.parametrize("kind", list(_VALUES))
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("further", ["", ", 'x' as further"])
def test_columns_of_every_type_come_as_they_do_from_a_sort(tmp_path, kind, sparse, further):
    value = f"case when number % 5 > 0 then {_VALUES[kind]} end" if sparse else _VALUES[kind]
    database(
        tmp_path,
        f"create table users as select md5(number::varchar) as guid, {value} as name, "
        f"'{CLIENT}' as client_guid, {START} + number // 7 as created_at, "
        f"case when number % 3 = 0 then {START} + 900 - number end as updated_at, "
        f"null::bigint as deleted_at{further} from (select i as number from range(400) t(i))",
    )
    batches = []

    for few_rows in (None, 0):
        with source(tmp_path, few_rows=few_rows).snapshot() as snapshot:
            items = [
                item
                for event in EventType
                for item in snapshot.stream(resource(), event, CLIENT, DAY)
            ]
            batches.append([item for item in items if isinstance(item, pa.RecordBatch)])

    at_once, alone = batches
    assert [batch.num_rows for batch in at_once] == [400, 134]
    assert pa.Table.from_batches(at_once) == pa.Table.from_batches(alone)


def test_a_sort_by_duckdb_of_all_rows_gives_the_same(tmp_path):
    path = database(
        tmp_path,
        f"create table users as select md5(i::varchar) as guid, 'n' || i as name, '{CLIENT}' as "
        f"client_guid, {START} + (i * 7919) % 300 as created_at, {START} + (i * 31) % 400 as "
        f"updated_at, case when i % 3 = 0 then {START} + i end as deleted_at from range(700) t(i)",
    )
    with duckdb.connect(str(path), read_only=True) as connection:
        wanted = [
            connection.execute(
                f"select name from users where {condition} order by {column}, guid"
            ).fetchall()
            for column, condition in (
                ("created_at", "true"),
                ("updated_at", "updated_at > created_at"),
                ("deleted_at", "deleted_at is not null"),
            )
        ]

    found = read_day(source(tmp_path))

    assert [[(row["name"],) for row in rows] for rows in found] == wanted


def test_names_in_another_case_are_those_of_the_schema(tmp_path, queries):
    database(
        tmp_path,
        f"create table USERS as select 'u1' as GUID, 'x' as Name, '{CLIENT}' as CLIENT_GUID, "
        f"{START} as Created_AT, null::bigint as UPDATED_AT, {START} as DELETED_AT",
    )

    assert read_day(source(tmp_path)) == [
        [{"guid": "u1", "name": "x"}],
        [],
        [{"guid": "u1", "name": "x"}],
    ]
    assert queries == [[CREATED, DELETED]]


# -- how often DuckDB is asked ---------------------------------------------------------------------


def test_one_query_serves_all_events_of_a_resource(tmp_path, queries):
    users(
        tmp_path,
        f"('u1', '{CLIENT}', {START}, {START + 5}, null)",
        f"('u2', '{CLIENT}', {START - 9}, {START + 3}, {START + 7})",
        f"('u3', '{OTHER_CLIENT}', {START}, {START + 1}, {START + 2})",
    )

    with source(tmp_path).snapshot() as snapshot:
        assert [guids(snapshot, event) for event in EventType] == [["u1"], ["u2", "u1"], ["u2"]]
        assert queries == [[CREATED, UPDATED, DELETED]]
        # what was given out is asked for again
        assert guids(snapshot, UPDATED) == ["u2", "u1"]
        assert queries[1:] == [[UPDATED, DELETED]]


def test_events_without_rows_and_those_with_a_query_of_their_own_are_not_asked_for(
    tmp_path, queries
):
    users(tmp_path, f"('u1', '{CLIENT}', {START}, {START + 5}, null)")
    query = "select guid, name, client_guid from users where client_guid = $client_guid"
    origin = source(tmp_path, queries={"users": {UPDATED: query}})

    assert [[row["guid"] for row in rows] for rows in read_day(origin)] == [["u1"], ["u1"], []]
    assert queries == [[CREATED]]


def test_more_rows_than_are_few_are_read_event_by_event(tmp_path, queries):
    database(
        tmp_path,
        f"create table users as select 'u' || i as guid, '' as name, '{CLIENT}' as client_guid, "
        f"{START} as created_at, case when i < 4 then {START + 1} end as updated_at, "
        "null::bigint as deleted_at from range(10) t(i)",
    )

    for few_rows in (9, 10, 13, 14):
        assert [len(rows) for rows in read_day(source(tmp_path, few_rows=few_rows))] == [10, 4, 0]

    assert queries == [
        *(CREATED, [UPDATED]),
        *([CREATED], [UPDATED]),
        *([CREATED], [UPDATED]),
        [CREATED, UPDATED],
    ]


def test_an_event_with_rows_of_one_key_is_left_to_its_own_query(tmp_path, queries):
    rows = [
        f"('u{number % 3}', '{CLIENT}', {START + number}, {START + 9}, null)" for number in range(6)
    ]
    users(tmp_path, *rows)

    with source(tmp_path).snapshot() as snapshot:
        found = day_of(snapshot)

    assert [row["guid"] for row in found[0]] == ["u0", "u1", "u2"] * 2
    assert [row["guid"] for row in found[1]] == ["u0", "u0", "u1", "u1", "u2", "u2"]
    assert queries == [[CREATED, UPDATED], UPDATED]


def test_heavy_rows_are_left_to_each_event_s_own_query(tmp_path, queries):
    width = 2 * MOST_BYTES // 300
    database(
        tmp_path,
        f"create table users as select 'u' || i as guid, repeat('x', {width}) as name, "
        f"'{CLIENT}' as client_guid, {START} + i as created_at, case when i < 2 then {START + 999} "
        "end as updated_at, null::bigint as deleted_at from range(300) t(i)",
    )

    with source(tmp_path).snapshot() as snapshot:
        assert guids(snapshot) == [f"u{number}" for number in range(300)]
        assert snapshot._reader is None
        assert guids(snapshot, UPDATED) == ["u0", "u1"]

    assert queries == [[CREATED, UPDATED], CREATED, UPDATED]


# -- what goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("'x'::int::varchar", RecordInvalid, "cannot be converted"),
        ("repeat('x', 150000000)", SourceMemory, "memory_limit"),
    ],
)
def test_what_cannot_be_read_stops_the_event_that_has_it_alone(
    tmp_path, queries, name, error, message
):
    database(
        tmp_path,
        f"create view users as select guid, case when guid = 'u2' then {name} end as name, client_guid, "
        "created_at, updated_at, deleted_at from (values "
        f"('u1', '{CLIENT}', {START}, null, {START + 4}), ('u2', '{CLIENT}', null, {START + 1}, null)"
        ") v(guid, client_guid, created_at, updated_at, deleted_at)",
    )

    with source(tmp_path, memory_limit="60MB").snapshot() as snapshot:
        assert guids(snapshot, CREATED) == ["u1"]
        assert guids(snapshot, DELETED) == ["u1"]
        with pytest.raises(error, match=rf"users UPDATED: .*{message}"):
            guids(snapshot, UPDATED)

    assert queries[:4] == [[CREATED, UPDATED, DELETED], CREATED, DELETED, UPDATED]


def test_rows_that_vanish_after_they_were_counted_are_missed(tmp_path, queries):
    # a view that holds another number of rows each time it is read, of 9000 possible ones
    database(
        tmp_path,
        f"create view users as select 'u' || i as guid, '' as name, '{CLIENT}' as client_guid, "
        f"{START} as created_at, null::bigint as updated_at, null::bigint as deleted_at "
        "from range(9000) t(i) where i < 10 + (select random()) * 9000",
    )

    with (
        source(tmp_path).snapshot() as snapshot,
        pytest.raises(SourceIncomplete, match="were counted"),
    ):
        guids(snapshot)
    assert queries == [[CREATED]]


def test_clients_side_by_side_in_one_snapshot_are_not_mixed(tmp_path):
    users(
        tmp_path,
        f"('mine', '{CLIENT}', {START}, {START + 1}, null)",
        f"('theirs', '{OTHER_CLIENT}', {START}, {START + 1}, null)",
    )

    with source(tmp_path).snapshot() as snapshot:
        assert guids(snapshot, CREATED) == ["mine"]
        assert guids(snapshot, CREATED, client_guid=OTHER_CLIENT) == ["theirs"]
        assert guids(snapshot, UPDATED) == ["mine"]
        assert guids(snapshot, UPDATED, client_guid=OTHER_CLIENT) == ["theirs"]


# -- what is held ----------------------------------------------------------------------------------


def test_what_waits_for_later_events_is_bounded_over_all_resources(tmp_path, queries, monkeypatch):
    names = ["users", "tags", "goals"]
    for name in names:
        database(
            tmp_path,
            f"create table {name} as select 'u' || i as guid, repeat('x', 100) as name, "
            f"'{CLIENT}' as client_guid, {START} + i as created_at, {START + 99} + i as updated_at, "
            "null::bigint as deleted_at from range(40) t(i)",
        )
    with source(tmp_path).snapshot() as snapshot:
        guids(snapshot, CREATED)
        size = sum(day.held_bytes for day in snapshot._days.values())
    queries.clear()
    monkeypatch.setattr("mxdeliver.edge.sources.snapshot.HELD_BYTES", size * 3 // 2)

    with source(tmp_path).snapshot() as snapshot:
        for event in EventType:
            for name in names:
                rows = guids(snapshot, event, resource(name))
                assert rows == [f"u{number}" for number in range(40 if event is not DELETED else 0)]
                assert sum(day.held_bytes for day in snapshot._days.values()) <= size * 3 // 2

    assert queries == [[CREATED, UPDATED]] * 3 + [[UPDATED]] * 2


def test_a_stream_of_held_rows_ends_as_any_other(tmp_path):
    users(tmp_path, f"('u1', '{CLIENT}', {START}, {START + 1}, null)")

    with source(tmp_path).snapshot() as snapshot:
        for event, rows in ((CREATED, 1), (UPDATED, 1), (DELETED, 0)):
            items = list(snapshot.stream(resource(), event, CLIENT, DAY))
            assert items[-1] == EndOfStream(rows=rows)
