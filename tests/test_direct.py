"""A server that allows no rename: final names are written directly, the manifest last.

What reliability.md section 4 step 6e asks of the profile *direct*: it is taken only when it is
proven necessary, daily files may be partial only while no manifest is visible (I2), nothing of
somebody else's is replaced or removed (I7, I16), and a crash anywhere converges (I9).
"""

from __future__ import annotations

import os
import subprocess
from datetime import date, timedelta

import pytest

from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.model import Outcome
from mxdeliver.deliver import deliver
from mxdeliver.edge.ledger import Lease, Publishing, ServerProfile
from mxdeliver.edge.sftp import Session
from mxdeliver.edge.sftp.upload import Uploader
from mxdeliver.push.profile import Profile
from tests.support.attempts import (
    DAY,
    FILES,
    CrashError,
    attempt,
    crash,
    is_whole,
    one_day,
    profile,
    rebuild,
    resend,
    resume,
    sealed,
    site_of,
)
from tests.support.deployment import key_pair
from tests.support.invariants import watched
from tests.support.openssh import OpenSSHServer, wait_until

NO_RENAME = "-P rename,posix-rename,hardlink"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with OpenSSHServer(tmp_path_factory.mktemp("server"), sftp_options=NO_RENAME) as running:
        yield running


@pytest.fixture
def party(tmp_path, server):
    return one_day(tmp_path, server, rows=500)


def manifest(party):
    return f"{party.guid}.{DAY}-manifest.csv.pgp"


def users(party):
    return f"{party.guid}.{DAY}.users.created.avro.pgp"


def assert_whole(party):
    assert is_whole(party)
    assert party.received() == sealed(party)


def half_written(party):
    with site_of(party) as (site, client):
        key = site.ledger.latest(client.guid, DAY).key
        return [one.name for one in site.ledger.standing(key).half_written]


def torn(party, monkeypatch):
    """Leave a file that is partly written, by an attempt that ends with pieces on their way."""
    write_piece = Uploader._write_piece

    def crashing(uploader, file):
        if uploader._ownership is not None and file.offset:
            raise CrashError
        write_piece(uploader, file)

    with monkeypatch.context() as patched:
        patched.setattr("mxdeliver.edge.sftp.upload.DEFAULT_PIECE", 500)
        patched.setattr("mxdeliver.edge.sftp.engine._WORTH_SENDING", 0)  # each piece at once
        patched.setattr(Uploader, "_write_piece", crashing)
        with pytest.raises(CrashError):
            attempt(party)
    path = party.directory / half_written(party)[0]
    wait_until(lambda: path.stat().st_size >= 500, "the first piece")
    assert manifest(party) not in party.received()
    return path


def test_a_day_arrives_whole_and_the_profile_is_remembered_and_shown(party):
    assert attempt(party).outcome is Outcome.DELIVERED
    assert_whole(party)
    found = profile(party)
    assert (found.publishing, found.level, found.sweeps) == (Publishing.DIRECT, "size", False)
    assert half_written(party) == []
    shown = party.deployment.run("status").stdout
    assert "files are written under their final names, as no rename is possible" in shown
    _, document = party.deployment.run_json("status")
    (row,) = document["servers"]
    assert (row["client_guid"], row["publishing"], row["verification"], row["sweeps"]) == (
        party.guid, "direct", "size", False,
    )  # fmt: skip
    events = [line for line in party.deployment.log_lines() if line["event"] == "server.direct"]
    assert [line["level"] for line in events] == ["warning"]
    assert "refuses to rename" in events[0]["message"]


def test_once_known_nothing_is_uploaded_under_a_temporary_name(party, monkeypatch):
    assert attempt(party).outcome is Outcome.DELIVERED
    before = party.received()
    (party.directory / users(party)).unlink()
    (party.directory / manifest(party)).unlink()
    resend(party)
    monkeypatch.delattr(Session, "upload")
    assert attempt(party).outcome is Outcome.DELIVERED
    assert party.received() == before


def test_run_again_nothing_is_touched(party):
    assert attempt(party).outcome is Outcome.DELIVERED
    before = {path.name: path.stat() for path in party.directory.iterdir()}
    done = party.deployment.run("run", "--date", str(DAY))
    assert (done.returncode, done.stderr) == (0, "")
    after = {path.name: path.stat() for path in party.directory.iterdir()}
    assert {name: (one.st_ino, one.st_mtime_ns) for name, one in before.items()} == {
        name: (one.st_ino, one.st_mtime_ns) for name, one in after.items()
    }


