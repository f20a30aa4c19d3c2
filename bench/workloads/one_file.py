"""(a) One file of transactions, from Parquet to the client's server, the whole path."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench.checks import Delivered
from bench.contest import GENEROUS_SECONDS, Contestant, Settings, compete
from bench.data import DAYS, RESOURCE, write_transactions
from bench.ground import set_up
from bench.measure import Measured, measure
from bench.report import Part, compared, megabytes

ROWS = 500_000


def one_file(settings: Settings) -> Part:
    """Compare the two scripts with `mxdeliver run`."""
    rows = settings.size(ROWS, 20_000)
    with set_up(settings.folder) as ground:
        parquet = ground.folder / "transactions.parquet"
        write_transactions(parquet, rows, settings.seed, client=ground.parties[0].guid)
        source = {"views": {RESOURCE: f"read_parquet('{parquet}')"}}
        plan = ground.write_plan(source, [RESOURCE], DAYS[0])
        delivered = Delivered(ground, ground.parties, DAYS[0])

        def contestant(name: str, module: str) -> Contestant:
            return Contestant(
                name=name,
                prepare=ground.empty,
                run=lambda: measure(sys.executable, "-m", module, plan, memory=True),
                check=delivered.look,
                budget=GENEROUS_SECONDS,
            )

        def ours() -> Measured:
            return run(ground.write_config(ground.new_state(), source, [RESOURCE]))

        samples = compete(
            settings,
            "a",
            [
                contestant("script", "bench.peers.script"),
                Contestant(name="ours", prepare=ground.empty, run=ours, check=delivered.look),
                contestant("best parts", "bench.peers.best_parts"),
            ],
        )
    work = f"one file, {rows:,} × 60 fields, Parquet to server"
    peaks = ", ".join(
        f"{name} {megabytes(sample.median('peak_bytes'))}" for name, sample in samples.items()
    )
    return Part(
        rows=[
            compared("a", work, samples["script"], samples["ours"], target=10),
            compared("a", work, samples["best parts"], samples["ours"], target=4),
        ],
        note=(
            "**a**: *script* is `bench/peers/script.py` (DuckDB rows in batches, fastavro with "
            "deflate, gpg without compression, one OpenSSH sftp batch with renames), *best parts* "
            "`bench/peers/best_parts.py` (DuckDB to Arrow, polars with deflate, pysequoia, lftp). "
            "Ours is `mxdeliver run --date` from an empty state, with spool, ledger, log and checks. "
            "All three write two more files without records, for what was updated and deleted, "
            f"and a manifest. Peak memory of all processes together: {peaks}."
        ),
    )


def run(config: Path, day: str = DAYS[0].isoformat(), *, memory: bool = True) -> Measured:
    """Let `mxdeliver run` deliver a day, the first one if none is named; it must succeed."""
    measured = measure(
        sys.executable, "-m", "mxdeliver", "run", "-c", config, "--date", day, "--json",
        memory=memory,
    )  # fmt: skip
    for delivery in json.loads(measured.output)["deliveries"]:
        if delivery["state"] != "delivered":
            raise RuntimeError(f"not delivered: {delivery['error']}")
    return measured
