"""A DuckDB that is used again knows what it knew of the file, unless the file has changed."""

import os

import pytest

from mxdeliver.core.calendar import Window
from mxdeliver.core.errors import SourceIncomplete, SourceSchema
from mxdeliver.core.model import EventType
from mxdeliver.edge.sources import known
from tests.support.sources import (
    CLIENT,
    START,
    can_write,
    database,
    guids,
    read,
    resource,
    rows_of,
    source,
    users,
)

CREATED, UPDATED, DELETED = EventType


def one_user(folder, guid="u1"):
    return users(folder, f"('{guid}', '{CLIENT}', {START}, null, null)")


def assert_a_change_is_seen(origin, path):
    def deliver():
        with origin.snapshot() as snapshot:
            assert guids(snapshot) == ["u1"]
            os.utime(path, ns=(1, 1))

    with pytest.raises(SourceIncomplete, match="changed while"):
        deliver()


def test_what_was_found_out_is_kept_while_the_file_is_the_same(tmp_path):
    path = one_user(tmp_path)
    origin = source(tmp_path)

    seen = []
    for change in (None, None, lambda: os.utime(path, ns=(1, 1)), None):
        if change:
            change()
        assert [row["guid"] for row in read(origin)] == ["u1"]
        (engine,) = origin._idle
        seen.append(engine.known.relations["users"])

    assert seen[0] is seen[1]
    assert seen[1] is not seen[2]
    assert seen[2] is seen[3]


def test_a_database_that_was_replaced_under_an_open_snapshot_is_seen_by_the_next_one(tmp_path):
    path = one_user(tmp_path)
    (tmp_path / "other").mkdir()
    other = one_user(tmp_path / "other", "u2")
    origin = source(tmp_path)

    def deliver():
        with origin.snapshot() as first:
            assert guids(first) == ["u1"]
            with origin.snapshot() as second:
                assert guids(second) == ["u1"]
            other.replace(path)
            with origin.snapshot() as third:
                assert guids(third) == ["u2"]

    with pytest.raises(SourceIncomplete, match="changed while"):
        deliver()
    assert [row["guid"] for row in read(origin)] == ["u2"]


def test_a_kept_database_that_changes_while_it_is_read_again_is_incomplete(tmp_path):
    path = one_user(tmp_path)
    origin = source(tmp_path)

    with origin.snapshot():
        pass

    assert_a_change_is_seen(origin, path)
    assert [row["guid"] for row in read(origin)] == ["u1"]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("alter table users alter created_at type timestamp using to_timestamp(created_at)", "u1"),
        ("alter table users add column further integer", "u1"),
        ("alter table users rename name to old; alter table users add column name varchar", "u1"),
        ("insert into users select * from users", "u1,u1"),
        (f"update users set created_at = {START - 1}", ""),
        ("alter table users rename to old; create view users as select * from old limit 0", ""),
    ],
)
def test_what_was_found_out_about_a_table_is_forgotten_when_its_file_changes(
    tmp_path, change, found
):
    one_user(tmp_path)
    origin = source(tmp_path)
    for _ in range(2):
        assert [row["guid"] for row in read(origin)] == ["u1"]

    database(tmp_path, change)

    assert [row["guid"] for row in read(origin)] == [guid for guid in found.split(",") if guid]


def test_a_time_column_that_gets_its_first_value_is_no_longer_taken_for_an_empty_one(tmp_path):
    database(
        tmp_path,
        f"create table users as select 'u1' as guid, '' as name, '{CLIENT}' as client_guid, "
        f"{START} as created_at, null::varchar as updated_at, null::varchar as deleted_at",
    )
    origin = source(tmp_path)
    assert [row["guid"] for row in read(origin)] == ["u1"]

    database(tmp_path, "update users set updated_at = 'yesterday'")

    with pytest.raises(SourceSchema, match="updated_at must hold"):
        read(origin)


