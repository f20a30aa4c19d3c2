from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import uuid
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from mxdeliver.core.errors import RecordInvalid
from tests.edge.avro_files import container, read, resource_of, written

UTC = dt.UTC
NEW_YORK = "America/New_York"
NULLABLE_STRING = ["null", "string"]
ENUM = {"type": "enum", "name": "E", "symbols": ["A", "B"]}


def logical(name, kind, **more):
    return {"type": kind, "logicalType": name, **more}


def decimals(digits, scale, *values):
    made = [None if value is None else Decimal(value) for value in values]
    return pa.array(made, pa.decimal128(digits, scale))


def fixed(size, **more):
    return {"type": "fixed", "name": "F", "size": size, **more}


def many(items):
    return {"type": "array", "items": items}


def digits_39():
    """The largest number of decimal128, which DuckDB gives as one of 38 digits."""
    return pa.Array.from_buffers(
        pa.decimal128(38, 0), 1, [None, pa.py_buffer((2**127 - 1).to_bytes(16, "little"))]
    )


def bad_text(arrow=None):
    ends = pa.py_buffer(np.array([0, 1], np.int32))
    return pa.Array.from_buffers(arrow or pa.string(), 1, [None, ends, pa.py_buffer(b"\xff")])


ACCEPTED = {
    "int8 to int": ("int", pa.array([-128, 127], pa.int8()), [-128, 127]),
    "uint64 to int": ("int", pa.array([2**31 - 1], pa.uint64()), [2**31 - 1]),
    "int64 to int": ("int", pa.array([-(2**31)], pa.int64()), [-(2**31)]),
    "uint64 to long": ("long", pa.array([2**63 - 1], pa.uint64()), [2**63 - 1]),
    "decimal(p,0) to long": ("long", decimals(38, 0, "-9223372036854775808"), [-(2**63)]),
    "decimal(p,0) with null": (["null", "int"], decimals(10, 0, "7", None), [7, None]),
    "decimal32 to int": ("int", pa.array([Decimal(-7)], pa.decimal32(5, 0)), [-7]),
    "decimal64 to int": ("int", pa.array([Decimal(-7)], pa.decimal64(12, 0)), [-7]),
    "decimal256 to long": ("long", pa.array([Decimal(-7)], pa.decimal256(70, 0)), [-7]),
    "decimal to double": ("double", decimals(38, 2, "0.10", "-123456789012.34"), [0.1, -123456789012.34]),
    "decimal with zeros": ("double", decimals(38, 2, "1" + "0" * 30 + ".00"), [1e30]),
    "decimal of far digits": ("double", decimals(38, 30, "0." + "0" * 27 + "123"), [1.23e-28]),
    "decimal below zero scale": ("double", pa.array([Decimal("12E3")], pa.decimal128(5, -3)), [12000.0]),
    "decimal null": (["null", "double"], decimals(5, 2, None, "1.5"), [None, 1.5]),
    "float to double": ("double", pa.array([0.5, -0.0], pa.float32()), [0.5, -0.0]),
    "half to double": ("double", pa.array(np.array([0.5], np.float16)), [0.5]),
    "float to float": ("float", pa.array([0.5], pa.float32()), [0.5]),
    "boolean": ("boolean", pa.array([True, False]), [True, False]),
    "large text": ("string", pa.array(["é\0"], pa.large_string()), ["é\0"]),
    "text view": ("string", pa.array(["long enough to be out of line"], pa.string_view()), ["long enough to be out of line"]),
    "dictionary": (NULLABLE_STRING, pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
    "run-end encoded": ("string", pa.RunEndEncodedArray.from_arrays([2, 3], ["a", "b"]), ["a", "a", "b"]),
    "json": ("string", pa.array(["{}"], pa.json_()), ["{}"]),
    "uuid": (
        NULLABLE_STRING,
        pa.array([uuid.UUID(int=0xABC << 100).bytes, None], pa.uuid()),
        [str(uuid.UUID(int=0xABC << 100)), None],
    ),
    "uuid text": (logical("uuid", "string"), pa.array([str(uuid.UUID(int=5))]), [uuid.UUID(int=5)]),
    "timestamp to seconds": ("long", pa.array([1_999, -1, -1000], pa.timestamp("ms")), [1, -1, -1]),
    "zoned timestamp to seconds": ("long", pa.array([1_767_225_600], pa.timestamp("s", NEW_YORK)), [1_767_225_600]),
    "timestamp to seconds with null": (["null", "long"], pa.array([None, -1], pa.timestamp("us")), [None, -1]),
    "timestamp to text": (
        NULLABLE_STRING,
        pa.array([0, 1_500, None, -1], pa.timestamp("ms", NEW_YORK)),
        ["1970-01-01T00:00:00Z", "1970-01-01T00:00:01.500000Z", None, "1969-12-31T23:59:59.999000Z"],
    ),
    "timestamp of seconds to text": ("string", pa.array([0], pa.timestamp("s")), ["1970-01-01T00:00:00Z"]),
    "timestamp of nanoseconds to text": ("string", pa.array([1], pa.timestamp("ns")), ["1970-01-01T00:00:00.000000001Z"]),
    "date to text": (NULLABLE_STRING, pa.array([None, dt.date(1, 1, 1)]), [None, "0001-01-01"]),
    "date64 to text": ("string", pa.array([dt.date(9999, 12, 31)], pa.date64()), ["9999-12-31"]),
    "date": (logical("date", "int"), pa.array([dt.date(1969, 12, 31)]), [dt.date(1969, 12, 31)]),
    "time": (logical("time-millis", "int"), pa.array([1], pa.time32("s")), [dt.time(0, 0, 1)]),
    "time of microseconds": (logical("time-micros", "long"), pa.array([1], pa.time64("us")), [dt.time(0, 0, 0, 1)]),
    "time of nanoseconds": (logical("time-millis", "int"), pa.array([1_000_000], pa.time64("ns")), [dt.time(0, 0, 0, 1000)]),
    "timestamp-millis": (
        logical("timestamp-millis", "long"),
        pa.array([-1_000], pa.timestamp("us", "UTC")),
        [dt.datetime(1969, 12, 31, 23, 59, 59, 999_000, UTC)],
    ),
    "timestamp-micros without zone": (
        logical("timestamp-micros", "long"),
        pa.array([1], pa.timestamp("s")),
        [dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)],
    ),
    "local-timestamp-micros": (
        logical("local-timestamp-micros", "long"),
        pa.array([1], pa.timestamp("us")),
        [dt.datetime(1970, 1, 1, 0, 0, 0, 1)],  # noqa: DTZ001 - a local timestamp has no zone
    ),
    "binary": (["null", "bytes"], pa.array([b"\xff", None], pa.binary()), [b"\xff", None]),
    "large binary": ("bytes", pa.array([b"\xff"], pa.large_binary()), [b"\xff"]),
    "binary view": ("bytes", pa.array([b"\xff"], pa.binary_view()), [b"\xff"]),
    "fixed": (["null", fixed(3)], pa.array([b"abc", None], pa.binary(3)), [b"abc", None]),
    "fixed of nothing": (fixed(0), pa.array([b"", b""], pa.binary()), [b"", b""]),
    "fixed uuid": (fixed(16, logicalType="uuid"), pa.array([bytes(range(16))], pa.uuid()), [bytes(range(16))]),
    "fixed uuid of text": (
        ["null", fixed(16, logicalType="uuid")],
        pa.array([str(uuid.UUID(int=5)), None]),
        [uuid.UUID(int=5).bytes, None],
    ),
    "fixed in no list": (many(fixed(2)), pa.array([[], []], pa.list_(pa.binary())), [[], []]),
    "fixed in no map": ({"type": "map", "values": fixed(2)}, pa.array([[]], pa.map_(pa.string(), pa.binary())), [{}]),
    "lists of no type": (many("string"), pa.array([[], []], pa.list_(pa.null())), [[], []]),
    "lists of no nullable type": (many(NULLABLE_STRING), pa.array([[]], pa.list_(pa.null())), [[]]),
    "lists of no lists": (many(many("int")), pa.array([[]], pa.list_(pa.null())), [[]]),
    "lists of no records": (
        many({"type": "record", "name": "R", "fields": [{"name": "x", "type": "int"}]}),
        pa.array([[]], pa.list_(pa.null())),
        [[]],
    ),
    "maps of no type": ({"type": "map", "values": "int"}, pa.array([[]], pa.map_(pa.string(), pa.null())), [{}]),
    "decimal of 39 digits": (logical("decimal", "bytes", precision=39), digits_39(), [Decimal(2**127 - 1)]),
    "enum": (["null", ENUM], pa.array(["B", None, "A"]), ["B", None, "A"]),
    "enum dictionary": (ENUM, pa.array(["B", "A"]).dictionary_encode(), ["B", "A"]),
    "null": ("null", pa.nulls(2), [None, None]),
    "null alone in a union": (["null"], pa.nulls(1), [None]),
    "one type alone in a union": (["int"], pa.array([7]), [7]),
    "null of another type": (NULLABLE_STRING, pa.array([None], pa.int32()), [None]),
    "null behind": (["string", "null"], pa.array(["a", None]), ["a", None]),
    "nulls behind": (["string", "null"], pa.nulls(2), [None, None]),
    "long null behind": (["long", "null"], pa.array([None, 300]), [None, 300]),
}  # fmt: skip


