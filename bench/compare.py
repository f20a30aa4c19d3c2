"""One file of transactions from Parquet to OpenSSH: a plain script beside `mxdeliver run`.

    python -m bench.compare [--rows 500000] [--rounds 3] [--seed 1] [--memory-megabytes 300]

Both get the same records, key and server in alternating rounds; what they delivered is decrypted
and compared. Then the memory for one file of the given size. The results go to bench/RESULTS.md.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import fastavro

from bench.measure import Measured, measure
from bench.stage import CLIENT, DAY, RESOURCE, Stage, day_window, set_up, write_config

RESULTS = Path(__file__).parent / "RESULTS.md"
SUFFIX = ".avro.pgp"


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What one large file took."""

    rows: int
    avro_bytes: int
    run: Measured
    verify: Measured


def main() -> None:
    """Compare, print and write the results."""
    arguments = _arguments()
    plain, ours, sizes = compare(arguments.rows, arguments.rounds, arguments.seed)
    memory = None
    if arguments.memory_megabytes:
        per_row = sizes[1] / arguments.rows
        rows = int(arguments.memory_megabytes * 1_050_000 / per_row)
        memory = measure_memory(rows, arguments.seed)
    text = report(arguments.rows, arguments.seed, plain, ours, sizes, memory)
    print(text)
    arguments.results.write_text(text, encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--memory-megabytes", type=int, default=300, help="0 leaves memory out")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def compare(
    rows: int, rounds: int, seed: int
) -> tuple[list[Measured], list[Measured], tuple[int, int]]:
    """Give the rounds of the script and of mxdeliver, and the sizes of their Avro files."""
    plain: list[Measured] = []
    ours: list[Measured] = []
    with set_up(rows, seed) as stage:
        for number in range(rounds):
            stage.empty_server()
            plain.append(run_plain(stage))
            theirs = stage.decrypt(stage.received(".avro.pgp"))
            stage.empty_server()
            ours.append(run_mxdeliver(stage))
            own = stage.decrypt(stage.received(SUFFIX))
            if number == 0 and not _same_records(theirs, own, rows):
                raise RuntimeError("the two did not deliver the same records")
    return plain, ours, (len(theirs), len(own))


def run_plain(stage: Stage) -> Measured:
    """Let the script deliver."""
    start, end = day_window()
    server = stage.server
    return measure(
        sys.executable, "-m", "bench.plain", stage.parquet, stage.schema, CLIENT.guid,
        str(start), str(end), stage.gnupg_home, stage.fingerprint,
        f"{server.username}@{server.host}:{server.directory}", str(server.port), stage.ssh_key,
        f"{CLIENT.guid}.{DAY}.{RESOURCE}.created.avro",
    )  # fmt: skip


def run_mxdeliver(stage: Stage) -> Measured:
    """Let mxdeliver deliver, from an empty state: source, spool, ledger, manifest and all."""
    state = stage.folder / "state"
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir()
    config = write_config(stage, state)
    measured = measure(
        sys.executable, "-m", "mxdeliver", "run", "-c", config, "--date", str(DAY), "--json"
    )
    (delivery,) = json.loads(measured.output)["deliveries"]
    if delivery["state"] != "delivered":
        raise RuntimeError(f"not delivered: {delivery['error']}")
    return measured


def measure_memory(rows: int, seed: int) -> Memory:
    """Deliver one large file and verify it as the recipient would."""
    with set_up(rows, seed) as stage:
        run = run_mxdeliver(stage)
        verify = measure(
            sys.executable, "-m", "mxdeliver", "verify", stage.server.directory,
            "--secret-key", stage.secret_key,
        )  # fmt: skip
        return Memory(
            rows=rows,
            avro_bytes=_built_size(stage),
            run=run,
            verify=verify,
        )


def _built_size(stage: Stage) -> int:
    """Give the size of the largest Avro file, before encryption, as the delivery log tells it."""
    lines = (stage.folder / "state" / "deliveries.jsonl").read_text(encoding="utf-8").splitlines()
    return max(int(json.loads(line).get("file_size", 0)) for line in lines)


def _same_records(theirs: bytes, own: bytes, rows: int) -> bool:
    count = 0
    for one, other in zip(
        fastavro.reader(io.BytesIO(theirs)), fastavro.reader(io.BytesIO(own)), strict=True
    ):
        if one != other:
            return False
        count += 1
    return count == rows


def report(
    rows: int,
    seed: int,
    plain: Sequence[Measured],
    ours: Sequence[Measured],
    sizes: tuple[int, int],
    memory: Memory | None,
) -> str:
    """Write the results as a page."""
    medians = [statistics.median(one.seconds for one in rounds) for rounds in (plain, ours)]
    lines = [
        "# One file of transactions, from Parquet to the client's server",
        "",
        f"{rows:,} records of 60 fields (seed {seed}), `deflate`, one recipient, OpenSSH on loopback;",
        "rounds in turn, every process from its start to its end. The script is `bench/plain.py`:",
        "DuckDB, fastavro, gpg, OpenSSH's sftp. What both delivered was decrypted and is equal.",
        "",
        "| | Avro file | seconds, by round | median | peak memory |",
        "|---|---|---|---|---|",
    ]
    for name, rounds, size, median in zip(
        ("plain script", "mxdeliver run"), (plain, ours), sizes, medians, strict=True
    ):
        seconds = ", ".join(f"{one.seconds:.2f}" for one in rounds)
        peak = max(one.peak_bytes for one in rounds)
        lines.append(
            f"| {name} | {_megabytes(size)} | {seconds} | {median:.2f} | {_megabytes(peak)} |"
        )
    lines += ["", f"mxdeliver is {medians[0] / medians[1]:.1f} times as fast."]
    if memory is not None:
        lines += [
            "",
            (
                f"One file of {_megabytes(memory.avro_bytes)} ({memory.rows:,} records): all processes "
                f"of `run` together took {_megabytes(memory.run.peak_bytes)} at most "
                f"({memory.run.seconds:.1f} s), of `verify` {_megabytes(memory.verify.peak_bytes)} "
                f"({memory.verify.seconds:.1f} s)."
            ),
        ]
    return "\n".join([*lines, "", *_machine()]) + "\n"


def _megabytes(size: int) -> str:
    return f"{size / 1_000_000:.0f} MB"


def _machine() -> list[str]:
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    libraries = ("mxdeliver", "duckdb", "fastavro", "pyarrow", "paramiko", "cryptography")
    versions = ", ".join(f"{name} {version(name)}" for name in libraries)
    gpg = subprocess.run(["gpg", "--version"], stdout=subprocess.PIPE, check=True)
    ssh = subprocess.run(["ssh", "-V"], stderr=subprocess.PIPE, check=True)
    return [
        (
            f"{datetime.now(UTC).date()}, {os.cpu_count()} cores, {processor}, {platform.system()} "
            f"{platform.release().partition('-')[0]}. Python {platform.python_version()}, {versions}, "
            f"{gpg.stdout.decode().splitlines()[0]}, {ssh.stderr.decode().strip()}."
        ),
    ]


if __name__ == "__main__":
    main()
