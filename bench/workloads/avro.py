"""(avro) Avro alone, from Arrow record batches in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import fastavro
import pyarrow as pa

from bench.checks import require, same_records
from bench.contest import BUDGET_SECONDS, Contestant, Sample, Settings, compete
from bench.data import RESOURCE, write_transactions
from bench.ground import guid
from bench.measure import Measured, timed_by_itself
from bench.report import Part, Row, compared
from mxdeliver.edge.avro import load_resources

ROWS = 100_000
BATCH_ROWS = 16_384
APACHE_SHARE = 10
APACHE_BUDGET = 10
AGAINST_FASTAVRO = 10
NOWHERE = Path("/dev/null")


@dataclass(frozen=True, kw_only=True)
class Input:
    """Record batches in an Arrow file, a tenth of them in another, and the schema."""

    resource: str
    schema: Path
    whole: Path
    tenth: Path


def avro(settings: Settings) -> Part:
    """Compare the writers, for rows of 30 and 60 fields, with either codec."""
    rows = settings.size(ROWS, 20_000)
    parquet = settings.folder / "avro.parquet"
    write_transactions(parquet, rows, settings.seed, client=guid(0))
    table: list[Row] = []
    for width in (30, 60):
        made = _input(settings.folder, parquet, rows, width)
        for codec in ("null", "deflate"):
            title = f"avro {width} {codec}"
            samples = compete(settings, title, _contestants(settings, made, codec))
            table += _rows(f"{rows:,} × {width} fields, {codec}", codec, samples)
    return Part(
        rows=table,
        note=(
            f"**avro**: record batches of {BATCH_ROWS:,} rows in memory, what is written goes to "
            "`/dev/null` (in the round that warms up to memory, where every record is compared "
            "with the batches); timed within a process, without imports. *fastavro, rows made "
            "beforehand* leaves out the time of `to_pylist()`, *with `to_pylist()`* has it; the "
            "target is against the former, and also against the latter where that is missed. Each "
            "compresses as it does by default, and ours has the memory pool and the garbage "
            "collection of the command. polars gets its DataFrame in one piece beforehand. "
            f"The Apache library writes 1/{APACHE_SHARE} of the rows, without `to_pylist()`, too."
        ),
    )


def _input(folder: Path, parquet: Path, rows: int, width: int) -> Input:
    schema = json.loads(load_resources()[RESOURCE].schema)
    schema["fields"] = schema["fields"][:width]
    resource = f"{RESOURCE}_{width}"
    schemas = folder / "schemas"
    schemas.mkdir(exist_ok=True)
    made = Input(
        resource=resource,
        schema=schemas / f"{resource}.avsc",
        whole=folder / f"{resource}.arrow",
        tenth=folder / f"{resource}_tenth.arrow",
    )
    made.schema.write_text(json.dumps(schema), encoding="utf-8")
    fields = ", ".join(f'"{field["name"]}"' for field in schema["fields"])
    with duckdb.connect() as connection:
        for path, count in ((made.whole, rows), (made.tenth, rows // APACHE_SHARE)):
            found = connection.sql(f"SELECT {fields} FROM '{parquet}' LIMIT {count}")
            reader = found.to_arrow_reader(BATCH_ROWS)
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, reader.schema) as writer:
                for batch in reader:
                    writer.write_batch(batch)
    return made


def _contestants(settings: Settings, made: Input, codec: str) -> list[Contestant]:
    def contestant(
        name: str,
        run: Callable[[Path], Measured],
        data: Path,
        scale: float = 1,
        budget: float = BUDGET_SECONDS,
    ) -> Contestant:
        target = [settings.memory / "out.avro"]  # nowhere once it was checked

        def check() -> None:
            _compare(target[0], data, f"{name}, {codec}")
            target[0].unlink()
            target[0] = NOWHERE

        return Contestant(
            name=name, run=lambda: run(target[0]), check=check, scale=scale, budget=budget
        )

    def peer(library: str, data: Path) -> Callable[[Path], Measured]:
        return lambda output: timed_by_itself(
            "bench.peers.avro", library, data, made.schema, codec, output
        )

    return [
        contestant("fastavro", peer("fastavro", made.whole), made.whole),
        contestant(
            "ours",
            lambda output: timed_by_itself(
                "bench.ours", "avro", made.whole, made.resource, codec, output
            ),
            made.whole,
        ),
        contestant("polars", peer("polars", made.whole), made.whole),
        contestant(
            "Apache avro", peer("apache", made.tenth), made.tenth, APACHE_SHARE, APACHE_BUDGET
        ),
    ]


def _rows(work: str, codec: str, samples: dict[str, Sample]) -> list[Row]:
    ours, fastavro_ = samples["ours"], samples["fastavro"]
    beforehand = Sample(name="fastavro, rows made beforehand", rounds=fastavro_.rounds)
    with_rows = Sample(name="fastavro with `to_pylist()`", rounds=fastavro_.rounds)
    is_reached = beforehand.median() >= AGAINST_FASTAVRO * ours.median()
    return [
        compared("avro", work, beforehand, ours, target=AGAINST_FASTAVRO),
        compared(
            "avro",
            work,
            with_rows,
            ours,
            target=None if is_reached else AGAINST_FASTAVRO,
            what="with_rows",
        ),
        compared("avro", work, samples["polars"], ours, target=1.3 if codec == "null" else 5),
        compared("avro", work, samples["Apache avro"], ours),
    ]


def _compare(written: Path, data: Path, what: str) -> None:
    with pa.OSFile(str(data)) as file, written.open("rb") as stream:
        reader = pa.ipc.open_file(file)
        count = same_records(fastavro.reader(stream), _records(reader), what)
    require(count, f"{what}: no records")


def _records(reader: Any) -> Iterator[dict[str, Any]]:
    for number in range(reader.num_record_batches):
        yield from reader.get_batch(number).to_pylist()
