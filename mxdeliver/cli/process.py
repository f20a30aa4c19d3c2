"""What a process asks of the operating system before it touches keys, secrets and records."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from threading import Event, Thread

_PR_SET_DUMPABLE = 4  # linux/prctl.h
_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})


def harden() -> None:
    """Create files for the owner alone, write no core file, and refuse to be traced by others."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


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
