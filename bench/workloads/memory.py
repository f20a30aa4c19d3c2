"""(f) The memory of `mxdeliver run` for files of 30 MB, 300 MB and 3 GB."""

from __future__ import annotations

import json

from bench.checks import require
from bench.contest import Sample, Settings
from bench.data import RESOURCE, write_transactions
from bench.ground import set_up
from bench.report import Part, Row, limited, megabytes
from bench.workloads.one_file import run

BYTES_A_ROW = 262
SIZES = (30_000_000, 300_000_000, 3_000_000_000)
LIMIT = 350_000_000
MOST_GROWTH = 1.15


def memory(settings: Settings) -> Part:
    """Deliver one file of each size, once, and watch the memory of all processes together."""
    samples = []
    for size in SIZES:
        wanted = settings.size(size, size // 100)
        sample = _deliver(settings, wanted // BYTES_A_ROW)
        samples.append(sample)
    middle, large = samples[1], samples[2]
    growth = large.median("peak_bytes") / middle.median("peak_bytes")
    reached = f"{growth:.2f} ×"
    return Part(
        rows=[
            limited("f", f"peak memory, {one.name}", one, limit, what="peak_bytes")
            for one, limit in zip(samples, (None, None, LIMIT), strict=True)
        ]
        + [
            Row(
                workload="f",
                work="its growth from the second to the third",
                ours=reached,
                rounds="1",
                target=f"≤ {MOST_GROWTH:g} ×",
                reached=reached if growth <= MOST_GROWTH else f"**missed**: {reached}",
            )
        ],
        note=(
            "**f**: `mxdeliver run --date`, once for each size, one file of transactions; the most "
            "resident memory that all its processes had together, looked at every 20 ms. Pages "
            "that processes share count once for each of them."
        ),
    )


def _deliver(settings: Settings, rows: int) -> Sample:
    with set_up(settings.folder) as ground:
        parquet = ground.folder / "transactions.parquet"
        write_transactions(parquet, rows, settings.seed, client=ground.parties[0].guid)
        source = {"views": {RESOURCE: f"read_parquet('{parquet}')"}}
        state = ground.new_state()
        measured = run(ground.write_config(state, source, [RESOURCE]))
        (delivery,) = json.loads(measured.output)["deliveries"]
        require(delivery["records"] == rows, f"{delivery['records']} records, not {rows}")
        lines = (state / "deliveries.jsonl").read_text(encoding="utf-8").splitlines()
        size = max(json.loads(line).get("file_size", 0) for line in lines)
    name = f"{megabytes(size)} of Avro ({rows:,} records), {measured.seconds:.0f} s"
    return Sample(name=name, rounds=[measured])
