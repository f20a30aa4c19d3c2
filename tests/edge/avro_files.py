"""Making resources and container files for the Avro tests."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import fastavro
import pyarrow as pa

from mxdeliver.core.model import Codec, Field, Resource, Verification
from mxdeliver.edge.avro import ContainerWriter
from mxdeliver.edge.avro.grammar import TypeReader

MARKER = bytes(range(16))


def resource_of(**fields: Any) -> Resource:
    schema = {
        "type": "record",
        "name": "Sample",
        "namespace": "mxdeliver",
        "fields": [{"name": name, "type": avro} for name, avro in fields.items()],
    }
    TypeReader().read(schema)
    return Resource(
        name="sample",
        fields=tuple(Field(name=name, avro_type=avro) for name, avro in fields.items()),
        schema=json.dumps(schema),
    )


def container(
    resource: Resource,
    batches: Sequence[pa.RecordBatch],
    *,
    codec: Codec = Codec.NULL,
    verification: Verification = Verification.FULL,
) -> bytes:
    written = bytearray()
    writer = ContainerWriter(
        resource, written.extend, codec=codec, sync_marker=MARKER, verification=verification
    )
    for batch in batches:
        writer.write(batch)
    assert writer.finish() == sum(batch.num_rows for batch in batches)
    return bytes(written)


def read(data: bytes) -> list[Any]:
    return list(fastavro.reader(io.BytesIO(data)))


def written(avro: Any, column: pa.Array) -> list[Any]:
    """Write one column as a field of type `avro`; give what fastavro reads."""
    batch = pa.RecordBatch.from_arrays([column], ["a"])
    return [row["a"] for row in read(container(resource_of(a=avro), [batch]))]
