from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from itertools import count, pairwise

import avro.datafile
import avro.io
import fastavro
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.errors import AvroVerify, RecordInvalid
from mxdeliver.core.model import Codec, DailyFile, EventType, Verification
from mxdeliver.edge import avro as edge_avro
from mxdeliver.edge.avro import ContainerReader, ContainerWriter, load_resources, sync_marker
from mxdeliver.edge.avro.container import decode_long
from tests.edge.avro_files import MARKER, container, read, resource_of

TEXT = ["null", "string"]
PAIR = resource_of(a="long", b=TEXT)
CLIENT = "CLT-0858efd1-2d2e-6a5d-f2b5-c7dad42ef184"


def pair(rows, first=0):
    places = range(first, first + rows)
    texts = [None if place % 5 == 0 else f"text {place}" for place in places]
    return pa.RecordBatch.from_arrays([pa.array(places, pa.int64()), pa.array(texts)], ["a", "b"])


def blocks(data):
    """Give (rows, body size) of each block of a container with codec null."""
    found = []
    position = data.index(MARKER) + len(MARKER)
    while position < len(data):
        rows, position = decode_long(data, position)
        size, position = decode_long(data, position)
        found.append((rows, size))
        position += size + len(MARKER)
    return found


def apache(data):
    with avro.datafile.DataFileReader(io.BytesIO(data), avro.io.DatumReader()) as reader:
        return list(reader)


def avrocat(path):
    printed = subprocess.run(["avrocat", str(path)], check=True, capture_output=True, text=True)
    return [json.loads(line) for line in printed.stdout.splitlines()]


def transactions(rows):
    """Make rows of every field of the shipped transactions, some without a value."""
    resource = load_resources()["transactions"]
    make = {
        "string": lambda place: f"Grüße {place} " * (place % 4),
        "long": lambda place: place * (10 ** (place % 15)),
        "double": lambda place: place / 7,
        "boolean": lambda place: place % 2 == 0,
    }
    arrow = {
        "string": pa.string(), "long": pa.int64(), "double": pa.float64(), "boolean": pa.bool_(),
    }  # fmt: skip
    columns = []
    for offset, field in enumerate(resource.fields):
        nullable = isinstance(field.avro_type, list)
        kind = field.avro_type[1] if nullable else field.avro_type
        values = [
            None if nullable and (place + offset) % 6 == 0 else make[kind](place + offset)
            for place in range(rows)
        ]
        columns.append(pa.array(values, arrow[kind]))
    return resource, pa.RecordBatch.from_arrays(columns, [f.name for f in resource.fields])


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("rows", [0, 1, 500])
def test_three_readers_that_nobody_here_wrote_read_what_was_written(tmp_path, codec, rows):
    resource, batch = transactions(rows)
    data = container(resource, [batch], codec=codec)
    assert read(data) == batch.to_pylist()
    assert apache(data) == batch.to_pylist()
    (tmp_path / "transactions.avro").write_bytes(data)
    printed = [
        {name: next(iter(value.values())) if isinstance(value, dict) else value for name, value in row.items()}
        for row in avrocat(tmp_path / "transactions.avro")
    ]  # fmt: skip
    assert [row["guid"] for row in printed] == [row["guid"] for row in batch.to_pylist()]
    assert [row["created_at"] for row in printed] == [r["created_at"] for r in batch.to_pylist()]


def test_a_file_without_records_is_its_header_alone():
    for name, resource in load_resources().items():
        data = container(resource, [])
        assert data.endswith(MARKER), name
        assert apache(data) == []
        assert data == container(resource, [transactions(0)[1]] if name == "transactions" else [])


def test_the_codec_and_schema_stand_in_the_header():
    data = container(PAIR, [pair(1)], codec=Codec.DEFLATE)
    reader = fastavro.reader(io.BytesIO(data))
    assert reader.metadata == {"avro.codec": "deflate", "avro.schema": PAIR.schema}


BOUNDARIES = sorted(
    {
        sign * (1 << power) + near
        for power in range(63)
        for sign in (1, -1)
        for near in (-1, 0, 1)
    }
    | {-(1 << 63), (1 << 63) - 1}
)  # fmt: skip


def test_every_boundary_of_integers_is_written_as_the_reference_does():
    column = pa.array(BOUNDARIES, pa.int64())
    resource = resource_of(a="long", b=["null", "long"], c=["long", "null"])
    gaps = pa.array([None if place % 3 else value for place, value in enumerate(BOUNDARIES)])
    batch = pa.RecordBatch.from_arrays([column, gaps, gaps], list("abc"))
    reference = io.BytesIO()
    schema = fastavro.parse_schema(json.loads(resource.schema))
    for row in batch.to_pylist():
        fastavro.schemaless_writer(reference, schema, row)
    data = container(resource, [batch])
    assert data.endswith(reference.getvalue() + MARKER)
    for value in BOUNDARIES:  # each alone, so that every width is the only one of its block
        one = pa.RecordBatch.from_arrays(
            [pa.array([value]), pa.nulls(1), pa.array([value])], list("abc")
        )
        assert read(container(resource, [one])) == [{"a": value, "b": None, "c": value}]


