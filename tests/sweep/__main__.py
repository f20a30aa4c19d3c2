"""`python -m tests.sweep`: as many random crashes and network cuts as asked for, and what they broke.

    make crash-sweep                                    200 of each
    python -m tests.sweep --crashes 20 --cuts 0 --seed 7

The processes share the work, each with its own server. Ends with both figures; the status is 1 where
anything did not hold. The same seed chooses the same points.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

from tests.sweep.sweep import Done, Task, work

_LONGEST = 300
"""Seconds between two results."""


def main() -> int:
    """Run the sweep; give the exit status."""
    told = _arguments()
    crashes = [Task("crash", number, told.crashes, told.seed) for number in range(told.crashes)]
    cuts = [Task("cut", number, told.cuts, told.seed) for number in range(told.cuts)]
    _say(f"seed {told.seed}: {told.crashes} crashes and {told.cuts} network cuts")
    started = time.monotonic()
    counts = {"crash": 0, "cut": 0}
    wrong = stopped = 0
    for done in _carried_out([*crashes, *cuts], told.processes):
        counts[done.kind] += 1
        wrong += len(done.violations)
        stopped += done.stopped
        for violation in done.violations:
            _say(f"{done.point}: {violation}")
        if sum(counts.values()) % 20 == 0:
            _say(f"{counts['crash']} crashes, {counts['cut']} cuts")
    _say(
        f"{counts['crash']} crashes and {counts['cut']} network cuts with seed {told.seed} "
        f"in {time.monotonic() - started:.0f} s, {stopped} of which kept a run from delivering: "
        f"{wrong} violations"
    )
    return 1 if wrong or counts != {"crash": told.crashes, "cut": told.cuts} else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _carried_out(tasks: list[Task], number_of_processes: int) -> Iterator[Done]:
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    shares = [tasks[number::number_of_processes] for number in range(number_of_processes)]
    processes = [context.Process(target=work, args=(share, results)) for share in shares]
    for process in processes:
        process.start()
    for _ in tasks:
        done = results.get(timeout=_LONGEST)
        if isinstance(done, str):
            sys.exit(done)
        yield done
    for process in processes:
        process.join()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sweep", description=__doc__)
    parser.add_argument("--crashes", type=int, default=200)
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
