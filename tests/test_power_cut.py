"""The power fails in the middle of a delivery: what was said to be durable is, and nothing is sent twice.

The state directory lies on an ext4 image that is shut down without writing its log, at a moment of the
run; the process is gone with it. The client's server lies elsewhere and stays. reliability.md X9, I18,
I9, I8, F41 and F58. `make power-cuts` cuts before and after every fsync(2) and every commit.
"""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from hashlib import sha256

import pytest

from mxdeliver.core.model import DeliveryState
from mxdeliver.edge.ledger import FileStage, Ledger
from mxdeliver.edge.spool import Spool
from tests.support.outcomes import (
    DAY,
    add_client,
    assert_delivered,
    assert_log_is_valid,
    fill,
    run_day,
    small_deployment,
)
from tests.support.power import Disk, cut
from tests.support.preloaded import Preloaded, Stop

STAGING = "mxdeliver.edge.spool.staging:Staging"
LEASE = "mxdeliver.edge.ledger:Lease"
SESSION = "mxdeliver.edge.sftp:Session"
COMMIT = "sqlalchemy.engine.base:Connection._commit_impl"
FSYNC = "os:fsync"

MOMENTS = [
    Stop(f"{STAGING}._write_bundle_file", after=True),
    Stop(f"{STAGING}._rename"),
    Stop("os:rename", after=True),  # sealed, and the spool's folder not yet durable
    Stop(f"{STAGING}.seal", after=True),
    Stop(f"{LEASE}.sealed", after=True),
    Stop(f"{LEASE}.uploading", after=True),
    Stop(f"{SESSION}.upload", after=True),
    Stop(f"{SESSION}.rename", after=True),
    Stop(f"{LEASE}.published", after=True),
    Stop(f"{SESSION}.rename", after=True, call=2),
    Stop(f"{LEASE}.published", after=True, call=2),
    Stop(f"{LEASE}.delivered", after=True),
]
ALL_FSYNCS, ALL_COMMITS = 18, 14
if os.environ.get("MXDELIVER_POWER_CUTS") == "all":
    MOMENTS += [
        Stop(function, after=after, call=call)
        for function, calls in ((FSYNC, ALL_FSYNCS), (COMMIT, ALL_COMMITS))
        for call in range(1, calls + 1)
        for after in (False, True)
    ]
DURABLE = {
    # What the ledger must still say when its own call had returned.
    f"{LEASE}.sealed": (DeliveryState.RUNNING, {FileStage.SEALED}),
    f"{LEASE}.uploading": (DeliveryState.RUNNING, {FileStage.UPLOADING}),
    f"{LEASE}.published": (DeliveryState.RUNNING, {FileStage.PUBLISHED}),
    f"{LEASE}.delivered": (DeliveryState.DELIVERED, {FileStage.PUBLISHED}),
}


@pytest.fixture(scope="module")
def program():
    with Preloaded() as loaded:
        yield loaded


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory, server):
    made = small_deployment(tmp_path_factory.mktemp("warehouse"), server)
    add_client(made, "First")
    fill(made)
    return made.warehouse


@pytest.fixture
def disk(tmp_path):
    with Disk(tmp_path) as mounted:
        yield mounted


@pytest.fixture
def deployment(tmp_path, server, program, warehouse, disk):
    made = small_deployment(tmp_path, server)
    made.program = program
    made.document["state_dir"] = str(disk.path / "state")
    shutil.copy(warehouse, made.warehouse)
    yield made
    assert_log_is_valid(made)


def names(stop):
    return f"{stop.function.partition(':')[2]}-{stop.call}-{'after' if stop.after else 'before'}"


def test_only_what_was_synced_survives_a_cut(disk):
    for name, synced in (("synced", True), ("not", False)):
        with (disk.path / name).open("wb") as file:
            file.write(b"x" * 5000)
            file.flush()
            if synced:
                os.fsync(file.fileno())
    cut(disk.path)
    disk.again()
    assert (disk.path / "synced").read_bytes() == b"x" * 5000
    assert not (disk.path / "not").exists() or (disk.path / "not").read_bytes() == b""


