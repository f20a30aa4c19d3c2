"""Cells of every width side by side: the bytes are those of the reference encoder."""

from __future__ import annotations

import io
import json
import random

import fastavro
import pyarrow as pa
import pytest

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
