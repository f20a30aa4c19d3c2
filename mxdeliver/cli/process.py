"""The program's outputs and signals: who does not read stops no delivery, who asks for an end gets one."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})


class _Output(io.RawIOBase):
    """Writes to a descriptor and never fails; once it takes nothing, what is written is dropped.

    A pipe that does not block, as a program that reads it may have made it, is waited for like any
    other.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.lost: OSError | None = None
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: ReadableBuffer, /) -> int:
        while self.lost is None:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError as error:
                self.lost = error
        return memoryview(data).nbytes


class _Stream(io.TextIOWrapper):
    """Standard output or error, which nobody may be reading."""

    def __init__(self, output: _Output, **options: Any) -> None:
        super().__init__(io.BufferedWriter(output), **options)
        self.output = output


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
        return _Stream(_Output(descriptor), line_buffering=True)
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    # Beside the old one, which a library's logging may hold already.
    stream.flush()
    return _Stream(
        _Output(descriptor),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
    )


def lost_output() -> OSError | None:
    """Give why standard output did not take all that was printed, or None."""
    if not isinstance(sys.stdout, _Stream):
        return None
    sys.stdout.flush()
    return sys.stdout.output.lost


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
