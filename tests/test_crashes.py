"""Killed with SIGKILL at any moment and run again, a day ends as if nothing had happened."""

from __future__ import annotations

import random
import signal
import subprocess
from contextlib import suppress
from datetime import date
from importlib.util import cache_from_source

import paramiko
import pytest

from tests.support.deployment import Deployment, kill
from tests.support.invariants import watched
from tests.support.openssh import wait_until
from tests.support.proxy import Proxy
from tests.support.warehouse import make_warehouse

DAY = "2026-11-20"
RESOURCES = ["users", "members", "accounts", "transactions", "beat"]
LINES_OF_A_RUN = 2 + 15 + 2 + 15 + 1


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, server):
    """What the client decrypts after a run that nothing happened to."""
    deployment = Deployment(tmp_path_factory.mktemp("undisturbed"), server)
    party = a_day(deployment)
    done = deployment.run("run", "--date", DAY)
    assert done.returncode == 0, done.stderr
    return party.decrypted()


def a_day(deployment, **server):
    party = deployment.add_client(resources=RESOURCES, sftp=server)
    make_warehouse(
        deployment.warehouse, clients=[party.guid], days=[date.fromisoformat(DAY)], rows=300
    )
    return party


def lines_written(deployment):
    path = deployment.folder / "logs/deliveries.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


@pytest.mark.parametrize("moment", range(5))
def test_killed_at_a_random_moment_and_run_again_the_day_is_whole_once(
    tmp_path, server, undisturbed, moment
):
    chance = random.Random(moment)
    deployment = Deployment(tmp_path, server)
    with Proxy(server.port, one_way=0.02) as proxy:
        party = a_day(deployment, port=proxy.port)
        with watched(deployment, party, plain=undisturbed) as watch:
            process = deployment.start("run", "--date", DAY)
            after = chance.randrange(1, LINES_OF_A_RUN)
            wait_until(
                lambda: lines_written(deployment) >= after or process.poll() is not None,
                f"line {after} of the log",
            )
            with suppress(subprocess.TimeoutExpired):
                process.wait(chance.random() * 0.3)
            kill(process)
            watch.look_at_rest()
            again = watch.ran(deployment.run("run", "--date", DAY))
            assert again.returncode == 0, again.stderr
    assert len(party.received()) == 16


def test_a_day_that_was_named_to_a_run_killed_while_it_started_is_the_next_runs(tmp_path, server):
    """However old: nothing but the ledger's row would tell of it. Killed as it loads its libraries."""
    deployment = Deployment(tmp_path, server)
    deployment.document["defaults"] = {"active_since": "2999-01-01"}
    party = a_day(deployment)
    deployment.write()
    source = paramiko.__file__
    killed = subprocess.run(
        ["strace", "-o", tmp_path / "strace.log", "-P", source, "-P", cache_from_source(source),
         "-e", "trace=openat", "-e", "inject=openat:signal=KILL",
         *deployment.command("run", "--date", DAY, "--client", party.guid)],
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert killed.returncode in {-signal.SIGKILL, 128 + signal.SIGKILL}, killed.stderr
    assert not (deployment.folder / "logs").exists()
    status, document = deployment.run_json("status")
    assert [(row["snapshot_date"], row["state"]) for row in document["deliveries"]] == [
        (DAY, "waiting")
    ]
    assert status == 0
    again = deployment.run("run")
    assert again.returncode == 0, again.stderr
    assert len(party.received()) == 16