@pytest.mark.parametrize("size", [0, 1, 63, 64, 8191, 8192, 65_536, 1 << 20])
def test_texts_of_every_size_of_length_prefix_are_written(size):
    texts = ["é" * (size // 2), None, "\0" * size, ""]
    batch = pa.RecordBatch.from_arrays(
        [pa.array(range(4), pa.int64()), pa.array(texts)], ["a", "b"]
    )
    assert [row["b"] for row in apache(container(PAIR, [batch], codec=Codec.DEFLATE))] == texts


def test_blocks_hold_4096_rows():
    data = container(PAIR, [pair(10_000)])
    assert [rows for rows, _ in blocks(data)] == [4096, 4096, 1808]
    assert read(data) == pair(10_000).to_pylist()


def test_blocks_hold_4_mebibytes_and_a_longer_row_stands_alone():
    sizes = [1 << 20, 1 << 20, 2 << 20, 1, 5 << 20, 7, (4 << 20) - 4, (4 << 20) - 3, 1]
    resource = resource_of(b="string")
    column = pa.array(["x" * size for size in sizes])
    data = container(resource, [pa.RecordBatch.from_arrays([column], ["b"])])
    cut = blocks(data)
    assert sum(rows for rows, _ in cut) == len(sizes)
    assert [rows for rows, size in cut if size > 4 << 20] == [1, 1]
    for (_, size), (_, following) in pairwise(cut):
        assert size + following > 4 << 20
    assert read(data) == [{"b": "x" * size} for size in sizes]


def rebatched(table, cuts):
    places = sorted({0, table.num_rows, *(cut % (table.num_rows + 1) for cut in cuts)})
    pieces = [
        table.slice(start, stop - start)
        for start, stop in pairwise(places)
    ]  # fmt: skip
    return [pieces[0].slice(0, 0), *pieces, pieces[0].slice(0, 0)] if pieces else [table]


WIDE = pa.RecordBatch.from_arrays(
    [
        pa.array(range(9_000), pa.int64()),
        pa.array(["x" * (place % 7) * (place % 2500) for place in range(9_000)]),
    ],
    ["a", "b"],
)
WIDE_FILE = container(PAIR, [WIDE], verification=Verification.SAMPLE)


@given(st.lists(st.integers(0, 9_000), max_size=6))
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
def test_the_same_records_give_the_same_bytes_however_they_are_batched(cuts):
    batches = rebatched(WIDE, cuts)
    assert container(PAIR, batches, verification=Verification.SAMPLE) == WIDE_FILE


def test_a_thread_that_writes_blocks_late_writes_the_same_bytes():
    written = bytearray()

    def late(data):
        for _ in range(20):  # the next chunks are encoded meanwhile
            hashlib.sha256(data)
        written.extend(data)

    with (
        ThreadPoolExecutor(1) as worker,
        ContainerWriter(
            PAIR,
            late,
            codec=Codec.NULL,
            sync_marker=MARKER,
            verification=Verification.SAMPLE,
            worker=worker,
        ) as writer,
    ):
        for _ in range(3):
            writer.write(WIDE)
        assert writer.finish() == 3 * WIDE.num_rows
    assert written == container(PAIR, [WIDE] * 3)


def test_the_file_of_that_test_has_blocks_of_both_kinds():
    cut = blocks(WIDE_FILE)
    assert any(rows < 4096 for rows, _ in cut[:-1])
    assert len(cut) > 2
    assert max(size for _, size in cut) <= 4 << 20


def test_the_way_a_column_is_stored_changes_nothing():
    plain = pa.RecordBatch.from_arrays([WIDE["a"], WIDE["b"]], ["a", "b"])
    dictionary = pa.RecordBatch.from_arrays([WIDE["a"], WIDE["b"].dictionary_encode()], ["a", "b"])
    large = pa.RecordBatch.from_arrays([WIDE["a"], WIDE["b"].cast(pa.large_string())], ["a", "b"])
    mixed = [plain.slice(0, 100), dictionary.slice(100, 3000), large.slice(3100)]
    assert container(PAIR, mixed, verification=Verification.SAMPLE) == WIDE_FILE


def test_a_dictionary_of_long_texts_is_not_written_out_at_once():
    texts = pa.DictionaryArray.from_arrays(pa.array([0, 1] * 100), pa.array(["x" * 4_000_000, "y"]))
    batch = pa.RecordBatch.from_arrays([pa.array(range(200), pa.int64()), texts], ["a", "b"])
    before = pa.total_allocated_bytes()
    peak = 0

    def sink(_):
        nonlocal peak
        peak = max(peak, pa.total_allocated_bytes() - before)

    writer = ContainerWriter(
        PAIR, sink, codec=Codec.DEFLATE, sync_marker=MARKER, verification=Verification.SAMPLE
    )
    writer.write(batch)
    assert writer.finish() == 200
    assert peak < 400 << 20


def test_the_sync_marker_depends_on_what_the_file_is_and_on_nothing_else():
    identity = DailyFile(
        client_guid=CLIENT,
        snapshot_date=SnapshotDate.parse("2026-01-01"),
        resource="sample",
        event=EventType.CREATED,
    )
    others = [
        DailyFile(
            client_guid=client,
            snapshot_date=SnapshotDate.parse(day),
            resource="sample",
            event=event,
        )
        for client, day, event in (
            (CLIENT.replace("0858", "0859"), "2026-01-01", EventType.CREATED),
            (CLIENT, "2026-01-02", EventType.CREATED),
            (CLIENT, "2026-01-01", EventType.DELETED),
        )
    ]
    markers = {sync_marker(one, PAIR) for one in (identity, *others)}
    markers.add(sync_marker(identity, resource_of(a="int")))
    assert len(markers) == 5
    assert {len(marker) for marker in markers} == {16}
    assert sync_marker(identity, PAIR) == sync_marker(identity, PAIR)
    assert sync_marker(identity, PAIR).hex() == "44381fd7c4b6993543af9b41022f3deb"


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["a"], "column b is missing"),
        (["a", "b", "c"], "column c is not in the schema"),
        (["b", "a"], "the columns are not in the schema's order"),
        (["a", "b", "b"], "the columns are not in the schema's order"),
    ],
)
def test_other_columns_than_the_schemas_are_refused(names, problem):
    batch = pa.RecordBatch.from_arrays([pa.array([1])] * len(names), names)
    with pytest.raises(RecordInvalid, match=f"sample: .*{problem}"):
        container(PAIR, [batch])


