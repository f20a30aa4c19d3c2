"""Values that the schema cannot take without changing them: nothing is guessed, nothing is sent.

Each refused pair is a client of its own with a source of its own, whose query gives one good row and
one bad; all of them, and a client whose values fit, go through one run of the program.
"""

from __future__ import annotations

import json

import pytest

from tests.support.openssh import OpenSSHServer
from tests.support.outcomes import (
    DAY,
    add_client,
    assert_nothing_arrived,
    next_step,
    run_day,
    small_deployment,
)

MARK = "7351908642"
"""In every bad value that is long enough to be told from others."""
TYPES = {
    "whole": "int",
    "large": "long",
    "real": "double",
    "short_real": "float",
    "truth": "boolean",
    "words": "string",
    "octets": "bytes",
    "maybe_whole": ["null", "int"],
    "letter": {"type": "enum", "name": "Letter", "symbols": ["A", "B"]},
    "four_octets": {"type": "fixed", "name": "Four", "size": 4},
    "money": {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2},
    "identifier": {"type": "string", "logicalType": "uuid"},
    "calendar_day": {"type": "int", "logicalType": "date"},
    "moment": {"type": "long", "logicalType": "timestamp-millis"},
    "local_moment": {"type": "long", "logicalType": "local-timestamp-micros"},
    "clock": {"type": "int", "logicalType": "time-millis"},
    "list_of_words": {"type": "array", "items": "string"},
    "map_of_whole": {"type": "map", "values": "int"},
}
REFUSED = [
    ("whole", f"{MARK}::bigint"),
    ("whole", "-2147483649::bigint"),
    ("whole", "2147483648::hugeint"),
    ("whole", "12::double"),
    ("whole", "12.5::decimal(5,1)"),
    ("whole", "true"),
    ("whole", f"'{MARK}'"),
    ("whole", "timestamp '2026-01-01 00:00:00'"),
    ("whole", "date '2026-01-01'"),
    ("whole", "null::integer"),
    ("large", "9223372036854775808::hugeint"),
    ("large", "9223372036854775808::ubigint"),
    ("large", "12::double"),
    ("large", "12.5::decimal(5,1)"),
    ("large", "true"),
    ("large", f"'{MARK}'"),
    ("large", "date '2026-01-01'"),
    ("large", "'infinity'::timestamp"),
    ("real", f"{MARK}.123456::decimal(18,6)"),
    ("real", "'nan'::double"),
    ("real", "'infinity'::double"),
    ("real", "'-infinity'::float"),
    ("real", "12::integer"),
    ("real", "12::bigint"),
    ("real", "true"),
    ("real", f"'{MARK}'"),
    ("real", "timestamp '2026-01-01 00:00:00'"),
    ("short_real", "1.5::double"),
    ("short_real", "'nan'::float"),
    ("short_real", "12.5::decimal(5,1)"),
    ("truth", "1::integer"),
    ("truth", "'true'"),
    ("truth", "1::double"),
    ("words", "12::integer"),
    ("words", "1.5::double"),
    ("words", "true"),
    ("words", f"'{MARK}'::blob"),
    ("words", "time '12:34:56'"),
    ("words", "interval 3 days"),
    ("words", f"['{MARK}']"),
    ("words", "null::varchar"),
    ("octets", f"'{MARK}'"),
    ("maybe_whole", f"{MARK}::bigint"),
    ("letter", f"'{MARK}'"),
    ("letter", "1::integer"),
    ("four_octets", f"'{MARK}'::blob"),
    ("money", "12345.67::decimal(9,2)"),
    ("money", "1.234::decimal(6,3)"),
    ("money", "1.5::double"),
    ("identifier", f"'{MARK}'"),
    ("calendar_day", "'2026-01-01'"),
    ("calendar_day", "timestamp '2026-01-01 00:00:00'"),
    ("moment", "'2026-01-01T00:00:00Z'"),
    ("moment", "1767225600::bigint"),
    ("moment", "timestamp '2026-01-01 00:00:00.123456'"),
    ("local_moment", "timestamptz '2026-01-01 00:00:00+00'"),
    ("clock", "'12:34:56'"),
    ("clock", "45296::integer"),
    ("list_of_words", f"'{MARK}'"),
    ("list_of_words", "[1, 2]"),
    ("map_of_whole", f"map {{'a': {MARK}::bigint}}"),
]
FITTING = [
    ("whole", "12::decimal(9,0)"),
    ("large", "timestamp '2026-01-01 00:00:00.75'"),
    ("real", "1.5::float"),
    ("real", "123456789012.125::decimal(15,3)"),
    ("words", "timestamp '2026-01-01 00:00:00'"),
    ("words", "uuid '0858efd1-2d2e-6a5d-f2b5-c7dad42ef184'"),
    ("maybe_whole", "null"),
    ("letter", "'B'"),
    ("money", "1234.56::decimal(6,2)"),
    ("list_of_words", "['a', 'b']"),
]


