"""The Avro writers, from record batches in memory.

    python -m bench.peers.avro fastavro|polars|apache FILE SCHEMA CODEC OUTPUT

Timed without imports and reading FILE, an Arrow file. polars gets its DataFrame made beforehand.
The other two need rows as Python objects: making them (`to_pylist`) is timed apart, batch by batch,
and stands in `with_rows` only.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from bench.measure import tell


class Rows:
    """Record batches as dictionaries, and the seconds that making these took."""

    def __init__(self, batches: Sequence[Any]) -> None:
        self._batches = batches
        self.seconds = 0.0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._batches:
            started = time.perf_counter()
            rows = batch.to_pylist()
            self.seconds += time.perf_counter() - started
            yield from rows


def with_fastavro(batches: Sequence[Any], schema: str, codec: str, output: Path) -> None:
    """Write with fastavro."""
    import fastavro  # noqa: PLC0415 - only one library is loaded

    parsed = fastavro.parse_schema(json.loads(schema))
    rows = Rows(batches)
    with output.open("wb") as file:
        started = time.perf_counter()
        fastavro.writer(file, parsed, rows, codec=codec)
    _tell(started, rows)


def with_apache(batches: Sequence[Any], schema: str, codec: str, output: Path) -> None:
    """Write with the Avro project's own library."""
    import avro.datafile  # noqa: PLC0415 - only one library is loaded
    import avro.io  # noqa: PLC0415 - as above
    import avro.schema  # noqa: PLC0415 - as above

    parsed = avro.schema.parse(schema)
    rows = Rows(batches)
    started = time.perf_counter()
    with avro.datafile.DataFileWriter(
        output.open("wb"), avro.io.DatumWriter(), parsed, codec=codec
    ) as writer:
        for row in rows:
            writer.append(row)
    _tell(started, rows)


def with_polars(batches: Sequence[Any], schema: str, codec: str, output: Path) -> None:
    """Write with polars."""
    import polars as pl  # noqa: PLC0415 - only one library is loaded

    frame = pl.DataFrame(pl.from_arrow(pa.Table.from_batches(batches))).rechunk()
    compression: Any = {"null": "uncompressed"}.get(codec, codec)
    started = time.perf_counter()
    frame.write_avro(output, compression=compression, name=json.loads(schema)["name"])
    tell(time.perf_counter() - started)


def _tell(started: float, rows: Rows) -> None:
    seconds = time.perf_counter() - started
    tell(seconds - rows.seconds, with_rows=seconds)


WRITERS: Mapping[str, Callable[[Sequence[Any], str, str, Path], None]] = {
    "fastavro": with_fastavro,
    "polars": with_polars,
    "apache": with_apache,
}


def main() -> None:
    """Write one file with one library."""
    library, path, schema, codec, output = sys.argv[1:]
    with pa.OSFile(path) as file:
        batches = pa.ipc.open_file(file).read_all().to_batches()
    WRITERS[library](batches, Path(schema).read_text(encoding="utf-8"), codec, Path(output))


if __name__ == "__main__":
    main()
