"""The program, imported once and forked for each command: the same process as ever, without the second.

    preloaded().run(command)
    preloaded().run(command, stop=Stop("mxdeliver.edge.ledger:Lease.sealed", after=True))

A stop kills the process, with SIGKILL, before or after a call of one of the program's own functions;
with a `mount` the file system under it loses its power at that moment (see `power`). Commands may
run side by side. What a process gets before it imports anything (LD_PRELOAD, Python's options) is
that of the process that forks: commands that need their own are started for real.

This file is also the process that forks: `python -m tests.support.preloaded SOCKET`.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Self

from tests.support.power import cut

_MODULES = (
    "mxdeliver.cli.adopt", "mxdeliver.cli.check", "mxdeliver.cli.dry_run", "mxdeliver.cli.ledger",
    "mxdeliver.cli.progress", "mxdeliver.cli.resend", "mxdeliver.cli.resume",
    "mxdeliver.cli.run", "mxdeliver.cli.status", "mxdeliver.edge.avro", "mxdeliver.edge.config",
    "mxdeliver.edge.journal", "mxdeliver.edge.ledger", "mxdeliver.edge.openpgp",
    "mxdeliver.edge.sftp", "mxdeliver.edge.sources.warehouse", "mxdeliver.report",
    "mxdeliver.worker",
)  # fmt: skip

_LONGEST = 100.0
_MESSAGE_BYTES = 1 << 20


@dataclass(frozen=True)
class Stop:
    """Where the process ends: at the `call`th call of `function`, given as `module:Class.name`."""

    function: str
    after: bool = False
    call: int = 1
    mount: str | None = None


class Preloaded:
    """A context manager around the process that forks."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket = ""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="p")
        self._socket = str(Path(self._folder.name) / "s")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.preloaded", self._socket],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            # Measuring coverage here as well would cost more than it shows.
            env={k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")},
            start_new_session=True,
        )
        while not Path(self._socket).exists():
            assert self._process.poll() is None, "the preloaded program has died"
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        # A command that hangs is of its group.
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        self._folder.cleanup()

    def run(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        stop: Stop | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run `python -m mxdeliver …` to its end, in the present directory and environment."""
        order = {
            "arguments": list(command[3:]),
            "environment": {**os.environ, **(environment or {})},
            "folder": str(Path.cwd()),
            "stop": None if stop is None else asdict(stop),
        }
        with (
            tempfile.TemporaryFile() as output,
            tempfile.TemporaryFile() as errors,
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection,
        ):
            connection.connect(self._socket)
            connection.settimeout(_LONGEST)
            files = [output.fileno(), errors.fileno()]
            socket.send_fds(connection, [json.dumps(order).encode()], files)
            process = int(connection.recv(_MESSAGE_BYTES))
            try:
                status = int(connection.recv(_MESSAGE_BYTES))
            except TimeoutError as error:
                os.kill(process, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(command), _LONGEST) from error
            return subprocess.CompletedProcess(
                list(command), status, stdout=_text(output), stderr=_text(errors)
            )


@functools.cache
def preloaded() -> Preloaded:
    """Give the one that this process keeps until its end."""
    program = Preloaded().__enter__()
    atexit.register(program.__exit__)
    return program


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def _serve(path: str) -> None:
    """Fork once for each connection, for ever."""
    for module in _MODULES:
        import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who answer
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(f"{path}.new")
    listener.listen()
    Path(f"{path}.new").rename(path)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _answer(connection)
            return
        connection.close()


def _answer(connection: socket.socket) -> None:
    """Fork the command; tell its process id and, once it has ended, its status."""
    message, (output, errors), _, _ = socket.recv_fds(connection, _MESSAGE_BYTES, 2)
    process = os.fork()
    if process == 0:
        connection.close()
        _become(json.loads(message), output, errors)
    connection.send(str(process).encode())
    _, status = os.waitpid(process, 0)
    connection.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _become(order: dict[str, Any], output: int, errors: int) -> None:
    """Be the program from here on."""
    for descriptor, number in ((output, 1), (errors, 2)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(order["environment"])
    time.tzset()
    os.chdir(order["folder"])
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
    _serve(sys.argv[1])
