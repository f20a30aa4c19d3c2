"""The program, loaded once: each run of it is a fork that has its imports behind it.

    with Program(folder) as program:
        done = program.run(deployment, "run", "--date", DAY)
        held = program.start(deployment, "run", "--date", DAY)      # stands still before its start
        held.go(); held.wait()

A run forks before it has a thread, reads its configuration and does everything else itself. What is
left out, the imports, touches neither files nor network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import unwrap
from itertools import count
from pathlib import Path
from pkgutil import walk_packages
from typing import Any, Self

import mxdeliver
from tests.support.deployment import Deployment

_ROOT = Path(__file__).parents[2]
PATIENCE = 60
"""Seconds that a run may take, all in all; the limits of a swallowed connection are shorter."""


@dataclass(slots=True)
class Held:
    """A run that was forked, and begins with `go`."""

    process: int
    gate: Path
    output: Path
    errors: Path
    program: Program

    def go(self) -> None:
        """Let it begin."""
        self.gate.write_text("go")

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Wait for its end; killed by a signal, its status is that signal's negative."""
        status = self.program.status_of(self.process)
        return subprocess.CompletedProcess(
            [], status, stdout=self.output.read_text(), stderr=self.errors.read_text()
        )


class Program:
    """Forks runs of the program; a context manager, for one thread."""

    def __init__(self, folder: Path, *, limits: Mapping[str, float] | None = None) -> None:
        self._folder = folder
        self._limits = dict(limits or {})
        self._numbers = count()
        self._server: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        environment = {name: v for name, v in os.environ.items() if not name.startswith("COV")}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.sweep.program", json.dumps(self._limits)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            env=environment,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.communicate(timeout=PATIENCE)

    def run(self, deployment: Deployment, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        held = self.start(deployment, *arguments)
        held.go()
        return held.wait()

    def start(self, deployment: Deployment, *arguments: str) -> Held:
        """Fork a run that waits for `go`."""
        deployment.write()
        number = next(self._numbers)
        gate, output, errors = (
            self._folder / f"{number}.{what}" for what in ("gate", "output", "errors")
        )
        os.mkfifo(gate)
        temporary = deployment.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        process = self._ask(
            arguments=[arguments[0], "-c", str(deployment.config_path), *arguments[1:]],
            folder=str(deployment.folder),
            temporary=str(temporary),
            files=[str(gate), str(output), str(errors)],
        )
        return Held(process, gate, output, errors, self)

    def status_of(self, process: int) -> int:
        """Wait for a run's end."""
        return self._ask(wait=process)

    def _ask(self, **question: object) -> int:
        assert self._server is not None
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(question) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())


def _serve(limits: dict[str, float]) -> None:
    """Fork a run for each question; only the runs return from here."""
    _load(limits)
    for line in sys.stdin:
        question = json.loads(line)
        if process := question.get("wait"):
            answer = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                _become(question)
                return
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()
    os._exit(0)


def _load(limits: dict[str, float]) -> None:
    for module in walk_packages(mxdeliver.__path__, "mxdeliver."):
        if "__main__" not in module.name and "migrations" not in module.name:
            import_module(module.name)
    import_module("pyarrow.compute")
    from mxdeliver.edge.sftp import Limits, connect  # noqa: PLC0415

    if limits:
        # the function behind its context manager, whoever has imported it under whichever name
        unwrap(connect).__kwdefaults__["limits"] = Limits(**limits)


def _become(question: dict[str, Any]) -> None:
    os.setsid()
    os.chdir(question["folder"])
    os.environ["TMPDIR"] = question["temporary"]
    gate, output, errors = question["files"]
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT, 0o600), 1)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT, 0o600), 2)
    sys.argv = ["mxdeliver", *question["arguments"]]
    Path(gate).read_text()


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
    from mxdeliver.__main__ import main

    main()
