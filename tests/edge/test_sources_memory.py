"""A day of a million records goes through in little memory, and a day of nothing in little time."""

import json
import subprocess
import sys

import pytest

from mxdeliver.core.model import EventType
from tests.support.sources import CLIENT, DAY, START, database, resource, rows_of, source

COLUMNS = [f"column_{number}" for number in range(12)]

READER = """
import json, re, sys
from pathlib import Path
from tests.support.sources import *

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

wanted = resource("users", *json.loads(sys.argv[2]))
origin = source(Path(sys.argv[1]), memory_limit="120MB", threads=2)
with origin.snapshot() as snapshot:
    rows_of(snapshot.stream(wanted, EventType.CREATED, "CLT-nobody", DAY))
    before, rows, size = peak(), 0, 0
    for item in snapshot.stream(wanted, EventType.CREATED, CLIENT, DAY):
        if isinstance(item, EndOfStream):
            print(json.dumps({"rows": rows, "end": item.rows, "size": size / 2**20,
                              "grown": peak() - before}))
        else:
            rows += item.num_rows
            size += item.nbytes
"""


@pytest.mark.parametrize(("rows", "seconds"), [(1_000_000, 86_400), (300_000, 1)])
def test_many_rows_of_a_day_or_a_second_are_read_in_bounded_memory_and_without_a_spill(
    tmp_path, rows, seconds
):
    # guids in a wild order within each second, so that the sort has work to do
    made = ", ".join(f"'{name} of record ' || (i * 7919) % {rows} as {name}" for name in COLUMNS)
    database(
        tmp_path,
        "set force_compression = 'uncompressed'",  # quicker to make
        f"create table users as select {made}, '{CLIENT}' as client_guid, "
        f"{START} + i * {seconds} // {rows} as created_at, null::bigint as updated_at, "
        f"null::bigint as deleted_at from range({rows}) t(i)",
    )
    before = sorted(path.name for path in tmp_path.iterdir())

    result = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path), json.dumps(COLUMNS)],
        capture_output=True,
        text=True,
        check=True,
        cwd=".",
    )
    seen = json.loads(result.stdout)

    assert seen["rows"] == seen["end"] == rows
    assert seen["size"] > 320 * rows / 1_000_000
    assert seen["grown"] < 230
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_default_stream_without_rows_costs_no_query_of_its_own(tmp_path):
    database(
        tmp_path,
        "create table users as select '' as guid, '' as name, '' as client_guid, 0 as created_at, "
        "0 as updated_at, 0 as deleted_at",
    )

    with source(tmp_path).snapshot() as snapshot:
        rows_of(snapshot.stream(resource(), EventType.CREATED, CLIENT, DAY))
        # one count serves all three events: with the table out of reach, the others still answer
        snapshot._connection.execute("rollback")
        snapshot._connection.execute("use memory")
        snapshot._connection.execute("detach warehouse")
        for event in (EventType.UPDATED, EventType.DELETED):
            assert rows_of(snapshot.stream(resource(), event, CLIENT, DAY)) == []
