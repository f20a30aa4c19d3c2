"""What a delivering process asks of the operating system before it touches keys and records."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from threading import Event

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def harden() -> None:
    """Create files for the owner alone, write no core file, and refuse to be traced by others."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def stop_on_signals(stop: Event) -> None:
    """Let SIGTERM and SIGINT ask for a clean end: work stops between requests."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