STEPS = [
    (Session, "upload", True, 1),
    (Lease, "publishing", True, 1),
    (Session, "rename", True, 1),
    (Lease, "not_renamed", True, 1),
    (Lease, "server", True, 1),
    (Lease, "writing", False, 1),
    (Lease, "writing", True, 1),
    (Lease, "created", False, 1),
    (Lease, "created", True, 1),
    (Uploader, "_write_piece", False, 1),
    (Uploader, "_end", False, 6),
    (Session, "write", True, 1),
    (Lease, "published", False, 1),
    (Lease, "published", True, 1),
    (Lease, "writing", True, 2),
    (Lease, "created", False, 2),
    (Lease, "created", True, 2),
    (Session, "write", True, 2),
    (Lease, "published", False, 2),
    (Lease, "published", True, 2),
    (Lease, "delivered", False, 1),
]


@pytest.mark.parametrize(("owner", "name", "after", "call"), STEPS)
def test_a_crash_at_each_step_is_made_up_for(party, monkeypatch, owner, name, after, call):
    with watched(party.deployment, party, direct=True, secret_key=None):
        crash_and_go_on(party, monkeypatch, owner, name, after=after, call=call)
    assert_whole(party)
    assert half_written(party) == []


def crash_and_go_on(party, monkeypatch, owner, name, *, after, call):
    crash(party, monkeypatch, owner, name, after=after, call=call)
    before = party.received()
    if manifest(party) in before:
        # it may be torn, which its receiver notices; the files that it lists may not
        begun = before.pop(manifest(party))
        assert before.items() < sealed(party).items()
        assert sealed(party)[manifest(party)].startswith(begun)
    assert attempt(party).outcome is Outcome.DELIVERED


def test_a_file_that_is_partly_written_is_removed_and_written_anew(party, monkeypatch):
    with watched(party.deployment, party, direct=True):
        path = torn(party, monkeypatch)
        assert path.stat().st_size < len(sealed(party)[path.name])
        assert attempt(party).outcome is Outcome.DELIVERED
    assert_whole(party)


def test_two_crashes_in_the_middle_of_writing_are_made_up_for(party, monkeypatch):
    crash(party, monkeypatch, Lease, "created", after=True)
    crash(party, monkeypatch, Lease, "created")
    assert set(half_written(party)) == {name for name in sealed(party) if "manifest" not in name}
    assert attempt(party).outcome is Outcome.DELIVERED
    assert_whole(party)


def test_a_manifest_that_lies_there_is_taken_away_before_a_daily_file_is_written_again(
    party, monkeypatch
):
    assert attempt(party).outcome is Outcome.DELIVERED
    before = party.received()
    (party.directory / users(party)).unlink()
    resend(party)
    write, seen = Session.write, []

    def watching(session, uploads, ownership):
        seen.append(([upload.name for upload in uploads], manifest(party) in party.received()))
        return write(session, uploads, ownership)

    monkeypatch.setattr(Session, "write", watching)
    assert attempt(party).outcome is Outcome.DELIVERED
    assert seen == [([users(party)], False), ([manifest(party)], False)]
    assert party.received() == before


@pytest.mark.parametrize("name", ["withdrawn", "writing"])
def test_a_crash_while_the_manifest_is_taken_away_is_made_up_for(party, monkeypatch, name):
    crash(party, monkeypatch, Lease, "delivered")  # everything is published, the manifest too
    (party.directory / users(party)).unlink()
    assert attempt(party).outcome is Outcome.DELIVERED  # the ledger's word counts: no look is taken
    resend(party)
    if name == "withdrawn":
        # found in its place by an attempt that ended before it wrote the missing file
        crash(party, monkeypatch, Session, "write")
        assert manifest(party) not in party.received()
    else:
        crash(party, monkeypatch, Lease, name, after=True)
    assert attempt(party).outcome is Outcome.DELIVERED
    assert_whole(party)


@pytest.mark.parametrize("begun_anew", [False, True])
@pytest.mark.parametrize("final", [True, False], ids=["final names", "temporary names"])
def test_who_adopts_a_day_is_told_of_each_file_that_may_lie_there_in_part(
    party, monkeypatch, final, begun_anew
):
    if final:
        torn(party, monkeypatch)
        names = set(half_written(party))
    else:
        crash(party, monkeypatch, Session, "upload", after=True)
        names = set(party.leftovers())
    assert len(names) == (FILES - 1 if final else FILES)
    if begun_anew:
        rebuild(party)
    arguments = ("adopt", "--client", party.guid, "--date", str(DAY))
    _, document = party.deployment.run_json(*arguments)
    assert {(one["name"], one["final"]) for one in document["left"]} == {
        (name, final) for name in names
    }
    lines = [line for line in party.deployment.log_lines() if line["event"] == "file.left"]
    assert {line["file_name"] for line in lines} == names
    sftp = party.entry["sftp"]
    for line in lines:
        assert f"on {sftp['host']}:{sftp['port']}/{sftp['directory']}" in line["message"]
        assert line["message"].endswith("ask the client to remove it")


