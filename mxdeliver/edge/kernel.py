"""What a process asks of the kernel before it touches keys, secrets and records."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import signal

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_DUMPABLE = 4


def harden() -> None:
    """Create files for the owner alone, write no core file, and refuse to be traced by others.

    Nor is a log line that cannot be written a reason to print the exception under way, whatever its
    text.
    """
    logging.raiseExceptions = False
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def end_with_parent() -> None:
    """Have this process killed as soon as the thread that started it ends (prctl(2), PR_SET_PDEATHSIG).

    A parent that is gone already is not noticed: `os.getppid` tells afterwards.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL.value, 0, 0, 0)
