"""Contestants in rounds: one round that warms up and is checked, then those that count."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.measure import Measured

BUDGET_SECONDS = 30
"""Once the rounds of a contestant have taken so long, and were enough, it makes no more."""
_ENOUGH_ROUNDS = 3
_ENOUGH_LONG_ROUNDS = 2
LONG_SECONDS = 20
GENEROUS_SECONDS = 150
"""The budget of workloads that all of the program is about: five rounds, also of what is slow."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What was asked for on the command line; folders for what is made on the way, on disk and in memory."""

    seed: int
    rounds: int
    small: bool
    folder: Path
    memory: Path

    def size(self, full: int, small: int) -> int:
        """Choose the size of a workload's data."""
        return small if self.small else full


def nothing() -> None:
    """Do nothing, where there is nothing to prepare or to check."""


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """Somebody who does the work: `run`, which tells how long it took.

    `prepare` goes before each run and `check` after the one that warms up, both outside the clock.
    `scale` is by how much less work it got, and its time is multiplied with it.
    """

    name: str
    run: Callable[[], Measured]
    prepare: Callable[[], object] = nothing
    check: Callable[[], object] = nothing
    scale: float = 1
    budget: float = BUDGET_SECONDS


@dataclass(kw_only=True)
class Sample:
    """What one contestant needed, round by round, scaled to the whole work."""

    name: str
    scale: float = 1
    rounds: list[Measured] = field(default_factory=list)

    def values(self, what: str = "seconds") -> list[float]:
        """Give the rounds' values of `seconds`, `peak_bytes` or something that a process told."""
        if what == "seconds":
            return [one.seconds * self.scale for one in self.rounds]
        if what == "peak_bytes":
            return [float(one.peak_bytes) for one in self.rounds]
        return [one.told[what] * self.scale for one in self.rounds]

    def is_enough(self, budget: float) -> bool:
        """Tell whether there were so many rounds, and so long ones, that no more are to be made."""
        spent = sum(one.seconds for one in self.rounds)
        is_long = spent > LONG_SECONDS * len(self.rounds)
        enough = _ENOUGH_LONG_ROUNDS if is_long else _ENOUGH_ROUNDS
        return len(self.rounds) >= enough and spent > budget

    def median(self, what: str = "seconds") -> float:
        """Give the median of those."""
        return statistics.median(self.values(what))


def compete(settings: Settings, title: str, contestants: Sequence[Contestant]) -> dict[str, Sample]:
    """Let all of them run in turn; who is first changes from round to round."""
    samples = {one.name: Sample(name=one.name, scale=one.scale) for one in contestants}
    for one in contestants:
        one.prepare()
        warm = one.run()
        one.check()
        _say(f"{title}: {one.name}: {warm.seconds:.3f} s (warm-up)")
    for number in range(settings.rounds):
        first = number % len(contestants)
        for one in (*contestants[first:], *contestants[:first]):
            sample = samples[one.name]
            if sample.is_enough(one.budget):
                continue
            one.prepare()
            sample.rounds.append(one.run())
            _say(f"{title}: {one.name}: {sample.rounds[-1].seconds:.3f} s")
    return samples


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