def test_what_was_half_written_before_the_client_moved_is_named(party, server, monkeypatch):
    torn(party, monkeypatch)
    names = set(half_written(party))
    moved = party.directory.with_name(f"{party.directory.name}-moved")
    moved.mkdir()
    os.chown(moved, server.directory.stat().st_uid, server.directory.stat().st_gid)
    party.entry["sftp"]["directory"] = server.remote_path(moved)
    assert attempt(party).outcome is Outcome.DELIVERED
    lines = [line for line in party.deployment.log_lines() if line["event"] == "file.left"]
    assert {line["file_name"] for line in lines} == names


# -- what is somebody else's -----------------------------------------------------------------------


@pytest.mark.parametrize("known", [False, True], ids=["not yet known", "known"])
def test_a_file_of_somebody_else_is_a_conflict_and_stays(party, known):
    if known:
        assert attempt(party).outcome is Outcome.DELIVERED
        rebuild(party)
    else:
        (party.directory / users(party)).write_bytes(b"theirs")
    before = party.received()
    result = attempt(party)
    assert (result.outcome, result.error.code) == (Outcome.PARKED, "REMOTE_CONFLICT")
    assert party.received() == before


def test_what_somebody_put_in_place_of_a_torn_file_is_a_conflict_and_stays(party, monkeypatch):
    path = torn(party, monkeypatch)
    path.unlink()
    path.write_bytes(b"theirs")
    path.chmod(0o644)
    result = attempt(party)
    assert (result.outcome, result.error.code) == (Outcome.PARKED, "REMOTE_CONFLICT")
    assert path.read_bytes() == b"theirs"
    path.unlink()
    resume(party)
    assert attempt(party).outcome is Outcome.DELIVERED
    assert_whole(party)


def test_an_intention_alone_gives_no_leave_to_remove_anything(party, monkeypatch):
    crash(party, monkeypatch, Lease, "writing", after=True)
    (party.directory / users(party)).write_bytes(b"theirs")
    (party.directory / users(party)).chmod(0o644)
    assert attempt(party).error.code == "REMOTE_CONFLICT"
    assert (party.directory / users(party)).read_bytes() == b"theirs"


def test_a_file_with_a_hole_is_torn_and_written_again(party, monkeypatch):
    crash(party, monkeypatch, Lease, "created", after=True)
    whole = sealed(party)[users(party)]
    hole = whole[:100] + bytes(len(whole) - 200) + whole[-100:]
    (party.directory / users(party)).write_bytes(hole)
    assert attempt(party).outcome is Outcome.DELIVERED
    assert_whole(party)


def test_what_a_revision_before_had_begun_is_removed_for_the_next_one(party, monkeypatch):
    crash(party, monkeypatch, Uploader, "_end", call=5)
    another = key_pair(1)
    (party.deployment.folder / "client0.asc").write_bytes(another.public)
    party.entry["pgp"]["fingerprint"] = another.fingerprint
    result = attempt(party)
    assert (result.outcome, result.key.revision) == (Outcome.DELIVERED, 2)
    assert_whole(party)


def test_a_rebuilt_day_takes_the_place_of_what_was_ours(party, monkeypatch):
    party.entry["sftp"]["replace"] = "ours"
    assert attempt(party).outcome is Outcome.DELIVERED
    first = party.received()
    rebuild(party)
    crash(party, monkeypatch, Lease, "created", after=True)
    assert manifest(party) not in party.received()
    assert attempt(party).outcome is Outcome.DELIVERED
    assert_whole(party)
    assert all(party.received()[name] != content for name, content in first.items())


# -- when writing fails ----------------------------------------------------------------------------


def test_a_failure_removes_what_was_made_and_the_ledger_knows(party):
    directory = party.directory
    assert attempt(party).outcome is Outcome.DELIVERED  # the profile is known
    for path in directory.iterdir():
        path.unlink()
    rebuild(party)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8k,mode=777", "none", directory], check=True
    )
    try:
        result = attempt(party)
        assert (result.outcome, result.error.code) == (Outcome.RETRY, "REMOTE_FULL")
        assert list(directory.iterdir()) == []
        assert half_written(party) == []
    finally:
        subprocess.run(["umount", directory], check=True)
    assert attempt(party).outcome is Outcome.DELIVERED
    assert_whole(party)


