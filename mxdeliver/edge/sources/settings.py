"""What the configuration may say about a source of type `duckdb`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from mxdeliver.core.errors import ConfigInvalid
from mxdeliver.core.model import SourceSettings

DEFAULT_MEMORY_LIMIT = "104MB"
DEFAULT_THREADS = 1
"""Clients are delivered side by side; each further thread holds its own part of the files unpacked."""

_KEYS = ("database", "views", "memory_limit", "threads")
_MEMORY = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT])(i?)B", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class DuckDBOptions:
    """A database file, table expressions by view name, or both; `memory_limit` per snapshot."""

    database: Path | None
    views: Mapping[str, str]
    memory_limit: str
    threads: int

    @property
    def memory_bytes(self) -> int:
        """The limit in bytes; units are powers of 1000, with an i of 1024, as DuckDB reads them."""
        found = _MEMORY.fullmatch(self.memory_limit)
        if found is None:
            raise ValueError(self.memory_limit)
        number, unit, binary = found.groups()
        return int(float(number) * (1024 if binary else 1000) ** (" KMGT".index(unit.upper())))


def parse_options(settings: SourceSettings) -> DuckDBOptions:
    """Read `settings.options`; ConfigInvalid names every key that is wrong."""
    options = settings.options
    wrong = [_unknown(key) for key in options if key not in _KEYS]
    database = options.get("database")
    if database is not None and not (isinstance(database, str) and database):
        wrong.append("`database` must be the path of a DuckDB file")
    views = options.get("views", {})
    if not _is_views(views):
        wrong.append("`views` must give a table expression (text) by view name")
    if database is None and not views:
        wrong.append("`database`, `views` or both are required")
    memory_limit = options.get("memory_limit", DEFAULT_MEMORY_LIMIT)
    if not (isinstance(memory_limit, str) and _MEMORY.fullmatch(memory_limit)):
        wrong.append("`memory_limit` must be a size such as 500MB or 2GiB")
    threads = options.get("threads", DEFAULT_THREADS)
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        wrong.append("`threads` must be a whole number from 1")
    if wrong:
        raise ConfigInvalid(f"source {settings.name}: {'; '.join(wrong)}")
    return DuckDBOptions(
        database=None if database is None else settings.folder.absolute() / str(database),
        views={str(name): str(text) for name, text in _pairs(views)},
        memory_limit=str(memory_limit),
        threads=int(str(threads)),
    )


def _is_views(views: object) -> bool:
    return isinstance(views, Mapping) and all(
        isinstance(part, str) and part.strip() for pair in views.items() for part in pair
    )


def _pairs(views: object) -> list[tuple[object, object]]:
    return list(views.items()) if isinstance(views, Mapping) else []


def _unknown(key: str) -> str:
    near = get_close_matches(key, _KEYS, n=1)
    return f"there is no option `{key}`" + (f", did you mean `{near[0]}`?" if near else "")
