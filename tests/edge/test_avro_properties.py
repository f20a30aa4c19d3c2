"""Generated schemas and values: what two other readers read is what went in."""

from __future__ import annotations

import io
import json

import avro.datafile
import avro.io
import fastavro
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mxdeliver.core.model import Codec
from tests.edge.avro_files import container, read, resource_of

PROFILE = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
EDGES = sorted(
    {sign * (1 << power) + near for power in (0, 6, 7, 13, 14, 20, 27, 30) for sign in (1, -1) for near in (-1, 0, 1)}
)  # fmt: skip
INTS = st.sampled_from([*EDGES, (1 << 31) - 1, -(1 << 31)]) | st.integers(-(1 << 31), (1 << 31) - 1)
LONGS = INTS | st.sampled_from([(1 << 63) - 1, -(1 << 63)]) | st.integers(-(1 << 63), (1 << 63) - 1)
TEXTS = st.text(max_size=80) | st.sampled_from(
    ["", "\0", "é" * 32, "x" * 64, "\u202eabc", "\U0001f4b6" * 50]
)
LEAVES = {
    "boolean": (pa.bool_(), st.booleans()),
    "int": (pa.int32(), INTS),
    "long": (pa.int64(), LONGS),
    "float": (pa.float32(), st.floats(width=32, allow_nan=False, allow_infinity=False)),
    "double": (pa.float64(), st.floats(allow_nan=False, allow_infinity=False)),
    "bytes": (pa.binary(), st.binary(max_size=80)),
    "string": (pa.string(), TEXTS),
}


@st.composite
def kinds(draw, depth=2):
    """Give (Avro type, Arrow type, strategy of values)."""
    names = draw(st.shared(st.builds(lambda: iter(range(10_000))), key="names"))
    shape = draw(st.sampled_from(["leaf"] * 4 + ["array", "record", "fixed"] * (depth > 0)))
    if shape == "leaf":
        name = draw(st.sampled_from(sorted(LEAVES)))
        avro, (arrow, values) = name, LEAVES[name]
    elif shape == "fixed":
        size = draw(st.integers(1, 20))
        avro = {"type": "fixed", "name": f"F{next(names)}", "size": size}
        arrow, values = pa.binary(size), st.binary(min_size=size, max_size=size)
    elif shape == "array":
        inner, arrow_inner, items = draw(kinds(depth=depth - 1))
        avro, arrow = {"type": "array", "items": inner}, pa.list_(arrow_inner)
        values = st.lists(items, max_size=3)
    else:
        parts = draw(st.lists(kinds(depth=depth - 1), min_size=1, max_size=3))
        fields = [{"name": f"f{place}", "type": part[0]} for place, part in enumerate(parts)]
        avro = {"type": "record", "name": f"R{next(names)}", "fields": fields}
        arrow = pa.struct([(f"f{place}", part[1]) for place, part in enumerate(parts)])
        values = st.fixed_dictionaries({f"f{place}": part[2] for place, part in enumerate(parts)})
    null = draw(st.sampled_from(["", "first", "last"]))
    if null:
        values = st.none() | values
        avro = ["null", avro] if null == "first" else [avro, "null"]
    return avro, arrow, values


@st.composite
def tables(draw):
    columns = draw(st.lists(kinds(), min_size=1, max_size=4))
    rows = draw(st.integers(0, 12))
    values = [draw(st.lists(column[2], min_size=rows, max_size=rows)) for column in columns]
    fields = {f"c{place}": column[0] for place, column in enumerate(columns)}
    arrays = [pa.array(v, column[1]) for v, column in zip(values, columns, strict=True)]
    return resource_of(**fields), pa.RecordBatch.from_arrays(arrays, list(fields))


@given(tables(), st.sampled_from(Codec), st.integers(0, 12))
@PROFILE
def test_any_records_of_any_schema_read_back_equal(table, codec, cut):
    resource, batch = table
    data = container(resource, [batch.slice(0, cut), batch.slice(cut)], codec=codec)
    assert read(data) == batch.to_pylist()
    with avro.datafile.DataFileReader(io.BytesIO(data), avro.io.DatumReader()) as reader:
        assert list(reader) == batch.to_pylist()
    assert data == container(resource, [batch], codec=codec)


@given(tables())
@PROFILE
def test_the_bytes_are_those_of_the_reference_encoder(table):
    resource, batch = table
    schema = fastavro.parse_schema(json.loads(resource.schema))
    body = io.BytesIO()
    for row in batch.to_pylist():
        fastavro.schemaless_writer(body, schema, row)
    assert body.getvalue() in container(resource, [batch])