class Bench:
    """One run over all pairs; a client's place in its list is that of its pair."""

    def __init__(self, folder, server):
        self.deployment = small_deployment(folder, server)
        self.deployment.document["schemas"] = ["schemas"]
        self._write_schemas(folder / "schemas")
        self.refused = [self._client(f"refused {n}", *pair) for n, pair in enumerate(REFUSED)]
        self.fitting = [self._client(f"fitting {n}", *pair) for n, pair in enumerate(FITTING)]
        self.outcome = run_day(self.deployment)

    @staticmethod
    def _write_schemas(folder):
        folder.mkdir()
        for name, avro_type in TYPES.items():
            field = {"name": "value", "type": avro_type}
            schema = {"type": "record", "name": f"Record_{name}", "fields": [field]}
            (folder / f"{name}.avsc").write_text(json.dumps(schema))

    def _client(self, name, resource, expression):
        query = f"select $client_guid as client_guid, {expression} as value"
        self.deployment.document["sources"][name] = {
            "type": "duckdb",
            "views": {"nothing": "(select 1 as one)"},
            "queries": {resource: dict.fromkeys(("created", "updated", "deleted"), query)},
        }
        return add_client(self.deployment, name, source=name, resources=[resource])


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("values")
    with OpenSSHServer(folder) as server:
        yield Bench(folder, server)


@pytest.mark.parametrize("place", range(len(REFUSED)), ids=lambda n: " <- ".join(REFUSED[n]))
def test_a_value_that_does_not_fit_parks_its_client_naming_the_column(bench, place):
    party, (resource, _) = bench.refused[place], REFUSED[place]
    row = bench.outcome.row(party)
    assert (row["state"], row["error_code"]) == ("parked", "RECORD_INVALID")
    line = bench.outcome.line(party)
    assert f"{DAY}: parked, RECORD_INVALID: " in line
    assert resource in line
    assert "value" in line
    assert "Correct the record or its column in the source" in line
    assert_nothing_arrived(party)


@pytest.mark.parametrize("place", range(len(FITTING)), ids=lambda n: " <- ".join(FITTING[n]))
def test_a_value_that_fits_is_delivered_beside_them(bench, place):
    party = bench.fitting[place]
    row = bench.outcome.row(party)
    assert (row["state"], row["records"], row["files"]) == ("delivered", 3, 4)
    assert len(party.received()) == 4


def test_no_refused_value_is_shown_anywhere(bench):
    assert bench.outcome.status == 1
    log = (bench.deployment.folder / "logs/deliveries.jsonl").read_text()
    ledger = (bench.deployment.folder / "state/ledger.db").read_bytes()
    for trace in (bench.outcome.stderr, json.dumps(bench.outcome.document), log):
        assert MARK not in trace
    assert MARK.encode() not in ledger


def test_nothing_of_a_refused_day_stays_in_the_spool(bench):
    spool = bench.deployment.folder / "state/spool"
    kept = {path.name for path in spool.rglob("*.pgp")}
    assert kept
    assert not [name for name in kept if name.startswith(tuple(p.guid for p in bench.refused))]


def test_status_says_that_a_correction_in_the_source_needs_a_resume(bench):
    said = next_step(bench.deployment, bench.refused[0])
    assert "parked RECORD_INVALID since" in said
    assert '`mxdeliver resume --client "refused 0"`' in said


def test_a_corrected_query_opens_the_delivery_by_itself(bench):
    party = bench.refused[1]
    queries = bench.deployment.document["sources"]["refused 1"]["queries"]["whole"]
    for event in queries:
        queries[event] = "select $client_guid as client_guid, 7::integer as value"
    outcome = run_day(bench.deployment, "--client", party.guid)
    assert outcome.status == 0
    assert outcome.row(party)["state"] == "delivered"
    assert outcome.row(party)["records"] == 3
