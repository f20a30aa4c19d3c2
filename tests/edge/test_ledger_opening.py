"""The ledger's file: made, checked, refused, migrated; and a database that is busy or full."""

import random
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.errors import (
    ClockInsane,
    ConfigInvalid,
    Internal,
    LedgerBusy,
    LedgerCorrupt,
    LedgerMissing,
    LedgerVersion,
    MxdeliverError,
    SpoolFull,
    SpoolIO,
    SpoolMode,
)
from mxdeliver.edge.ledger import Ledger, disk
from mxdeliver.edge.ledger.database import Database
from mxdeliver.edge.ledger.tables import SCHEMA_VERSION
from tests.support.evidence import EVIDENCE
from tests.support.ledgers import NOON, TODAY, YESTERDAY, bundle, client, guid, key

THURSDAY, FRIDAY = SnapshotDate(2026, 3, 5), SnapshotDate(2026, 3, 6)
FIRST_VERSION = Path(__file__).parents[1] / "support/ledger-version-1.sql"


@pytest.fixture
def state(tmp_path):
    """Give a state directory whose ledger knows one day."""
    with Ledger.open(tmp_path, now=NOON) as ledger:
        ledger.plan([client()], now=NOON, catch_up_days=7)
    return tmp_path


def open_and_list(state_dir, **options):
    with Ledger.open(state_dir, now=NOON, **options) as ledger:
        return ledger.deliveries()


def query(state_dir, statement):
    with closing(sqlite3.connect(state_dir / "ledger.db", isolation_level=None)) as database:
        return database.execute(statement).fetchall()


def test_a_missing_state_directory_gets_a_private_ledger_and_key(tmp_path):
    state_dir = tmp_path / "state"
    assert open_and_list(state_dir) == []
    modes = {path.name: path.stat().st_mode & 0o777 for path in state_dir.iterdir()}
    assert modes == {"ledger.db": 0o600, "ledger.key": 0o600}
    assert state_dir.stat().st_mode & 0o777 == 0o700
    assert query(state_dir, "PRAGMA user_version") == [(SCHEMA_VERSION,)]


def test_a_connection_is_as_durable_as_sqlite_can_be(state):
    database = Database(state / "ledger.db", busy_timeout=1)
    with database.read() as connection:
        settings = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    database.close()
    assert settings == ["delete", 3, 1]


def test_what_was_written_is_there_when_opened_again(state):
    assert [delivery.key for delivery in open_and_list(state)] == [key()]


def test_the_random_key_stays_the_same_and_is_private(state):
    with Ledger.open(state, now=NOON) as one, Ledger.open(state, now=NOON) as other:
        assert one.secret_key == other.secret_key
        assert len(one.secret_key) == 32
    (state / "ledger.key").chmod(0o644)
    with pytest.raises(SpoolMode, match="read by others"):
        open_and_list(state)
    (state / "ledger.key").write_bytes(b"short")
    (state / "ledger.key").chmod(0o600)
    with pytest.raises(LedgerCorrupt, match="32 bytes"):
        open_and_list(state)


def test_of_two_keys_made_at_once_the_first_counts(tmp_path):
    def other_is_faster(count):
        (tmp_path / "ledger.key").write_bytes(b"a" * count)
        (tmp_path / "ledger.key").chmod(0o600)
        return b"b" * count

    with Ledger.open(tmp_path, now=NOON, random=other_is_faster) as ledger:
        assert ledger.secret_key == b"a" * 32
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_threads_that_open_a_new_ledger_at_once_agree(tmp_path):
    start, problems = threading.Barrier(4), []

    def run():
        start.wait()
        try:
            open_and_list(tmp_path)
        except Exception as error:  # noqa: BLE001 - shown by the assertion
            problems.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


@pytest.mark.parametrize("empty", [False, True])
def test_a_spool_without_its_ledger_stops_everything(tmp_path, empty):
    if empty:
        (tmp_path / "ledger.db").touch()
    with pytest.raises(LedgerMissing):
        open_and_list(tmp_path, spool_has_bundles=True)
    assert (tmp_path / "ledger.db").exists() is empty


def test_a_key_without_its_ledger_stops_everything_although_the_spool_is_empty(state):
    (state / "ledger.db").unlink()
    with pytest.raises(LedgerMissing, match="shows that there was one"):
        open_and_list(state)
    assert not (state / "ledger.db").exists()


def test_a_zeroed_page_is_found_when_the_ledger_is_opened(state):
    path = state / "ledger.db"
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(4096))
    with pytest.raises(LedgerCorrupt):
        open_and_list(state)