def test_an_empty_column_of_text_is_looked_at_by_every_snapshot(tmp_path):
    """Its file may look the same, where times are told in whole seconds."""
    path = database(
        tmp_path,
        f"create table users as select 'u1' as guid, '' as name, '{CLIENT}' as client_guid, "
        f"{START} as created_at, {START} as updated_at, null::varchar as deleted_at",
    )
    origin = source(tmp_path)
    facts = path.stat()
    assert read(origin, DELETED) == []

    database(
        tmp_path,
        "alter table users drop deleted_at",
        f"alter table users add column deleted_at bigint default {START}",
    )
    assert path.stat().st_size == facts.st_size
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))

    assert [row["guid"] for row in read(origin, DELETED)] == ["u1"]


def test_a_resource_with_other_fields_under_the_same_name_is_looked_at_by_itself(tmp_path):
    one_user(tmp_path)
    origin = source(tmp_path)

    for fields in (["guid"], ["guid", "name"], ["name", "created_at"]):
        rows = read(origin, wanted=resource("users", *fields))
        assert [list(row) for row in rows] == [fields]


def test_days_and_clients_that_take_turns_each_get_their_own_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(known, "MOST_TEXTS", 2)
    database(
        tmp_path,
        "create table users as select 'u' || i as guid, '' as name, 'CLT-' || (i % 3) as client_guid, "
        f"{START} + (i // 3) * 86400 as created_at, null::bigint as updated_at, "
        "null::bigint as deleted_at from range(15) t(i)",
    )
    origin = source(tmp_path)

    for _ in range(2):
        for day in range(5):
            window = Window(start=START + day * 86_400, end=START + (day + 1) * 86_400)
            for client in range(3):
                with origin.snapshot() as snapshot:
                    stream = snapshot.stream(resource(), CREATED, f"CLT-{client}", window)
                    assert [row["guid"] for row in rows_of(stream)] == [f"u{day * 3 + client}"]


def test_a_database_is_let_go_behind_each_snapshot(tmp_path):
    path = one_user(tmp_path)
    origin = source(tmp_path)

    with origin.snapshot() as snapshot:
        assert guids(snapshot) == ["u1"]
        assert not can_write(path)
    assert can_write(path)


@pytest.mark.parametrize("few_rows", [0, 2500])
def test_where_a_source_lingers_its_database_stays_attached_until_it_is_to_let_go(
    tmp_path, few_rows
):
    path = one_user(tmp_path)
    origin = source(tmp_path, few_rows=few_rows)
    origin.linger()

    for _ in range(2):
        for _ in range(2):
            assert [row["guid"] for row in read(origin)] == ["u1"]
            assert not can_write(path)
        origin.let_go()
        assert can_write(path)
    assert len(origin._idle) == 1


@pytest.mark.parametrize("few_rows", [0, 2500])
def test_a_database_that_stays_attached_is_not_read_any_more_behind_another_file(
    tmp_path, few_rows
):
    path = one_user(tmp_path)
    others = [tmp_path / name for name in ("u2", "u3")]
    for folder in others:
        folder.mkdir()
    second, third = [one_user(folder, folder.name) for folder in others]
    origin = source(tmp_path, few_rows=few_rows)
    origin.linger()
    assert [row["guid"] for row in read(origin)] == ["u1"]

    facts = path.stat()
    path.write_bytes(second.read_bytes())  # as cp does, which asks for no lock
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # cp -p
    assert path.stat().st_size == facts.st_size
    assert [row["guid"] for row in read(origin)] == ["u2"]

    path.with_name("backup").hardlink_to(path)
    assert [row["guid"] for row in read(origin)] == ["u2"]

    third.replace(path)
    assert [row["guid"] for row in read(origin)] == ["u3"]


def test_a_database_that_stays_attached_is_let_go_behind_a_snapshot_that_failed(tmp_path):
    path = one_user(tmp_path)
    origin = source(tmp_path)
    origin.linger()

    assert_a_change_is_seen(origin, path)
    assert can_write(path)