@pytest.mark.parametrize("case", ACCEPTED)
def test_a_value_of_the_table_is_written_as_itself(case):
    avro, column, expected = ACCEPTED[case]
    assert written(avro, column) == expected


DIGITS = ["0", "1", "-1", "63", "-64", "64", "127", "128", "-128", "-129", "255", "256", "32767", "32768", "-32768",
          "-32769", "8388608", "99999999999999999999999999999999999999", "-99999999999999999999999999999999999999"]  # fmt: skip


@pytest.mark.parametrize("digits", [38, 50])
@pytest.mark.parametrize("on", ["bytes", "fixed", "wide fixed"])
def test_decimals_are_written_on_bytes_and_fixed(on, digits):
    size = {"bytes": 0, "fixed": 16 if digits == 38 else 21, "wide fixed": 40}[on]
    base = {"type": "bytes"} if on == "bytes" else fixed(size)
    avro = {**base, "logicalType": "decimal", "precision": digits, "scale": 0}
    values = [Decimal(text) for text in DIGITS]
    assert written(["null", avro], pa.array([None, *values], pa.decimal128(38, 0))) == [
        None,
        *values,
    ]


def test_decimals_are_as_short_as_the_specification_asks():
    avro = logical("decimal", "bytes", precision=10)
    sizes = {"127": 1, "128": 2, "-128": 1, "-129": 2, "0": 1, "-1": 1, "32768": 3}
    empty = len(container(resource_of(a=avro), []))
    for text, size in sizes.items():
        batch = pa.RecordBatch.from_arrays([decimals(10, 0, text)], ["a"])
        body = len(container(resource_of(a=avro), [batch])) - empty - 18  # count, size and marker
        assert body == 1 + size, text


