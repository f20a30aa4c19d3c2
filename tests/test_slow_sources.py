"""Sources that do not answer: the program stops all the same, and does not wait for ever."""

from __future__ import annotations

import ctypes
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mxdeliver import binding
from mxdeliver.build import Threads, build
from mxdeliver.cli import wiring
from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.errors import SourceIncomplete, StopRequested
from mxdeliver.core.model import DeliveryKey
from mxdeliver.edge.avro import load_resources
from mxdeliver.edge.sources import open_source
from mxdeliver.edge.spool import Spool
from tests.support.openssh import OpenSSHServer, wait_until
from tests.support.outcomes import DAY, add_client, assert_nothing_arrived, fill, small_deployment

ENDLESS = (
    "select u.* from users u where u.client_guid = $client_guid and u.created_at < "
    "(select sum(sqrt(a.range) * sqrt(b.range)) from range(10000000) a, range(10000000) b)"
)


@pytest.fixture
def deployment(tmp_path):
    with OpenSSHServer(tmp_path) as server:
        made = small_deployment(tmp_path, server)
        made.party = add_client(made, "Slow", resources=["users"])
        made.document["sources"]["warehouse"]["queries"] = {"users": {"created": ENDLESS}}
        fill(made)
        yield made


def build_the_day(deployment, **limits):
    deployment.write()
    configuration = wiring.load(deployment.config_path)
    (client,) = configuration.clients
    spool = Spool(configuration.state_dir)
    spool.check()
    known = load_resources()
    with Threads() as threads:
        return build(
            DeliveryKey(client_guid=client.guid, snapshot_date=SnapshotDate.of(DAY)),
            client,
            resources=binding.resources_of(client, known),
            source=open_source(configuration.sources["warehouse"]),
            certificate=binding.certificate(client, datetime.now(UTC)),
            spool=spool,
            threads=threads,
            log=lambda *_, **__: None,
            **limits,
        )


def assert_nothing_is_sealed(deployment):
    assert not list((deployment.folder / "state/spool").rglob("*.pgp"))


def to_the_process(process):
    process.send_signal(signal.SIGTERM)


def to_its_newest_thread(process):
    """Do what the kernel may do with a signal to the process, seldom enough to be overlooked."""
    newest = max(int(task.name) for task in Path(f"/proc/{process.pid}/task").iterdir())
    assert newest != process.pid
    assert ctypes.CDLL(None).tgkill(process.pid, newest, signal.SIGTERM) == 0


@pytest.mark.parametrize("end", [to_the_process, to_its_newest_thread])
def test_sigterm_ends_a_run_whose_source_is_at_a_query_within_ten_seconds(deployment, end):
    process = deployment.start("run", "--date", str(DAY))
    spool = deployment.folder / "state/spool"
    wait_until(lambda: list(spool.rglob("*.pgp")), "the day to be under way")
    end(process)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 75, errors
    assert "waiting" in errors
    assert_nothing_is_sealed(deployment)
    assert_nothing_arrived(deployment.party)


def test_a_source_that_gives_nothing_for_too_long_is_incomplete(deployment):
    with pytest.raises(SourceIncomplete, match="users CREATED gave nothing for"):
        build_the_day(deployment, stop=lambda: False, read_limit=timedelta(seconds=0.1))
    assert_nothing_is_sealed(deployment)


def test_a_query_that_runs_is_interrupted_when_the_program_is_stopped(deployment):
    asked = []

    def stop():
        asked.append(True)
        return len(asked) > 2

    with pytest.raises(StopRequested):
        build_the_day(deployment, stop=stop)
    assert_nothing_is_sealed(deployment)
