"""Which files are behind a source, and whether they changed while it was read.

A database file is locked against other processes, but not against this one, and Parquet, CSV and
JSON files have no transactions at all. So the patterns of every file that a view or query names are
taken from DuckDB's own parse of the SQL and made absolute, DuckDB is then denied any other place, and
inode, size and modification time of all files that match are compared before and after.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from mxdeliver.core.errors import SourceIncomplete, SourceSchema, SourceUnavailable, peer_text
from mxdeliver.edge.sources.failures import Stage, translate

_READERS = re.compile(r"read_\w+|parquet_\w+|glob|sniff_csv", re.IGNORECASE)
_FILE_NAME = re.compile(
    r".*(/|\.(parquet|csv|tsv|json|jsonl|ndjson|txt)(\.(gz|zst))?$)", re.IGNORECASE
)
_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedFiles:
    """A SQL text with its file names made absolute, and these names or patterns."""

    sql: str
    patterns: tuple[str, ...]


def with_absolute_files(
    connection: duckdb.DuckDBPyConnection, sql: str, folder: Path, where: str
) -> NamedFiles:
    """Make every file name in one SELECT absolute, counted from `folder`.

    SourceSchema when it is no single SELECT, or names its files other than by literal text.
    """
    serialized = connection.execute("select json_serialize_sql($sql)", {"sql": sql}).fetchall()
    tree = json.loads(serialized[0][0])
    if tree["error"]:
        raise SourceSchema(f"{where}: not a SELECT: {peer_text(tree['error_message'])}")
    if len(tree["statements"]) != 1:
        raise SourceSchema(f"{where}: must be one SELECT, not several statements")
    text = sql.encode()
    patterns: list[str] = []
    # from the end, so that the places before stay true
    for place, name in sorted(_file_names(tree, where), reverse=True):
        pattern = _absolute(name, folder, where)
        before = _literal(name)
        if text[place : place + len(before)] != before:
            raise SourceSchema(
                f"{where}: write the file name {peer_text(name)} as a plain '…' text"
            )
        text = text[:place] + _literal(pattern) + text[place + len(before) :]
        patterns.append(pattern)
    return NamedFiles(sql=text.decode(), patterns=tuple(reversed(patterns)))


def _literal(text: str) -> bytes:
    return ("'" + text.replace("'", "''") + "'").encode()


def _absolute(name: str, folder: Path, where: str) -> str:
    if "://" in name:
        raise SourceSchema(f"{where}: reads {peer_text(name)}; only local files can be read")
    return os.path.normpath(folder.absolute() / name)


def _file_names(node: Any, where: str) -> Iterator[tuple[int, str]]:
    """Yield each file name in a parsed statement with its place, in bytes."""
    if isinstance(node, list):
        for part in node:
            yield from _file_names(part, where)
    elif isinstance(node, dict):
        if node.get("type") == "TABLE_FUNCTION" and _READERS.fullmatch(
            node["function"]["function_name"]
        ):
            yield from _reader_names(node["function"], where)
        elif node.get("type") == "BASE_TABLE" and _FILE_NAME.fullmatch(node["table_name"]):
            yield node["query_location"], node["table_name"]
        for part in node.values():
            yield from _file_names(part, where)


def _reader_names(function: dict[str, Any], where: str) -> Iterator[tuple[int, str]]:
    first = function["arguments"][0]["expression"] if function["arguments"] else {}
    listed = first.get("function_name") == "list_value"
    names = [part["expression"] for part in first["arguments"]] if listed else [first]
    for name in names:
        literal = name.get("literal", {})
        if literal.get("kind") != "STRING":
            raise SourceSchema(
                f"{where}: name the files of {function['function_name']} as plain '…' texts"
            )
        yield name["query_location"], literal["text"]


def database_files(database: Path | str) -> list[str]:
    """Give the files that DuckDB looks at to read a database, behind any links; not all are there.

    The last two are there after a writer died while it took its log into the database.
    """
    real = os.path.realpath(database)
    return [real, *(f"{real}.wal{end}" for end in ("", ".checkpoint", ".recovery"))]


class _Facts(NamedTuple):
    """What tells a file from another one, and from itself at another time."""

    inode: int
    size: int
    modified: int
    changed: int


def _contents(state: Mapping[str, _Facts]) -> dict[str, tuple[int, ...]]:
    """Leave out what a link to a file changes, too, as a backup makes it: it is no other one then."""
    return {path: facts[:-1] for path, facts in state.items()}


class Files:
    """The files behind one snapshot, as they were when it began."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        *,
        source: str,
        database: Path | None,
        patterns: frozenset[str],
    ) -> None:
        self._connection = connection
        self._source = source
        self._patterns = sorted(patterns)
        self._database = [] if database is None else [str(database), *database_files(database)]
        self._before: dict[str, _Facts] = {}

    def restrict(self, database: Sequence[str]) -> None:
        """Deny DuckDB every file but these, and those of the database, behind any links."""
        folders = sorted({_fixed_part(pattern) for pattern in self._patterns if _is_glob(pattern)})
        single = [pattern for pattern in self._patterns if not _is_glob(pattern)]
        single += database
        for setting, paths in (("allowed_directories", folders), ("allowed_paths", single)):
            listed = ", ".join(_literal(path).decode() for path in paths)
            self._connection.execute(f"set {setting} = [{listed}]")
        self._connection.execute("set enable_external_access = false")

    def remember(self) -> bool:
        """Take down how the files are now, and tell whether they were so the last time.

        Also their last change of any kind (ctime), which whoever writes cannot set: what is kept from
        one snapshot to the next is not true of a file whose size and time were made to look the same.

        SourceUnavailable names a pattern without any file.
        """
        for pattern in self._patterns:
            if not self._matching(pattern):
                raise SourceUnavailable(f"source {self._source}: no file {pattern}")
        last, self._before = self._before, self._state()
        return last == self._before

    def changed(self) -> bool:
        """Tell whether a file was added, removed or changed since `remember`."""
        return _contents(self._state()) != _contents(self._before)

    def refuse_changes(self) -> None:
        """SourceIncomplete where a file was added, removed or changed since `remember`."""
        before, after = _contents(self._before), _contents(self._state())
        different = sorted(dict(before.items() ^ after.items()))
        if different:
            raise SourceIncomplete(
                f"source {self._source}: {different[0]} changed while it was read"
                + (f", and {len(different) - 1} more" if different[1:] else "")
            )

    def _state(self) -> dict[str, _Facts]:
        paths = list(self._database)
        for pattern in self._patterns:
            paths += self._matching(pattern)
        state = {}
        for path in paths:
            try:
                found = os.stat(path)  # noqa: PTH116 - called often
            except OSError:
                continue
            state[path] = _Facts(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        return state

    def _matching(self, pattern: str) -> list[str]:
        if not _is_glob(pattern):
            return [pattern] if os.path.exists(pattern) else []  # noqa: PTH110 - called often
        try:
            rows = self._connection.execute(
                f"select file from glob({_literal(pattern).decode()})"  # noqa: S608 - quoted
            ).fetchall()
        except duckdb.Error as error:
            raise translate(error, Stage.OPEN, f"source {self._source}") from error
        return [row[0] for row in rows]


def _is_glob(pattern: str) -> bool:
    return _WILDCARD.search(pattern) is not None


def _fixed_part(pattern: str) -> str:
    """Give the folder above the first part of a pattern that has a wildcard."""
    parts = Path(pattern).parts
    fixed = next(place for place, part in enumerate(parts) if _is_glob(part))
    return str(Path(*parts[:fixed]))
