"""On a terminal a run shows how far each delivery is; without one it is silent."""

from __future__ import annotations

from datetime import date

import pytest

from tests.support.deployment import Deployment
from tests.support.openssh import OpenSSHServer
from tests.support.terminal import run_on_a_terminal
from tests.support.warehouse import make_warehouse

DAY = "2026-11-20"


@pytest.fixture
def deployment(tmp_path):
    with OpenSSHServer(tmp_path) as server:
        deployment = Deployment(tmp_path, server)
        party = deployment.add_client("First Union", resources=["users", "beat"])
        make_warehouse(
            deployment.warehouse, clients=[party.guid], days=[date.fromisoformat(DAY)], rows=3
        )
        yield deployment


def test_a_terminal_shows_each_delivery_to_its_end(deployment):
    status, output, shown = run_on_a_terminal(deployment, "run", "--date", DAY)
    assert (status, output) == (0, b"")
    assert f"First Union, {DAY}" in shown
    assert "13/13" in shown
    assert "delivered" in shown


def test_a_terminal_shows_what_was_parked_and_why(deployment):
    deployment.write_secret("wrong")
    status, _, shown = run_on_a_terminal(deployment, "run", "--date", DAY)
    assert status == 1
    assert "parked" in shown
    assert "AUTH_FAILED" in shown


def test_a_terminal_is_told_that_nothing_was_sent(deployment):
    assert deployment.run("run", "--date", DAY).returncode == 0
    status, output, shown = run_on_a_terminal(deployment, "run", "--date", DAY)
    assert (status, output) == (0, b"")
    assert "nothing was sent: 1 of 1 delivered before" in shown


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_terminal_is_told_that_nothing_is_due(deployment, options):
    assert deployment.run("run").returncode == 0
    status, output, shown = run_on_a_terminal(deployment, "run", *options)
    assert (status, output) == (0, b"")
    assert "nothing is due; `mxdeliver status` shows what waits or is parked" in shown


def test_a_terminal_is_told_that_nothing_of_the_days_named_would_be_sent(deployment):
    assert deployment.run("run", "--date", DAY).returncode == 0
    status, output, shown = run_on_a_terminal(deployment, "run", "--date", DAY, "--dry-run")
    assert (status, output) == (0, b"")
    assert "nothing would be sent; `mxdeliver status`" in shown


def test_without_a_terminal_success_is_silent(deployment):
    done = deployment.run("run", "--date", DAY)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"mxdeliver: created {deployment.folder / 'state'}\n"
