"""A forked process that does one thing within a time, and leaves nothing behind that it started."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_BROKEN = 70


def adopt_orphans() -> None:
    """Become the parent of what forked processes leave behind, so that it can be ended."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def in_child(work: Callable[[], int], *, seconds: float, output: Path) -> int | None:
    """Give the status with which `work` ended; None where it took too long and was killed."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = _BROKEN
        try:
            os.setsid()
            descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            status = work()
        except BaseException:  # noqa: BLE001 - nothing of the parent's may be carried out here
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    descriptor = os.pidfd_open(pid)
    ended, _, _ = select.select([descriptor], [], [], seconds)
    os.close(descriptor)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    _end_orphans()
    return os.waitstatus_to_exitcode(status) if ended else None


def _end_orphans() -> None:
    pid = os.getpid()
    children = Path(f"/proc/{pid}/task/{pid}/children")
    while left := children.read_text(encoding="ascii").split():
        for one in map(int, left):
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
            os.waitpid(one, 0)
