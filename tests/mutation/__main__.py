"""`python -m tests.mutation`: which small changes of the code no test notices, and how many.

    make mutants                                        everything that pyproject.toml names
    make mutants MUTANTS="--area vetting --sample 150"  a random part of one area
    python -m tests.mutation --module mxdeliver/core/retry.py
    python -m tests.mutation --again                    only what survived the last time
    python -m tests.mutation 'mxdeliver/core/retry.py#12'

One mutant at a time. What survives is shown; all verdicts are kept in `.mutants/`, one file to an
area, where those of `--again` and of single mutants take the place of earlier ones. The same seed
chooses the same mutants. The status is 1 where a tenth of an area or more has survived.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.mutation.mutants import Module, Mutant
from tests.mutation.processes import adopt_orphans
from tests.mutation.running import Area, prepare

_RESULTS = Path(".mutants")
_ALIVE = {"survived", "untested", "broken"}
_AT_MOST = 0.1


def main() -> int:
    """Judge the mutants asked for; give the exit status."""
    told = _arguments()
    adopt_orphans()
    _RESULTS.mkdir(exist_ok=True)
    areas = list(_areas(told))
    for area in areas:
        _carry_out(area, told)
    shares = [_share_alive(area) for area in areas]
    return int(any(share >= _AT_MOST for share in shares))


def _areas(told: argparse.Namespace) -> Iterator[Area]:
    document = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    paths = {name.partition("#")[0] for name in told.names} | set(told.module)
    for name, area in document["tool"]["mxdeliver-mutants"].items():
        modules = [one for one in area["modules"] if not paths or one in paths]
        if modules and (not told.area or name in told.area):
            yield Area(
                name=name,
                modules=tuple(modules),
                tests=tuple(area["tests"]),
            )


def _carry_out(area: Area, told: argparse.Namespace) -> None:
    names = told.names or (_alive(area) if told.again else [])
    mutants = _named(area, names) if names or told.again else _all(area, told)
    bench = prepare(area)
    _say(f"{area.name}: {len(bench.seconds)} tests, {sum(bench.seconds.values()):.0f} s")
    results = _file(area)
    if not (names or told.again):
        results.unlink(missing_ok=True)
    for number, mutant in enumerate(mutants, 1):
        started = time.monotonic()
        verdict = bench.judge(mutant)
        seconds = round(time.monotonic() - started, 1)
        line = {
            "name": mutant.name,
            "operator": mutant.operator,
            "outcome": verdict.outcome,
            "test": verdict.test,
            "seconds": seconds,
        }
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if verdict.outcome in _ALIVE:
            _say(f"{mutant.name} {verdict.outcome} ({seconds} s)\n{mutant.difference()}\n")
        if number % 20 == 0:
            _say(f"{area.name}: {number} done")


def _all(area: Area, told: argparse.Namespace) -> Iterator[Mutant]:
    """Make every mutant of an area, or as many as asked for, drawn from all of its modules."""
    modules = {path: Module(path) for path in area.modules}
    places = [(path, number) for path, module in modules.items() for number in module.numbers]
    if told.sample:
        random.Random(f"{told.seed} {area.name}").shuffle(places)
        _say(f"{area.name}: {told.sample} of {len(places)} mutants, seed {told.seed}")
    made = 0
    for path, number in places:
        mutant = modules[path].mutant(number)
        if mutant is not None:
            yield mutant
            made += 1
        if made == told.sample:
            return


def _named(area: Area, names: list[str]) -> Iterator[Mutant]:
    modules = {path: Module(path) for path in area.modules}
    for path, _, number in (name.partition("#") for name in names):
        mutant = modules[path].mutant(int(number)) if path in modules else None
        if mutant is not None:
            yield mutant


def _file(area: Area) -> Path:
    return _RESULTS / f"{area.name}.jsonl"


def _outcomes(area: Area) -> dict[str, str]:
    lines = _file(area).read_text(encoding="utf-8").splitlines() if _file(area).exists() else []
    return {line["name"]: line["outcome"] for line in map(json.loads, lines)}


def _alive(area: Area) -> list[str]:
    return [name for name, outcome in _outcomes(area).items() if outcome in _ALIVE]


def _share_alive(area: Area) -> float:
    counts = Counter(_outcomes(area).values())
    alive = sum(counts[one] for one in _ALIVE)
    share = alive / (counts.total() or 1)
    kinds = ", ".join(f"{number} {outcome}" for outcome, number in sorted(counts.items()))
    _say(f"{area.name}: {counts.total()} mutants, {kinds}: {share:.1%} alive")
    return share


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("names", nargs="*", help="single mutants: mxdeliver/core/retry.py#12")
    parser.add_argument("--area", action="append", default=[])
    parser.add_argument("--module", action="append", default=[])
    parser.add_argument("--sample", type=int, default=0, help="so many of each area, at random")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="only those that survived")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
