"""Processes that build, seen and disturbed from outside; a source that tells what it finds there.

environment = in_each_builder(tmp_path, "import os; os._exit(3)")
deployment.run("run", environment=environment)
builders_of(process.pid)
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.canaries import children
from tests.support.deployment import Deployment
from tests.support.openssh import wait_until

ENDLESS = (
    "select u.* from users u where u.client_guid = $client_guid and u.created_at < "
    "(select sum(sqrt(a.range) * sqrt(b.range)) from range(10000000) a, range(10000000) b)"
)
"""A query that does not end by itself."""
CORES = len(os.sched_getaffinity(0))
needs_two_cores = pytest.mark.skipif(CORES < 2, reason="with one core nobody else builds")
_ROOT = Path(__file__).parents[2]
_STAGING = re.compile(
    r"\.(?P<guid>CLT-[-0-9a-f]+)\.[-0-9]+\.r1\.(?P<process>[0-9]+)-[0-9a-f]+\.tmp"
)
_TELLING = """
import ctypes, json, os, resource, signal, sys
from pathlib import Path
from mxdeliver.core.errors import SourceUnavailable

class Telling:
    def __init__(self, settings):
        self.folder = Path(settings.options["folder"])

    def problems(self, resources): return []
    def check(self, resources): pass

    def snapshot(self):
        facts = {
            "process": os.getpid(),
            "group": os.getpgrp(),
            "dumpable": ctypes.CDLL(None).prctl(3),
            "core": resource.getrlimit(resource.RLIMIT_CORE),
            "mask": os.umask(0o077),
            "deaf": [one.name for one in signal.Signals if signal.getsignal(one) is signal.SIG_IGN],
            "modules": sorted(sys.modules),
            "path": sys.path,
            "arguments": sys.argv,
            "environment": dict(os.environ),
        }
        (self.folder / f"{os.getpid()}.json").write_text(json.dumps(facts))
        raise SourceUnavailable("it has told")
"""
_FAILING = """
class Failing:
    def __init__(self, settings): self.raised = settings.options["raised"]
    def problems(self, resources): return []
    def check(self, resources): pass
    def snapshot(self): exec(self.raised, {})
"""


def python_path(folder: Path, **files: str) -> dict[str, str]:
    """Give an environment in which these modules can be imported, two source types among them."""
    place = folder / "python-path"
    about = place / "sources-1.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: sources\nVersion: 1\n")
    (about / "entry_points.txt").write_text(
        "[mxdeliver.sources]\ntelling = telling:Telling\nfailing = failing:Failing\n"
    )
    for name, code in {"telling": _TELLING, "failing": _FAILING, **files}.items():
        (place / f"{name}.py").write_text(code)
    return {**os.environ, "PYTHONPATH": f"{place}{os.pathsep}{_ROOT}"}


def in_each_builder(folder: Path, code: str) -> dict[str, str]:
    """Give an environment in which each builder runs `code` when its interpreter starts."""
    lines = "\n    ".join(code.strip().splitlines())
    start = (
        f'import sys\nif any("builders.process" in one for one in sys.orig_argv):\n    {lines}\n'
    )
    return python_path(folder, sitecustomize=start)


def builders_of(process: int) -> list[int]:
    """Give the builders that a program has at this moment."""
    return [child for child in children(process) if b"builders.process" in _command(child)]


def _command(process: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""


def at_work(deployment: Deployment) -> dict[str, int]:
    """Give who is building, by client."""
    names = [path.name for path in (deployment.folder / "state/spool").glob(".*")]
    found = [match for name in names if (match := _STAGING.fullmatch(name))]
    return {match["guid"]: int(match["process"]) for match in found}


def wait_until_all_build(deployment: Deployment, count: int = 2) -> dict[str, int]:
    """Wait until so many days are being built at once; gives the process of each client."""
    wait_until(lambda: len(at_work(deployment)) == count, f"{count} days to be built", 60)
    return at_work(deployment)


def wait_until_gone(processes: Iterable[int]) -> None:
    """Wait until none of these processes is there any more."""
    for process in processes:
        wait_until(lambda one=process: not Path(f"/proc/{one}").exists(), f"{process} to go", 10)
