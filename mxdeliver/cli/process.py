"""What a process asks of the operating system before it touches keys, secrets and records."""

from __future__ import annotations

import ctypes
import io
import logging
import os
import resource
import signal
import sys
from threading import Event, Thread
from typing import TextIO

_PR_SET_DUMPABLE = 4  # linux/prctl.h
_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})


def harden() -> None:
    """Create files for the owner alone, write no core file, and refuse to be traced by others.

    Nor is a log line that cannot be written a reason to print the exception under way, whatever its
    text.
    """
    logging.raiseExceptions = False
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


class _Stream(io.TextIOWrapper):
    """Standard output or error; once nobody can be written to, what is written is dropped."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        # What is left in the buffer goes nowhere, now and when the interpreter ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        super().flush()


def guard_streams() -> None:
    """Let a closed output, or a reader that went away, stop no delivery.

    A file that is opened under the number of a closed standard output would receive what is printed:
    https://www.sqlite.org/howtocorrupt.html section 1.1.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number, which is this one
    sys.stdout = _guarded(sys.stdout, 1)
    sys.stderr = _guarded(sys.stderr, 2)


def _guarded(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is None:
        return _Stream(open(descriptor, "wb", closefd=False), line_buffering=True)
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    # Beside the old one, which a library's logging may hold already.
    stream.flush()
    return _Stream(
        open(descriptor, "wb", closefd=False),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
    )


def stop_on_signals(stop: Event) -> None:
    """Let SIGTERM and SIGINT ask for a clean end: work stops between requests.

    The kernel may hand a signal to any thread. Python calls its handlers in the main thread alone,
    when that wakes up by itself, which may be never: it waits for the deliveries. So the signal's
    number goes into a pipe, which Python writes in whichever thread, and a thread reads it.
    """
    arrived, happened = os.pipe()
    os.set_blocking(happened, False)
    for number in _SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(happened, warn_on_full_buffer=False)

    def listen() -> None:
        while not _SIGNALS & set(os.read(arrived, 64)):
            pass
        stop.set()

    Thread(target=listen, name="signals", daemon=True).start()
