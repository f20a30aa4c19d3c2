"""A ledger that is made anew: killed at any moment, damaged in any way, and what it still owes."""

import os
import shutil
import signal
import sqlite3
import sys
from contextlib import closing, suppress
from datetime import timedelta

import pytest

from mxdeliver.core.errors import (
    ClockInsane,
    LedgerCorrupt,
    LedgerMissing,
    MxdeliverError,
    UsageError,
)
from mxdeliver.edge.ledger import Ledger, rebuild
from tests.support.evidence import EVIDENCE
from tests.support.ledgers import NOON, TODAY, YESTERDAY, bundle, client, guid, key

WINDOW = 7
CLIENTS = [client(1), client(2, active_since=TODAY.following(-3))]
FILE_EVENTS = {"open", "os.rename", "os.link", "os.remove", "os.truncate", "sqlite3.connect"}


@pytest.fixture
def state(tmp_path):
    """Give a state directory whose ledger has delivered all that it owes; its spool is empty."""
    state_dir = tmp_path / "state"
    with Ledger.open(state_dir, now=NOON) as ledger:
        ledger.plan(CLIENTS, now=NOON, catch_up_days=WINDOW)
        for delivery in ledger.deliveries():
            deliver(ledger, delivery.key)
    return state_dir


def deliver(ledger, delivery, now=NOON):
    with ledger.claim(delivery, now=now, context="c", deadline=now + timedelta(hours=6)) as lease:
        lease.sealed(bundle(delivery))
        lease.published({file.name: EVIDENCE for file in bundle(delivery).files})
        lease.delivered(now=now)


def make_anew(state_dir, *, clients=CLIENTS, bundles=(), now=NOON):
    return rebuild(
        state_dir, bundles=bundles, damaged={}, clients=clients, now=now, catch_up_days=WINDOW
    )


def sent_by_the_next_run(state_dir, *, clients=CLIENTS, now=NOON):
    """Give what a run would send; nothing where it refuses to begin."""
    try:
        with Ledger.open(state_dir, now=now) as ledger:
            ledger.plan(clients, now=now, catch_up_days=WINDOW)
            return [one.key for one in ledger.due(clients, now=now, contexts={})]
    except (LedgerCorrupt, LedgerMissing):
        return []


def damage(state_dir, statement):
    with closing(sqlite3.connect(state_dir / "ledger.db", isolation_level=None)) as database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        assert database.execute(statement).rowcount > 0


def zero_page(state_dir, page=1):
    with (state_dir / "ledger.db").open("r+b") as file:
        file.seek(page * 4096)
        file.write(bytes(4096))


def in_doubt(rebuilt):
    return {
        (one.key.client_guid, one.key.snapshot_date)
        for one in rebuilt.deliveries
        if (one.state, one.error_code) == ("parked", "DELIVERY_IN_DOUBT")
    }


# -- killed ----------------------------------------------------------------------------------------


def killed_before(number, state_dir, action):
    """Do it in a child that ends with SIGKILL before its `number`th step in the state directory."""
    child = os.fork()
    if child == 0:
        seen = []

        def watch(event, arguments):
            if event in FILE_EVENTS and any(str(state_dir) in str(one) for one in arguments):
                seen.append(event)
                if len(seen) == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_a_new_ledger_would_have_everything_sent_again(state):
    for path in state.glob("ledger.*"):
        path.unlink()
    assert len(sent_by_the_next_run(state)) == 4


@pytest.mark.parametrize("loss", ["a zeroed page", "no database", "none", "broken off before"])
def test_killed_at_any_step_of_a_rebuild_the_next_run_sends_nothing_again(state, tmp_path, loss):
    if loss == "a zeroed page":
        zero_page(state)
    elif loss == "no database":
        (state / "ledger.db").write_bytes(b"x" * 9000)
        (state / "ledger.db-journal").write_bytes(b"y" * 900)
    elif loss == "none":
        (state / "ledger.db").unlink()
    else:
        (state / "ledger.key").unlink()
        (state / "ledger.db").rename(state / "ledger.db.rebuilding")
    steps = 0
    while True:
        broken_off = tmp_path / f"broken-off-{steps + 1}"
        shutil.copytree(state, broken_off)
        if not killed_before(steps + 1, broken_off, lambda there=broken_off: make_anew(there)):
            break
        steps += 1
        assert sent_by_the_next_run(broken_off) == []
        finished_then(broken_off)
        shutil.rmtree(broken_off)
    assert steps > 10
    with Ledger.open(broken_off, now=NOON) as ledger:
        assert len(ledger.deliveries()) > 3


def finished_then(state_dir):
    """The rebuild, asked for again, ends as if it had never been broken off."""
    with suppress(UsageError):  # it was through already
        make_anew(state_dir)
    assert not list(state_dir.glob("*rebuilding*"))
    with Ledger.open(state_dir, now=NOON) as ledger:
        assert len(ledger.deliveries()) > 3
    assert sent_by_the_next_run(state_dir) == []


