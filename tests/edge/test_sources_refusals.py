"""What a DuckDB source refuses, under which code, and that no record value is ever shown."""

import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from mxdeliver.core.errors import (
    ConfigInvalid,
    RecordInvalid,
    SourceIncomplete,
    SourceMemory,
    SourceSchema,
    SourceUnavailable,
)
from mxdeliver.core.model import EndOfStream, EventType
from mxdeliver.edge.sources import open_source
from mxdeliver.edge.sources.checked import checked
from mxdeliver.edge.sources.failures import Stage, translate
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
    settings,
    source,
    users,
)

CREATED, UPDATED, DELETED = EventType
SECRET = "4111-1111"


def own(folder, query, **options):
    """A source whose users CREATED is `query`."""
    return source(folder, queries={"users": {CREATED: query}}, **options)


# -- relations and columns -------------------------------------------------------------------------


def test_a_missing_table_is_named(tmp_path):
    users(tmp_path)

    with pytest.raises(SourceSchema) as caught:
        source(tmp_path).check([resource("users"), resource("members")])
    assert str(caught.value) == "source warehouse: members: there is no table or view members"
    assert "`resources`" in caught.value.remedy


def test_a_missing_column_is_named_with_the_near_one(tmp_path):
    database(
        tmp_path,
        "create table users as select '' as guids, '' as name, 1 as created_at, 1 as updated_at",
    )

    with pytest.raises(SourceSchema) as caught:
        source(tmp_path).check([resource()])
    assert str(caught.value) == (
        "source warehouse: users: columns guid (there is guids), client_guid and deleted_at "
        "are missing"
    )


def test_of_many_missing_columns_the_first_are_named_and_the_rest_counted(tmp_path):
    database(tmp_path, "create table users as select '' as client_guid, 1 as column_50")
    fields = [f"column_{number}" for number in range(10, 51)]

    with pytest.raises(SourceSchema) as caught:
        source(tmp_path).check([resource("users", *fields)])
    assert str(caught.value) == (
        f"source warehouse: users: columns {', '.join(fields[:8])} and 35 more are missing"
    )


def test_a_column_that_is_wanted_itself_is_no_guess_for_another(tmp_path):
    database(
        tmp_path,
        "create table users as select '' as user_guid, '' as client_guid, 1 as created_at, "
        "1 as updated_at, 1 as deleted_at",
    )

    with pytest.raises(SourceSchema) as caught:
        source(tmp_path).check([resource("users", "user_id", "user_guid")])
    assert str(caught.value) == "source warehouse: users: column user_id is missing"


def test_fields_that_differ_in_case_alone_are_no_columns_of_a_table(tmp_path):
    users(tmp_path)

    with pytest.raises(SourceSchema, match="fields Name and name differ in case alone"):
        source(tmp_path).check([resource("users", "guid", "Name", "name")])


def table_with(folder, expression):
    """A table of users whose name is an expression."""
    database(
        folder,
        f"create table users as select 'U' as guid, {expression} as name, "
        f"'{CLIENT}' as client_guid, {START} as created_at, null::bigint as updated_at, "
        "null::bigint as deleted_at",
    )


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("1::uhugeint", "UHUGEINT"),
        ("{'x': [map {'k': 1::uhugeint}]}", "UHUGEINT"),
        ("'10:00:00+01'::timetz", "TIME WITH TIME ZONE"),
        ("['101'::bit]", "BIT"),
    ],
)
def test_a_type_of_which_arrow_keeps_less_is_refused(tmp_path, expression, shown):
    table_with(tmp_path, expression)
    query = "select guid, name, client_guid from users where client_guid = $client_guid"
    for origin in (source(tmp_path), own(tmp_path, query)):
        for ask in (lambda: origin.check([resource()]), lambda: read(origin)):  # noqa: B023 - at once
            with pytest.raises(SourceSchema, match=f"column name is of type {shown}, .*cast it"):
                ask()


def test_names_and_symbols_like_such_a_type_are_none(tmp_path):
    table_with(tmp_path, "{'BIT': 'UHUGEINT'::enum('UHUGEINT', 'BIT')}")

    source(tmp_path).check([resource()])


@pytest.mark.parametrize("column_type", ["double", "date", "boolean", "decimal(10,2)", "time"])
def test_times_are_whole_seconds_or_timestamps(tmp_path, column_type):
    users(tmp_path, times=column_type)

    with pytest.raises(SourceSchema, match="created_at must hold Unix seconds or timestamps"):
        source(tmp_path).check([resource()])