REFUSED = {
    "True for int": ("int", pa.array([True])),
    "True for long": ("long", pa.array([True])),
    "True for double": ("double", pa.array([True])),
    "True for string": ("string", pa.array([True])),
    "number for boolean": ("boolean", pa.array([1])),
    "text for boolean": ("boolean", pa.array(["true"])),
    "text for int": ("int", pa.array(["12"])),
    "text for long": ("long", pa.array(["12"])),
    "text for double": ("double", pa.array(["1.5"])),
    "text for bytes": ("bytes", pa.array(["a"])),
    "int for string": ("string", pa.array([1])),
    "int for double": ("double", pa.array([1])),
    "double for string": ("string", pa.array([1.5])),
    "double for long": ("long", pa.array([1.0])),
    "double for float": ("float", pa.array([1.0])),
    "decimal for float": ("float", decimals(5, 2, "1.5")),
    "decimal for string": ("string", decimals(5, 2, "1.5")),
    "decimal with scale for long": ("long", decimals(5, 2, "1.00")),
    "decimal of sixteen digits for double": ("double", decimals(38, 2, "12345678901234.56")),
    "decimal of many digits for double": ("double", decimals(38, 0, "9" * 38)),
    "decimal beyond long": ("long", decimals(38, 0, "9223372036854775808")),
    "decimal beyond int": ("int", decimals(38, 0, "2147483648")),
    "2**31 for int": ("int", pa.array([2**31])),
    "-2**31-1 for int": ("int", pa.array([-(2**31) - 1])),
    "uint32 beyond int": ("int", pa.array([2**31], pa.uint32())),
    "uint64 beyond long": ("long", pa.array([2**63], pa.uint64())),
    "NaN": ("double", pa.array([1.0, float("nan")])),
    "NaN of float": ("float", pa.array([float("nan")], pa.float32())),
    "infinity": (["null", "double"], pa.array([float("inf"), None])),
    "text that is not UTF-8": ("string", bad_text()),
    "large text that is not UTF-8": (NULLABLE_STRING, bad_text().cast(pa.binary()).cast(pa.large_binary()).view(pa.large_string())),
    "binary for string": ("string", pa.array([b"a"])),
    "timestamp for int": ("int", pa.array([0], pa.timestamp("s"))),
    "timestamp for double": ("double", pa.array([0], pa.timestamp("s"))),
    "timestamp after 9999": ("long", pa.array([2**63 - 1], pa.timestamp("us"))),
    "timestamp before 0001": ("string", pa.array([-(2**62)], pa.timestamp("us"))),
    "infinity of nanoseconds": ("string", pa.array([2**63 - 1], pa.timestamp("ns"))),
    "infinity of nanoseconds, before": ("long", pa.array([-(2**63) + 1], pa.timestamp("ns", "UTC"))),
    "date for long": ("long", pa.array([dt.date(2026, 1, 1)])),
    "date after 9999": ("string", pa.array([2_932_897], pa.int32()).cast(pa.date32())),
    "date64 with a time of day": (logical("date", "int"), pa.array([1], pa.int64()).view(pa.date64())),
    "timestamp for date": (logical("date", "int"), pa.array([0], pa.timestamp("s"))),
    "int for date": (logical("date", "int"), pa.array([0], pa.int32())),
    "time for string": ("string", pa.array([0], pa.time32("s"))),
    "time of no day": (logical("time-millis", "int"), pa.array([86_400], pa.int32()).view(pa.time32("s"))),
    "time too fine": (logical("time-millis", "int"), pa.array([1], pa.time64("us"))),
    "int for time": (logical("time-millis", "int"), pa.array([0], pa.int32())),
    "timestamp too fine": (logical("timestamp-millis", "long"), pa.array([1], pa.timestamp("us", "UTC"))),
    "timestamp too far": (logical("timestamp-nanos", "long"), pa.array([2**34], pa.timestamp("s", "UTC"))),
    "int for timestamp": (logical("timestamp-millis", "long"), pa.array([0])),
    "zoned for local timestamp": (logical("local-timestamp-micros", "long"), pa.array([0], pa.timestamp("us", "UTC"))),
    "decimal over precision": (logical("decimal", "bytes", precision=3), decimals(5, 0, "1000")),
    "decimal over scale": (logical("decimal", "bytes", precision=3, scale=1), decimals(5, 2, "1.23")),
    "39 digits for 38": (logical("decimal", "bytes", precision=38), digits_39()),
    "39 digits for 38 on fixed": (fixed(17, logicalType="decimal", precision=38), digits_39()),
    "int for decimal": (logical("decimal", "bytes", precision=3), pa.array([1])),
    "bytes for decimal": (fixed(4, logicalType="decimal", precision=3), pa.array([b"abcd"])),
    "short for fixed": (fixed(3), pa.array([b"abc", b"ab"])),
    "long for fixed": (fixed(3), pa.array([b"abcd"])),
    "text for fixed": (fixed(3), pa.array(["abc"])),
    "no symbol of the enum": (ENUM, pa.array(["A", "C"])),
    "int for enum": (ENUM, pa.array([0])),
    "date for enum": (ENUM, pa.array([dt.date(2026, 1, 1)])),
    "no uuid": (logical("uuid", "string"), pa.array([str(uuid.UUID(int=5)) + "\n"])),
    "no uuid for fixed": (fixed(16, logicalType="uuid"), pa.array(["5"])),
    "int for uuid on fixed": (fixed(16, logicalType="uuid"), pa.array([5])),
    "interval": ("string", pa.array([pa.MonthDayNano([1, 2, 3])])),
    "null for required": ("string", pa.array(["a", None])),
    "null for required int": ("int", pa.array([None], pa.int32())),
    "null for required array": ({"type": "array", "items": "int"}, pa.array([[1], None])),
    "null behind a dictionary": ("string", pa.array(["a", None]).dictionary_encode()),
    "value for null": ("null", pa.array([1])),
    "text for array": ({"type": "array", "items": "string"}, pa.array(["a"])),
    "item of another type": ({"type": "array", "items": "string"}, pa.array([[1]])),
    "null item of no type": (many("string"), pa.array([[None]], pa.list_(pa.null()))),
    "null item": ({"type": "array", "items": "string"}, pa.array([["a", None]])),
    "text for map": ({"type": "map", "values": "string"}, pa.array(["a"])),
    "key twice": ({"type": "map", "values": "int"}, pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int32()))),
    "number as key": ({"type": "map", "values": "int"}, pa.array([[(1, 1)]], pa.map_(pa.int32(), pa.int32()))),
    "text for record": ({"type": "record", "name": "R", "fields": []}, pa.array(["a"])),
    "struct with other fields": (
        {"type": "record", "name": "R", "fields": [{"name": "x", "type": "int"}]},
        pa.array([{"x": 1, "y": 2}]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_any_other_value_is_refused_by_the_columns_name(case):
    avro, column = REFUSED[case]
    with pytest.raises(RecordInvalid, match=r"^sample: column a ") as caught:
        written(avro, column)
    assert caught.value.__cause__ is None or not isinstance(
        caught.value.__cause__, pa.ArrowException
    )


def test_a_refusal_shows_no_value():
    with pytest.raises(RecordInvalid) as caught:
        written("int", pa.array([4_111_111_111_111_111]))
    assert "4111" not in str(caught.value)


def test_a_refusal_inside_a_nested_value_says_where():
    avro = {"type": "array", "items": "string"}
    with pytest.raises(RecordInvalid, match="column a in its items has type int64"):
        written(avro, pa.array([[1]]))


ADDRESS = {
    "type": "record",
    "name": "Address",
    "fields": [
        {"name": "street", "type": ["null", "string"]},
        {"name": "number", "type": "int"},
    ],
}
NESTED = {
    "array of text": ({"type": "array", "items": "string"}, pa.array([["a", "é" * 99], [], ["", "b"]])),
    "nullable array": (["null", {"type": "array", "items": "string"}], pa.array([None, ["a"], [], None])),
    "array with nulls": ({"type": "array", "items": ["null", "long"]}, pa.array([[1, None], [None], []])),
    "array of nulls": ({"type": "array", "items": ["null", "long"]}, pa.array([[None], [None], []])),
    "array of arrays": (
        {"type": "array", "items": {"type": "array", "items": "int"}},
        pa.array([[[1], [], [2, 3]], [], [[4]]]),
    ),
    "large list": ({"type": "array", "items": "int"}, pa.array([[1], [2, 3]], pa.large_list(pa.int32()))),
    "fixed size list": (["null", {"type": "array", "items": "int"}], pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int32(), 2))),
    "record": (ADDRESS, pa.array([{"street": "a", "number": 1}, {"street": None, "number": 2}])),
    "nullable record": (
        ["null", ADDRESS],
        pa.array([None, {"street": "a", "number": 1}, None, {"street": None, "number": 2}, None]),
    ),
    "record behind null": ([ADDRESS, "null"], pa.array([None, {"street": "a", "number": 1}])),
    "record without nulls": (["null", ADDRESS], pa.array([{"street": "a", "number": 1}])),
    "array of records": ({"type": "array", "items": ADDRESS}, pa.array([[{"street": "a", "number": 1}], []])),
    "record without fields": ({"type": "record", "name": "R", "fields": []}, pa.array([{}, {}])),
}  # fmt: skip