def test_a_rebuild_that_was_broken_off_is_named_and_nothing_is_delivered(state):
    (state / "ledger.db.rebuilding").touch()
    with pytest.raises(LedgerCorrupt, match="a rebuild is under way, or was broken off"):
        Ledger.open(state, now=NOON).__enter__()


def test_a_backup_that_was_put_back_after_a_broken_off_rebuild_stays(state):
    (state / "ledger.db.rebuilding").write_bytes(b"half a ledger")
    before = (state / "ledger.db").read_bytes()
    rebuilt = make_anew(state)
    assert (rebuilt.ledger, rebuilt.key, rebuilt.set_aside) == (False, False, ())
    assert (state / "ledger.db").read_bytes() == before
    with Ledger.open(state, now=NOON) as ledger:
        assert {one.state for one in ledger.deliveries()} == {"delivered"}


def test_a_ledger_that_was_being_set_aside_is_not_taken_for_a_healthy_one(state):
    os.link(state / "ledger.db", state / "ledger.db.damaged-then")
    (state / "ledger.db.rebuilding").touch()
    assert make_anew(state).ledger


# -- damaged values --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE deliveries SET due_at = 'soon'",
        "UPDATE deliveries SET changed_at = '2026-03-10T12:00:00.000000'",
        "UPDATE deliveries SET snapshot_date = '2026-13-01' WHERE id = 1",
        "UPDATE deliveries SET key_fingerprints = '[' WHERE id = 1",
        "UPDATE deliveries SET state = 'lost' WHERE id = 1",
        "UPDATE deliveries SET records = 'many' WHERE id = 1",
        "UPDATE files SET encrypted_file_size = 'large'",
        "UPDATE files SET temporary = x'03'",
        "DELETE FROM files WHERE delivery_id = 1",
        "UPDATE clients SET first_seen = 'ever'",
        "UPDATE clients SET planned_from = 'then'",
        "INSERT INTO attempts SELECT 1, 9, 9, due_at, due_at, 'odd', NULL, NULL FROM deliveries LIMIT 1",
    ],
)
def test_a_value_that_is_none_is_damage_and_the_ledger_is_made_anew(state, statement):
    with closing(sqlite3.connect(state / "ledger.db", isolation_level=None)) as database:
        database.execute("DROP TRIGGER sealed_is_write_once")
    damage(state, statement)
    rebuilt = make_anew(state)
    assert rebuilt.ledger
    with Ledger.open(state, now=NOON) as ledger:
        ledger.deliveries()
    assert sent_by_the_next_run(state) == []


def test_a_damaged_index_of_files_is_damage(state):
    with closing(sqlite3.connect(state / "ledger.db")) as database:
        (root,) = database.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_files_1'"
        ).fetchone()
    content = bytearray((state / "ledger.db").read_bytes())
    page = slice((root - 1) * 4096, root * 4096)
    content[page] = content[page].replace(b"users", b"tags!")
    (state / "ledger.db").write_bytes(content)
    assert make_anew(state).ledger


def test_whatever_a_run_refuses_a_rebuild_mends(state):
    content = (state / "ledger.db").read_bytes()
    found = 0
    for place in range(0, len(content), 613):
        damaged = bytearray(content)
        damaged[place : place + 3] = b"\x00zz"
        (state / "ledger.db").write_bytes(damaged)
        if run_goes_through(state):
            continue
        found += 1
        assert make_anew(state).ledger
        assert run_goes_through(state)
    assert found > 10


def run_goes_through(state_dir):
    try:
        with Ledger.open(state_dir, now=NOON) as ledger:
            ledger.plan(CLIENTS, now=NOON, catch_up_days=WINDOW)
            ledger.due(CLIENTS, now=NOON, contexts={})
            for delivery in ledger.deliveries(latest_only=False):
                ledger.bundle(delivery.key)
                ledger.files(delivery.key)
                ledger.attempts(delivery.key)
    except (MxdeliverError, ValueError, TypeError):
        return False
    return True


# -- the random key --------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, b"short"])
def test_where_only_the_key_is_lost_only_the_key_is_made_anew(state, content):
    path = state / "ledger.key"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    before = (state / "ledger.db").read_bytes()
    rebuilt = make_anew(state)
    assert (rebuilt.ledger, rebuilt.key, rebuilt.deliveries) == (False, True, ())
    assert [one.read_bytes() for one in rebuilt.set_aside] == ([] if content is None else [content])
    assert (state / "ledger.db").read_bytes() == before
    assert len(path.read_bytes()) == 32
    with pytest.raises(UsageError, match="healthy"):
        make_anew(state)


# -- since when days are owed ----------------------------------------------------------------------