def test_problems_are_all_reported_and_none_twice(tmp_path):
    users(tmp_path)
    queries = {
        "users": {
            UPDATED: "select 1 as guid where $client_guid = ''",
            DELETED: "select guid from nowhere where client_guid = $client_guid",
        }
    }
    origin = source(tmp_path, queries=queries)

    found = [str(problem) for problem in origin.problems([resource(), resource("goals")])]

    assert len(found) == 3
    assert "users UPDATED: columns name and client_guid are missing" in found[0]
    assert "users DELETED" in found[1]
    assert "nowhere" in found[1]
    assert "goals: " in found[2]


def test_a_source_that_fits_has_no_problems_and_reads_no_records(tmp_path):
    users(tmp_path, f"('u1', '{OTHER_CLIENT}', {START}, null, null)")
    query = "select error('read') as guid, name, client_guid from users where $client_guid <> guid"

    assert own(tmp_path, query).problems([resource()]) == []


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("guid, client_guid", "column name is missing"),
        ("guid, name", "column client_guid is missing"),
        ("guid, name, client_guid, created_at", "column created_at is not in the schema"),
        ("guid, name as nome, client_guid", "column name .there is nome. is missing"),
        ("guid as GUID, name, client_guid", "column guid .there is GUID. is missing"),
        ("guid, guid, name, client_guid", "column guid is there more than once"),
    ],
)
@pytest.mark.parametrize("when", ["check", "stream"])
def test_a_query_gives_the_schema_s_columns_and_no_others(tmp_path, columns, message, when):
    users(tmp_path, f"('u1', '{CLIENT}', {START}, null, null)")
    origin = own(tmp_path, f"select {columns} from users where client_guid = $client_guid")

    with pytest.raises(SourceSchema, match=message):
        origin.check([resource()]) if when == "check" else read(origin)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("select guid, name, client_guid from users", r"\$client_guid"),
        ("select '$client_guid' as guid -- $client_guid", r"\$client_guid"),
        ("select 1 where $client_guid = '' and $day = 1", r"there is no parameter \$day"),
        ("select 1 where ? = ''", r"there is no parameter \$1"),
        ("select $client_guid; select 1", "single SELECT"),
        ("delete from users where client_guid = $client_guid", "single SELECT"),
        ("copy (select $client_guid) to 'x.csv'", "single SELECT"),
        ("", "single SELECT"),
        ("selekt $client_guid", "cannot be read"),
        ("select * from read_csv($client_guid)", "plain '…' texts"),
    ],
)
@pytest.mark.parametrize("when", ["check", "stream"])
def test_a_query_is_a_single_select_that_asks_for_the_client(tmp_path, query, message, when):
    users(tmp_path)
    origin = own(tmp_path, query)

    with pytest.raises(SourceSchema, match=message):
        origin.check([resource()]) if when == "check" else read(origin)
    with origin.snapshot() as snapshot:
        assert guids(snapshot, UPDATED) == []


# -- rows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("intruder", [f"'{OTHER_CLIENT}'", "null", f"'{CLIENT.lower()}'", "''"])
@pytest.mark.parametrize("place", [0, 2500, 4999])
def test_a_row_of_another_client_stops_the_stream_unnamed(tmp_path, intruder, place):
    users(tmp_path)
    origin = own(
        tmp_path,
        f"select 'u' || i as guid, '{SECRET}' as name, case when i = {place} then {intruder} "
        "else $client_guid end as client_guid from range(5000) t(i)",
        batch_rows=2048,
    )

    with pytest.raises(RecordInvalid, match="users CREATED: a row has another client") as caught:
        read(origin)
    assert SECRET not in str(caught.value)
    assert OTHER_CLIENT not in str(caught.value)


def test_client_guid_that_is_always_null_or_no_text_is_refused(tmp_path):
    users(tmp_path)
    query = "select 'u' as guid, '' as name, {} as client_guid where $client_guid <> ''"

    with pytest.raises(RecordInvalid):
        read(own(tmp_path, query.format("null")))
    with pytest.raises(SourceSchema, match="client_guid must be text"):
        read(own(tmp_path, query.format("7")))


