"""Stopped and paused: SIGTERM in each phase, once and twice, and processes that sleep past their lease."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.invariants import everyone_watched
from tests.support.nameserver import SILENCE, Nameserver
from tests.support.openssh import wait_until
from tests.support.outcomes import (
    DAY,
    FILES,
    add_client,
    assert_delivered,
    assert_log_is_valid,
    fill,
    next_step,
    run_day,
    run_due,
    small_deployment,
)
from tests.support.poller import Poller
from tests.support.proxy import Proxy, black_hole


@pytest.fixture
def deployment(tmp_path, server):
    made = small_deployment(tmp_path, server)
    with everyone_watched(made):
        yield made
    assert_log_is_valid(made)


def begun(deployment):
    path = deployment.folder / "logs/deliveries.jsonl"
    return path.exists() and "bundle.sealed" in path.read_text()


def stop(process, *, times):
    """Send SIGTERM, and give what the program says at its end within ten seconds."""
    for _ in range(times):
        process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=10)
    assert process.returncode == 75, errors
    (row,) = json.loads(output)["deliveries"]
    assert row["state"] == "waiting"


def start(deployment, **options):
    return deployment.start("run", "--date", str(DAY), "--json", **options)


# -- SIGTERM in each phase ---------------------------------------------------------------------------
# While a query runs, a day is built, files are sent and between two attempts: test_slow_sources and
# test_running.


def test_sigterm_ends_a_run_that_waits_for_a_nameserver(deployment, tmp_path):
    add_client(deployment, "Stopped", sftp={"host": "silent.example.test"})
    fill(deployment)
    with Nameserver({"silent.example.test": SILENCE}) as names:
        process = start(deployment, wrapper=names.wrapper(tmp_path))
        wait_until(lambda: names.asked, "the name to be asked for", 60)
        stop(process, times=1)


def test_sigterm_ends_a_run_that_connects_however_often_it_is_sent(deployment):
    with black_hole() as port:
        party = add_client(deployment, "Stopped", sftp={"port": port})
        fill(deployment)
        process = start(deployment)
        wait_until(lambda: begun(deployment), "a sealed bundle", 60)
        stop(process, times=2)
    assert "will be delivered by the next run" in next_step(deployment, party)


@pytest.mark.parametrize(
    ("after", "times"),
    [(0, 1), (600, 2), (1_250, 1), (1_420, 1)],
    ids=["banner", "key exchange", "password", "start of SFTP"],
)
def test_sigterm_ends_a_run_whose_server_falls_silent(deployment, server, after, times):
    with Proxy(server.port) as proxy:
        party = add_client(deployment, "Stopped", sftp={"port": proxy.port})
        fill(deployment, rows=200)

        def hold(piece, from_client):
            if from_client and proxy.seen > after:
                proxy.hold.set()
            return piece

        proxy.spoil = hold
        if not after:
            proxy.hold.set()
        process = start(deployment)
        wait_until(lambda: proxy.connections and proxy.hold.is_set(), "the server's silence", 60)
        stop(process, times=times)
        assert party.received() == {}
        proxy.spoil = None
        proxy.hold.clear()
        again = run_due(deployment)
    assert again.status == 0
    assert_delivered(again, party)


@contextmanager
def locked_ledger(deployment):
    """Hold the ledger like a backup or a database browser that forgets to let it go."""
    with closing(sqlite3.connect(deployment.folder / "state/ledger.db")) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        yield


def holds_ledger(process):
    for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since
            if descriptor.readlink().name == "ledger.db":
                return True
    return False


def test_sigterm_ends_a_run_that_waits_for_the_ledger_to_be_opened(deployment):
    add_client(deployment, "Stopped")
    fill(deployment)
    assert run_due(deployment).status == 0
    with locked_ledger(deployment):
        process = start(deployment)
        wait_until(lambda: holds_ledger(process), "the ledger to be tried", 60)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=10)
    assert process.returncode == 75, errors
    assert json.loads(output)["error"]["code"] == "STOPPED"
    assert "ledger.db was locked by another process" in errors
    assert run_day(deployment).status == 0


def test_sigterm_ends_a_run_whose_ledger_is_locked_in_the_middle_of_a_delivery(deployment, server):
    with Proxy(server.port) as proxy:
        party = add_client(deployment, "Stopped", sftp={"port": proxy.port})
        fill(deployment, rows=200)
        proxy.hold_after = {1: 12_000}
        process = start(deployment)
        wait_until(lambda: proxy.seen > 12_000, "the upload to be under way", 60)
        with locked_ledger(deployment):
            proxy.hold_after = {}
            wait_until(lambda: len(party.leftovers()) == FILES, "all that needs no ledger", 60)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=10)
        assert process.returncode == 75, errors
        assert party.received() == {}
        again = run_due(deployment)
    assert again.status == 0
    assert_delivered(again, party)


# -- a process that sleeps -------------------------------------------------------------------------


def test_a_process_that_was_paused_past_its_lease_changes_nothing(deployment, server):
    with Proxy(server.port) as proxy:
        party = add_client(deployment, "Paused", sftp={"port": proxy.port})
        fill(deployment, rows=200)

        def hold(piece, from_client):
            if from_client and proxy.seen > 12_000:
                proxy.hold.set()
            return piece

        proxy.spoil = hold
        paused = start(deployment)
        wait_until(proxy.hold.is_set, "the upload to be under way", 60)
        paused.send_signal(signal.SIGSTOP)
        proxy.spoil = None
        proxy.hold.clear()
        # The kernel keeps a sleeping process's lock: nobody takes its delivery over.
        second = run_day(deployment)
        assert (second.status, second.row(party)["state"]) == (75, "running")
        assert "another run is at this delivery" in second.line(party)
        due = run_due(deployment)
        assert (due.status, due.row(party)["state"]) == (75, "running")
        assert party.received() == {}
        # Only somebody who removes the lock gives it away.
        shutil.rmtree(deployment.folder / "state/locks")
        with Poller(party.directory) as watcher:
            third = run_day(deployment)
            assert_delivered(third, party)
            published = {path.name: path.stat() for path in party.directory.iterdir()}
            paused.send_signal(signal.SIGCONT)
            _, errors = paused.communicate(timeout=60)
        assert paused.returncode == 0, "what it chose is delivered, by whomever"
        assert "Paused" not in errors
    assert len(watcher.order) == len(set(watcher.order)) == 7
    now = {path.name: path.stat() for path in party.directory.iterdir()}
    assert {name: one.st_ino for name, one in now.items()} == {
        name: one.st_ino for name, one in published.items()
    }
    events = [line["event"] for line in deployment.log_lines()]
    assert events.count("manifest.delivered") == events.count("delivery.delivered") == 1


# -- one that is stuck -----------------------------------------------------------------------------


def test_a_client_that_is_stuck_holds_up_no_other_at_the_same_server(deployment, server):
    deployment.document["schedule"] = {"workers": 2}
    with Proxy(server.port) as proxy:
        parties = [
            add_client(deployment, f"Client {letter}", sftp={"port": proxy.port})
            for letter in "abcd"
        ]
        fill(deployment, rows=200)
        proxy.hold_after = {1: 12_000}
        process = start(deployment)
        delivered = [*wait_for_deliveries(deployment, 3)]
        (stuck,) = (party for party in parties if party.guid not in delivered)
        assert stuck.received() == {}
        proxy.hold_after = {}
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert {row["state"] for row in json.loads(output)["deliveries"]} == {"delivered"}
    assert all(len(party.received()) == 7 for party in parties)


def wait_for_deliveries(deployment, count):
    def found():
        path = deployment.folder / "logs/deliveries.jsonl"
        lines = deployment.log_lines() if path.exists() else []
        return [one["client_guid"] for one in lines if one["event"] == "delivery.delivered"]

    wait_until(lambda: len(found()) == count, f"{count} deliveries", 60)
    return found()
