"""A ledger that another process locks: waited for, then tried again, and nothing sent twice or parked.

The other process is a second connection of SQLite, as of a backup or a database browser. reliability.md
F50.
"""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from threading import Event

import pytest

from mxdeliver.cli import wiring
from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.errors import LedgerBusy
from mxdeliver.core.model import Outcome
from mxdeliver.deliver import deliver
from mxdeliver.edge.avro import load_resources
from mxdeliver.edge.ledger import Ledger
from tests.support.openssh import wait_until
from tests.support.outcomes import (
    DAY,
    FILES,
    add_client,
    assert_delivered,
    assert_log_is_valid,
    fill,
    run_day,
    small_deployment,
)
from tests.support.proxy import Proxy


@pytest.fixture
def deployment(tmp_path, server):
    made = small_deployment(tmp_path, server)
    yield made
    assert_log_is_valid(made)


@pytest.fixture
def party(deployment):
    added = add_client(deployment, "First")
    fill(deployment)
    return added


class Holder:
    """Another process's connection, which locks the ledger once, until it is released.

    EXCLUSIVE keeps readers out as well as writers, IMMEDIATE writers alone.
    """

    def __init__(self, deployment, *, mode="EXCLUSIVE"):
        self.path = deployment.folder / "state/ledger.db"
        self.mode = mode
        self.connection = None

    def lock(self):
        if self.connection is None:
            self.connection = sqlite3.connect(self.path, check_same_thread=False)
            self.connection.execute(f"BEGIN {self.mode}")

    def at(self, moment):
        """Give an observer of the log that locks when this event is logged."""
        return lambda event, _: self.lock() if event == moment else None

    def release(self):
        assert self.connection.in_transaction
        self.connection.close()


def attempt(deployment, *, observer=None, **changes):
    """Make an attempt that waits for the ledger no longer than 0.3 s; `changes` are of the site."""
    deployment.write()
    configuration = wiring.load(deployment.config_path)
    client = configuration.clients[0]
    with (
        wiring.open_site(
            configuration,
            resources=load_resources(),
            run_id="test",
            stop=Event(),
            observer=observer,
        ) as site,
        Ledger.open(configuration.state_dir, now=datetime.now(UTC), busy_timeout=0.3) as ledger,
    ):
        key = ledger.ensure([client], SnapshotDate.of(DAY), now=site.clock())[0].key
        return deliver(key, client, replace(site, ledger=ledger, **changes))


def test_a_ledger_that_another_process_locks_for_a_while_is_waited_for(deployment, party):
    assert deployment.run("run").returncode == 0
    with closing(sqlite3.connect(deployment.folder / "state/ledger.db")) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        process = deployment.start("run", "--date", str(DAY))
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(4)
        holder.rollback()
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert len(party.received()) == FILES


def test_sigterm_ends_a_run_of_many_clients_at_a_locked_ledger_within_ten_seconds(
    deployment, server
):
    deployment.document["schedule"] = {"workers": 4}
    with Proxy(server.port) as proxy:
        proxy.hold_after = dict.fromkeys(range(1, 5), 12_000)  # so that none is through before
        parties = [
            add_client(deployment, f"Client {number}", sftp={"port": proxy.port})
            for number in range(1, 13)
        ]
        fill(deployment)
        process = deployment.start("run", "--date", str(DAY))
        wait_until(lambda: proxy.connections == 4, "four connections", 60)
        with closing(sqlite3.connect(deployment.folder / "state/ledger.db", timeout=20)) as holder:
            holder.execute("BEGIN EXCLUSIVE")
            process.send_signal(signal.SIGTERM)
            stopped_at = time.monotonic()
            _, errors = process.communicate(timeout=60)
            assert time.monotonic() - stopped_at < 10
        assert process.returncode == 75, errors
        proxy.hold_after = {}
        assert deployment.run("run", "--date", str(DAY)).returncode == 0
    assert [len(party.received()) for party in parties] == [FILES] * 12


@pytest.mark.parametrize(
    ("moment", "arrived"),
    [("nonce", 0), ("file.delivered", FILES - 1), ("manifest.delivered", FILES)],
)
def test_a_ledger_locked_for_too_long_in_the_middle_is_a_retry_that_sends_nothing_twice(
    deployment, party, moment, arrived
):
    """Locked while temporary names are given out, once the daily files, and once all are there."""
    holder = Holder(deployment)

    def nonce():
        if moment == "nonce":
            holder.lock()
        return token_hex(4)

    with pytest.raises(LedgerBusy, match=r"ledger\.db stayed locked"):
        attempt(deployment, observer=holder.at(moment), nonce=nonce)
    holder.release()
    before = {name: (party.directory / name).stat().st_ino for name in party.received()}
    assert len(before) == arrived
    assert attempt(deployment).outcome is Outcome.DELIVERED
    after = {name: (party.directory / name).stat().st_ino for name in party.received()}
    assert len(after) == FILES
    assert before.items() <= after.items()
    assert party.leftovers() == []


@pytest.mark.parametrize("by", ["run --date", "resume"])
def test_a_seal_that_the_locked_ledger_did_not_take_before_the_deadline_is_sent_when_asked_for(
    deployment, party, by
):
    """Nothing of the day was ever sent: it has failed, and is not in doubt."""
    holder = Holder(deployment, mode="IMMEDIATE")

    def clock():
        late = timedelta(hours=7) if holder.connection is not None else timedelta(0)
        return datetime.now(UTC) + late

    def chance():  # asked once the seal was given up, before the ledger is told how it ended
        holder.release()
        return 0.5

    result = attempt(deployment, observer=holder.at("bundle.sealed"), clock=clock, chance=chance)
    assert (result.outcome, result.error.code) == (Outcome.FAILED, "LEDGER_BUSY")
    (row,) = deployment.run_json("status")[1]["deliveries"]
    assert (row["state"], row["error_code"]) == ("failed", "DEADLINE")
    assert party.received() == {}
    if by == "resume":
        assert deployment.run("resume", "--client", party.guid).returncode == 0
    assert_delivered(run_day(deployment), party)
