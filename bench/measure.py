"""Time and memory of a command with all its children."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

_POLL_SECONDS = 0.02
_STATUS_LINE = "VmRSS:"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Wall-clock seconds, and the most resident memory (bytes) that all processes had together.

    `told` is what a process said of itself, where it took the time or the memory.
    """

    seconds: float
    peak_bytes: int = 0
    output: str = ""
    told: dict[str, Any] = field(default_factory=dict)


def measure(
    *command: str | Path,
    memory: bool = False,
    text: str | None = None,
    output: Path | None = None,
    allowed: tuple[int, ...] = (0,),
) -> Measured:
    """Run a command to its end; CalledProcessError with its output shown if it fails.

    Its memory is looked at only with `memory`, since looking takes time from everybody. `text` goes
    to its standard input; its standard output is kept, or written to the file `output`.
    """
    started = time.perf_counter()
    with (
        (output or Path("/dev/null")).open("wb") as sink,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL if text is None else subprocess.PIPE,
            stdout=subprocess.PIPE if output is None else sink,
            encoding="utf-8",
        ) as process,
    ):
        watched = _Watch(process.pid) if memory else None
        try:
            said, _ = process.communicate(text)
        except BaseException:  # whoever stops us stops it
            process.kill()
            raise
        finally:
            seconds = time.perf_counter() - started
            peak = watched.end() if watched else 0
    if process.returncode not in allowed:
        sys.stderr.write(said or "")
        raise subprocess.CalledProcessError(process.returncode, command)
    return Measured(seconds=seconds, peak_bytes=peak, output=said or "")


def timed_by_itself(*arguments: str | Path) -> Measured:
    """Run a module of ours that takes its own time: its last line is JSON with `seconds`."""
    measured = measure(sys.executable, "-m", *arguments)
    told = json.loads(measured.output.splitlines()[-1])
    return replace(measured, seconds=told["seconds"], told=told)


def tell(seconds: float, **more: object) -> None:
    """Say, in such a module, what was measured."""
    print(json.dumps({"seconds": seconds, **more}))


class _Watch:
    """Looks at the memory of a family of processes until it is told to end."""

    def __init__(self, process: int) -> None:
        self._process = process
        self._peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(_POLL_SECONDS):
            self._peak = max(self._peak, sum(_resident(one) for one in _family(self._process)))

    def end(self) -> int:
        self._ended.set()
        self._thread.join()
        return self._peak


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
    return _in_status(status, _STATUS_LINE)


def _in_status(status: str, name: str) -> int:
    for line in status.splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0  # a zombie


class Growth:
    """How far the memory of this process grows beyond what it has at the beginning."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM begins anew
        self._before = _in_status(_own_status(), _STATUS_LINE)

    def bytes(self) -> int:
        """Give the growth to the highest point so far."""
        return _in_status(_own_status(), "VmHWM:") - self._before


def _own_status() -> str:
    return Path("/proc/self/status").read_text(encoding="ascii")
