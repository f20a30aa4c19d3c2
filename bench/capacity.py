"""What a record, a file and a client cost, and how many hosts many clients need: docs/capacity.md.

    python -m bench.capacity [--rounds 3]

Nights of several shapes are delivered by `mxdeliver run` to one OpenSSH on this machine; their times
are fitted by least squares to: start + clients * a + files * b + records * c.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.data import DAYS, count_files, names, write_clients, write_days
from bench.ground import guid, set_up
from bench.workloads.one_file import run

_FEW = ("users", "accounts", "transactions")
_NIGHT_HOURS = 6.0
_FLEETS = (1_000, 10_000)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One night: how many clients with how many resources, and the weight of their records."""

    clients: int
    resources: Sequence[str] | None
    weight: float


SHAPES = (
    Shape(clients=1, resources=_FEW, weight=0.001),
    Shape(clients=40, resources=_FEW, weight=0.001),
    Shape(clients=40, resources=None, weight=0.001),
    Shape(clients=40, resources=_FEW, weight=0.05),
    Shape(clients=1, resources=None, weight=20),
)


def main() -> None:
    """Measure, fit, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    equations, seconds = [], []
    for shape in SHAPES:
        files, records, taken = _measured(shape, rounds)
        print(
            f"{shape.clients} clients, {files:,} files, {records:,} records: {taken:.2f} s",
            flush=True,
        )
        equations.append([1, shape.clients, files, records])
        seconds.append(taken)
    weights = 1 / np.array(seconds)  # a tenth too much counts alike for a short and a long night
    fitted, *_ = np.linalg.lstsq(
        np.array(equations) * weights[:, None], np.ones(len(seconds)), rcond=None
    )
    start, client, file, record = map(float, fitted)
    print(
        f"start {start:.2f} s, a client {client * 1e3:.0f} ms, a file {file * 1e3:.1f} ms,", end=""
    )
    print(f" a record {record * 1e6:.1f} µs")
    for each_files, each_records in ((64, 2_000), (64, 20_000), (64, 200_000)):
        each = client + each_files * file + each_records * record
        night = _NIGHT_HOURS * 3600 / each
        hosts = ", ".join(
            f"{fleet:,}: {max(1, -(-fleet * each // (_NIGHT_HOURS * 3600))):.0f}"
            for fleet in _FLEETS
        )
        print(
            f"{each_files} files and {each_records:,} records a client: {each:.2f} s each, "
            f"{night:,.0f} clients in {_NIGHT_HOURS:g} hours; hosts for {hosts}"
        )


def _measured(shape: Shape, rounds: int) -> tuple[int, int, float]:
    """Give the files, manifests among them, and records of a night, and the median of its times."""
    with (
        tempfile.TemporaryDirectory(prefix="capacity-") as folder,
        set_up(Path(folder), clients=shape.clients) as ground,
    ):
        database = ground.folder / "warehouse.duckdb"
        write_days(database, clients={guid(0): shape.weight}, seed=1)
        write_clients(database, [party.guid for party in ground.parties])
        chosen = names(shape.resources)
        _, records = count_files(database, guid(0), DAYS[0], chosen)
        times = []
        for _ in range(rounds):
            ground.empty()
            config = ground.write_config(ground.new_state(), {"database": str(database)}, chosen)
            times.append(run(config, memory=False).seconds)
    files = 3 * len(chosen) + 1
    return files * shape.clients, records * shape.clients, statistics.median(times)


if __name__ == "__main__":
    main()