@pytest.mark.parametrize(
    "expression",
    [
        f"case when i = 90000 then '{SECRET}' else '1' end::int",
        f"case when i = 90000 then error('{SECRET}') else 1 end",
        "case when i = 90000 then 9223372036854775807 else 1 end + i",
    ],
)
def test_a_value_that_does_not_convert_is_not_shown(tmp_path, expression):
    users(tmp_path)
    origin = own(
        tmp_path,
        f"select {expression} as guid, '' as name, $client_guid as client_guid "
        "from range(100000) t(i)",
    )

    with pytest.raises(RecordInvalid, match=r"users CREATED: .*cannot be converted") as caught:
        read(origin)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_constant_that_does_not_convert_is_the_query_s_own_fault(tmp_path):
    users(tmp_path)
    query = "select guid, name, client_guid from users where client_guid = $client_guid and guid in (select 'u' from range('many'))"

    with pytest.raises(SourceSchema, match="users CREATED"):
        own(tmp_path, query).check([resource()])


def test_a_csv_row_that_cannot_be_read_is_not_shown(tmp_path):
    lines = [f"u{number},{number},{CLIENT},{START},," for number in range(60_000)]
    lines[50_000] = f"u,{SECRET},{CLIENT},{START},,"
    header = "guid,name,client_guid,created_at,updated_at,deleted_at"
    (tmp_path / "users.csv").write_text("\n".join([header, *lines]))

    with pytest.raises(RecordInvalid) as caught:
        read(source(tmp_path, views={"users": "'users.csv'"}))
    assert SECRET not in str(caught.value)


def test_candidate_columns_are_not_shown_where_a_header_is_missing(tmp_path):
    (tmp_path / "users.csv").write_text(f"guidx,{SECRET}\nmary,b\n")
    query = "select guid from 'users.csv' where $client_guid <> ''"
    origin = own(tmp_path, query, views={"members": "'users.csv'"})

    with pytest.raises(SourceSchema, match="guid") as caught:
        origin.check([resource()])
    assert SECRET not in str(caught.value)


def test_a_query_that_needs_too_much_memory_names_the_setting(tmp_path):
    users(tmp_path)
    origin = own(
        tmp_path,
        "select i || repeat('x', 100) as guid, '' as name, $client_guid as client_guid "
        "from range(3000000) t(i) order by hash(i)",
        memory_limit="60MB",
    )

    with pytest.raises(SourceMemory, match="memory_limit"):
        read(origin)


def test_what_cannot_become_arrow_is_refused(tmp_path):
    users(tmp_path)
    query = "select guid, name, client_guid from users where client_guid = $client_guid and nope(1)"

    with pytest.raises(SourceSchema, match="nope"):
        own(tmp_path, query).check([resource()])


def test_an_interrupted_stream_has_no_end(tmp_path):
    users(tmp_path)
    origin = own(
        tmp_path,
        "select 'u' || i as guid, '' as name, $client_guid as client_guid from range(1000000) t(i)",
        batch_rows=2048,
        threads=1,
    )

    with origin.snapshot() as snapshot:
        stream = snapshot.stream(resource(), CREATED, CLIENT, DAY)
        next(stream)
        snapshot._connection.interrupt()
        seen = []
        with pytest.raises(SourceIncomplete, match="users CREATED: reading stopped"):
            seen.extend(stream)
    assert not any(isinstance(item, EndOfStream) for item in seen)


# -- counts, whatever the source -------------------------------------------------------------------


def batches(*sizes):
    """Record batches of the client's users, of these sizes."""
    for size in sizes:
        yield pa.record_batch(
            {"guid": ["u"] * size, "name": [None] * size, "client_guid": [CLIENT] * size}
        )


@pytest.mark.parametrize("expected", [4, 6, 0])
def test_a_count_that_differs_from_the_rows_leaves_the_stream_without_an_end(expected):
    seen = []

    with pytest.raises(SourceIncomplete, match=f"5 rows came where {expected} were counted"):
        seen.extend(checked(batches(3, 0, 2), resource(), CLIENT, "test", expected))
    assert not any(isinstance(item, EndOfStream) for item in seen)


@pytest.mark.parametrize("expected", [5, None])
def test_a_count_that_fits_ends_the_stream_and_empty_batches_are_dropped(expected):
    items = list(checked(batches(3, 0, 2), resource(), CLIENT, "test", expected))

    assert [item.num_rows for item in items[:-1]] == [3, 2]
    assert items[-1] == EndOfStream(rows=5)