def flipping(writer, position, *, block=0):
    """Make the encoded bytes of one block change between encoder and sink."""
    whole, numbers = writer._blocks._compress, count()

    def changed(body):
        data = bytearray(whole(body))
        if next(numbers) == block:
            data[position] ^= 0x01
        return bytes(data)

    writer._blocks._compress = changed


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("verification", Verification)
@pytest.mark.parametrize("position", [0, 1, 5, 100, -1])
def test_a_flipped_bit_between_encoder_and_sink_is_seen(codec, verification, position):
    writer = ContainerWriter(PAIR, len, codec=codec, sync_marker=MARKER, verification=verification)
    flipping(writer, position)
    writer.write(pair(50))
    with pytest.raises(AvroVerify, match="sample: a block"):
        writer.finish()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_full_verification_sees_a_flip_in_every_block(place):
    writer = ContainerWriter(
        PAIR, len, codec=Codec.NULL, sync_marker=MARKER, verification=Verification.FULL
    )
    flipping(writer, 2000, block=place)
    with pytest.raises(AvroVerify):
        writer.write(pair(4 * 4096))


def test_a_sample_holds_the_last_block():
    writer = ContainerWriter(
        PAIR, len, codec=Codec.NULL, sync_marker=MARKER, verification=Verification.SAMPLE
    )
    flipping(writer, 0, block=1)
    writer.write(pair(2 * 4096))
    with pytest.raises(AvroVerify):
        writer.finish()


def test_a_block_with_a_row_too_few_is_seen():
    writer = ContainerWriter(
        PAIR, len, codec=Codec.NULL, sync_marker=MARKER, verification=Verification.SAMPLE
    )
    writer._blocks._compress = lambda body: bytes(body)[: len(body) // 2]
    with pytest.raises(AvroVerify):
        writer.write(pair(2 * 4096))


def test_records_that_came_in_and_were_not_counted_out_are_seen():
    writer = ContainerWriter(
        PAIR, len, codec=Codec.NULL, sync_marker=MARKER, verification=Verification.SAMPLE
    )
    writer.write(pair(10))
    writer._rows += 1
    with pytest.raises(AvroVerify, match="11 records came in, the blocks' headers count 10"):
        writer.finish()


def test_each_block_is_one_raw_deflate_stream():
    data = container(PAIR, [pair(5000)], codec=Codec.DEFLATE)
    position = data.index(MARKER) + len(MARKER)
    for expected in (4096, 904):
        rows, position = decode_long(data, position)
        size, position = decode_long(data, position)
        inflater = zlib.decompressobj(-15)
        inflater.decompress(data[position : position + size])
        assert (rows, inflater.eof, inflater.unused_data) == (expected, True, b"")
        position += size + len(MARKER)
    assert position == len(data)


def test_our_own_reader_counts_what_was_written():
    reader = ContainerReader()
    reader.write(container(PAIR, [pair(5000)], codec=Codec.DEFLATE))
    assert reader.finish() == 5000


def test_schemas_and_reader_do_without_pyarrow():
    script = (
        "import sys, mxdeliver.edge.avro as avro; avro.load_resources(); avro.ContainerReader();"
        "assert 'pyarrow' not in sys.modules and 'fastavro' not in sys.modules;"
        "avro.ContainerWriter; assert 'pyarrow' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = edge_avro.Nothing
