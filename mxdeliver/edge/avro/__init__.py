"""Avro: schema files to resources, record batches to container files, and a check for recipients.

    grammar    the types of an Avro schema, read strictly
    schemas    .avsc files -> resources
    values     which Arrow values meet which Avro type; all others are refused
    temporal   the same for dates and times
    stacks     columns of one type one below the other, to be handled together
    cells      columns -> the encoded bytes of each row's value, with heads, varints and texts
    scatter    those -> the encoded rows
    container  what a container file is made of, and the sync marker
    writer     batches -> blocks of encoded rows
    blocks     those -> the bytes of a container file
    check      blocks decoded again by another implementation while they pass
    reader     containers read as they arrive, to count and to find damage

pyarrow and fastavro are loaded when the writer is first asked for; schemas and reader do without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mxdeliver.edge.avro.container import sync_marker
from mxdeliver.edge.avro.reader import ContainerReader
from mxdeliver.edge.avro.schemas import load_resources, resource_names

if TYPE_CHECKING:
    from mxdeliver.edge.avro.writer import ContainerWriter

__all__ = [
    "ContainerReader",
    "ContainerWriter",
    "load_resources",
    "resource_names",
    "sync_marker",
]


def __getattr__(name: str) -> Any:
    """Load the writer on first use (PEP 562)."""
    if name != "ContainerWriter":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mxdeliver.edge.avro.writer import (  # noqa: PLC0415 - loads pyarrow, which takes time
        ContainerWriter,
    )

    return ContainerWriter
