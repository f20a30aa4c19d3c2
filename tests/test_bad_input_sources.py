"""Sources that are not what the schemas need, belong to others, or die half way; a spool without room."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager

import duckdb
import pytest
from pyarrow import parquet

from mxdeliver.edge.avro import load_resources
from tests.support.openssh import OpenSSHServer
from tests.support.outcomes import (
    DAY,
    RESOURCES,
    add_client,
    assert_delivered,
    assert_nothing_arrived,
    fill,
    next_step,
    run_day,
    small_deployment,
)

TAGS = {"tags": "(from 'tags.parquet')"}
ROWS = 1500
EVENTS = ("created", "updated", "deleted")


class Bench:
    """One run of a healthy client and one for each source that needs a person, then one of the rest."""

    def __init__(self, folder, server):
        self.folder = folder
        self.deployment = small_deployment(folder, server)
        self.healthy = add_client(self.deployment, "healthy")
        self.no_table = self._client("no table", views={"users": "(from 'users.parquet')"})
        self.no_column = self._client(
            "no column",
            views={"users": "(select * exclude (first_name) from 'users.parquet')", **TAGS},
        )
        columns = ", ".join(field.name for field in load_resources()["users"].fields)
        everybody = f"select {columns}, client_guid from users where $client_guid <> ''"
        self.mixed_up = self._client(
            "mixed up",
            database="warehouse.duckdb",
            queries={"users": dict.fromkeys(EVENTS, everybody)},
        )
        types = dict.fromkeys(("created_at", "updated_at", "deleted_at"), "BIGINT")
        late = f"(from read_csv('users.csv', sample_size = 100, types = {types}))"
        self.bad_row = self._client("bad row", views={"users": late, **TAGS})
        self.cut_short = self._client("cut short", views={"users": "(from 'cut.parquet')", **TAGS})
        self.gone = self._client("gone", database="gone.duckdb")
        # the last client's records are the last of the files
        self.torn = self._client("torn", views={"users": "(from 'torn.parquet')", **TAGS})
        fill(self.deployment, rows=ROWS)
        self._export()
        waiting = (self.torn, self.cut_short, self.gone)
        self.parked = self._run([one for one in self.deployment.parties if one not in waiting])
        self.waiting = self._run([self.healthy, *waiting])

    def _client(self, name, **source):
        self.deployment.document["sources"][name] = {"type": "duckdb", **source}
        return add_client(self.deployment, name, source=name)

    def _run(self, parties):
        chosen = [word for party in parties for word in ("--client", party.guid)]
        return run_day(self.deployment, "--date", str(DAY), *chosen)

    def _export(self):
        with duckdb.connect(str(self.deployment.warehouse), read_only=True) as connection:
            for name in RESOURCES:
                path = self.folder / f"{name}.parquet"
                connection.execute(f"copy {name} to '{path}' (row_group_size 1024)")
            connection.execute(f"copy users to '{self.folder}/users.csv'")
        whole = (self.folder / "users.parquet").read_bytes()
        (self.folder / "cut.parquet").write_bytes(whole[: len(whole) // 2])
        self._tear(whole)
        self._spoil_a_row()

    def _tear(self, whole):
        """Zero one column's pages of the last row group: the counts before it still come out right."""
        metadata = parquet.read_metadata(self.folder / "users.parquet")
        column = metadata.schema.names.index("first_name")
        chunk = metadata.row_group(metadata.num_row_groups - 1).column(column)
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        torn = bytearray(whole)
        torn[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
        (self.folder / "torn.parquet").write_bytes(torn)

    def _spoil_a_row(self):
        """Give the last row of the CSV file a time that is none."""
        path = self.folder / "users.csv"
        lines = path.read_text().splitlines(keepends=True)
        place = lines[0].rstrip().split(",").index("updated_at")
        cells = lines[-1].split(",")
        cells[place] = "never"
        path.write_text("".join([*lines[:-1], ",".join(cells)]))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    with OpenSSHServer(folder) as server:
        yield Bench(folder, server)


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("no_table", "SOURCE_SCHEMA", ["tags", "Make the source give the schema's columns"]),
        ("no_column", "SOURCE_SCHEMA", ["users", "column first_name is missing"]),
        ("mixed_up", "RECORD_INVALID", ["users", "another client's client_guid"]),
        ("bad_row", "RECORD_INVALID", ["users", "cannot be converted"]),
    ],
)
def test_a_source_that_does_not_fit_parks_its_client(bench, name, code, words):
    party = getattr(bench, name)
    row = bench.parked.row(party)
    assert (row["state"], row["error_code"], row["attempts"]) == ("parked", code, 1)
    for word in [f"{DAY}: parked, {code}: ", *words]:
        assert word in bench.parked.line(party)
    assert_nothing_arrived(party)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("torn", "SOURCE_INCOMPLETE"),
        ("cut_short", "SOURCE_UNAVAILABLE"),
        ("gone", "SOURCE_UNAVAILABLE"),
    ],
)
def test_a_source_that_is_not_whole_is_waited_for_and_no_empty_file_comes_of_it(bench, name, code):
    party = getattr(bench, name)
    row = bench.waiting.row(party)
    assert (row["state"], row["error_code"], row["files"]) == ("waiting", code, 0)
    assert f"{DAY}: waiting, {code}: " in bench.waiting.line(party)
    assert row["retry_at"] is not None
    assert_nothing_arrived(party)
    sealed = [one for one in bench.deployment.log_lines() if one["event"] == "bundle.sealed"]
    assert party.guid not in {one["client_guid"] for one in sealed}
    assert not list((bench.folder / "state/spool").rglob(f"{party.guid}*.pgp"))


