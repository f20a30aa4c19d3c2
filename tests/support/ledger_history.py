"""Everything that a ledger has ever said, not only what it says now.

Triggers write each state, token, seal and temporary name into a table of their own, in the same
commit; the program knows nothing of them. A ledger that a killed process left behind is looked at
in a copy, so that rolling back what was not committed stays the program's own work.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_TABLE = """CREATE TABLE watched (
    number INTEGER PRIMARY KEY, what TEXT, client_guid TEXT, snapshot_date TEXT, revision INTEGER,
    name TEXT, value TEXT)"""
_COLUMNS = "number, what, client_guid, snapshot_date, revision, name, value"


_INTO = "INSERT INTO watched (what, client_guid, snapshot_date, revision, name, value)"
_SPOKEN = {  # what is written down: of which table, under which name, which value
    "sealed": ("files", "{}.name", "{}.encrypted_checksum || ' ' || {}.encrypted_file_size"),
    "file": ("files", "{}.name", "{}.state || coalesce('/' || {}.direct, '')"),
    "temporary": ("temporaries", "{}.name", "{}.final_name"),
    "delivery": ("deliveries", "{}.token", "{}.state"),
}
_MOMENTS = (
    ("sealed", "INSERT"),
    ("sealed", "UPDATE OF name, encrypted_checksum, encrypted_file_size"),
    ("file", "UPDATE OF state, direct"),
    ("temporary", "INSERT"),
    ("delivery", "INSERT"),
    ("delivery", "UPDATE OF state, token"),
)


def _statement(what: str, row: str, source: str) -> str:
    name, value = (text.replace("{}", row) for text in _SPOKEN[what][1:])
    return (
        f"{_INTO} SELECT '{what}', client_guid, snapshot_date, revision, {name}, {value} {source}"
    )


def _trigger(number: int, what: str, moment: str) -> str:
    table = _SPOKEN[what][0]
    delivery = "NEW.id" if table == "deliveries" else "NEW.delivery_id"
    then = _statement(what, "NEW", f"FROM deliveries WHERE id = {delivery}")
    return f"CREATE TRIGGER watch_{number} AFTER {moment} ON {table} BEGIN {then}; END"


def _present(what: str) -> str:
    """Write down what the ledger says already when the watching begins."""
    table = _SPOKEN[what][0]
    joined = (
        "" if table == "deliveries" else f" JOIN {table} ON {table}.delivery_id = deliveries.id"
    )
    return _statement(what, table, f"FROM deliveries{joined}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One thing that the ledger said at some time.

    `what` is "sealed" (`name` a file, `value` its SHA-256 and size), "file" (`value` its state, with
    how far it is written directly), "temporary" (`value` the final name) or "delivery" (`name` the lease's token, `value` the state).
    """

    number: int
    what: str
    client_guid: str
    snapshot_date: str
    revision: int
    name: str
    value: str

    @property
    def delivery(self) -> tuple[str, str, int]:
        """The client, the day and the revision that it is about."""
        return self.client_guid, self.snapshot_date, self.revision


class LedgerHistory:
    """The history of the ledger at `path`, which may not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = 0
        self._watched = False

    def look(self) -> list[Said]:
        """Give what the ledger has said since the last time; nothing while it cannot be read."""
        if not self._watched:
            self._watched = self._watch()
        # Read-only: what a process killed at this very moment left is not rolled back by us.
        with suppress(sqlite3.OperationalError), _opened(f"{self.path.as_uri()}?mode=ro") as ledger:
            return self._news(ledger)
        return []

    def look_at_rest(self) -> list[Said]:
        """Give the same while nobody writes, also after a crash in the middle of a commit."""
        with tempfile.TemporaryDirectory() as folder:
            for path in self.path.parent.glob(f"{self.path.name}*"):
                shutil.copy(path, folder)
            copy = Path(folder) / self.path.name
            if not copy.exists():
                return []
            with _opened(copy.as_uri()) as ledger:
                return self._news(ledger) if _has(ledger, "watched") else []

    def _watch(self) -> bool:
        if not self.path.exists():
            return False
        with suppress(sqlite3.OperationalError), _opened(f"{self.path.as_uri()}?mode=rw") as ledger:
            ledger.execute("BEGIN IMMEDIATE")
            if not _has(ledger, "temporaries"):
                return False
            if not _has(ledger, "watched"):
                ledger.execute(_TABLE)
                for number, (what, moment) in enumerate(_MOMENTS):
                    ledger.execute(_trigger(number, what, moment))
                for what in _SPOKEN:
                    ledger.execute(_present(what))
            ledger.execute("COMMIT")
            return True
        return False

    def _news(self, ledger: sqlite3.Connection) -> list[Said]:
        rows = ledger.execute(
            f"SELECT {_COLUMNS} FROM watched WHERE number > ? ORDER BY number", (self._seen,)
        ).fetchall()
        news = [
            Said(
                number=row[0],
                what=row[1],
                client_guid=row[2],
                snapshot_date=row[3],
                revision=row[4],
                name=str(row[5]),
                value=row[6],
            )
            for row in rows
        ]
        self._seen = news[-1].number if news else self._seen
        return news


def _has(ledger: sqlite3.Connection, table: str) -> bool:
    found = ledger.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    return found is not None


@contextmanager
def _opened(uri: str) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(uri, uri=True, timeout=2, isolation_level=None)) as ledger:
        yield ledger