def test_where_nothing_can_be_removed_a_torn_file_asks_a_person(tmp_path, monkeypatch):
    with OpenSSHServer(tmp_path, sftp_options=f"{NO_RENAME},remove") as server:
        party = one_day(tmp_path, server, rows=500)
        torn(party, monkeypatch)
        before = party.received()
        result = attempt(party)
        assert (result.outcome, result.error.code) == (Outcome.PARKED, "REMOTE_CONFLICT")
        assert "does not let it be removed" in str(result.error)
        assert party.received() == before
        assert manifest(party) not in before
        for path in party.directory.iterdir():
            path.unlink()
        resume(party)
        assert attempt(party).outcome is Outcome.DELIVERED
        assert party.received() == sealed(party)


def test_where_nothing_can_be_removed_the_temporary_files_are_reported(tmp_path):
    with OpenSSHServer(tmp_path, sftp_options=f"{NO_RENAME},remove") as server:
        party = one_day(tmp_path, server)
        assert attempt(party).outcome is Outcome.DELIVERED
        assert party.received() == sealed(party)
        assert len(party.leftovers()) == FILES
        left = [one for one in party.deployment.log_lines() if one["event"] == "temporaries.left"]
        assert f"{FILES} temporary files" in left[0]["message"]


def test_where_nothing_can_be_read_what_the_ledger_says_we_made_is_written_again(
    tmp_path, monkeypatch
):
    with OpenSSHServer(tmp_path, sftp_options=f"{NO_RENAME},read") as server:
        party = one_day(tmp_path, server, rows=500)
        crash(party, monkeypatch, Session, "write", after=True)
        assert attempt(party).outcome is Outcome.DELIVERED
        assert_whole(party)


def test_another_run_that_took_the_delivery_over_finds_its_files_untouched(party, monkeypatch):
    """A run that lost its lease in the middle removes nothing: the names may be another's by now."""
    assert attempt(party).outcome is Outcome.DELIVERED
    for path in party.directory.iterdir():
        path.unlink()
    resend(party)
    created = Lease.created

    def overtaken(lease, names):
        created(lease, names)
        monkeypatch.undo()
        with site_of(party) as (site, client):
            path = site.ledger._locks._folder / f"{client.guid}.{DAY}.lock"
            path.unlink()  # what a lock on a shared disk would do
            assert deliver(lease.key, client, site).outcome is Outcome.DELIVERED
        lease.check()

    monkeypatch.setattr(Lease, "created", overtaken)
    result = attempt(party)
    assert result.error.code == "LEASE_LOST"
    assert_whole(party)


# -- how long it is remembered ---------------------------------------------------------------------


def remembered(known, **changes):
    values = {
        "destination": "sftp.example:8022/in",
        "software": "SSH-2.0-x",
        "today": date(2026, 3, 10),
        "lease": None,
    }
    return Profile(known, **{**values, **changes}).is_direct


def test_direct_is_remembered_for_a_week_for_the_same_server_and_directory():
    decided = SnapshotDate(2026, 3, 10)
    known = ServerProfile(
        destination="sftp.example:8022/in",
        software="SSH-2.0-x",
        publishing=Publishing.DIRECT,
        level="size",
        sweeps=False,
        decided_on=decided,
    )
    assert remembered(known)
    assert remembered(known, today=decided + timedelta(days=6))
    assert not remembered(known, today=decided + timedelta(days=7))
    assert not remembered(known, today=decided - timedelta(days=1)), "decided in the future"
    assert not remembered(known, destination="sftp.example:8022/out")
    assert not remembered(known, software="SSH-2.0-y")
    assert not remembered(None)


def test_a_server_that_has_come_to_allow_renaming_is_found_out(tmp_path):
    with OpenSSHServer(tmp_path, sftp_options=NO_RENAME) as server:
        party = one_day(tmp_path, server)
        assert attempt(party).outcome is Outcome.DELIVERED
        first = profile(party)
    with OpenSSHServer(tmp_path) as other:
        party.entry["sftp"] |= {
            "port": other.port, "directory": str(other.directory),
        }  # fmt: skip
        resend(party)
        party.directory = other.directory
        assert attempt(party).outcome is Outcome.DELIVERED
        assert_whole(party)
        found = profile(party)
    assert (first.publishing, found.publishing) == (Publishing.DIRECT, Publishing.RENAME)
    assert first.destination != found.destination


def test_where_neither_name_may_be_looked_at_nothing_is_proven(tmp_path):
    options = f"{NO_RENAME},stat,lstat,fstat"
    with OpenSSHServer(tmp_path, sftp_options=options) as server:
        party = one_day(tmp_path, server)
        assert attempt(party).error.code == "REMOTE_DENIED"
        assert party.received() == {}
        assert profile(party) is None