@pytest.mark.parametrize("case", NESTED)
@pytest.mark.parametrize("skip", [0, 1])
def test_nested_values_are_written_whole_and_in_slices(case, skip):
    avro, column = NESTED[case]
    assert written(avro, column.slice(skip)) == column.slice(skip).to_pylist()


def test_maps_are_written():
    column = pa.array(
        [[("k", 1), ("é", None)], [], None, [("k", 2)]], pa.map_(pa.string(), pa.int32())
    )
    avro = ["null", {"type": "map", "values": ["null", "int"]}]
    assert written(avro, column) == [{"k": 1, "é": None}, {}, None, {"k": 2}]
    assert written(avro, column.slice(2)) == [None, {"k": 2}]


def test_a_map_inside_arrays_and_records_is_written_and_compared():
    record = {
        "type": "record",
        "name": "R",
        "fields": [
            {"name": "m", "type": {"type": "map", "values": {"type": "array", "items": "int"}}}
        ],
    }
    arrow = pa.list_(pa.struct([("m", pa.map_(pa.string(), pa.list_(pa.int32())))]))
    column = pa.array([[{"m": [("a", [1, 2])]}, {"m": []}], []], arrow)
    assert written({"type": "array", "items": record}, column) == [
        [{"m": {"a": [1, 2]}}, {"m": {}}],
        [],
    ]