@pytest.mark.parametrize("place", range(5))
def test_a_source_that_dies_after_any_batch_gives_no_end(place):
    def dying():
        yield from batches(*[2] * place)
        raise ConnectionResetError

    seen = []
    with pytest.raises(ConnectionResetError):
        seen.extend(checked(dying(), resource(), CLIENT, "test", None))
    assert [item.num_rows for item in seen] == [2] * place


def test_rows_that_vanish_from_a_relation_are_missed(tmp_path):
    # a view that holds another number of rows each time it is read, of 200,000 possible ones
    database(
        tmp_path,
        "create view users as select 'u' as guid, '' as name, "
        f"'{CLIENT}' as client_guid, {START} as created_at, null::bigint as updated_at, "
        "null::bigint as deleted_at from range(200000) t(i) where i < (select random()) * 200000",
    )

    with pytest.raises(SourceIncomplete, match="were counted"):
        read(source(tmp_path))


# -- what DuckDB may do ----------------------------------------------------------------------------


def test_duckdb_neither_spills_nor_extends_itself_nor_sees_python(tmp_path):
    users(tmp_path, f"('u1', '{CLIENT}', {START}, null, null)")
    local_table = pa.table({"guid": ["planted"], "name": [""], "client_guid": [CLIENT]})

    with source(tmp_path, memory_limit="123 MiB", threads=3).snapshot() as snapshot:
        values = dict(
            snapshot._connection.execute(
                "select name, value from duckdb_settings() where name in ('temp_directory', "
                "'memory_limit', 'threads', 'autoload_known_extensions', 'lock_configuration', "
                "'autoinstall_known_extensions', 'enable_external_access')"
            ).fetchall()
        )
        with pytest.raises(SourceSchema, match="local_table"):
            rows_of(snapshot.stream(resource("local_table"), CREATED, CLIENT, DAY))

    assert local_table.num_rows == 1
    assert values == {
        "temp_directory": "",
        "memory_limit": "123.0 MiB",
        "threads": "3",
        "autoload_known_extensions": "false",
        "autoinstall_known_extensions": "false",
        "enable_external_access": "false",
        "lock_configuration": "true",
    }


def test_what_a_snapshot_may_do_is_the_same_for_the_next_one(tmp_path):
    users(tmp_path, f"('u1', '{CLIENT}', {START}, null, null)")
    (tmp_path / "planted.csv").write_text("guid\nplanted\n")
    origin = source(tmp_path)

    for _ in range(3):
        with origin.snapshot() as snapshot:
            execute = snapshot._connection.execute
            zone, buffered = execute(
                "select current_setting('TimeZone'), current_setting('streaming_buffer_size')"
            ).fetchall()[0]
            assert (zone, buffered) == ("UTC", "976.5 KiB")
            assert execute("select count(*) from duckdb_temporary_files()").fetchall() == [(0,)]
            for statement in (
                f"select * from read_csv('{tmp_path}/planted.csv')",
                f"attach '{tmp_path}/planted.duckdb' as planted",
                "set enable_external_access = true",
                "set lock_configuration = false",
                "insert into users (guid) values ('u2')",
            ):
                with pytest.raises(duckdb.Error):
                    execute(statement)
                execute("rollback")
                execute("begin transaction read only")
            assert guids(snapshot) == ["u1"]


def test_the_database_is_attached_read_only(tmp_path):
    users(tmp_path)

    with (
        source(tmp_path).snapshot() as snapshot,
        pytest.raises(duckdb.Error, match=r"read-only|READ"),
    ):
        snapshot._connection.execute("insert into users (guid) values ('u1')")


# -- settings and types ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"database": None}, "`database`, `views` or both are required"),
        ({"database": 7}, "`database` must be the path"),
        ({"database": ""}, "`database` must be the path"),
        ({"views": ["users"]}, "`views` must give a table expression"),
        ({"views": {"users": 7}}, "`views` must give a table expression"),
        ({"views": {"users": " "}}, "`views` must give a table expression"),
        ({"memory_limit": 500}, "`memory_limit` must be a size"),
        ({"memory_limit": "12 bananas"}, "`memory_limit` must be a size"),
        ({"threads": 0}, "`threads` must be a whole number"),
        ({"threads": True}, "`threads` must be a whole number"),
        ({"threads": "2"}, "`threads` must be a whole number"),
        ({"databse": "x"}, "no option `databse`, did you mean `database`"),
        ({"zzz": "x"}, "no option `zzz`$"),
    ],
)
def test_options_are_checked_before_anything_is_opened(tmp_path, options, message):
    with pytest.raises(ConfigInvalid, match=message) as caught:
        open_source(settings(tmp_path, **options))
    assert "warehouse" in str(caught.value)


