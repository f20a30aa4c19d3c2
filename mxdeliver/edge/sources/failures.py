"""DuckDB's errors in the words of core.errors.

DuckDB's messages may hold values of records ("Could not convert string '…' to INT32"), so only those
are passed on that speak of names alone, and of these the first line: the second one lists candidate
columns, which in a CSV file without a header are values. Errors in the middle of a stream arrive
through Arrow as OSError with DuckDB's text, so the kind is read from how the text begins.
"""

from __future__ import annotations

import re
from enum import Enum

import duckdb
import pyarrow as pa

from mxdeliver.core.errors import (
    MxdeliverError,
    RecordInvalid,
    SourceIncomplete,
    SourceMemory,
    SourceSchema,
    SourceUnavailable,
    peer_text,
)

FOREIGN_ERRORS = (duckdb.Error, pa.ArrowException, OSError, MemoryError, RuntimeError)
"""What DuckDB and Arrow raise while a source is opened, bound or read."""


class Stage(Enum):
    """How far a source had come when an error met it, and what a message then says."""

    OPEN = "it cannot be opened"
    VIEW = "its files cannot be read"
    BIND = "what its query reads cannot be opened"
    READ = "reading stopped before the end"


_NAMES_ONLY = frozenset({"Catalog", "Binder", "Parser", "Permission"})
_NO_TABLE = re.compile(r"Catalog Error: Table with name (.+?) does not exist!")
_VALUES = frozenset({"Conversion", "Out of Range", "Invalid Input", "Mismatch Type"})


def translate(error: BaseException, stage: Stage, where: str) -> MxdeliverError:
    """Give the error of core.errors that `error` means at `stage`; `where` names source and file."""
    text = str(error)
    kind = text.partition(" Error")[0] if " Error" in text else type(error).__name__
    kind = peer_text(kind, 40)
    if kind == "Out of Memory" or isinstance(error, MemoryError):
        return SourceMemory(f"{where}: needs more memory than `memory_limit` allows")
    if kind in {"IO", "Permission"} and stage is Stage.OPEN:
        return SourceUnavailable(f"{where}: {stage.value}: {_first_line(text)}")
    if kind in _NAMES_ONLY:
        return SourceSchema(f"{where}: {_about_names(text)}")
    if kind in _VALUES and stage is Stage.BIND:
        return SourceSchema(f"{where}: the query cannot be evaluated ({kind})")
    if kind in _VALUES and stage is Stage.READ:
        return RecordInvalid(
            f"{where}: the query, or a file behind it, holds a value that cannot be converted ({kind})"
        )
    interrupted = SourceIncomplete if stage is Stage.READ else SourceUnavailable
    return interrupted(f"{where}: {stage.value} ({kind})")


def _about_names(text: str) -> str:
    missing = _NO_TABLE.match(text)
    return (
        f"there is no table or view {peer_text(missing[1], 60)}" if missing else _first_line(text)
    )


def _first_line(text: str) -> str:
    return peer_text(text.partition("\n")[0])
