from __future__ import annotations

import io
import json
import tracemalloc
import zlib

import avro.datafile
import avro.io
import avro.schema
import fastavro
import pytest

from mxdeliver.edge.avro import ContainerReader
from mxdeliver.edge.avro.container import MAGIC, decode_long, encode_long
from tests.edge.avro_files import MARKER

SCHEMA = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "long"}]}
TEXT = json.dumps(SCHEMA).encode()


def entry(key, value):
    return encode_long(len(key)) + key + encode_long(len(value)) + value


def header(*, codec=b"null", schema=TEXT):
    entries = entry(b"avro.schema", schema) + entry(b"avro.codec", codec)
    return MAGIC + encode_long(2) + entries + b"\0" + MARKER


def block(rows, body, marker=MARKER):
    return encode_long(rows) + encode_long(len(body)) + body + marker


def deflated(body):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(body) + packer.flush()


def count(data, step=None):
    reader = ContainerReader()
    for start in range(0, len(data), step or len(data) or 1):
        reader.write(data[start : start + (step or len(data))])
    return reader.finish()


def made_by_fastavro(codec, rows=1000):
    made = io.BytesIO()
    records = [{"a": place} for place in range(rows)]
    fastavro.writer(made, SCHEMA, records, codec=codec, sync_interval=500)
    return made.getvalue()


def made_by_apache(codec, rows=1000):
    made = io.BytesIO()
    writer = avro.datafile.DataFileWriter(
        made, avro.io.DatumWriter(), avro.schema.parse(json.dumps(SCHEMA)), codec=codec
    )
    for place in range(rows):
        writer.append({"a": place})
        if place % 300 == 0:
            writer.sync()
    writer.flush()
    return made.getvalue()


@pytest.mark.parametrize("make", [made_by_fastavro, made_by_apache])
@pytest.mark.parametrize("codec", ["null", "deflate"])
@pytest.mark.parametrize("step", [1, 7, 4096, None])
def test_files_of_other_writers_are_counted_in_pieces_of_any_size(make, codec, step):
    assert count(make(codec), step) == 1000
    assert count(make(codec, 0), step) == 0


def test_a_header_whose_map_comes_in_blocks_with_sizes_is_read():
    first, second = entry(b"avro.schema", TEXT), entry(b"avro.codec", b"deflate")
    data = MAGIC + encode_long(-1) + encode_long(len(first)) + first
    data += encode_long(-1) + encode_long(len(second)) + second + b"\0" + MARKER
    assert count(data + block(3, deflated(b"\2\4\6")), 1) == 3


def test_what_python_writers_leave_behind_a_deflate_stream_is_overlooked():
    assert count(header(codec=b"deflate") + block(1, deflated(b"\2") + b"sum"), 1) == 1


def test_a_header_without_codec_means_null():
    data = MAGIC + encode_long(1) + entry(b"avro.schema", TEXT) + b"\0" + MARKER
    assert count(data + block(1, b"\2")) == 1


def test_blocks_without_records_are_counted_as_none():
    assert count(header() + block(0, b"") + block(2, b"\2\4") + block(0, b"")) == 2


@pytest.mark.parametrize("make", [made_by_fastavro, made_by_apache])
def test_a_file_cut_anywhere_but_between_blocks_is_cut_short(make):
    data = make("deflate", 400)
    marker = data[-16:]
    whole = {place + 16 for place in range(len(data)) if data[place : place + 16] == marker}
    for cut in range(len(data)):
        if cut not in whole:
            with pytest.raises(ValueError, match="cut short"):
                count(data[:cut])
        else:
            assert count(data[:cut]) <= 400


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "cut short"),
        (b"Obj\2" + bytes(20), "not an Avro file"),
        (b"PAR1" + bytes(20), "not an Avro file"),
        (header(codec=b"snappy"), "codec is snappy, not null or deflate"),
        (header(codec=b"z\n\x1b[1m"), r"codec is z\\n\\x1b\[1m, not"),
        (header(schema=b"{"), "holds no schema"),
        (header(schema=b"\xff"), "holds no schema"),
        (header(schema=b"[" * 100_000), "holds no schema"),
        (MAGIC + b"\0" + MARKER, "holds no schema"),
        (MAGIC + encode_long(1) + encode_long(-1), "header is damaged"),
        (MAGIC + encode_long(1) + encode_long(1 << 40), "header is damaged"),
        (MAGIC + encode_long(1 << 60) + b"\0\0" * (1 << 17), "header is damaged"),
        (MAGIC + b"\xff" * 10, "more than 64 bits"),
        (MAGIC + b"\xff" * 9 + b"\x7f", "more than 64 bits"),
        (header() + encode_long(-1) + encode_long(0) + MARKER, "negative size"),
        (header() + encode_long(1) + encode_long(-1) + MARKER, "negative size"),
        (header() + block(1, b"\2", bytes(16)), "another sync marker"),
        (header() + b"tail", "negative size"),
        (header(codec=b"deflate") + block(1, b"\xff\xff\xff"), "does not inflate"),
        (header(codec=b"deflate") + block(1, b""), "does not inflate"),
        (header(codec=b"deflate") + block(1, deflated(b"\2")[:-1]), "does not inflate"),
        (header(codec=b"deflate") + block(1, zlib.compress(b"\2")), "does not inflate"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("step", [1, None])
def test_what_is_not_a_whole_container_is_named(data, problem, step):
    if step and len(data) > 1 << 18:
        step = 1 << 16
    with pytest.raises(ValueError, match=problem):
        count(data, step)


def test_a_reader_that_found_damage_stays_with_it():
    reader = ContainerReader()
    for _ in range(2):
        with pytest.raises(ValueError, match="not an Avro file"):
            reader.write(b"nothing of the kind")
    with pytest.raises(ValueError, match="not an Avro file"):
        reader.finish()


def test_an_endless_block_takes_no_memory():
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    data = header(codec=b"deflate") + block(1 << 26, body)
    tracemalloc.start()
    try:
        assert count(data) == 1 << 26
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_a_large_block_takes_no_memory():
    reader = ContainerReader()
    reader.write(header() + encode_long(1) + encode_long(64 << 20))
    piece = bytes(1 << 20)
    tracemalloc.start()
    try:
        for _ in range(64):
            reader.write(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    reader.write(MARKER)
    assert reader.finish() == 1
    assert peak < 8 << 20


def test_numbers_are_read_back_to_the_ends_of_their_range():
    for value in (0, -1, 1, 63, -64, 64, (1 << 63) - 1, -(1 << 63)):
        encoded = encode_long(value)
        assert decode_long(encoded, 0) == (value, len(encoded))