def test_the_torn_source_died_half_way(bench):
    built = [
        one["file_name"]
        for one in bench.deployment.log_lines()
        if one["event"] == "file.built" and one["client_guid"] == bench.torn.guid
    ]
    assert len(built) == 5
    assert f"{bench.torn.guid}.{DAY}.users.created.avro.pgp" in built
    assert f"{bench.torn.guid}.{DAY}.users.deleted.avro.pgp" not in built


def test_the_other_client_is_delivered_each_time(bench):
    assert (bench.parked.status, bench.waiting.status) == (1, 75)
    assert bench.parked.row(bench.healthy)["records"] == 3 * ROWS
    assert_delivered(bench.waiting, bench.healthy)


def test_status_says_what_comes_next(bench):
    assert "waits after SOURCE_UNAVAILABLE; will be tried again" in next_step(
        bench.deployment, bench.gone
    )
    said = next_step(bench.deployment, bench.no_column)
    assert "parked SOURCE_SCHEMA since" in said
    assert '`mxdeliver resume --client "no column"`' in said


def test_a_source_that_is_there_again_is_delivered_from(bench):
    (bench.folder / "torn.parquet").write_bytes((bench.folder / "users.parquet").read_bytes())
    again = run_day(bench.deployment, "--date", str(DAY), "--client", "torn")
    assert again.status == 0
    assert_delivered(again, bench.torn)


# -- the spool -------------------------------------------------------------------------------------


@contextmanager
def mounted(path, size):
    path.mkdir(mode=0o700)
    options = f"size={size},mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


@contextmanager
def with_too_little_room(folder, *, workers):
    """Give a deployment, a client whose day has room on its disk, and one whose day has not."""
    with OpenSSHServer(folder) as server, mounted(folder / "state", "4300k"):
        deployment = small_deployment(folder, server)
        deployment.document["schedule"] = {"workers": workers}
        small = add_client(deployment, "small", resources=["tags"])
        large = add_client(deployment, "large")
        fill(deployment, rows=6_000)
        yield deployment, small, large


def test_a_full_disk_under_the_spool_is_waited_for_and_nothing_is_half_done(tmp_path):
    with with_too_little_room(tmp_path, workers=1) as (deployment, small, large):
        outcome = run_day(deployment)
        assert outcome.status == 75
        row = outcome.row(large)
        assert (row["state"], row["error_code"]) == ("waiting", "SPOOL_FULL")
        line = outcome.line(large)
        assert f"{DAY}: waiting, SPOOL_FULL: " in line
        assert "Free space in `state_dir`" in line
        assert_nothing_arrived(large)
        assert outcome.row(small)["state"] == "delivered"
        assert len(small.received()) == 4
        assert not list((tmp_path / "state").rglob(f"{large.guid}*.pgp"))
        assert "waits after SPOOL_FULL" in next_step(deployment, large)
        subprocess.run(["mount", "-o", "remount,size=64m", tmp_path / "state"], check=True)
        again = run_day(deployment)
        assert again.status == 0
        assert_delivered(again, large)


def test_a_delivery_that_fills_the_disk_takes_no_other_ones_record(tmp_path):
    with with_too_little_room(tmp_path, workers=2) as (deployment, small, large):
        outcome = run_day(deployment)
        assert outcome.row(large)["error_code"] == "SPOOL_FULL"
        # Whoever comes too late for the spool waits; whoever was built is delivered and known to be.
        row = outcome.row(small)
        assert (row["state"], row["error_code"]) in {
            ("delivered", None),
            ("waiting", "SPOOL_FULL"),
        }