def test_rows_without_a_value_may_own_bytes():
    ends = pa.py_buffer(np.array([0, 2, 4], np.int32))
    valid = pa.py_buffer(b"\x02")
    column = pa.Array.from_buffers(pa.string(), 2, [valid, ends, pa.py_buffer(b"abcd")])
    assert column.to_pylist() == [None, "cd"]
    assert written(NULLABLE_STRING, column) == [None, "cd"]


@pytest.mark.parametrize("skip", [1, 3, 8, 9])
def test_slices_at_odd_places_are_read_where_they_begin(skip):
    values = [None if place % 3 == 0 else place for place in range(30)]
    columns = {
        "long": pa.array(values, pa.int64()),
        "boolean": pa.array([None if value is None else value % 2 == 0 for value in values]),
        "double": pa.array(values, pa.float64()),
        "string": pa.array([None if value is None else str(value) for value in values]),
    }
    for avro, column in columns.items():
        assert written(["null", avro], column.slice(skip)) == column.slice(skip).to_pylist()


ZONED = """
import sys, pyarrow as pa
from tests.edge.avro_files import container, resource_of
columns = [pa.array([0, 1772955000], pa.timestamp("s")), pa.array([20000], pa.date32()).take([0, 0]),
           pa.array([0, 1772955000], pa.timestamp("s", "America/New_York"))]
fields = resource_of(a="long", b="string", c="string")
sys.stdout.buffer.write(container(fields, [pa.RecordBatch.from_arrays(columns, list("abc"))]))
"""


def test_the_hosts_time_zone_changes_nothing():
    zones = ["UTC", "America/New_York", "Asia/Kathmandu"]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", ZONED], stdout=subprocess.PIPE, env={**os.environ, "TZ": zone}
        )
        for zone in zones
    ]
    files = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert files[0] == files[1] == files[2]
    assert read(files[0])[1] == {
        "a": 1772955000, "b": "2024-10-04", "c": "2026-03-08T07:30:00Z",
    }  # fmt: skip
