"""What is seen of an encoder's own mistakes: fastavro plays the encoder here."""

from __future__ import annotations

import io
import json
import zlib

import fastavro
import numpy as np
import pyarrow as pa
import pytest

from mxdeliver.core.errors import AvroVerify
from mxdeliver.core.model import Codec
from mxdeliver.edge.avro.check import BlockCheck, Segment
from mxdeliver.edge.avro.container import encode_long
from tests.edge.avro_files import MARKER, resource_of

PAIR = resource_of(a="long", b=["null", "string"])
SAMPLED_ROWS = 32


def batch_of(rows, first=0):
    places = range(first, first + rows)
    texts = [None if place % 5 == 0 else f"text {place}" for place in places]
    return pa.RecordBatch.from_arrays([pa.array(places, pa.int64()), pa.array(texts)], ["a", "b"])


class Rows:
    """A batch whose rows are normalised already."""

    def __init__(self, batch):
        self.batch = batch

    def records(self, chosen):
        return self.batch.take(pa.array(chosen, pa.int64())).to_pylist()


def encode(batch):
    """Give the rows' bytes and where each begins."""
    schema, encoded, offsets = fastavro.parse_schema(json.loads(PAIR.schema)), io.BytesIO(), [0]
    for row in batch.to_pylist():
        fastavro.schemaless_writer(encoded, schema, row)
        offsets.append(encoded.tell())
    return encoded.getvalue(), np.array(offsets, np.int32)


def segment(rows, first=0):
    batch = batch_of(rows, first)
    data, offsets = encode(batch)
    return Segment(Rows(batch), offsets, memoryview(data), 0, rows)


def block_of(*segments, codec=Codec.NULL):
    body = b"".join(bytes(one.encoded) for one in segments)
    if codec is Codec.DEFLATE:
        deflater = zlib.compressobj(wbits=-15)
        body = deflater.compress(body) + deflater.flush()
    rows = sum(one.rows for one in segments)
    return encode_long(rows) + encode_long(len(body)) + body + MARKER


def compare(block, *segments, every_row=False, codec=Codec.NULL):
    BlockCheck(PAIR, codec, MARKER).compare(block, segments, every_row=every_row)


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("every_row", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 31, 32, 33, 500])
def test_what_another_encoder_made_passes(rows, every_row, codec):
    whole = segment(rows)
    compare(block_of(whole, codec=codec), whole, every_row=every_row, codec=codec)


@pytest.mark.parametrize("every_row", [False, True])
def test_a_block_of_pieces_of_batches_passes(every_row):
    pieces = (
        segment(100)._replace(start=90),
        segment(1, 100),
        segment(300, 50)._replace(start=51, stop=299),
    )
    compare(block_of(*pieces), *pieces, every_row=every_row)


@pytest.mark.parametrize("row", [0, 499])
def test_a_wrong_value_in_the_first_or_last_row_is_seen(row):
    texts = [f"text {place}" for place in range(500)]
    data, offsets = encode(batch_of(500))
    texts[row] = "other"
    batch = pa.RecordBatch.from_arrays([batch_of(500)["a"], pa.array(texts)], ["a", "b"])
    wrong = Segment(Rows(batch), offsets, memoryview(data), 0, 500)
    with pytest.raises(AvroVerify, match="sample: a block"):
        compare(block_of(wrong), wrong)


def sees_a_wrong_value(row, *, every_row):
    whole = segment(500)
    numbers = whole.batch.batch["a"].to_pylist()
    numbers[row] += 1
    batch = pa.RecordBatch.from_arrays([pa.array(numbers), whole.batch.batch["b"]], ["a", "b"])
    try:
        compare(block_of(whole), whole._replace(batch=Rows(batch)), every_row=every_row)
    except AvroVerify:
        return True
    return False


def test_a_sample_sees_a_wrong_value_in_rows_spread_over_the_block_and_full_in_all():
    seen = [row for row in range(500) if sees_a_wrong_value(row, every_row=False)]
    assert len(seen) == SAMPLED_ROWS
    assert {seen[0], seen[-1]} == {0, 499}
    assert max(np.diff(seen)) < 20
    assert all(sees_a_wrong_value(row, every_row=True) for row in range(0, 500, 7))


@pytest.mark.parametrize("every_row", [False, True])
@pytest.mark.parametrize("row", [0, 1, 20, 30, 31])
def test_a_row_that_begins_elsewhere_than_the_encoder_says_is_seen(row, every_row):
    whole = segment(32)
    offsets = whole.offsets.copy()
    offsets[row] += 1
    with pytest.raises(AvroVerify):
        compare(block_of(whole), whole._replace(offsets=offsets), every_row=every_row)


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("every_row", [False, True])
def test_a_byte_that_changed_in_a_row_that_is_not_sampled_is_seen(codec, every_row):
    whole, damaged = segment(500), segment(500)
    data = bytearray(damaged.data)
    data[int(damaged.offsets[5]) + 4] ^= 1
    block = block_of(damaged._replace(data=memoryview(data)), codec=codec)
    with pytest.raises(AvroVerify):
        compare(block, whole, every_row=every_row, codec=codec)


@pytest.mark.parametrize("every_row", [False, True])
def test_a_frame_that_is_wrong_is_seen(every_row):
    whole = segment(40)
    good = block_of(whole)
    body = bytes(whole.encoded)
    size = encode_long(len(body))
    wrong = [
        good[:-1] + b"\xff",
        good + b"\x00",
        encode_long(39) + good[1:],
        encode_long(41) + good[1:],
        encode_long(40) + encode_long(len(body) + 1) + body + MARKER,
        encode_long(40) + encode_long(len(body) + 1) + body + b"\x00" + MARKER,
        encode_long(40) + size + body[:-1] + MARKER,
        b"",
    ]
    for block in wrong:
        with pytest.raises(AvroVerify):
            compare(block, whole, every_row=every_row)


def test_deflated_bytes_after_the_end_or_without_one_are_seen():
    whole = segment(40)
    deflater = zlib.compressobj(wbits=-15)
    deflated = deflater.compress(bytes(whole.encoded)) + deflater.flush()
    for body in (deflated + b"\x00", deflated[:-1], b"\xff" * 9):
        block = encode_long(40) + encode_long(len(body)) + body + MARKER
        with pytest.raises(AvroVerify):
            compare(block, whole, codec=Codec.DEFLATE)
