"""Where files lie that must not wait for a disk."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

_MEMORY = Path("/dev/shm")
_ENOUGH_BYTES = 4_000_000_000


def memory_folder() -> Path:
    """Give a folder in memory, the usual one for temporary files where memory is scarce."""
    if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ENOUGH_BYTES:
        return _MEMORY
    return Path(tempfile.gettempdir())
