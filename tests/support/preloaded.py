"""The program, imported once and forked for each command: the same process as ever, without the second.

with Preloaded() as program:
    deployment.program = program
    deployment.run("run", "--date", "2026-11-20")
    program.run(command, stop=Stop("mxdeliver.edge.ledger:Lease.sealed", after=True))

A stop kills the process, with SIGKILL, before or after a call of one of the program's own functions;
with a `mount` the file system under it loses its power at that moment (see `power`).
"""

from __future__ import annotations

import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from tests.support.power import cut

_MODULES = (
    "mxdeliver.cli.adopt", "mxdeliver.cli.ledger", "mxdeliver.cli.resend", "mxdeliver.cli.resume",
    "mxdeliver.cli.run", "mxdeliver.cli.status", "mxdeliver.edge.avro", "mxdeliver.edge.config",
    "mxdeliver.edge.journal", "mxdeliver.edge.ledger", "mxdeliver.edge.sources.warehouse",
    "mxdeliver.worker",
)  # fmt: skip

_LONGEST = 60


@dataclass(frozen=True)
class Stop:
    """Where the process ends: at the `call`th call of `function`, given as `module:Class.name`."""

    function: str
    after: bool = False
    call: int = 1
    mount: str | None = None


class Preloaded:
    """A context manager; one command at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.preloaded"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        try:
            self._process.communicate(timeout=_LONGEST)
        finally:
            # A command that hangs is its child.
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def run(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        stop: Stop | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run `python -m mxdeliver …` to its end."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            order = {
                "arguments": list(command[3:]),
                "environment": dict(environment or {}),
                "out": str(out),
                "err": str(err),
                "stop": None if stop is None else asdict(stop),
            }
            print(json.dumps(order), file=process.stdin, flush=True)
            assert select.select([process.stdout], [], [], _LONGEST)[0], f"{command} hangs"
            answer = process.stdout.readline()
            assert answer, "the preloaded program has died"
            return subprocess.CompletedProcess(
                list(command), int(answer), out.read_text(), err.read_text()
            )


def _serve() -> None:
    for module in _MODULES:
        import_module(module)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(json.loads(line))
            return
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _become(order: dict[str, Any]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for descriptor, path in ((1, order["out"]), (2, order["err"])):
        os.dup2(os.open(path, flags, 0o600), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(order["environment"])
    if order["stop"] is not None:
        _arrange(Stop(**order["stop"]))
    sys.argv = ["mxdeliver", *order["arguments"]]
    from mxdeliver.__main__ import main  # noqa: PLC0415 - in the child alone

    main()


def _arrange(stop: Stop) -> None:
    module, _, path = stop.function.partition(":")
    *owners, name = path.split(".")
    owner: Any = functools.reduce(getattr, owners, import_module(module))
    original: Callable[..., Any] = getattr(owner, name)
    calls = []

    @functools.wraps(original)
    def stopping(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) != stop.call:
            return original(*arguments, **options)
        if stop.after:
            original(*arguments, **options)
        if stop.mount is not None:
            cut(Path(stop.mount))
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    setattr(owner, name, stopping)


if __name__ == "__main__":
    _serve()
