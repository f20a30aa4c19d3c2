"""The database under the ledger: opening it, transactions, errors, and what differs by dialect.

Everything that knows SQLite stands in this file and in `waiting`. Another database needs its own
class with `read`, `write` and `close`, whose `write` keeps other writers out as BEGIN IMMEDIATE does
here.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from threading import RLock

from sqlalchemy import Connection, create_engine, event, func, select
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.pool import QueuePool

from mxdeliver.core.errors import (
    ClockInsane,
    Internal,
    LedgerBusy,
    LedgerCorrupt,
    LedgerMissing,
    LedgerVersion,
    MxdeliverError,
    SpoolFull,
    SpoolIO,
    SpoolMode,
    StopRequested,
)
from mxdeliver.edge.ledger import disk
from mxdeliver.edge.ledger.tables import SCHEMA_VERSION, clients, deliveries, history, metadata
from mxdeliver.edge.ledger.waiting import BUSY, WaitingConnection, file_at

CLOCK_TOLERANCE = timedelta(days=1)
_TURN_SECONDS = 0.2
_KEPT = 8
"""Connections that stay open between transactions; one more is closed behind its transaction."""
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_NO_TEXT = "Could not decode to UTF-8"  # by Python's module, which gives it no code
_DISK = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}


class Database:
    """A SQLite file; each transaction has a connection to itself, so that threads may share it.

    Opening one costs as much as many statements, so it is kept for the next transaction: not behind
    an error, and not where the path names another file by now than the one that it has open.
    """

    def __init__(
        self, path: Path, *, busy_timeout: float, stop: Callable[[], bool] = lambda: False
    ) -> None:
        self.path = path
        self._busy_timeout = busy_timeout
        self._stop = stop
        self._turn = RLock()
        self._engine = create_engine(
            "sqlite://",
            creator=self._connect,
            poolclass=QueuePool,
            pool_size=_KEPT,
            max_overflow=-1,
            pool_use_lifo=True,
        )
        # Of the pool: with an event of the engine's own each statement would ask for listeners.
        event.listen(self._engine, "checkout", self._require_same_file)

    def _connect(self) -> sqlite3.Connection:
        with disk.mapped(self.path):
            if file_at(self.path) is None:  # SQLite would make an empty one
                raise LedgerMissing(f"{self.path} was there and is gone")
            connection = WaitingConnection(self.path, seconds=self._busy_timeout, stop=self._stop)
        # EXTRA also syncs the directory after the journal is unlinked: a commit survives a power
        # cut. Per connection: https://www.sqlite.org/pragma.html#pragma_synchronous.
        try:
            connection.execute("PRAGMA synchronous = EXTRA")
            connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            connection.close()
            raise
        return connection

    def _require_same_file(self, connection: WaitingConnection, *_: object) -> None:
        """Have a connection to a file that was moved or removed replaced by a new one."""
        with disk.mapped(self.path):
            found = file_at(self.path)
        if connection.file != found:
            raise DisconnectionError(f"{self.path} is another file now")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Read from one state of the ledger."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Write all or nothing, durably; no other writer from the first statement on."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Connection]:
        with self.mapped(), self._in_turn(), self._engine.connect() as connection:
            try:
                connection.connection.cursor().execute(begin)
                connection.begin()
                yield connection
                connection.commit()
            except (DBAPIError, sqlite3.Error, UnicodeDecodeError):
                # Such an error may be of this connection alone; all others are kept.
                connection.invalidate()
                raise

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Have the threads of this process go one after the other, as far as that takes no time.

        Who meets a lock of SQLite's sleeps, longer each time, and is not told when it is gone. That
        lock alone counts: whose turn does not come soon, as behind somebody who waits for another
        process, tries all the same.
        """
        has_turn = self._turn.acquire(timeout=_TURN_SECONDS)
        try:
            yield
        finally:
            if has_turn:
                self._turn.release()

    @contextmanager
    def mapped(self) -> Iterator[None]:
        """Turn the database's errors into the program's."""
        try:
            yield
        except DBAPIError as error:
            raise self._error(error.orig) from error
        except sqlite3.Error as error:
            raise self._error(error) from error
        except UnicodeDecodeError as error:  # of an error's own text
            raise LedgerCorrupt(f"{self.path} is damaged: it holds text that is none") from error

    def _error(self, error: BaseException | None) -> MxdeliverError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in BUSY:
            return self._locked()
        if str(error).startswith(_NO_TEXT):
            return LedgerCorrupt(f"{self.path} is damaged: it holds text that is none")
        if code in _CORRUPT:
            return LedgerCorrupt(f"{self.path} is damaged: {error}")
        if code == sqlite3.SQLITE_FULL or (code in _DISK and self._no_space()):
            return SpoolFull(f"no space left for {self.path}: {error}")
        if code in _DISK:
            return SpoolIO(f"{self.path} cannot be read or written: {error}")
        return Internal(f"{self.path} refused a statement: {error}")

    def _locked(self) -> MxdeliverError:
        if self._stop():
            return StopRequested(f"stopped while {self.path} was locked by another process")
        return LedgerBusy(f"{self.path} stayed locked for {self._busy_timeout:g} s")

    def _no_space(self) -> bool:
        try:
            free = os.statvfs(self.path.parent)
        except OSError:
            return False
        # A file system without a fixed number of files says 0 of 0.
        return free.f_bavail == 0 or (free.f_files > 0 and free.f_favail == 0)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def prepare(self) -> None:
        """Make the ledger usable: journal mode, health, version; tables where there are none."""
        with self.mapped(), closing(self._connect()) as connection:
            # WAL has a rare corruption bug in SQLite before 3.51.3; a ledger that somebody
            # switched is switched back.
            connection.execute("PRAGMA journal_mode = DELETE").fetchone()
            version = _version(connection)
            health = [row[0] for row in connection.execute("PRAGMA quick_check(1)")]
            if health == ["ok"] and version:
                # The quick check leaves out the indexes: through a damaged one a delivered day would
                # not be found.
                whole = connection.execute("PRAGMA integrity_check(deliveries)")
                health = [row[0] for row in whole]
        self._require_health(health)
        if version > SCHEMA_VERSION:
            raise LedgerVersion(
                f"{self.path} has version {version}; this program knows {SCHEMA_VERSION}"
            )
        if version == 0:
            self._create()
        elif version < SCHEMA_VERSION:
            self.migrate(version)

    def examine(self) -> None:
        """Look at every page and index, which takes its time; LedgerCorrupt."""
        with self.mapped(), closing(self._connect()) as connection:
            self._require_health([row[0] for row in connection.execute("PRAGMA integrity_check")])

    def _require_health(self, findings: Sequence[object]) -> None:
        if findings != ["ok"]:
            raise LedgerCorrupt(f"{self.path} is damaged: {'; '.join(map(str, findings))}")

    def _create(self) -> None:
        with self.write() as connection:
            if connection.exec_driver_sql("PRAGMA user_version").scalar_one() != 0:
                return  # another process was faster
            if connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one():
                raise LedgerCorrupt(f"{self.path} is a database, but no ledger of this program")
            metadata.create_all(connection, checkfirst=False)
            connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def migrate(self, version: int) -> None:
        """Bring an older ledger to this version; a copy of it stays beside it."""
        from mxdeliver.edge.ledger import migrations  # noqa: PLC0415 - Alembic is rarely needed

        copy = self.path.with_name(f"{self.path.name}.version-{version}")
        with self.mapped(), closing(self._connect()) as source:
            copy.unlink(missing_ok=True)
            _create_private(copy)
            with closing(sqlite3.connect(copy)) as target:
                source.backup(target)
        with self.write() as connection:
            current = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if current == version:
                migrations.upgrade(connection, version)
                connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")


