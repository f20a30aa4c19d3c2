"""The peak memory of a process alone: unlike `ru_maxrss`, not what its parent held before exec."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path


def own_peak() -> int:
    """Give this process's peak resident memory in bytes."""
    return _peak("self")


def peak_until_end(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process to end; give the highest peak resident memory seen, in bytes."""
    highest = 0
    while process.poll() is None:
        highest = max(highest, _peak(str(process.pid)))
        time.sleep(0.01)
    return highest


def _peak(process: str) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else 0