def test_all_wrong_options_are_named_at_once(tmp_path):
    with pytest.raises(ConfigInvalid, match=r"database.*memory_limit.*threads"):
        open_source(settings(tmp_path, database=1, memory_limit=1, threads=-1))


def test_opening_a_source_reads_nothing(tmp_path):
    origin = open_source(settings(tmp_path / "does not exist"))

    with pytest.raises(SourceUnavailable):
        origin.check([])


def test_adbc_is_named_as_not_available(tmp_path):
    with pytest.raises(ConfigInvalid, match="adbc is not available in this version"):
        open_source(settings(tmp_path, source_type="adbc"))


def plug_in(folder, monkeypatch, target):
    """Install a package that registers the source type `ledgerbook`."""
    facts = folder / "ledgerbook-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: ledgerbook\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[mxdeliver.sources]\nledgerbook = {target}\n")
    monkeypatch.syspath_prepend(folder)


def test_other_types_come_from_entry_points(tmp_path, monkeypatch):
    (tmp_path / "ledgerbook_plugin.py").write_text(
        "def make(settings):\n    return ('made', settings)\n"
    )
    plug_in(tmp_path, monkeypatch, "ledgerbook_plugin:make")
    wanted = settings(tmp_path, source_type="ledgerbook")

    try:
        assert open_source(wanted) == ("made", wanted)
    finally:
        sys.modules.pop("ledgerbook_plugin", None)
    with pytest.raises(ConfigInvalid, match="no type 'duckbd'; there are: duckdb, ledgerbook"):
        open_source(replace(wanted, type="duckbd"))


@pytest.mark.parametrize("target", ["no_such_module_here:make", "json:no_such_name"])
def test_an_entry_point_that_does_not_load_is_named(tmp_path, monkeypatch, target):
    plug_in(tmp_path, monkeypatch, target)

    with pytest.raises(ConfigInvalid, match="ledgerbook"):
        open_source(settings(tmp_path, source_type="ledgerbook"))


# -- the words of foreign errors -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "stage", "expected"),
    [
        (duckdb.OutOfMemoryException("Out of Memory Error: x"), Stage.OPEN, SourceMemory),
        (MemoryError(), Stage.READ, SourceMemory),
        (OSError("Out of Memory Error: x"), Stage.READ, SourceMemory),
        (OSError("INTERRUPT Error: Interrupted!"), Stage.READ, SourceIncomplete),
        (OSError("IO Error: could not read"), Stage.READ, SourceIncomplete),
        (OSError("something else"), Stage.READ, SourceIncomplete),
        (OSError("Binder Error: x"), Stage.READ, SourceSchema),
        (duckdb.IOException("IO Error: x"), Stage.BIND, SourceUnavailable),
        (duckdb.InvalidInputException("Invalid Input Error: x"), Stage.BIND, SourceSchema),
        (duckdb.ConversionException("Conversion Error: x"), Stage.VIEW, SourceUnavailable),
        (duckdb.Error("Corrupt database file: x"), Stage.OPEN, SourceUnavailable),
    ],
)
def test_foreign_errors_get_our_codes(error, stage, expected):
    assert type(translate(error, stage, "here")) is expected


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize(
    "kind", ["Conversion", "Invalid Input", "Out of Range", "INTERNAL", "Corrupt", ""]
)
def test_texts_that_may_hold_values_are_never_passed_on(kind, stage):
    message = str(translate(OSError(f"{kind} Error: {SECRET} Error: x"), stage, "here"))

    assert message.startswith("here: ")
    assert SECRET not in message


def test_the_package_s_files_are_listed_in_its_docstring():
    import mxdeliver.edge.sources as package  # noqa: PLC0415 - its path is the test's subject

    files = {path.stem for path in Path(package.__file__).parent.glob("*.py")} - {"__init__"}
    listed = {line.split()[0] for line in package.__doc__.splitlines() if line.startswith("    ")}

    assert files <= listed