def open_database(
    path: Path,
    *,
    busy_timeout: float,
    witness: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Database:
    """Open the ledger's file, made (mode 0600) where there is none.

    `witness` shows that there was one: LedgerMissing where it is gone or empty.
    """
    with disk.mapped(path):
        _look_at(path, witness)
    database = Database(path, busy_timeout=busy_timeout, stop=stop)
    try:
        database.prepare()
    except BaseException:
        database.close()
        raise
    return database


def trust_clock(database: Database, now: datetime) -> None:
    """Raise ClockInsane where the ledger has entries from well after `now`."""
    latest = (
        select(func.max(column).label("at"))
        for column in (deliveries.c.changed_at, clients.c.first_seen, history.c.at)
    )
    with database.read() as connection:
        times = [at for query in latest if (at := connection.scalar(query)) is not None]
    if times and now < max(times) - CLOCK_TOLERANCE:
        raise ClockInsane(
            f"the clock says {now.isoformat(timespec='seconds')}, but the ledger's last entry is "
            f"from {max(times).isoformat(timespec='seconds')}"
        )


def _look_at(path: Path, witness: Path | None) -> None:
    if path.is_symlink():
        raise SpoolMode(f"{path} is a link; the ledger must be a file: put the file itself there")
    if path.exists() and not path.is_file():
        raise SpoolMode(f"{path} is not a file: move it away, and put the ledger there again")
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        size = 0
    if size == 0 and witness is not None:
        raise LedgerMissing(f"{path} is missing or empty, but {witness} shows that there was one")
    if not path.exists():
        _create_private(path)
        disk.sync_directory(path.parent)
    elif path.stat().st_mode & 0o077:
        path.chmod(0o600)


def _create_private(path: Path) -> None:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    os.close(os.open(path, flags, 0o600))


def _version(connection: sqlite3.Connection) -> int:
    row = connection.execute("PRAGMA user_version").fetchone()
    return int(row[0])
