"""Runs an area's tests in forked processes: once as they are, then against one mutant each.

The parent imports what the tests need of others' packages, and nothing of this program: a child
imports the program, the mutant's source in the place of its module's, and the tests. So a change of
a table counts as well as one of a function. A mutant meets only the tests that carry out its line,
those first that are good at it; the first that fails ends it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType
from typing import Any

import pytest
from coverage import Coverage

from tests.mutation.mutants import Mutant
from tests.mutation.processes import in_child

_OURS = ("mxdeliver", "tests")
_BASELINE_SECONDS = 1800
_LEAST_SECONDS = 30
_SETTING_UP, _BENEFIT_OF_DOUBT = 0.2, 0.1
_SLOWER = 5
"""How many times as long as usual a test, and all of them together, may take with a mutant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """Modules and the tests that are to notice what is changed in them."""

    name: str
    modules: tuple[str, ...]
    tests: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a mutant, and by which test.

    `killed`, `timeout`, `survived`, `untested`, or `broken`: pytest itself did not get along.
    """

    outcome: str
    test: str = ""


@dataclass(slots=True)
class Bench:
    """The tests of one area, with what is known of them."""

    area: Area
    seconds: dict[str, float]
    lines: dict[str, dict[int, list[str]]]
    kills: Counter[str] = field(default_factory=Counter)

    def judge(self, mutant: Mutant) -> Verdict:
        """Run the tests that carry out the mutant's line until one fails."""
        tests = self._tests_for(mutant)
        if not tests:
            return Verdict(outcome="untested")
        usual = sum(self.seconds[one] for one in tests)
        longest = max(self.seconds[one] for one in tests)
        with TemporaryDirectory(prefix="mutant-") as folder:
            report = _Report(order=tests, file=Path(folder, "report.json"))

            def work() -> int:
                sys.meta_path.insert(0, _Finder(mutant))
                limit = max(_LEAST_SECONDS, _SLOWER * longest)
                return _run(self.area, Path(folder), [report], f"--timeout={limit:.0f}", "-x")

            status = in_child(
                work,
                seconds=2 * _LEAST_SECONDS + _SLOWER * usual,
                output=Path(folder, "output"),
            )
            failed = report.read().get("failed", "")
        self.kills[failed] += 1
        return Verdict(outcome=_outcome(status), test=failed)

    def _tests_for(self, mutant: Mutant) -> list[str]:
        if mutant.on_import:
            chosen = set(self.seconds)
        else:
            by_line = self.lines.get(mutant.path, {})
            chosen = {test for line in mutant.lines for test in by_line.get(line, ())}
        return sorted(chosen, key=self._seconds_to_a_kill)

    def _seconds_to_a_kill(self, test: str) -> float:
        return (self.seconds[test] + _SETTING_UP) / (self.kills[test] + _BENEFIT_OF_DOUBT)


def _outcome(status: int | None) -> str:
    if status is None:
        return "timeout"
    if status == pytest.ExitCode.OK:
        return "survived"
    # A test failed, the module could not be imported, or the process was ended by a signal.
    noticed = status < 0 or status in {pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED}
    return "killed" if noticed else "broken"


def prepare(area: Area) -> Bench:
    """Run all tests of an area as they are: how long each takes, and which lines it carries out."""
    with TemporaryDirectory(prefix="mutants-") as folder:
        report = _Report(file=Path(folder, "report.json"))
        output = Path(folder, "output")

        def work() -> int:
            coverage = Coverage(
                data_file=str(Path(folder, "coverage")),
                config_file=False,
                concurrency="thread",
                include=list(area.modules),
            )
            report.coverage = coverage
            coverage.start()
            status = _run(area, Path(folder), [report], "--timeout=600")
            coverage.stop()
            report.finish({path: _contexts(coverage, path) for path in area.modules})
            return status

        if in_child(work, seconds=_BASELINE_SECONDS, output=output) != 0:
            sys.exit(f"the tests of {area.name} fail as they are:\n{output.read_text()[-3000:]}")
        told = report.read()
    for name in told["modules"]:
        with suppress(Exception), warnings.catch_warnings(action="ignore"):
            importlib.import_module(name)
    lines = {
        path: {int(line): tests for line, tests in found.items()}
        for path, found in told["lines"].items()
    }
    return Bench(area=area, seconds=told["seconds"], lines=lines)


def _contexts(coverage: Coverage, path: str) -> dict[int, list[str]]:
    found = coverage.get_data().contexts_by_lineno(str(Path(path).resolve()))
    return {line: [one for one in tests if one] for line, tests in found.items()}


def _run(area: Area, folder: Path, plugins: Sequence[object], *options: str) -> int:
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(folder / "hypothesis")
    return int(
        pytest.main(
            [
                "-q",
                "-p",
                "no:cacheprovider",
                "-p",
                "no:xdist",
                "--hypothesis-seed=0",
                "--tb=short",
                "-Wignore::pytest.PytestAssertRewriteWarning",
                f"--basetemp={folder / 'tests'}",
                *options,
                *area.tests,
            ],
            plugins=list(plugins),
        )
    )


class _Finder:
    """Puts a mutant in the place of its module."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant
        self._name = mutant.path.removesuffix(".py").replace("/", ".")

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        if name != self._name:
            return None
        path = str(Path(self._mutant.path).resolve())
        loader = _Loader(name, path)
        loader.mutated = self._mutant.source
        return importlib.util.spec_from_file_location(name, path, loader=loader)


class _Loader(SourceFileLoader):
    mutated = ""

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - it is the mutant's
        with warnings.catch_warnings(action="ignore"):
            return compile(self.mutated, self.path, "exec", dont_inherit=True)


class _Report:
    """Tells the parent what happened, by a file; chooses and orders the tests where told to."""

    def __init__(self, *, file: Path, order: Sequence[str] | None = None) -> None:
        self.coverage: Coverage | None = None
        self._file = file
        self._order = order
        self._told: dict[str, Any] = {"seconds": {}}

    def read(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self._file.read_text()) if self._file.exists() else {}
        return told

    def finish(self, lines: Mapping[str, Mapping[int, Sequence[str]]]) -> None:
        names = [one for one in sys.modules if one.partition(".")[0] not in {*_OURS, "__main__"}]
        self._told |= {"lines": lines, "modules": names}
        self._file.write_text(json.dumps(self._told))

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self._order is not None:
            found = {one.nodeid: one for one in items}
            items[:] = [found[name] for name in self._order if name in found]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if self.coverage is not None:
            self.coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        seconds = self._told["seconds"]
        seconds[report.nodeid] = seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self._file.write_text(json.dumps({"failed": report.nodeid}))
