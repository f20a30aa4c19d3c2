"""One process's share of a sweep: points chosen from the seed, carried out one after the other."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.openssh import OpenSSHServer
from tests.support.violation import Violation
from tests.sweep import crashes, cuts
from tests.sweep.day import Day
from tests.sweep.program import Program

_TRIES = 5
"""A point may lie behind the end of a run, as no two runs make the same calls."""


@dataclass(frozen=True, slots=True)
class Task:
    """The `number`th of `total` disturbances of a kind: they are spread over the whole run."""

    kind: str
    number: int
    total: int
    seed: int

    @property
    def chance(self) -> random.Random:
        """The randomness of this one task."""
        return random.Random(f"{self.seed} {self.kind} {self.number}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How a task ended."""

    kind: str
    point: str
    violations: list[Violation]
    stopped: bool = True
    """Whether the disturbed run did not get as far as delivering."""


@contextmanager
def sweeping(folder: Path) -> Iterator[Callable[[Task], Done]]:
    """Give what carries a task out, with a server, another one and a loaded program behind it."""
    with (
        OpenSSHServer(folder) as server,
        OpenSSHServer(folder, host_keys=["rsa"], rsa_bits=3072) as stranger,
        Program(folder, limits=cuts.LIMITS) as program,
    ):
        day = Day(folder, server, program, strangers=[stranger])
        calls: list[crashes.Point] = []
        bytes_: dict[bool, int] = {}

        def carry_out(task: Task) -> Done:
            if task.kind == "crash":
                calls.extend([] if calls else crashes.census(day, folder))
                return _crash(task, day, calls)
            bytes_.update({} if bytes_ else cuts.census(day))
            return _cut(task, day, bytes_)

        yield carry_out


def work(tasks: list[Task], results: Any) -> None:
    """Carry out a process's tasks; puts what was Done, or a text where the sweep itself failed."""
    try:
        with tempfile.TemporaryDirectory(prefix="sweep-") as folder, sweeping(Path(folder)) as run:
            for task in tasks:
                results.put(run(task))
    except BaseException as error:
        results.put(f"the sweep itself failed: {error!r}")
        raise


def _crash(task: Task, day: Day, calls: list[crashes.Point]) -> Done:
    chance = task.chance
    # Most calls write a page of the ledger; every second point is one of the others.
    rare = [point for point in calls if point.call != "pwrite64"]
    points = rare if task.number % 2 else calls
    for _ in range(_TRIES):
        part = (task.number + chance.random()) / task.total
        point = points[int(part * len(points))]
        violations = crashes.crash(day, calls, point, chance)
        if violations is not None:
            return Done(kind=task.kind, point=str(point), violations=violations)
    never = Violation(invariant="I9", what=f"a run was over {_TRIES} times before it was killed")
    return Done(kind=task.kind, point=str(point), violations=[never])


def _cut(task: Task, day: Day, bytes_: dict[bool, int]) -> Done:
    chance = task.chance
    kinds = list(cuts.KINDS)
    kind = kinds[task.number % len(kinds)]
    # of each kind so many, spread over the run
    part = (task.number // len(kinds) + chance.random()) / (task.total // len(kinds) + 1)
    cut = cuts.chosen(kind, bytes_, part, chance)
    stopped, violations = cuts.disturb(day, cut)
    return Done(kind=task.kind, point=str(cut), violations=violations, stopped=stopped)
