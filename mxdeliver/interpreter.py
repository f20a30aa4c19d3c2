"""How a process of the program sets up Python and its libraries, before they are loaded."""

from __future__ import annotations

import gc
import os

_OBJECTS_BETWEEN_COLLECTIONS = 200_000
"""A start makes fewer, and looks for none. With Python's own 700 that is a tenth of its time."""


def settle() -> None:
    """Set what libraries read when they are loaded, and how often Python looks for garbage."""
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    # Nothing here multiplies matrices; the library's threads would turn round while they wait.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # What Arrow frees goes back to the system; its own pools keep some thirty megabytes.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
