"""Columns of one type are handled together: the bytes and the refusals are those of each alone."""

from __future__ import annotations

import io
import json
import random

import fastavro
import numpy as np
import pyarrow as pa
import pytest

from mxdeliver.core.errors import RecordInvalid
from mxdeliver.edge.avro.batches import Chunks
from tests.edge.avro_files import container, read, resource_of

TEXT = ["null", "string"]
TEXT_LAST = ["string", "null"]
KINDS = {
    "text": (TEXT, pa.string()),
    "text, null last": (TEXT_LAST, pa.string()),
    "plain text": ("string", pa.string()),
    "boolean": (["null", "boolean"], pa.bool_()),
    "int": (["null", "int"], pa.int32()),
    "long": (["null", "long"], pa.int64()),
    "plain long": ("long", pa.int64()),
    "double": (["null", "double"], pa.float64()),
    "float": (["null", "float"], pa.float32()),
}


def drawn(chance, arrow, rows, *, gaps, longest):
    values = {
        pa.string(): lambda: "é€x"[chance.randrange(3)] * chance.randint(0, longest // 3),
        pa.bool_(): lambda: chance.random() < 0.5,
        pa.int32(): lambda: chance.randint(-(2**31), 2**31 - 1) >> chance.randrange(32),
        pa.int64(): lambda: chance.randint(-(2**63), 2**63 - 1) >> chance.randrange(64),
        pa.float64(): chance.random,
        pa.float32(): lambda: float(np.float32(chance.random())),
    }[arrow]
    return pa.array([None if chance.random() < gaps else values() for _ in range(rows)], arrow)


def check(resource, *batches):
    """Compare all records' bytes with the reference encoder's, block by block."""
    written = list(fastavro.block_reader(io.BytesIO(container(resource, batches))))
    schema = fastavro.parse_schema(json.loads(resource.schema))
    rows = iter([row for batch in batches for row in batch.to_pylist()])
    for block in written:
        body = io.BytesIO()
        for _ in range(block.num_records):
            fastavro.schemaless_writer(body, schema, next(rows))
        assert block.bytes_.getvalue() == body.getvalue()
    assert next(rows, None) is None


@pytest.mark.parametrize("seed", range(8))
def test_columns_of_one_type_are_written_as_each_alone_would_be(seed):
    chance = random.Random(seed)
    kinds = {f"f{place}": KINDS[chance.choice([*KINDS])] for place in range(40)}
    rows = 300

    def batch(longest):
        columns = []
        for avro, arrow in kinds.values():
            gaps = chance.choice([0, 0.1, 0.9, 1]) if isinstance(avro, list) else 0
            columns.append(drawn(chance, arrow, rows, gaps=gaps, longest=longest))
        return pa.RecordBatch.from_arrays(columns, [*kinds])

    resource = resource_of(**{name: avro for name, (avro, _) in kinds.items()})
    short, mixed = batch(20), batch(90)  # how short texts are is seen in the first batch
    check(resource, short)
    check(resource, short.slice(3, 250))
    check(resource, *(one.slice(first, 1) for one in (short, mixed) for first in (0, 299)))
    check(resource, mixed)


def test_texts_that_get_longer_than_the_first_batchs_are_written():
    chance = random.Random(1)
    names = ["a", "b", "c"]
    batches = []
    for longest in (9, 9, 300):
        columns = [drawn(chance, pa.string(), 4096, gaps=0.2, longest=9) for _ in names]
        columns[1] = drawn(chance, pa.string(), 4096, gaps=0.2, longest=longest)
        batches.append(pa.RecordBatch.from_arrays(columns, names))
    check(resource_of(a=TEXT, b=TEXT, c=TEXT), *batches)


def test_texts_whose_lengths_are_the_first_columns_only_on_average_are_written():
    batch = pa.RecordBatch.from_arrays([pa.array(["ab", "cd"]), pa.array(["x", "xyz"])], ["a", "b"])
    check(resource_of(a="string", b="string"), batch)


@pytest.mark.parametrize("wrong", ["b", "c"])
def test_a_value_that_is_refused_is_told_by_its_own_columns_name(wrong):
    columns = {name: pa.array([1.0, 2.0, None]) for name in "abc"}
    columns[wrong] = pa.array([1.0, float("nan"), None])
    columns["d"] = pa.array([float("inf"), None, None])
    resource = resource_of(**{name: ["null", "double"] for name in columns})
    with pytest.raises(RecordInvalid, match=f"column {wrong} holds NaN"):
        container(resource, [pa.RecordBatch.from_arrays([*columns.values()], [*columns])])


def texts_of(ends, data, valid=None):
    ends = pa.py_buffer(np.array(ends, np.int32))
    return pa.StringArray.from_buffers(len(ends) // 4 - 1, ends, pa.py_buffer(data), valid)


@pytest.mark.parametrize(
    "columns",
    [
        [texts_of([0, 1, 2], b"\xc3\xa9"), pa.array(["a", "b"])],
        [texts_of([0, 1, 2], b"a\xc3"), texts_of([0, 1, 2], b"\xa9b")],
        [pa.array(["é", ""]), texts_of([0, 1, 2], b"\xe2\x82")],
        [pa.array(["a", "b"]), texts_of([0, 1, 2], b"b\xff")],
    ],
    ids=["text to text", "column to column", "never", "no character"],
)
def test_characters_that_are_whole_only_across_texts_are_refused(columns):
    resource = resource_of(a="string", b="string")
    with pytest.raises(RecordInvalid, match=r"column [ab] holds text that is not UTF-8"):
        container(resource, [pa.RecordBatch.from_arrays(columns, ["a", "b"])])


@pytest.mark.parametrize("place", [0, 4095, 4096, 4097, 9999])
def test_one_text_in_ten_thousand_that_is_not_utf8_is_refused(place):
    data = bytearray("é".encode() * 10_000)
    good = texts_of(range(0, 20_001, 2), bytes(data))
    assert len(read(container(resource_of(a=TEXT), [pa.record_batch([good], ["a"])]))) == 10_000
    data[2 * place + 1] = ord("x")
    bad = texts_of(range(0, 20_001, 2), bytes(data))
    with pytest.raises(RecordInvalid, match="column a holds text that is not UTF-8"):
        container(resource_of(a=TEXT), [pa.record_batch([bad], ["a"])])


def test_bytes_of_rows_without_a_value_need_not_be_text():
    hidden = texts_of([0, 1, 2, 3], b"a\xffb", pa.py_buffer(b"\x05"))
    batch = pa.RecordBatch.from_arrays([hidden, pa.array(["é", None, ""])], ["a", "b"])
    expected = [{"a": "a", "b": "é"}, {"a": None, "b": None}, {"a": "b", "b": ""}]
    assert read(container(resource_of(a=TEXT, b=TEXT), [batch])) == expected


def test_texts_that_end_before_they_begin_are_refused():
    batch = pa.RecordBatch.from_arrays(
        [pa.array(["a", "b"]), texts_of([0, 3, 1], b"abc")], ["a", "b"]
    )
    with pytest.raises(RecordInvalid, match="column b"):
        container(resource_of(a="string", b="string"), [batch])


def chunks(*batches, rows=4):
    made = Chunks(rows)
    return [chunk for batch in batches for chunk in made.add(batch)] + [*made.rest()]


def test_two_chunks_are_handed_on_in_one_where_a_batch_has_them_whole_and_small():
    def numbers(first, count):
        return pa.RecordBatch.from_arrays([pa.array(range(first, first + count))], ["a"])

    sizes = [chunk.num_rows for chunk in chunks(numbers(0, 19), numbers(19, 10))]
    assert sizes == [8, 8, 4, 8, 1]
    texts = pa.RecordBatch.from_arrays([pa.array(["x" * 700_000] * 8)], ["a"])
    assert [chunk.num_rows for chunk in chunks(texts)] == [4, 4]
    assert [chunk.num_rows for chunk in chunks(*(texts.slice(n, 1) for n in range(8)))] == [4, 4]
    assert [chunk.num_rows for chunk in chunks(texts, rows=8)] == [4, 4]
    uneven = pa.RecordBatch.from_arrays([pa.array(["x"] * 40 + ["y" * 9_000_000] * 4)], ["a"])
    assert max(chunk.nbytes for chunk in chunks(uneven)) < 10 << 20
    values = [value for one in chunks(numbers(0, 19), numbers(19, 10)) for value in one["a"]]
    assert [value.as_py() for value in values] == [*range(29)]
