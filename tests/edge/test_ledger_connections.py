"""Connections that stay open between transactions: a place that changed, and errors still held."""

import sqlite3
import threading
import time
from contextlib import closing

import pytest

from mxdeliver.core.errors import LedgerBusy, LedgerCorrupt, LedgerMissing, SpoolIO, SpoolMode
from mxdeliver.edge.ledger import Ledger, damage
from mxdeliver.edge.ledger.database import Database
from tests.support.ledgers import NOON, client


@pytest.fixture
def state(tmp_path):
    """Give a state directory whose ledger knows a few days of two clients."""
    state = tmp_path / "state"
    with Ledger.open(state, now=NOON) as ledger:
        ledger.plan([client(1), client(2)], now=NOON, catch_up_days=7)
    return state


def a_file(path):
    path.write_bytes(b"")


def a_link_to_itself(path):
    path.symlink_to(path)


def nothing(path):
    assert not path.exists()


@pytest.mark.parametrize(
    ("put", "error"), [(a_file, SpoolIO), (a_link_to_itself, SpoolMode), (nothing, LedgerMissing)]
)
@pytest.mark.parametrize("kept", [True, False])
def test_a_directory_that_something_took_the_place_of_is_named_by_the_next_transaction(
    state, put, error, kept
):
    with closing(Database(state / "ledger.db", busy_timeout=0.05)) as database:
        if kept:
            with database.read() as connection:
                connection.exec_driver_sql("SELECT 1").all()
        aside = state.rename(state.with_name("aside"))
        put(state)
        for transaction in (database.read, database.write):
            with pytest.raises(error, match=r"ledger\.db"), transaction():
                pass
        state.unlink(missing_ok=True)
        aside.rename(state)
        with database.read() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM clients").scalar_one() == 2


def test_a_ledger_that_cannot_be_looked_at_is_an_error_of_the_disk(state):
    path = state / f"{'x' * 300}.db"  # an error that root meets as well
    with (
        closing(Database(path, busy_timeout=0.05)) as database,
        pytest.raises(SpoolIO, match="cannot be used: File name too long"),
        database.read(),
    ):
        pass


def test_a_word_that_is_none_leaves_the_ledger_to_others_while_its_error_is_held(state):
    with Ledger.open(state, now=NOON) as ledger:
        written(state, "UPDATE deliveries SET state = 'lost'")
        with pytest.raises(ValueError, match="lost") as caught:
            ledger.deliveries()
        written(state, "UPDATE deliveries SET state = 'waiting'")
    assert caught.value.__traceback__ is not None


def test_a_type_that_is_none_leaves_the_ledger_to_others_while_its_error_is_held(state):
    with closing(Database(state / "ledger.db", busy_timeout=0.05)) as database:
        written(state, "UPDATE deliveries SET attempts = 'many'")
        with pytest.raises(LedgerCorrupt, match=r"a deliveries\.attempts that is none") as caught:
            damage.require_whole(database)
        written(state, "UPDATE deliveries SET attempts = 0")
    assert caught.value.__traceback__ is not None


def written(state, statement):
    """Write by another connection, which does not wait for the locks of others."""
    path = state / "ledger.db"
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        database.execute(statement)


def test_threads_behind_the_lock_of_another_process_wait_side_by_side_and_readers_pass(state):
    waited = []

    def write():
        started = time.monotonic()
        with pytest.raises(LedgerBusy):
            ledger.plan([client()], now=NOON, catch_up_days=7)
        waited.append(time.monotonic() - started)

    with (
        closing(sqlite3.connect(state / "ledger.db", isolation_level=None)) as other,
        Ledger.open(state, now=NOON, busy_timeout=2.0) as ledger,
    ):
        other.execute("BEGIN IMMEDIATE")  # others may read
        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        started = time.monotonic()
        ledger.deliveries()
        assert time.monotonic() - started < 1.5
        for thread in threads:
            thread.join()
    assert len(waited) == 4
    assert max(waited) < 4  # two seconds each; eight, one after the other
