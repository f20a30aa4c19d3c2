"""Runs the workloads, prints the page of results, and writes it after a full run."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from bench import machine, report
from bench.contest import Settings
from bench.folders import memory_folder
from bench.report import Part
from bench.workloads.avro import avro
from bench.workloads.clients import clients
from bench.workloads.day import day
from bench.workloads.memory import memory
from bench.workloads.one_file import one_file
from bench.workloads.openpgp import openpgp
from bench.workloads.startup import startup
from bench.workloads.transfer import day_transfer, large_transfer

RESULTS = Path(__file__).parent / "RESULTS.md"
ROUNDS = 5
WORKLOADS: Mapping[str, Callable[[Settings], Part]] = {
    "a": one_file,
    "avro": avro,
    "openpgp": openpgp,
    "b": day,
    "c": clients,
    "d": day_transfer,
    "e": large_transfer,
    "f": memory,
    "g": startup,
}


def main() -> None:
    """Run what was asked for."""
    arguments = _arguments()
    # Where Python is told to keep no bytecode, every start would compile everything again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # servers and folders go, too
    chosen = arguments.only or list(WORKLOADS)
    partial = arguments.only or arguments.small or arguments.rounds != ROUNDS
    folder = Path(tempfile.mkdtemp(prefix="b"))
    in_memory = Path(tempfile.mkdtemp(prefix="b", dir=memory_folder()))
    settings = Settings(
        seed=arguments.seed,
        rounds=arguments.rounds,
        small=arguments.small,
        folder=folder,
        memory=in_memory,
    )
    try:
        parts = [part for name in chosen if (part := _tried(name, settings))]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(in_memory, ignore_errors=True)
    text = report.page(parts, machine.described(), arguments.seed, arguments.rounds)
    print(text)
    results = arguments.results or (None if partial else RESULTS)
    failed = len(chosen) - len(parts)
    if failed:
        sys.exit(f"{failed} workloads failed; nothing was written")
    if results:
        results.write_text(text, encoding="utf-8")


def _tried(name: str, settings: Settings) -> Part | None:
    """Run one workload; what goes wrong is shown, and the others go on."""
    started = time.monotonic()
    try:
        part = WORKLOADS[name](settings)
    except Exception:  # noqa: BLE001 - three quarters of an hour are not thrown away for one of them
        traceback.print_exc()
        return None
    print(f"{name}: {time.monotonic() - started:.0f} s in all", file=sys.stderr, flush=True)
    return part


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure mxdeliver beside what people would use instead. A full run (no option "
        "but --seed) takes about three quarters of an hour on two cores and writes "
        "bench/RESULTS.md; any other run prints its page and writes nothing by itself.",
    )
    parser.add_argument(
        "--only",
        type=_names,
        metavar="NAMES",
        help=f"workloads, by commas, of {', '.join(WORKLOADS)} (see bench/workloads/__init__.py)",
    )
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="rounds that count, after the one that warms up"
    )
    parser.add_argument("--small", action="store_true", help="small data, to try it out")
    parser.add_argument("--seed", type=int, default=1, help="of the data")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write the page here")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be 1 or more")
    return arguments


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in WORKLOADS:
            raise argparse.ArgumentTypeError(f"there is no workload {name!r}")
    return names


if __name__ == "__main__":
    main()