def test_days_that_were_not_delivered_are_not_forgotten_by_a_lost_ledger(state):
    later = NOON + timedelta(days=4)
    (state / "ledger.db").unlink()
    rebuilt = make_anew(state, bundles=[bundle(key(TODAY.following(3)))], now=later)
    undelivered = {(guid(), TODAY.following(number)) for number in (-4, -3, -2, -1, 0, 1, 2)}
    assert undelivered - in_doubt(rebuilt) == {(guid(), TODAY.following(-4))}
    errors = {one.key.client_guid: one.error for one in rebuilt.deliveries if one.error}
    assert "whether the client was owed it cannot be told" in errors[guid()]
    assert "whether the client was owed it" not in errors[guid(2)]
    assert sent_by_the_next_run(state, now=later) == [key(TODAY.following(3))]


@pytest.mark.parametrize("page", [None, "deliveries"])
def test_a_damaged_ledger_that_says_since_when_is_believed(state, page):
    later = NOON + timedelta(days=4)
    if page is None:
        damage(state, "UPDATE deliveries SET due_at = 'soon' WHERE client_guid LIKE '%1'")
    else:
        zero_page(state, root_page(state, page) - 1)
    rebuilt = make_anew(state, now=later)
    days = [one.key.snapshot_date for one in rebuilt.deliveries if one.key.client_guid == guid()]
    assert days == [TODAY.following(number) for number in (-1, 0, 1, 2, 3)]
    assert not any(
        "whether the client was owed it" in (one.error or "") for one in rebuilt.deliveries
    )


def test_where_a_damaged_ledger_says_two_things_the_earlier_day_counts(state):
    later = NOON + timedelta(days=4)
    damage(state, "UPDATE clients SET first_seen = '2026-03-13T12:00:00.000000Z'")
    damage(state, "UPDATE deliveries SET due_at = 'soon'")
    rebuilt = make_anew(state, now=later)
    assert (guid(), YESTERDAY) in in_doubt(rebuilt)


def root_page(state_dir, table):
    with closing(sqlite3.connect(state_dir / "ledger.db")) as database:
        (page,) = database.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = ?", [table]
        ).fetchone()
    return page


def test_days_that_had_failed_before_are_not_failed_once_more(state):
    later = NOON + timedelta(days=40)
    damage(state, "UPDATE deliveries SET due_at = 'soon'")
    states = {one.state for one in make_anew(state, now=later).deliveries}
    assert states == {"parked"}


def test_a_day_in_doubt_stays_so_until_a_person_has_decided_however_old_it_is(state):
    (state / "ledger.db").unlink()
    doubtful = in_doubt(make_anew(state))
    later = NOON + timedelta(days=30)
    assert sent_by_the_next_run(state, now=later) != []  # the days since
    with Ledger.open(state, now=later) as ledger:
        ledger.resume(client_guid=guid(), day=None, now=later)
        days = [(one.client_guid, one.snapshot_date) for one in due_keys(ledger, later)]
    assert len(doubtful) == 2 * WINDOW - 4
    assert doubtful.isdisjoint(days)


def due_keys(ledger, now):
    return [one.key for one in ledger.due(CLIENTS, now=now, contexts={})]


def test_a_client_that_left_the_configuration_is_known_to_the_new_ledger(state):
    (state / "ledger.db").unlink()
    make_anew(state, clients=[CLIENTS[1]], bundles=[bundle(key())])
    with Ledger.open(state, now=NOON) as ledger:
        assert ledger.first_seen(guid()) is not None


def test_a_ledger_that_was_written_by_a_clock_far_ahead_is_made_anew(state):
    ahead, now = NOON + timedelta(days=400), NOON + timedelta(days=1)
    with Ledger.open(state, now=ahead) as ledger:
        ledger.plan([*CLIENTS, client(3)], now=ahead, catch_up_days=WINDOW)
    with pytest.raises(ClockInsane):
        Ledger.open(state, now=now).__enter__()
    rebuilt = make_anew(state, clients=[*CLIENTS, client(3)], now=now)
    days = {one.key.snapshot_date for one in rebuilt.deliveries if one.key.client_guid == guid(3)}
    assert days == {TODAY.following(number) for number in range(-WINDOW + 1, 1)}
    assert (guid(), TODAY) in in_doubt(rebuilt)
    assert sent_by_the_next_run(state, clients=[*CLIENTS, client(3)], now=now) == []


def test_a_stray_file_among_the_locks_keeps_no_ledger_from_being_made_anew(state):
    (state / "locks").mkdir(exist_ok=True)
    (state / "locks/stray.lock").touch()
    (state / "ledger.db").unlink()
    assert make_anew(state).ledger


def test_by_a_clock_that_stands_before_what_was_sealed_nothing_is_made(state):
    (state / "ledger.db").unlink()
    with pytest.raises(ClockInsane, match="is sealed already"):
        make_anew(state, bundles=[bundle(key())], now=NOON - timedelta(days=1))
    assert not (state / "ledger.db").exists()
    assert not list(state.glob("*rebuilding*"))
