"""Time and memory of a command with all its children."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_POLL_SECONDS = 0.02
_STATUS_LINE = "VmRSS:"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Wall-clock seconds, and the most resident memory (bytes) that all processes had together."""

    seconds: float
    peak_bytes: int
    output: str


def measure(*command: str | Path) -> Measured:
    """Run a command to its end; CalledProcessError with its output shown if it fails."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as process:
        peak = 0
        ended = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not ended.wait(_POLL_SECONDS):
                peak = max(peak, sum(_resident(one) for one in _family(process.pid)))

        watching = threading.Thread(target=watch)
        watching.start()
        output, _ = process.communicate()
        seconds = time.perf_counter() - started
        ended.set()
        watching.join()
    if process.returncode:
        sys.stderr.write(output)
        raise subprocess.CalledProcessError(process.returncode, command)
    return Measured(seconds=seconds, peak_bytes=peak, output=output)


def _family(process: int) -> list[int]:
    """Give the ids of a process and of all that descend from it at the moment."""
    found = [process]
    for parent in found:
        try:
            tasks = list(Path(f"/proc/{parent}/task").iterdir())
            for task in tasks:
                found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue  # it has just ended
    return found


def _resident(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith(_STATUS_LINE):
            return int(line.split()[1]) * 1024
    return 0  # a zombie
