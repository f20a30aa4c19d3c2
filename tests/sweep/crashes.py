"""SIGKILL at the Nth system call of a delivery (reliability.md F46, F56, F116).

Counted are the calls by which a process changes anything that outlives it: files, locks, what it
sends. One undisturbed run is written down; a point is one of its calls. strace kills on entering a
call, so every call is once the first that did not happen.
"""

from __future__ import annotations

import random
import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.support.openssh import wait_until
from tests.support.violation import Violation
from tests.sweep.day import Day, Repetition
from tests.sweep.program import Held

CALLS = (
    "write", "writev", "pwrite64", "fsync", "fdatasync", "ftruncate", "rename", "renameat",
    "renameat2", "link", "linkat", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "flock",
    "connect", "sendto", "sendmsg", "shutdown",
)  # fmt: skip
_LINE = re.compile(r"(?P<thread>\d+) +(?P<call>[a-z0-9_]+)\(")
_KILLED = -9


@dataclass(frozen=True, slots=True)
class Point:
    """The `number`th call of that name that some thread makes."""

    call: str
    number: int


def census(day: Day, folder: Path) -> list[Point]:
    """Write down the calls of an undisturbed run, in order."""
    trace = folder / "trace"
    with day.repetition() as one:
        held = one.start()
        tracer = _traced(held, "-o", str(trace), "-e", f"trace={','.join(CALLS)}")
        held.go()
        assert one.end(held) == 0, one.said
        tracer.wait()
    counts: Counter[tuple[str, str]] = Counter()
    points = []
    for line in trace.read_text().splitlines():
        if match := _LINE.match(line):
            counts[match["thread"], match["call"]] += 1
            points.append(Point(match["call"], counts[match["thread"], match["call"]]))
    return points


def crash(
    day: Day, points: list[Point], point: Point, chance: random.Random
) -> list[Violation] | None:
    """Kill a run at the point, sometimes the next one, too; None where it was over before."""
    with day.repetition() as one:
        status = _killed_run(one, point)
        if status == 0:
            return None
        found = [] if status == _KILLED else [_ended(status, one.said)]
        if chance.random() < 1 / 4:
            _killed_run(one, chance.choice(points))
        return found + one.deliver()


def _killed_run(one: Repetition, point: Point) -> int:
    held = one.start()
    tracer = _traced(
        held, "-o", "/dev/null", "-e", f"trace={point.call}",
        "-e", f"inject={point.call}:signal=KILL:when={point.number}",
    )  # fmt: skip
    held.go()
    status = one.end(held)
    tracer.wait()
    return status


def _ended(status: int, said: str) -> Violation:
    return Violation(
        invariant="I9", what=f"a run that nothing but the kill met ended {status}: {said}"
    )


def _traced(held: Held, *options: str) -> subprocess.Popen[bytes]:
    tracer = subprocess.Popen(["strace", "-f", "-qq", *options, "-p", str(held.process)])
    status = Path(f"/proc/{held.process}/status")
    wait_until(lambda: "TracerPid:\t0\n" not in status.read_text(), "strace to attach")
    return tracer
