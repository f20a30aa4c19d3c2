"""Files that a person names, which may be anything: a pipe from another program, or one without.

Shells make pipes of `<(gpg --export …)`; waiting for one into which nobody writes would never end.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from pathlib import Path

_FOR_A_WRITER_MS = 1000


def read_file(path: Path, limit: int) -> bytes:
    """Give the first `limit` bytes; OSError, also for a pipe into which nobody writes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with open(descriptor, "rb") as stream:  # noqa: PTH123 - from a descriptor
        begun = _first_piece(descriptor) if stat.S_ISFIFO(os.fstat(descriptor).st_mode) else b""
        os.set_blocking(descriptor, True)
        return begun + stream.read(limit - len(begun))


def _first_piece(descriptor: int) -> bytes:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll(_FOR_A_WRITER_MS)
    try:
        piece = os.read(descriptor, 1)
    except BlockingIOError:  # somebody is there, and takes time
        return b""
    if not piece:
        raise OSError(errno.EPIPE, "nobody writes into the pipe")
    return piece
