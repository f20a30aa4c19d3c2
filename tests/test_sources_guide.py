"""docs/sources.md is true: its examples are run as they stand."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import duckdb
import pytest
import yaml

from mxdeliver.core.manifest import STANDARD_RESOURCES
from mxdeliver.core.model import Codec, EventType, Verification
from mxdeliver.edge.avro import ContainerWriter, load_resources
from mxdeliver.edge.config import load
from mxdeliver.edge.sources import open_source
from mxdeliver.edge.sources.settings import DEFAULT_MEMORY_LIMIT, DEFAULT_THREADS
from tests.support.sources import CLIENT, DAY, rows_of

GUIDE = (Path(__file__).parents[1] / "docs" / "sources.md").read_text(encoding="utf-8")
RESOURCES = load_resources()
CREATED, UPDATED, DELETED = EventType


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


WAREHOUSE_SQL, LABELS_SQL = blocks("sql")
SOURCES = {name: text for text in blocks("yaml") for name in yaml.safe_load(text)["sources"]}


@pytest.fixture
def folder(tmp_path):
    """The folder of the configuration, with the data that the guide's sources name."""
    data = tmp_path / "data"
    (data / "tags").mkdir(parents=True)
    with duckdb.connect(str(data / "warehouse.duckdb")) as connection:
        connection.execute(WAREHOUSE_SQL)
        connection.execute(
            "copy (select * exclude (revision, user_id) from tags) "
            f"to '{data / 'tags' / 'one.parquet'}' (format parquet)"
        )
    with duckdb.connect(str(data / "core.duckdb")) as connection:
        connection.execute(LABELS_SQL)
    (csv,) = blocks("csv")
    (data / "users.csv").write_text(csv, encoding="utf-8")
    return tmp_path


def opened(folder, name):
    """Open a source by the guide's own YAML, in a configuration around it."""
    client = {
        "guid": CLIENT,
        "source": name,
        "pgp": {"public_key": "a.asc", "fingerprint": "0" * 40},
        "sftp": {
            "host": "sftp.example.test",
            "port": 8022,
            "username": "mx",
            "password": {"env": "PASSWORD"},
            "host_keys": ["SHA256:" + "A" * 43],
            "allowed_ips": ["203.0.113.7"],
        },
    }
    rest = yaml.safe_dump({"version": 1, "state_dir": "state", "clients": [client]})
    (folder / "config.yaml").write_text(SOURCES[name] + rest, encoding="utf-8")
    configuration = load(folder / "config.yaml")
    assert configuration.broken == ()
    return open_source(configuration.sources[name])


def delivered(source, resource):
    """The rows of each event, which must also fit the schema."""
    found = {}
    for event in EventType:
        with source.snapshot() as snapshot:
            items = list(snapshot.stream(RESOURCES[resource], event, CLIENT, DAY))
        writer = ContainerWriter(
            RESOURCES[resource],
            lambda _: None,
            codec=Codec.NULL,
            sync_marker=bytes(16),
            verification=Verification.FULL,
        )
        for batch in items[:-1]:
            writer.write(batch)
        writer.finish()
        found[event] = rows_of(iter(items))
    return found


@pytest.mark.parametrize(
    ("name", "resource", "counts"),
    [
        ("warehouse", "tags", (1, 0, 0)),
        ("large", "tags", (1, 0, 0)),
        ("lake", "tags", (1, 0, 0)),
        ("lake", "users", (1, 1, 0)),
        ("core", "tags", (1, 1, 0)),
    ],
)
def test_an_example_passes_the_check_and_gives_its_records(folder, name, resource, counts):
    source = opened(folder, name)

    assert source.problems([RESOURCES[resource]]) == []
    found = delivered(source, resource)
    assert tuple(len(rows) for rows in found.values()) == counts
    assert all(row["guid"] in {"TAG-1", "USR-1"} for rows in found.values() for row in rows)


def test_every_source_of_the_guide_is_run():
    assert set(SOURCES) == {"warehouse", "lake", "core", "large"}


def test_a_number_s_zeros_stay_where_its_column_is_named_text(folder):
    (row,) = delivered(opened(folder, "lake"), "users")[CREATED]

    assert row["id"] == "0071"
    assert row["birthday"] == date(1980, 2, 29), "a date, delivered as ISO 8601 text"


def test_an_object_of_one_day_may_be_in_all_three_files(folder):
    with duckdb.connect(str(folder / "data" / "warehouse.duckdb")) as connection:
        connection.execute(
            "update tags set updated_at = '2026-01-01 10:00', deleted_at = '2026-01-01 11:00'"
        )

    found = delivered(opened(folder, "warehouse"), "tags")
    assert [len(rows) for rows in found.values()] == [1, 1, 1]


def test_the_guide_lists_the_resources_and_the_defaults():
    listed = GUIDE.partition("## The resources")[2]
    standard, _, further = listed.partition("A client who receives fewer")
    assert re.findall(r"`([a-z_]+)`", standard) == list(STANDARD_RESOURCES)
    named = set(re.findall(r"`([a-z_]+)`", further.partition("Also shipped")[2]))
    assert named == set(RESOURCES) - set(STANDARD_RESOURCES)
    assert f"`memory_limit` ({DEFAULT_MEMORY_LIMIT} unless set)" in GUIDE
    assert f"`threads` ({DEFAULT_THREADS} unless set)" in GUIDE


def test_in_the_shipped_schemas_guid_alone_needs_a_value():
    needed = {
        field.name
        for resource in RESOURCES.values()
        for field in resource.fields
        if not isinstance(field.avro_type, list)
    }
    assert needed == {"guid"}