@pytest.mark.parametrize("moment", MOMENTS, ids=names)
def test_cut_at_any_moment_nothing_sealed_is_lost_and_the_next_run_ends_the_day_once(
    deployment, disk, moment
):
    party = add_client(deployment, "First")
    deployment.write()
    command = deployment.command("run", "--date", str(DAY))
    at = Stop(moment.function, after=moment.after, call=moment.call, mount=str(disk.path))
    ended = deployment.program.run(command, stop=at)
    beyond_the_end = moment.function in {FSYNC, COMMIT} and ended.returncode == 0
    assert ended.returncode == -9 or beyond_the_end, ended.stderr
    disk.again()
    stages = assert_what_is_written_is_true(disk.path / "state", party)
    if moment.after and moment.function in DURABLE:
        state, expected = DURABLE[moment.function]
        assert stages is not None
        assert stages[0] is state
        assert expected <= set(stages[1])
    before = {path.name: path.stat() for path in party.directory.iterdir()}
    again = run_day(deployment)
    assert again.status == 0, again.stderr
    assert_delivered(again, party)
    after = {path.name: path.stat() for path in party.directory.iterdir()}
    for name in set(party.received()) & set(before):
        assert (after[name].st_ino, after[name].st_mtime_ns) == (
            before[name].st_ino,
            before[name].st_mtime_ns,
        )
    assert_what_is_written_is_true(disk.path / "state", party)
    assert [path.name for path in (disk.path / "state/spool").iterdir()] == [
        f"{party.guid}.{DAY}.r1"
    ]


def assert_what_is_written_is_true(state_dir, party):
    """Hold I18 and I8: what the ledger calls sealed is whole, what it calls published lies there.

    Gives the delivery's state and the stages of its files; None where the ledger has none yet.
    """
    spool = Spool(state_dir)
    if not (state_dir / "ledger.db").exists():
        assert not spool.has_bundles()
        assert party.received() == {}
        return None
    received = {name: sha256(content).hexdigest() for name, content in party.received().items()}
    for bundle in spool.bundles():
        for artifact in bundle.files:
            spool.verify(bundle.key, artifact)
    with Ledger.open(state_dir, now=datetime.now(UTC)) as ledger:
        found = ledger.deliveries()
        if not found:
            return None
        (delivery,) = found
        bundle = ledger.bundle(delivery.key)
        files = ledger.files(delivery.key)
        assert delivery.sealed is (bundle is not None)
        for artifact in bundle.files if bundle is not None else ():
            spool.verify(delivery.key, artifact)
            if files[artifact.name].state is FileStage.PUBLISHED:
                assert received[artifact.name] == artifact.encrypted_checksum
        if delivery.state is DeliveryState.DELIVERED:
            assert {file.state for file in files.values()} == {FileStage.PUBLISHED}
        return delivery.state, [file.state for file in files.values()]


def test_cut_behind_a_delivery_its_line_is_in_the_log(deployment, disk):
    add_client(deployment, "First")
    (disk.path / "logs").mkdir()
    (deployment.folder / "logs").symlink_to(disk.path / "logs")
    deployment.write()
    at = Stop(f"{LEASE}.delivered", after=True, mount=str(disk.path))
    assert deployment.program.run(deployment.command("run", "--date", str(DAY)), stop=at)
    disk.again()
    assert "delivery.delivered" in [line["event"] for line in deployment.log_lines()]
    assert run_day(deployment).document["deliveries"][0]["attempts"] == 0


REBUILDING = [
    Stop("mxdeliver.edge.ledger.rebuilding:_make", after=True),
    Stop("os:link", after=True),
    Stop("pathlib:Path.rename", after=True, call=4),  # behind those of three journals
]


@pytest.mark.parametrize("moment", REBUILDING, ids=names)
def test_cut_while_a_ledger_is_rebuilt_there_is_a_whole_one_or_none(deployment, disk, moment):
    party = add_client(deployment, "First")
    assert_delivered(run_day(deployment), party)
    before = {path.name: path.stat().st_mtime_ns for path in party.directory.iterdir()}
    (disk.path / "state/ledger.db").write_bytes(b"damaged" * 1000)
    at = Stop(moment.function, after=True, call=moment.call, mount=str(disk.path))
    ended = deployment.program.run(deployment.command("ledger", "rebuild"), stop=at)
    assert ended.returncode == -9
    disk.again()
    refused = deployment.run("run")
    assert refused.returncode == 1
    assert "LEDGER_" in refused.stderr
    assert deployment.run("ledger", "rebuild").returncode == 0
    assert_delivered(run_day(deployment), party)
    assert {path.name: path.stat().st_mtime_ns for path in party.directory.iterdir()} == before
