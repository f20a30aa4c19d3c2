"""A disk that is full, read-only or failing, a spool that somebody altered, a ledger of an earlier version.

The real program on real disks and under strace(1): what it says, that nothing damaged and nothing half
is sent, and that the day is there once when the disk is well again. reliability.md F33, F39-F50, F125,
F127, F128; beside what `tests/edge` shows of spool, ledger and log alone.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command as alembic
from alembic.config import Config
from sqlalchemy import create_engine

from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.model import DeliveryState
from mxdeliver.edge.ledger import Ledger, migrations
from tests.support.invariants import watched
from tests.support.outcomes import (
    DAY,
    FILES,
    add_client,
    assert_delivered,
    assert_log_is_valid,
    assert_nothing_arrived,
    clock,
    fill,
    next_step,
    run_day,
    small_deployment,
)
from tests.support.preloaded import Preloaded, Stop


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
def deployment(tmp_path, server, program, warehouse):
    made = small_deployment(tmp_path, server)
    made.program = program
    shutil.copy(warehouse, made.warehouse)
    yield made
    if (tmp_path / "logs/deliveries.jsonl").exists():
        assert_log_is_valid(made)


@pytest.fixture
def party(deployment):
    return add_client(deployment, "First")


@contextmanager
def mounted(path, options):
    path.mkdir(mode=0o700, exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"mode=0700,{options}", "tmpfs", path], check=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def sealed(deployment, party):
    """Let the day be sealed while the client's server is down; give the bundle's folder."""
    port, party.entry["sftp"]["port"] = party.entry["sftp"]["port"], 1
    assert run_day(deployment).row(party)["error_code"] == "CONNECT_REFUSED"
    party.entry["sftp"]["port"] = port
    (folder,) = (deployment.folder / "state/spool").iterdir()
    return folder


def hidden(deployment):
    return [path.name for path in (deployment.folder / "state/spool").glob(".*")]


# -- full, read-only, failing ----------------------------------------------------------------------


def test_a_state_directory_that_is_read_only_is_waited_for(deployment, party):
    state = deployment.folder / "state"
    with mounted(state, "size=16m"):
        assert deployment.run("run").returncode == 0
        subprocess.run(["mount", "-o", "remount,ro", state], check=True)
        status, document = deployment.run_json("run", "--date", str(DAY))
        assert (status, document["error"]["code"]) == (75, "SPOOL_IO")
        assert "Look at the disk under `state_dir`" in document["error"]["message"]
        assert_nothing_arrived(party)
        subprocess.run(["mount", "-o", "remount,rw", state], check=True)
        assert_delivered(run_day(deployment), party)


def test_a_disk_without_names_left_is_waited_for(deployment, party):
    state = deployment.folder / "state"
    with mounted(state, "size=16m,nr_inodes=12"):
        row = run_day(deployment).row(party)
        assert (row["state"], row["error_code"]) == ("waiting", "SPOOL_FULL")
        assert_nothing_arrived(party)
        assert list((state / "spool").iterdir()) == []
        subprocess.run(["mount", "-o", "remount,nr_inodes=200", state], check=True)
        assert_delivered(run_day(deployment), party)


def traced(deployment, *injections):
    """Run the day under strace(1) with faults; give how it ended."""
    options = [part for one in injections for part in ("-e", f"inject={one}")]
    names = ",".join(sorted({name for one in injections for name in one.split(":")[0].split(",")}))
    deployment.write()
    return subprocess.run(
        ["strace", "-f", "--seccomp-bpf", "-o", deployment.folder / "strace.log",
         "-e", f"trace={names}", *options, *deployment.command("run", "--date", str(DAY))],
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip


# strace counts by thread: the delivery's own has eight commits of five fdatasync(2) each, the main
# thread four before it. From the number given on every call fails, as on a disk that has died.
FAULTS = {
    "no space for the rename that seals": ("renameat:error=ENOSPC", "SPOOL_FULL", 0),
    "an error at the rename that seals": ("renameat:error=EIO", "SPOOL_IO", 0),
    "an error at a file's fsync": ("fsync:error=EIO:when=1", "SPOOL_IO", 0),
    "a dead disk once it is sealed": ("fdatasync:error=EIO:when=19+", "SPOOL_IO", 0),
    "a dead disk once the files are there": ("fdatasync:error=EIO:when=31+", "SPOOL_IO", FILES - 1),
    "a used up quota at a file's fsync": ("fsync:error=EDQUOT:when=1", "SPOOL_FULL", 0),
    "a used up quota under the ledger": ("pwrite64:error=EDQUOT:when=60+", "SPOOL_IO", None),
    "a full disk under the ledger": ("pwrite64:error=ENOSPC:when=60+", "SPOOL_FULL", None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_disk_that_fails_in_the_middle_loses_nothing_and_sends_nothing_twice(
    deployment, party, fault
):
    assert deployment.run("run").returncode == 0
    injection, code, arrived = FAULTS[fault]
    with watched(deployment, party) as watch:
        done = watch.ran(traced(deployment, injection))
        assert done.returncode == 75, done.stderr
        assert f"{code}: " in done.stderr
        if arrived is not None:
            assert len(party.received()) in {arrived, arrived and FILES}
        again = watch.ran(deployment.run("run", "--date", str(DAY)))
        assert again.returncode == 0, again.stderr
    assert len(party.received()) == FILES
    assert hidden(deployment) == []


def test_what_a_killed_build_left_in_the_spool_is_gone_after_the_next_run(deployment, party):
    deployment.write()
    at = Stop("mxdeliver.edge.spool.staging:SpoolFile.write", call=4)
    with watched(deployment, party) as watch:
        command = deployment.command("run", "--date", str(DAY))
        ended = watch.ran(deployment.program.run(command, stop=at))
        assert ended.returncode == -9
        assert len(hidden(deployment)) == 1
        assert_nothing_arrived(party)
        assert watch.ran(deployment.run("run", "--date", str(DAY))).returncode == 0
    assert hidden(deployment) == []


# -- who may read, and what is there ---------------------------------------------------------------


def open_to_others(path):
    path.chmod(0o755)


def somebody_elses(path):
    os.chown(path, 65534, 65534)


def a_link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize("which", ["state", "state/spool"])
@pytest.mark.parametrize(
    ("spoil", "advice"),
    [
        (open_to_others, "`chmod 0700 {path}`"),
        (somebody_elses, "`runuser -u nobody -- mxdeliver …`"),
        (a_link, "put the directory itself there"),
    ],
)
def test_a_spool_that_is_not_ours_alone_stops_the_program_and_says_what_to_do(
    deployment, party, which, spoil, advice
):
    sealed(deployment, party)
    path = deployment.folder / which
    spoil(path)
    done = deployment.run("run", "--date", str(DAY))
    assert done.returncode == 1
    assert done.stderr.startswith(f"mxdeliver: SPOOL_MODE: {path} ")
    assert advice.format(path=path) in done.stderr
    assert_nothing_arrived(party)


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncated(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [flipped, truncated, Path.unlink])
def test_a_sealed_file_that_was_altered_is_never_sent(deployment, party, damage):
    folder = sealed(deployment, party)
    damage(next(folder.glob("*.users.created.*")))
    outcome = run_day(deployment)
    row = outcome.row(party)
    assert (outcome.status, row["state"], row["error_code"]) == (1, "failed", "SPOOL_CORRUPT")
    assert_nothing_arrived(party)
    step = next_step(deployment, party)
    assert "failed SPOOL_CORRUPT since" in step
    chosen = f"--client First --date {DAY}"
    assert f"until `mxdeliver resend --rebuild {chosen}` (they have nothing of it) or" in step
    assert f"`mxdeliver adopt {chosen}` (they have it whole)" in step
    assert "mxdeliver resume" not in step
    assert "`mxdeliver resend --rebuild`" in row["error"]
    again = run_day(
        deployment, "--client", "First", "--date", str(DAY), "--rebuild", command="resend"
    )
    assert again.row(party)["revision"] == 2
    assert_delivered(again, party)


# -- retention and the clock -----------------------------------------------------------------------


def test_a_clock_that_jumps_ahead_drops_no_sealed_day_that_is_still_owed(deployment, party):
    folder = sealed(deployment, party)
    pruned = deployment.run("prune", environment=clock("+400d"))
    assert pruned.stdout == "0 bundles dropped\n"
    assert len(list(folder.glob("*.pgp"))) == FILES
    assert_delivered(run_day(deployment), party)
    assert deployment.run("prune", environment=clock("+6d")).stdout == "0 bundles dropped\n"
    assert deployment.run("prune", environment=clock("+8d")).stdout == "1 bundle dropped\n"
    assert run_day(deployment).row(party)["attempts"] == 0


# -- the ledger ------------------------------------------------------------------------------------


def test_a_ledger_of_the_first_version_with_a_day_half_way_is_gone_on_with(deployment, party):
    folder = sealed(deployment, party)
    content = {path.name: path.read_bytes() for path in folder.glob("*.pgp")}
    path = deployment.folder / "state/ledger.db"
    as_version_1(path)
    again = run_day(deployment)
    assert again.status == 0, again.stderr
    assert_delivered(again, party)
    assert party.received() == content
    assert path.with_name("ledger.db.version-1").exists()


def as_version_1(path):
    """Put the ledger's rows into the tables of the first version."""
    new = path.with_name("new.db")
    path.rename(new)
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.upgrade(config, "0001")
    engine.dispose()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("ATTACH ? AS new", [str(new)])
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
            if table == "alembic_version":
                continue
            columns = ", ".join(row[1] for row in database.execute(f"PRAGMA table_info({table})"))
            database.execute(f"INSERT INTO {table} SELECT {columns} FROM new.{table}")
        database.execute("DROP TABLE alembic_version")
        database.execute("PRAGMA user_version = 1")
    path.chmod(0o600)
    new.unlink()


# -- the log ---------------------------------------------------------------------------------------


def test_a_full_disk_under_the_log_stops_no_delivery_and_is_said_once(deployment, party):
    logs = deployment.folder / "logs"
    with mounted(logs, "size=4k"):
        (logs / "ballast").write_bytes(bytes(4096))
        done = deployment.run("run", "--date", str(DAY))
        assert done.returncode == 0
        assert done.stderr.count("cannot be written") == 1
        assert "deliveries go on without it" in done.stderr
        assert len(party.received()) == FILES
        (logs / "ballast").unlink()
        assert deployment.run("run").returncode == 0
        assert [line["event"] for line in deployment.log_lines()] == ["run.started", "run.finished"]


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "1>&- 2>&-", "| true", "2>&1 | true"])
def test_closed_pipes_stop_no_delivery(deployment, party, closed):
    deployment.document["delivery_log"] = "-"
    deployment.write()
    words = " ".join(f"'{word}'" for word in deployment.command("run", "--date", str(DAY)))
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{words} {closed}"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert len(party.received()) == FILES
    with Ledger.open(deployment.folder / "state", now=datetime.now(UTC)) as ledger:
        assert ledger.latest(party.guid, SnapshotDate.of(DAY)).state is DeliveryState.DELIVERED