def a_delivered_week(state):
    """Give the clients of a ledger in which every day that is owed was delivered."""
    clients = [client(number, active_since=TODAY.following(-5)) for number in range(1, 5)]
    with Ledger.open(state, now=NOON) as ledger:
        ledger.plan(clients, now=NOON, catch_up_days=7)
        for delivery in ledger.deliveries():
            with ledger.claim(
                delivery.key, now=NOON, context="c", deadline=NOON + timedelta(hours=6)
            ) as lease:
                lease.sealed(bundle(delivery.key))
                for files in (bundle(delivery.key).artifacts, [bundle(delivery.key).manifest]):
                    lease.published({file.name: EVIDENCE for file in files})
                lease.delivered(now=NOON)
    return clients


def test_no_flipped_bit_makes_a_delivered_day_due_again(tmp_path):
    state = tmp_path / "week"
    clients = a_delivered_week(state)
    path, chance, refused = state / "ledger.db", random.Random(20260310), 0
    content = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(content)
        damaged[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            with Ledger.open(state, now=NOON) as ledger:
                ledger.plan(clients, now=NOON, catch_up_days=7)
                assert ledger.due(clients, now=NOON, contexts={}) == []
                for delivery in ledger.deliveries(latest_only=False):
                    ledger.bundle(delivery.key)
        except MxdeliverError:
            refused += 1
    assert refused > 4


def test_a_damaged_index_is_found_when_the_ledger_is_opened(state):
    with closing(sqlite3.connect(state / "ledger.db")) as database, database:
        (root,) = database.execute(
            "SELECT rootpage FROM sqlite_master WHERE name LIKE 'sqlite_autoindex_deliveries%'"
        ).fetchone()
    content = bytearray((state / "ledger.db").read_bytes())
    page = slice((root - 1) * 4096, root * 4096)
    content[page] = content[page].replace(guid().encode(), guid(2).encode())
    (state / "ledger.db").write_bytes(content)
    with pytest.raises(LedgerCorrupt, match="deliveries"):
        open_and_list(state)


@pytest.mark.parametrize("content", [b"no database at all" * 500, bytes(8192)])
def test_a_file_that_is_no_database_is_refused(tmp_path, content):
    (tmp_path / "ledger.db").write_bytes(content)
    with pytest.raises(LedgerCorrupt):
        open_and_list(tmp_path)
    assert (tmp_path / "ledger.db").read_bytes() == content


def test_somebody_elses_database_is_refused(tmp_path):
    query(tmp_path, "CREATE TABLE recipes (name text)")
    with pytest.raises(LedgerCorrupt, match="no ledger of this program"):
        open_and_list(tmp_path)


def test_a_damage_met_later_is_named_too(state):
    with Ledger.open(state, now=NOON) as ledger:
        (state / "ledger.db").write_bytes(b"x" * 20_000)
        with pytest.raises(LedgerCorrupt):
            ledger.deliveries()


def test_a_newer_ledger_is_refused(state):
    query(state, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(LedgerVersion, match=str(SCHEMA_VERSION + 1)):
        open_and_list(state)


def test_a_ledger_that_is_a_link_is_refused(state):
    (state / "ledger.db").rename(state / "elsewhere.db")
    (state / "ledger.db").symlink_to(state / "elsewhere.db")
    with pytest.raises(SpoolMode, match="is a link"):
        open_and_list(state)


def test_a_ledger_restored_with_an_open_mode_becomes_private_again(state):
    (state / "ledger.db").chmod(0o644)
    open_and_list(state)
    assert (state / "ledger.db").stat().st_mode & 0o777 == 0o600


def test_a_ledger_switched_to_wal_is_switched_back(state):
    assert query(state, "PRAGMA journal_mode = WAL") == [("wal",)]
    open_and_list(state)
    assert query(state, "PRAGMA journal_mode") == [("delete",)]


def test_a_ledger_locked_for_too_long_is_busy(state):
    with closing(sqlite3.connect(state / "ledger.db", isolation_level=None)) as other:
        with Ledger.open(state, now=NOON, busy_timeout=0.05) as ledger:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(LedgerBusy, match="stayed locked"):
                ledger.plan([client()], now=NOON, catch_up_days=7)
            with pytest.raises(LedgerBusy):
                ledger.deliveries()
        with pytest.raises(LedgerBusy):
            open_and_list(state, busy_timeout=0.05)


def test_a_folder_in_the_ledgers_place_is_named(tmp_path):
    (tmp_path / "ledger.db").mkdir()
    with pytest.raises(SpoolMode, match=r"ledger\.db is not a file"):
        open_and_list(tmp_path)


def test_a_commit_waits_for_a_reader(state):
    path = state / "ledger.db"
    with (
        closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as reader,
        Ledger.open(state, now=NOON) as ledger,
    ):
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM deliveries").fetchall()
        leaves = threading.Timer(0.7, reader.rollback)
        leaves.start()
        ledger.ensure([client()], YESTERDAY.following(-20), now=NOON)
        leaves.join()
        assert ledger.latest(client().guid, YESTERDAY.following(-20)) is not None


def test_a_ledger_that_another_file_took_the_place_of_is_written_no_more(state):
    shutil.copy(state / "ledger.db", state / "restored.db")
    with Ledger.open(state, now=NOON) as ledger:
        ledger.ensure([client()], FRIDAY, now=NOON)
        (state / "ledger.db").rename(state / "before.db")
        (state / "restored.db").rename(state / "ledger.db")
        assert ledger.latest(guid(), FRIDAY) is None
        ledger.ensure([client()], THURSDAY, now=NOON)
    assert query(state, "SELECT count(*) FROM deliveries") == [(2,)]
    (state / "before.db").rename(state / "ledger.db")
    assert query(state, "SELECT count(*) FROM deliveries") == [(2,)]


def test_a_ledger_that_was_removed_is_missing_and_nothing_takes_its_place(state):
    with Ledger.open(state, now=NOON) as ledger:
        ledger.ensure([client()], FRIDAY, now=NOON)
        (state / "ledger.db").unlink()
        with pytest.raises(LedgerMissing, match=r"ledger\.db was there and is gone"):
            ledger.ensure([client()], THURSDAY, now=NOON)
    assert not (state / "ledger.db").exists()


def test_a_transaction_that_failed_leaves_nothing_to_the_next(state):
    with Ledger.open(state, now=NOON, busy_timeout=0.05) as ledger:
        with closing(sqlite3.connect(state / "ledger.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(LedgerBusy):
                ledger.ensure([client()], FRIDAY, now=NOON)
        ledger.ensure([client()], THURSDAY, now=NOON)
        assert ledger.latest(guid(), FRIDAY) is None
        assert ledger.latest(guid(), THURSDAY) is not None


def test_a_statement_that_failed_leaves_the_ledger_to_others_while_its_error_is_held(state):
    query(
        state,
        "CREATE TRIGGER broken BEFORE INSERT ON deliveries BEGIN SELECT RAISE(ABORT, 'no'); END",
    )
    with Ledger.open(state, now=NOON, busy_timeout=0.05) as ledger:
        with pytest.raises(Internal, match="refused a statement: no") as caught:
            ledger.ensure([client(2)], FRIDAY, now=NOON)
        query(state, "DROP TRIGGER broken")
        ledger.ensure([client(2)], THURSDAY, now=NOON)
    assert caught.value.__traceback__ is not None


def test_a_clock_behind_the_last_entry_is_not_trusted(state):
    with Ledger.open(state, now=NOON - timedelta(hours=23)):
        pass
    with pytest.raises(ClockInsane), Ledger.open(state, now=NOON - timedelta(hours=25)):
        pass


def test_a_ledger_on_postgresql_is_not_available_yet(tmp_path):
    with pytest.raises(ConfigInvalid, match="not available yet"):
        open_and_list(tmp_path, url="postgresql+psycopg://ledger")


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_a_network_file_system_is_refused(tmp_path, kind):
    device = tmp_path.stat().st_dev
    mountinfo = tmp_path / "mountinfo"
    line = "36 35 {}:{} / /mnt rw,noatime master:1 - {} server:/share rw\n"
    major, minor = device >> 8 & 0xFFF, device & 0xFF
    mountinfo.write_text(line.format(0, 999, "nfs") + line.format(major, minor, kind))
    with pytest.raises(ConfigInvalid, match=re.escape(kind)):
        disk.refuse_network(tmp_path, mountinfo)


def test_a_local_or_unknown_file_system_is_accepted(tmp_path):
    disk.refuse_network(tmp_path)
    disk.refuse_network(tmp_path, tmp_path / "no such file")


def test_a_state_directory_that_is_a_file_is_an_error_of_the_disk(tmp_path):
    (tmp_path / "state").write_text("a file")
    with pytest.raises(SpoolIO):
        open_and_list(tmp_path / "state")


def test_a_time_without_a_zone_is_a_bug_in_the_caller(state):
    with (
        Ledger.open(state, now=NOON) as ledger,
        pytest.raises(Exception, match="points in time"),
    ):
        ledger.ensure([client(2)], YESTERDAY, now=NOON.replace(tzinfo=None))


def test_a_statement_that_the_database_refuses_is_a_bug(state):
    database = Database(state / "ledger.db", busy_timeout=1)
    with pytest.raises(Internal, match="refused a statement"), database.write() as connection:
        connection.exec_driver_sql("INSERT INTO temporaries VALUES (1, 999, 'a', 'b')")
    database.close()


# -- migrations ------------------------------------------------------------------------------------


def schema(path):
    """Give what the database was made of, without the differences in spacing."""
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute(
            "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"
        ).fetchall()
    return {name: re.sub(r"[\s\"]+", "", sql) for name, sql in rows if name != "alembic_version"}


def test_the_migrations_lead_to_the_same_tables(state, tmp_path_factory):
    migrated = tmp_path_factory.mktemp("migrated") / "ledger.db"
    migrated.touch()
    database = Database(migrated, busy_timeout=1)
    database.migrate(0)
    database.close()
    assert schema(migrated) == schema(state / "ledger.db")
    assert open_and_list(migrated.parent) == []


def test_a_ledger_of_the_first_version_is_opened_and_goes_on(tmp_path):
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as old:
        old.executescript(FIRST_VERSION.read_text())
    with Ledger.open(tmp_path, now=NOON, spool_has_bundles=True) as ledger:
        assert [one.state for one in ledger.deliveries()] == ["delivered", "waiting"]
        assert ledger.bundle(key()) == bundle(key())
        assert ledger.servers() == {}
        waiting = key(number=2)
        assert ledger.standing(waiting).half_written == []
        assert {one.state for one in ledger.files(waiting).values()} == {"publishing", "uploading"}
        with ledger.claim(waiting, now=NOON, context="context", deadline=NOON) as lease:
            names = [file.name for file in bundle(waiting).files]
            lease.sealed(bundle(waiting))
            lease.published(dict.fromkeys(names, EVIDENCE))
            lease.delivered(now=NOON)
    assert query(tmp_path, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
    assert (tmp_path / "ledger.db.version-1").exists()


def test_a_migration_keeps_a_private_copy_of_the_old_ledger(state):
    database = Database(state / "ledger.db", busy_timeout=1)
    database.migrate(SCHEMA_VERSION)
    database.close()
    copy = state / f"ledger.db.version-{SCHEMA_VERSION}"
    assert copy.stat().st_mode & 0o777 == 0o600
    shutil.move(copy, state / "ledger.db")
    assert [delivery.key for delivery in open_and_list(state)] == [key()]


def test_alembic_is_not_imported_for_a_ledger_of_this_version(state):
    code = (
        "import sys; from pathlib import Path; from mxdeliver.edge.ledger import Ledger\n"
        "from tests.support.ledgers import NOON\n"
        "with Ledger.open(Path(sys.argv[1]), now=NOON) as ledger: ledger.deliveries()\n"
        "print(sorted(name for name in sys.modules if name.startswith('alembic')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, state], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


# -- disks -----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """Give a disk of 256 KiB with a ledger on it."""
    disk_path = tmp_path / "disk"
    disk_path.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=12", "tmpfs", disk_path], check=True
    )
    try:
        with Ledger.open(disk_path, now=NOON):
            pass
        yield disk_path
    finally:
        subprocess.run(["umount", "--lazy", disk_path], check=True)


def fill(path):
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1024)):
            pass


def use_up_names(folder):
    """Make files until the disk has no room for another name."""
    with suppress(OSError):
        for number in range(100):
            (folder / f"file-{number}").touch()
    assert not (folder / "file-99").exists()


def test_a_full_disk_is_said_to_be_full_and_the_ledger_stays_whole(small_disk):
    with Ledger.open(small_disk, now=NOON) as ledger:
        fill(small_disk / "ballast")
        with pytest.raises(SpoolFull):
            ledger.plan([client(n) for n in range(1, 200)], now=NOON, catch_up_days=7)
        (small_disk / "ballast").unlink()
        assert ledger.deliveries() == []
        ledger.plan([client()], now=NOON, catch_up_days=7)
    assert len(open_and_list(small_disk)) == 1


def test_a_disk_without_room_for_another_file_is_said_to_be_full(small_disk):
    with Ledger.open(small_disk, now=NOON) as ledger:
        ledger.plan([client()], now=NOON, catch_up_days=7)
        use_up_names(small_disk)
        with pytest.raises(SpoolFull):
            ledger.plan([client(2)], now=NOON, catch_up_days=7)
        claim = ledger.claim(key(), now=NOON, context="c", deadline=NOON)
        with pytest.raises(SpoolFull), claim:
            pass


def test_a_disk_that_became_read_only_is_an_error_of_the_disk(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with Ledger.open(small_disk, now=NOON) as ledger:
        assert ledger.deliveries() == []
        with pytest.raises(SpoolIO):
            ledger.plan([client()], now=NOON, catch_up_days=7)
