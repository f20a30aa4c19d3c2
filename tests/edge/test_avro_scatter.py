"""Cells of every width side by side: the bytes are those of the reference encoder."""

from __future__ import annotations

import io
import json
import random

import fastavro
import numpy as np
import pyarrow as pa
import pytest

from mxdeliver.edge.avro.scatter import Memory, Part, join
from tests.edge.avro_files import MARKER, container, resource_of

LENGTHS = (0, 1, 62, 63, 64, 65, 127, 128, 511, 512, 513, 600, 5000, 70_000)


def check(resource, batch):
    """Compare the one block's bytes with fastavro's."""
    schema, body = fastavro.parse_schema(json.loads(resource.schema)), io.BytesIO()
    for row in batch.to_pylist():
        fastavro.schemaless_writer(body, schema, row)
    assert container(resource, [batch]).endswith(body.getvalue() + MARKER)


@pytest.mark.parametrize("longest", LENGTHS)
@pytest.mark.parametrize("null", [True, False])
def test_texts_up_to_any_length_stand_beside_each_other_and_at_the_end_of_rows(longest, null):
    chance = random.Random(longest)
    lengths = [length for length in LENGTHS if length <= longest]

    def texts():
        drawn = [bytes(chance.choices(b"abc", k=chance.choice(lengths))) for _ in range(40)]
        return pa.array(
            [None if null and chance.random() < 0.3 else one.decode() for one in drawn], pa.string()
        )

    kind = ["null", "string"] if null else "string"
    columns = [texts(), texts(), pa.array(range(40)), texts()]
    batch = pa.RecordBatch.from_arrays(columns, list("abcd"))
    check(resource_of(a=kind, b=kind, c="long", d=kind), batch)
    check(resource_of(a=kind, b=kind, c="long", d=kind), batch.slice(7, 21))


@pytest.mark.parametrize("columns", [1, 4, 5, 6, 9, 20])
def test_booleans_beside_each_other_are_written_in_their_order(columns):
    chance = random.Random(columns)
    names = [f"f{place}" for place in range(columns)]
    kinds = [chance.choice(["boolean", ["null", "boolean"], ["boolean", "null"]]) for _ in names]
    arrays = [
        pa.array(chance.choices([True, False] + [None] * isinstance(kind, list), k=700), pa.bool_())
        for kind in kinds
    ]
    batch = pa.RecordBatch.from_arrays(arrays, names)
    resource = resource_of(**dict(zip(names, kinds, strict=True)))
    check(resource, batch)
    check(resource, batch.slice(3, 650))


def test_text_that_is_not_ascii_and_a_gap_that_owns_bytes_are_written_right():
    # Arrow allows rows without a value to own bytes of the buffer
    data = b"ab" + "\u00e9\U0001f4b6".encode() + b"hidden" + b"z"
    ends = pa.array([0, 2, 8, 14, 15], pa.int32()).buffers()[1]
    column = pa.StringArray.from_buffers(4, ends, pa.py_buffer(data), pa.py_buffer(b"\x0b"), 1)
    assert column.to_pylist() == ["ab", "\u00e9\U0001f4b6", None, "z"]
    resource = resource_of(a=["null", "string"])
    check(resource, pa.RecordBatch.from_arrays([column], ["a"]))
    check(resource, pa.RecordBatch.from_arrays([column.slice(1)], ["a"]))


@pytest.mark.parametrize("size", [0, 1, 12, 300])
def test_bytes_of_one_length_beside_a_null_are_written(size):
    kind = {"type": "fixed", "name": "hash", "size": size}
    values = [None, bytes(range(256)) * 2, None, b"x" * 512]
    column = pa.array([None if one is None else one[:size] for one in values], pa.binary())
    batch = pa.RecordBatch.from_arrays([column, column], ["a", "b"])
    check(resource_of(a=["null", kind], b=[{**kind, "name": "other"}, "null"]), batch)


@pytest.mark.parametrize("symbols", [1, 64, 65, 200])
@pytest.mark.parametrize("null", [True, False])
def test_enums_of_any_number_of_symbols_are_written_beside_each_other(symbols, null):
    chance = random.Random(symbols)
    names = [f"s{place}" for place in range(symbols)]
    kind = {"type": "enum", "name": "one", "symbols": names}
    other = {**kind, "name": "other"}
    drawn = [chance.choice(names + [None] * null) for _ in range(500)]
    batch = pa.RecordBatch.from_arrays([pa.array(drawn), pa.array(drawn[::-1])], ["a", "b"])
    if null:
        check(resource_of(a=["null", kind], b=[other, "null"]), batch)
    else:
        check(resource_of(a=kind, b=other), batch)


@pytest.mark.parametrize("null", [True, False])
@pytest.mark.parametrize("bits", [0, 6, 7, 13, 14, 27, 28, 49, 55, 56, 62, 63])
def test_whole_numbers_of_every_width_are_written(bits, null):
    edge = 1 << bits
    values = [0, -1, 1, edge - 1, -edge, min(edge, (1 << 63) - 1), -(edge >> 1)]
    for some in (values, [edge - 1] * 3, [-edge] * 3):
        column = pa.array([*some, None, *some] if null else some, pa.int64())
        kind = ["null", "long"] if null else "long"
        batch = pa.RecordBatch.from_arrays([column, column], ["a", "b"])
        check(resource_of(a=kind, b=["long", "null"] if null else kind), batch)


def rows_of(text, memory):
    """Join one column of cells that all are `text`."""
    cells = np.frombuffer(text * 3, np.uint8).reshape(3, len(text))
    return memoryview(join([Part(cells, None, len(text), len(text), len(text))], 3, memory).data)


def test_memory_of_rows_is_used_again_once_no_one_looks_at_them_and_not_before():
    memory = Memory()
    first = rows_of(b"first", memory)
    part = pa.py_buffer(first[5:])
    second = rows_of(b"other", memory)
    assert (bytes(first), bytes(second)) == (b"first" * 3, b"other" * 3)
    del first
    assert (rows_of(b"third", memory)[:5], part.to_pybytes()) == (b"third", b"first" * 2)
    place = part.address - 5
    del part
    again = rows_of(b"again", memory)
    assert np.frombuffer(again, np.uint8).ctypes.data == place
    assert (bytes(again), bytes(second)) == (b"again" * 3, b"other" * 3)


def test_memory_of_unusually_large_rows_is_not_kept():
    memory = Memory()
    rows_of(b"x" * (4 << 20), memory)
    assert len(memory.take(1)) < 1 << 20


def test_memory_beyond_what_arrow_can_count_is_used_as_far_as_it_is_needed():
    class Generous(Memory):
        def take(self, size):
            del size
            return np.empty(1 << 31, np.uint8)  # the system gives only what is written to

    texts = np.frombuffer(b"onethree", np.uint8)
    begins, widths = np.array([0, 3]), np.array([3, 5], np.int32)
    part = Part(texts, begins, widths, 3, 5)
    assert bytes(join([part, part], 2, Generous()).data) == b"oneonethreethree"
