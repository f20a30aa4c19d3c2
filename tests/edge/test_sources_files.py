"""Parquet, CSV and JSON behind views, and what happens when files change while they are read."""

import os
import subprocess
import sys

import duckdb
import pyarrow as pa
import pytest

from mxdeliver.core.errors import SourceIncomplete, SourceSchema, SourceUnavailable
from mxdeliver.core.model import EventType
from tests.support.sources import CLIENT, DAY, START, database, guids, read, resource, source, users

CREATED, UPDATED, DELETED = EventType


def write(path, *numbers, created=START):
    """Write a file of users u<number>, in the form that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = ", ".join(f"({number})" for number in numbers)
    with duckdb.connect() as connection:
        connection.execute(
            f"copy (select 'u' || i as guid, 'x' as name, '{CLIENT}' as client_guid, "
            f"{created} + i as created_at, null::bigint as updated_at, null::bigint as deleted_at "
            f"from (values {values}) t(i)) to '{path}'"
        )
    return path


@pytest.mark.parametrize(
    "expression",
    [
        "read_parquet('data/*.parquet')",
        "read_parquet(['data/a.parquet', 'data/b.parquet'], union_by_name = true)",
        "'data/*.parquet'",
        "read_csv('data/*.csv', header = true)",
        "'data/?.csv'",
        "read_json('data/*.json')",
        "(select * from read_json_auto('data/[ab].json') where guid is not null)",
        "read_parquet('../{folder}/data/**/*.parquet')",
        "read_parquet('{parent}/{folder}/data/*.parquet')",
    ],
)
def test_views_over_files_count_from_the_configuration_s_folder(tmp_path, monkeypatch, expression):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for suffix in ("parquet", "csv", "json"):
        write(tmp_path / "data" / f"a.{suffix}", 1, 3)
        write(tmp_path / "data" / f"b.{suffix}", 2)
    view = expression.format(folder=tmp_path.name, parent=tmp_path.parent)
    origin = source(tmp_path, views={"users": view})

    assert origin.problems([resource()]) == []
    with origin.snapshot() as snapshot:
        assert [guids(snapshot, event) for event in EventType] == [["u1", "u2", "u3"], [], []]


def test_file_names_with_quotes_and_other_scripts_are_found(tmp_path):
    write(tmp_path / "plain.parquet", 1).rename(tmp_path / "größe 'x'.parquet")
    view = "(select 'é' as note, * from read_parquet('größe ''x''.parquet'))"

    rows = read(source(tmp_path, views={"users": view}))

    assert [row["guid"] for row in rows] == ["u1"]


def test_views_and_a_database_work_together(tmp_path):
    users(tmp_path, f"('table', '{CLIENT}', {START}, null, null)")
    write(tmp_path / "members.parquet", 1)
    origin = source(
        tmp_path,
        database="warehouse.duckdb",
        views={"members": "'members.parquet'", "people": "main.users"},
    )

    with origin.snapshot() as snapshot:
        assert guids(snapshot) == ["table"]
        assert guids(snapshot, wanted=resource("people", "guid")) == ["table"]
        assert guids(snapshot, wanted=resource("members", "guid")) == ["u1"]


def test_a_query_may_name_files_itself(tmp_path):
    write(tmp_path / "data" / "a.parquet", 1)
    users(tmp_path)
    query = "select guid, name, client_guid from 'data/a.parquet' where client_guid = $client_guid"
    origin = source(tmp_path, queries={"users": {CREATED: query}})

    with origin.snapshot() as snapshot:
        assert guids(snapshot) == ["u1"]


def test_a_time_column_without_any_value_may_be_text(tmp_path):
    header = "guid,name,client_guid,created_at,updated_at,deleted_at\n"
    (tmp_path / "users.csv").write_text(f"{header}u1,x,{CLIENT},{START},{START + 1},\n")
    (tmp_path / "tags.csv").write_text(f"{header}t1,x,{CLIENT},,{START + 1},\n")
    origin = source(tmp_path, views={"users": "'users.csv'", "tags": "'tags.csv'"})

    with origin.snapshot() as snapshot:
        assert [guids(snapshot, event) for event in EventType] == [["u1"], ["u1"], []]
        tags = resource("tags")
        assert [guids(snapshot, event, tags) for event in EventType] == [[], ["t1"], []]


def test_a_time_column_of_text_is_refused(tmp_path):
    (tmp_path / "users.csv").write_text(
        f"guid,name,client_guid,created_at,updated_at,deleted_at\nu1,x,{CLIENT},soon,,\n"
    )

    with pytest.raises(SourceSchema, match="created_at must hold Unix seconds") as caught:
        read(source(tmp_path, views={"users": "'users.csv'"}))
    assert "soon" not in str(caught.value)


@pytest.mark.parametrize("pattern", ["'gone.parquet'", "read_csv('gone/*.csv')"])
def test_a_missing_file_is_unavailable(tmp_path, pattern):
    origin = source(tmp_path, views={"users": pattern})

    with pytest.raises(SourceUnavailable, match=r"no file .*gone"):
        origin.check([resource()])
    with pytest.raises(SourceUnavailable, match=r"no file .*gone"), origin.snapshot():
        pass


@pytest.mark.parametrize("suffix", ["parquet", "json"])
def test_a_damaged_file_is_unavailable_and_not_quoted(tmp_path, suffix):
    (tmp_path / f"users.{suffix}").write_bytes(b'{"guid": SECRET' * 100)

    with pytest.raises(SourceUnavailable, match="view users") as caught:
        read(source(tmp_path, views={"users": f"'users.{suffix}'"}))
    assert "SECRET" not in str(caught.value)


def test_a_broken_view_fails_its_own_resource_only(tmp_path):
    write(tmp_path / "users.parquet", 1)
    (tmp_path / "members.parquet").write_bytes(b"no parquet")
    origin = source(
        tmp_path,
        views={
            "members": "'members.parquet'",
            "tags": "nothing_of_that_name",
            "goals": "'users.parquet'; select 1",
            "users": "'users.parquet'",
        },
    )

    found = origin.problems([resource(name) for name in ("users", "members", "tags", "goals")])

    assert [type(problem) for problem in found] == [SourceUnavailable, SourceSchema, SourceSchema]
    assert [row["guid"] for row in read(origin)] == ["u1"]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("read_parquet('https://example.test/a.parquet')", "only local files"),
        ("read_parquet('data/' || 'a.parquet')", "plain '…' texts"),
        ("read_parquet()", "plain '…' texts"),
        ("'a.parquet' where", "not a SELECT"),
        ('"data/a.parquet"', "as a plain"),
    ],
)
def test_files_must_be_local_and_named_literally(tmp_path, expression, message):
    with pytest.raises(SourceSchema, match=message):
        read(source(tmp_path, views={"users": expression}))


def test_a_view_inside_the_database_may_not_reach_files_that_nobody_watches(tmp_path):
    path = write(tmp_path / "hidden.parquet", 1)
    database(tmp_path, f"create view users as select * from '{path}'")

    with pytest.raises(SourceSchema, match=r"hidden\.parquet"):
        read(source(tmp_path))


# -- changes while reading -------------------------------------------------------------------------


def rewrite(folder):
    write(folder / "data" / "a.parquet", 1, 2, 3)


def touch(folder):
    os.utime(folder / "data" / "a.parquet", ns=(1, 1))


def replace_with_equal_size(folder):
    path = folder / "data" / "a.parquet"
    facts = path.stat()
    (folder / "new").write_bytes(path.read_bytes())
    os.utime(folder / "new", ns=(facts.st_atime_ns, facts.st_mtime_ns))
    (folder / "new").replace(path)


def add(folder):
    write(folder / "data" / "b.parquet", 2)


def remove(folder):
    (folder / "data" / "a.parquet").unlink()


CHANGES = [rewrite, touch, replace_with_equal_size, add, remove]


def deliver_while(origin, change, *, after):
    """Read one stream, change something, and read `after`, out of one snapshot."""
    with origin.snapshot() as snapshot:
        assert guids(snapshot) == ["u1"]
        change()
        return [list(snapshot.stream(resource(), event, CLIENT, DAY)) for event in after]


@pytest.mark.parametrize("after", [[UPDATED], []], ids=["between streams", "after the last"])
@pytest.mark.parametrize("change", CHANGES)
def test_files_that_changed_while_they_were_read_are_incomplete(tmp_path, change, after):
    write(tmp_path / "data" / "a.parquet", 1)
    origin = source(tmp_path, views={"users": "'data/*.parquet'"})

    with pytest.raises(SourceIncomplete, match="changed while"):
        deliver_while(origin, lambda: change(tmp_path), after=after)


def test_a_stream_over_changed_files_has_no_end(tmp_path):
    write(tmp_path / "data" / "a.parquet", 1)
    origin = source(tmp_path, views={"users": "'data/*.parquet'"})
    seen = []

    def deliver():
        with origin.snapshot() as snapshot:
            stream = snapshot.stream(resource(), CREATED, CLIENT, DAY)
            seen.append(next(stream))
            touch(tmp_path)
            seen.extend(stream)

    with pytest.raises(SourceIncomplete, match="changed while"):
        deliver()
    assert [type(item) for item in seen] == [pa.RecordBatch]


def test_a_file_that_is_being_written_is_a_change_and_no_wrong_record(tmp_path):
    header = "guid,name,client_guid,created_at,updated_at,deleted_at"
    path = tmp_path / "users.csv"
    path.write_text(f"{header}\nu1,x,{CLIENT},{START},,\n")
    origin = source(tmp_path, views={"users": "'users.csv'", "tags": "'users.csv'"})

    def deliver():
        with origin.snapshot() as snapshot:
            assert guids(snapshot) == ["u1"]
            path.write_text(f"{header}\nu1,x,{CLIENT},no time,,\n")
            guids(snapshot, wanted=resource("tags"))

    with pytest.raises(SourceIncomplete, match="tags CREATED: its files changed"):
        deliver()


def test_a_database_that_changed_is_incomplete(tmp_path):
    path = users(tmp_path, f"('u1', '{CLIENT}', {START}, null, null)")

    with pytest.raises(SourceIncomplete, match=r"warehouse\.duckdb changed while"):
        deliver_while(source(tmp_path), lambda: os.utime(path, ns=(1, 1)), after=[])


def test_another_error_inside_the_snapshot_is_not_covered_by_a_change(tmp_path):
    path = users(tmp_path, f"('u1', '{CLIENT}', {START}, null, null)")

    def change():
        os.utime(path, ns=(1, 1))
        raise KeyError

    with pytest.raises(KeyError):
        deliver_while(source(tmp_path), change, after=[])


# -- databases that cannot be opened ---------------------------------------------------------------


def test_a_database_held_by_its_writer_is_unavailable_until_it_lets_go(tmp_path):
    path = users(tmp_path, f"('u1', '{CLIENT}', {START}, null, null)")
    script = (
        "import duckdb, sys\n"
        "connection = duckdb.connect(sys.argv[1])\n"
        "connection.execute(\"update users set name = 'new'\")\n"
        "print(flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        writer.stdout.readline()
        with pytest.raises(SourceUnavailable, match="lock"):
            source(tmp_path).check([resource()])
        writer.stdin.close()
        writer.wait()

    assert read(source(tmp_path)) == [{"guid": "u1", "name": "new"}]


def test_a_writer_cannot_change_a_database_that_is_being_read(tmp_path):
    path = users(tmp_path, f"('u1', '{CLIENT}', {START}, null, null)")
    script = "import duckdb, sys; duckdb.connect(sys.argv[1])"

    with source(tmp_path).snapshot() as snapshot:
        writer = subprocess.run(
            [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
        )
        assert guids(snapshot) == ["u1"]

    assert "lock" in writer.stderr


def test_between_snapshots_the_database_belongs_to_its_writer_and_the_next_one_sees_the_change(
    tmp_path,
):
    path = users(tmp_path, f"('u1', '{CLIENT}', {START}, null, null)")
    script = (
        "import duckdb, sys\n"
        "with duckdb.connect(sys.argv[1]) as connection: connection.execute(sys.argv[2])\n"
    )
    origin = source(tmp_path, views={"members": "users"}, database="warehouse.duckdb")
    for name in ("new", "newer", "newest"):
        assert read(origin, wanted=resource("members"))[0]["name"] != name
        change = f"update users set name = '{name}'"
        subprocess.run([sys.executable, "-c", script, str(path), change], check=True)
        assert read(origin) == [{"guid": "u1", "name": name}]


def test_a_database_in_place_of_another_one_is_read_by_the_next_snapshot(tmp_path):
    users(tmp_path, f"('u1', '{CLIENT}', {START}, null, null)")
    (tmp_path / "other").mkdir()
    other = users(tmp_path / "other", f"('u2', '{CLIENT}', {START}, null, null)")
    origin = source(tmp_path)

    assert [row["guid"] for row in read(origin)] == ["u1"]
    other.replace(tmp_path / "warehouse.duckdb")
    assert [row["guid"] for row in read(origin)] == ["u2"]
    (tmp_path / "warehouse.duckdb").write_bytes(b"this is no database" * 1000)
    with pytest.raises(SourceUnavailable):
        read(origin)
    (tmp_path / "warehouse.duckdb").unlink()
    users(tmp_path, f"('u3', '{CLIENT}', {START}, null, null)")
    assert [row["guid"] for row in read(origin)] == ["u3"]


@pytest.mark.parametrize("database", ["linked.duckdb", "folder/../warehouse.duckdb", "it's.duckdb"])
def test_a_database_under_another_name_is_read_again_and_again(tmp_path, database):
    path = users(tmp_path, f"('u1', '{CLIENT}', {START}, null, null)")
    (tmp_path / "folder").mkdir()
    if not (tmp_path / database).exists():
        (tmp_path / database).symlink_to(path)
    origin = source(tmp_path, database=database)
    for _ in range(3):
        assert read(origin) == [{"guid": "u1", "name": "name of u1"}]


def test_a_link_that_names_another_database_by_the_next_snapshot_is_followed(tmp_path):
    users(tmp_path, f"('u1', '{CLIENT}', {START}, null, null)")
    (tmp_path / "other").mkdir()
    users(tmp_path / "other", f"('u2', '{CLIENT}', {START}, null, null)")
    link = tmp_path / "today.duckdb"
    origin = source(tmp_path, database="today.duckdb")
    for place, guid in 2 * (("warehouse.duckdb", "u1"), ("other/warehouse.duckdb", "u2")):
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / place)
        assert [row["guid"] for row in read(origin)] == [guid]


def test_what_a_writer_left_in_its_log_is_read_again_and_again(tmp_path):
    path = users(tmp_path)
    script = (
        "import duckdb, os, sys\n"
        "connection = duckdb.connect(sys.argv[1])\n"
        "connection.execute(sys.argv[2])\n"
        "os._exit(0)\n"
    )
    row = f"insert into users values ('u1', 'new', '{CLIENT}', {START}, null, null)"
    subprocess.run([sys.executable, "-c", script, str(path), row], check=True)
    assert path.with_name("warehouse.duckdb.wal").exists()
    origin = source(tmp_path)
    for _ in range(3):
        assert read(origin) == [{"guid": "u1", "name": "new"}]


@pytest.mark.parametrize("moment", ["before_truncate", "before_header", "after_free_list_write"])
def test_what_a_writer_left_that_died_in_a_checkpoint_is_read_again_and_again(tmp_path, moment):
    path = users(tmp_path)
    with duckdb.connect(str(path)) as connection:
        connection.execute(f"set debug_checkpoint_abort = '{moment}'")
        connection.execute(
            f"insert into users values ('u1', 'new', '{CLIENT}', {START}, null, null)"
        )
        with pytest.raises(duckdb.FatalException):
            connection.execute("checkpoint")
    assert path.with_name("warehouse.duckdb.wal").exists()
    origin = source(tmp_path)
    for _ in range(2):
        assert read(origin) == [{"guid": "u1", "name": "new"}]


def damage(path):
    content = bytearray(path.read_bytes())
    content[12_288:12_388] = bytes(100)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"this is no database" * 1000),
        lambda path: path.write_bytes(path.read_bytes()[:20_000]),
        damage,
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["missing", "empty", "other", "cut", "damaged", "folder"],
)
def test_a_database_that_is_none_is_unavailable(tmp_path, spoil):
    spoil(users(tmp_path))

    with pytest.raises(SourceUnavailable, match="warehouse"):
        read(source(tmp_path))
