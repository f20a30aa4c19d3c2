"""A group of processes that the kernel allows so much memory and no more: then it kills one of them.

    with memory_group() as group:
        process = subprocess.Popen([*group.wrapper, "python", ...])
        group.exhaust()        # the kernel kills that process

Needs what containers mostly refuse: a control group of our own, in either version of the kernel's
interface (https://docs.kernel.org/admin-guide/cgroup-v2.html, .../cgroup-v1/memory.html). Whether
there can be one tells `is_possible`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOM = 64 * 1024 * 1024
_PLACES = (  # where groups are made, and how their limit and what they use is called
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
)
_TAKE_ALL = """
import pathlib, sys
group, size = pathlib.Path(sys.argv[1]), int(sys.argv[2])
(group / "cgroup.procs").write_text("0")
taken = [bytearray(b"x" * 1_000_000) for _ in range(size // 1_000_000)]
"""


class MemoryGroup:
    """Made by `memory_group`."""

    def __init__(self, path: Path, limit: str, usage: str) -> None:
        self._path = path
        self._limit = path / limit
        self._usage = path / usage

    @property
    def wrapper(self) -> list[str]:
        """Give the start of a command line whose rest is in the group, and the one to be killed there.

        From its beginning: what a process has before it joins is not the group's.
        """
        script = 'echo $$ > "$0/cgroup.procs" && echo 1000 > /proc/$$/oom_score_adj && exec "$@"'
        return ["sh", "-c", script, str(self._path)]

    def exhaust(self) -> None:
        """Take more memory than is left to the group, so that the kernel kills to get some."""
        self._limit.write_text(str(int(self._usage.read_text()) + _ROOM))
        taking = subprocess.run(
            [sys.executable, "-c", _TAKE_ALL, self._path, str(_ROOM + _ROOM // 2)],
            check=False,
            timeout=60,
        )
        # What the killed process had is not always given back in time: then its turn comes, too.
        assert taking.returncode in {0, -signal.SIGKILL}


@contextmanager
def memory_group() -> Iterator[MemoryGroup]:
    """Give a group of our own; OSError where nobody may make one."""
    for folder, limit, usage in _PLACES:
        path = folder / f"mxdeliver-{uuid.uuid4().hex[:8]}"
        if not _is_made(path, limit):
            continue
        try:
            yield MemoryGroup(path, limit, usage)
        finally:
            path.rmdir()
        return
    raise OSError("nobody may make a memory control group here")


def is_possible() -> bool:
    """Tell whether a group can be made here, and a process can be in it."""
    try:
        with memory_group() as group:
            return subprocess.run([*group.wrapper, "true"], check=False).returncode == 0
    except OSError:
        return False


def _is_made(path: Path, limit: str) -> bool:
    try:
        path.mkdir()
    except OSError:
        return False
    if os.access(path / limit, os.W_OK):
        return True
    path.rmdir()
    return False
