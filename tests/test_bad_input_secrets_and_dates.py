"""Secrets that are missing or open to others; days that are no days, or have not ended."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.support.openssh import OpenSSHServer, wait_until
from tests.support.outcomes import (
    DAY,
    add_client,
    assert_delivered,
    assert_nothing_arrived,
    fill,
    next_step,
    run_day,
    small_deployment,
)
from tests.support.proxy import Proxy

OPEN_SECRET = "goat-open-to-all-5"


class Bench:
    """One run of a healthy client and one for each secret that cannot be used."""

    def __init__(self, folder, server):
        self.deployment = small_deployment(folder, server)
        self.healthy = add_client(self.deployment, "healthy")
        self.missing = self._client("missing", {"file": "secrets/gone"})
        self.unset = self._client("unset", {"env": "MXDELIVER_TEST_NOT_SET"})
        self.unloaded = self._client("unloaded", {"credential": "first-password"})
        self.open = self._client("open", {"file": "open"})
        (folder / "open").write_text(OPEN_SECRET)
        (folder / "open").chmod(0o644)
        fill(self.deployment)
        self.outcome = run_day(self.deployment)

    def _client(self, name, reference):
        party = add_client(self.deployment, name)
        party.entry["sftp"]["password"] = reference
        return party


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secrets")
    with OpenSSHServer(folder) as server:
        yield Bench(folder, server)


@pytest.mark.parametrize(
    ("name", "code", "named", "remedy"),
    [
        ("missing", "SECRET_MISSING", "secrets/gone", "write the file"),
        ("unset", "SECRET_MISSING", "MXDELIVER_TEST_NOT_SET", "Set the environment variable"),
        ("unloaded", "SECRET_MISSING", "first-password", "load the credential"),
        ("open", "SECRET_MODE", "/open", "Run `chmod 600` on the file"),
    ],
)
def test_a_secret_that_cannot_be_used_parks_its_client_before_any_connection(
    bench, name, code, named, remedy
):
    party = getattr(bench, name)
    row = bench.outcome.row(party)
    assert (row["state"], row["error_code"], row["attempts"]) == ("parked", code, 1)
    line = bench.outcome.line(party)
    assert f"{name}, {DAY}: parked, {code}: " in line
    assert named in line
    assert remedy in line
    assert_nothing_arrived(party)
    opened = [one for one in bench.deployment.log_lines() if one["event"] == "connection.opened"]
    assert {one["client_guid"] for one in opened} == {bench.healthy.guid}


def test_the_other_client_is_delivered(bench):
    assert bench.outcome.status == 1
    assert_delivered(bench.outcome, bench.healthy)


def test_a_secret_open_to_others_is_shown_nowhere(bench):
    log = (bench.deployment.folder / "logs/deliveries.jsonl").read_text()
    ledger = (bench.deployment.folder / "state/ledger.db").read_bytes()
    assert OPEN_SECRET not in bench.outcome.stderr + str(bench.outcome.document) + log
    assert OPEN_SECRET.encode() not in ledger


def test_closed_to_others_the_secret_opens_the_delivery_by_itself(bench):
    assert "nothing will be tried until the secret changes or" in next_step(
        bench.deployment, bench.open
    )
    path = bench.deployment.folder / "open"
    path.write_text(bench.deployment.server.password)
    path.chmod(0o600)
    again = run_day(bench.deployment, "--client", "open")
    assert again.status == 0
    assert_delivered(again, bench.open)


def test_a_secret_replaced_during_a_run_counts_from_the_next_attempt_on(tmp_path):
    """reliability.md F104: what an attempt began with is what it logs in with."""
    with OpenSSHServer(tmp_path) as server, Proxy(server.port) as proxy:
        deployment = small_deployment(tmp_path, server)
        party = add_client(deployment, "rotating", sftp={"port": proxy.port})
        fill(deployment)
        proxy.hold.set()
        with deployment.start("run", "--date", str(DAY)) as process:
            wait_until(lambda: proxy.connections, "a connection", seconds=60)
            deployment.write_secret("the next password")
            proxy.hold.clear()
            _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, f"mxdeliver: created {tmp_path / 'state'}\n")
        before = DAY - timedelta(days=1)
        outcome = run_day(deployment, "--date", str(before))
        assert outcome.row(party)["error_code"] == "AUTH_FAILED"
        assert len(server.login_attempts()) <= 4  # "none" and the password, twice


# -- days ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("days")
    with OpenSSHServer(folder) as server:
        deployment = small_deployment(folder, server)
        party = add_client(deployment, "First")
        fill(deployment)
        yield deployment, party


def in_days(count):
    # a day more than enough: the test may run over midnight
    return str((datetime.now(UTC) + timedelta(days=count)).date())


@pytest.mark.parametrize("day", [in_days(0), in_days(2), "2999-12-31"])
def test_a_day_that_has_not_ended_is_wrong_usage_and_nothing_is_created(dated, day):
    deployment, party = dated
    status, document = deployment.run_json("run", "--date", day)
    assert status == 2
    assert document["error"]["code"] == "DAY_NOT_CLOSED"
    assert day in document["error"]["message"]
    assert "Ask for a day that has ended" in document["error"]["message"]
    done = deployment.run("run", "--date", day)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("mxdeliver: DAY_NOT_CLOSED: ")
    assert not (deployment.folder / "state").exists()
    assert not (deployment.folder / "logs").exists()
    assert_nothing_arrived(party)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--date", "yesterday"),
        ("--date", "2026-02-30"),
        ("--date", "20260101"),
        ("--date", "2026-1-1"),
        ("--date", "01/02/2026"),
        ("--date", "2026-01-01T00:00:00Z"),
        ("--date", "0001-01-01"),
        ("--date", ""),
        ("--from", "2026-01-01"),
        ("--to", "2026-01-01"),
        ("--from", "2026-01-02", "--to", "2026-01-01"),
        ("--date", "2026-01-01", "--from", "2026-01-01", "--to", "2026-01-02"),
        ("--client", "Nobody"),
        ("--dry-run", "--date", "2026-13-01"),
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2_says_what_is_wrong_and_creates_nothing(dated, arguments):
    deployment, party = dated
    done = deployment.run("run", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert any(word in done.stderr for word in arguments)
    assert "Error: " in done.stderr
    assert not (deployment.folder / "state").exists()
    assert_nothing_arrived(party)
