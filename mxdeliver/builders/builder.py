"""One process that builds, as the program sees it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Self

from mxdeliver.builders.wire import (
    PROGRAM_FILES,
    Built,
    Events,
    Failed,
    Gone,
    Ready,
    Stop,
    Wire,
    Work,
)
from mxdeliver.core.errors import BuilderDied, StopRequested
from mxdeliver.core.log import Log
from mxdeliver.core.model import Bundle

GRACE_SECONDS = 5.0
"""So long a builder may take to give up a day; then it is ended."""

_LOOK_SECONDS = 0.2
_START_SECONDS = 60.0
_MESSAGE_SECONDS = 60.0
"""The longest that a message may take once it has begun."""
_START = (
    "import sys; program, descriptor, *sys.path = sys.argv[1:]; "
    "from mxdeliver.builders.process import main; main(int(program), int(descriptor))"
)


class NotStarted(Exception):
    """The process has not come up, or runs other files than the program; it has begun nothing."""


class Builder:
    """Builds one day at a time; made by `start`, ended by `end`."""

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket) -> None:
        self._process = process
        self._socket = connection
        self._wire = Wire(connection)
        self.is_ready = False
        self._is_busy = False

    @classmethod
    def start(cls, environment: Mapping[str, str]) -> Self:
        """Start a process; OSError. It does not outlive the thread that calls this."""
        ours, theirs = socket.socketpair()
        ours.settimeout(_MESSAGE_SECONDS)
        with theirs:
            try:
                process = subprocess.Popen(  # noqa: S603 - ourselves
                    # -P: the search path is the program's, without a working directory before it
                    [sys.executable, *_interpreter_flags(), "-P", "-c", _START,
                     str(os.getpid()), str(theirs.fileno()), *sys.path],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,  # the program's may be a document
                    env=environment,
                    pass_fds=[theirs.fileno()],
                    process_group=0,  # what a terminal sends is the program's to pass on
                )  # fmt: skip
            except BaseException:
                ours.close()
                raise
        return cls(process, ours)

    @property
    def is_usable(self) -> bool:
        """Whether it is there and idle."""
        return not self._is_busy and self._process.poll() is None

    def build(self, work: Work, lock: int, log: Log, stop: Callable[[], bool]) -> Bundle:
        """Have a day built and sealed: see `build.build`.

        Raises BuilderDied where the process ends, NotStarted where it was not ready by then. `lock` is
        the day's: as long as the process is at it, it holds that open file, too.
        """
        self._is_busy = True
        try:
            if not self.is_ready:
                self._wait_until_ready(stop)
            self._wire.send(work, lock)
            return self._answer(log, stop)
        except Gone as error:
            raise BuilderDied(f"a process that built ended, {self._how_it_ended()}") from error

    def _wait_until_ready(self, stop: Callable[[], bool]) -> None:
        ends_at = time.monotonic() + _START_SECONDS
        while not self._wire.waits(_LOOK_SECONDS):
            if stop():
                raise StopRequested("stopped before the day was built; nothing was sealed")
            if time.monotonic() >= ends_at:
                raise NotStarted
        try:
            message, _ = self._wire.receive()
        except Gone as error:
            raise NotStarted from error
        if message != Ready(files=PROGRAM_FILES):
            raise NotStarted
        self.is_ready = True

    def _answer(self, log: Log, stop: Callable[[], bool]) -> Bundle:
        ends_at: float | None = None
        while True:
            while not self._wire.waits(_LOOK_SECONDS):
                if ends_at is None and stop():
                    ends_at = time.monotonic() + GRACE_SECONDS
                    self._wire.send(Stop())
                if ends_at is not None and time.monotonic() >= ends_at:
                    raise BuilderDied("a process that built did not stop when it was told to")
            match self._wire.receive()[0]:
                case Events(events=events):
                    for event, message, fields in events:
                        log(event, message, **fields)
                case Built(bundle=bundle):
                    self._is_busy = False
                    return bundle
                case Failed(error=error):
                    self._is_busy = False
                    raise error

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return "or says nothing any more"
        if status >= 0:
            return f"with status {status}"
        with suppress(ValueError):  # real-time signals have no names
            return f"by {signal.Signals(-status).name}"
        return f"by signal {-status}"

    def end(self) -> None:
        """End the process, whatever it is at; it is gone when this returns."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


def _interpreter_flags() -> list[str]:
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001 - as multiprocessing does
    return flags
