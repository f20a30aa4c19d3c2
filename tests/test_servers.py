"""The same deliveries to servers of four makes, and to OpenSSH in each of its restricted forms.

Every server gets one small day several times over: undisturbed, cut in the middle, killed between
two steps, and with somebody else's file in the way. What each of them allows differs; what the
client sees must not (reliability.md I1, I2, I3, I7, I9, I16).
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mxdeliver.core.model import Outcome
from mxdeliver.edge.ledger import Publishing
from mxdeliver.edge.sftp import Session
from mxdeliver.edge.sftp.upload import Uploader
from tests.support.attempts import (
    DAY,
    attempt,
    crash,
    one_day,
    profile,
    resume,
    sealed,
    site_of,
)
from tests.support.invariants import watched
from tests.support.openssh import OpenSSHServer
from tests.support.proftpd import ProFTPDServer
from tests.support.programmable import ProgrammableServer
from tests.support.proxy import Proxy
from tests.support.ssh2 import Ssh2Server

SFTP_SERVER = "/usr/lib/openssh/sftp-server"
REQUESTS = [
    "read",
    "setstat",
    "fsetstat",
    "opendir",
    "readdir",
    "mkdir",
    "rmdir",
    "realpath",
    "readlink",
    "symlink",
    "posix-rename",
    "statvfs",
    "fstatvfs",
    "hardlink",
    "fsync",
    "lsetstat",
    "limits",
    "expand-path",
    "copy-data",
    "home-directory",
    "users-groups-by-id",
]


@dataclass(frozen=True)
class Kind:
    """A server to be made, and what is to be found out about it."""

    make: type = OpenSSHServer
    denied: str = ""
    direct: bool = False
    blind: bool = False
    keeps: bool = False
    """Nothing can be removed."""
    hashes: bool = False

    def server(self, folder):
        if not self.denied:
            return self.make(folder)
        return OpenSSHServer(folder, sftp_program=SFTP_SERVER, sftp_options=f"-P {self.denied}")


KINDS = {
    "OpenSSH's internal-sftp": Kind(),
    "F73: no posix-rename": Kind(denied="posix-rename"),
    "no plain rename": Kind(denied="rename"),
    "F74: no rename at all": Kind(denied="rename,posix-rename,hardlink", direct=True),
    "F76: nothing can be looked at": Kind(denied="stat,lstat,fstat", blind=True),
    "F76: a box to throw things into": Kind(
        denied="stat,lstat,fstat,read,opendir,readdir,posix-rename", blind=True
    ),
    "F79: no setstat": Kind(denied="setstat,fsetstat,lsetstat"),
    "F84: no remove": Kind(denied="remove", keeps=True),
    "F80: no limits, fsync and statvfs": Kind(denied="limits,fsync,statvfs,fstatvfs"),
    "F89: no listing": Kind(denied="opendir,readdir,realpath"),
    "nothing but what is needed": Kind(denied=",".join(REQUESTS)),
    "ProFTPD": Kind(ProFTPDServer, hashes=True),
    "asyncssh": Kind(ProgrammableServer),
    "F75: ssh2, whose rename replaces": Kind(Ssh2Server),
}


class Bench:
    """A running server and what was learnt from the first delivery to it."""

    def __init__(self, kind, server):
        self.kind = kind
        self.server = server


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def bench(request, tmp_path_factory):
    kind = request.param
    with kind.server(tmp_path_factory.mktemp("server")) as server:
        yield Bench(kind, server)


@pytest.fixture
def party(tmp_path, bench):
    return one_day(tmp_path, bench.server, rows=40)


def assert_delivered(party, bench):
    """Everything is there once, whole; the ledger knows every name that could not be removed."""
    assert party.received() == sealed(party)
    with site_of(party) as (site, client):
        key = site.ledger.latest(client.guid, DAY).key
        assert site.ledger.standing(key).half_written == []
        assert set(party.leftovers()) <= set(site.ledger.temporaries(key))
    assert bench.kind.keeps or party.leftovers() == []


def watching(party, bench, **circumstances):
    """Check the invariants over all that is seen of the deliveries inside."""
    kind = bench.kind
    return watched(
        party.deployment,
        party,
        **{"direct": kind.direct, "keeps": kind.keeps, "secret_key": None, **circumstances},
    )


def test_a_day_arrives_whole_and_once_and_the_server_s_profile_is_kept(party, bench):
    with watching(party, bench):
        assert attempt(party).outcome is Outcome.DELIVERED
    assert_delivered(party, bench)
    found = profile(party)
    publishing = Publishing.DIRECT if bench.kind.direct else Publishing.RENAME
    level = "ack" if bench.kind.blind else "hash" if bench.kind.hashes else "size"
    assert (found.publishing, found.level, found.sweeps) == (publishing, level, False)
    before = {path.name: path.stat() for path in party.directory.iterdir()}
    done = party.deployment.run("run", "--date", str(DAY), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    after = {path.name: path.stat() for path in party.directory.iterdir()}
    assert [(one.st_ino, one.st_mtime_ns) for one in before.values()] == [
        (one.st_ino, one.st_mtime_ns) for one in after.values()
    ]


def test_cut_in_the_middle_of_an_upload_the_next_attempt_makes_it_whole(party, bench, monkeypatch):
    with Proxy(bench.server.port) as proxy:
        party.entry["sftp"]["port"] = proxy.port
        with watching(party, bench):
            result = cut(party, proxy, monkeypatch, 4)
            assert (result.outcome, result.error.code) == (Outcome.RETRY, "CONNECTION_LOST")
            assert party.received() == {}
            assert attempt(party).outcome is Outcome.DELIVERED
        assert_delivered(party, bench)


def cut(party, proxy, monkeypatch, call):
    """Make an attempt whose connection is reset just before a file's bytes are sent."""
    write_piece, calls = Uploader._write_piece, []

    def cutting(uploader, file):
        calls.append(file)
        if len(calls) == call:
            proxy.cut()
        write_piece(uploader, file)

    with monkeypatch.context() as patched:
        patched.setattr(Uploader, "_write_piece", cutting)
        return attempt(party)


def test_killed_behind_the_rename_the_next_attempt_makes_it_whole(party, bench, monkeypatch):
    undecided = bench.kind.blind
    with watching(party, bench, delivered=not undecided):
        crash(party, monkeypatch, Session, "rename", after=True)
        before = party.received()
        result = attempt(party)
    if undecided:
        # The answer is not in the ledger, and nothing can be looked at: a person must (F76).
        assert (result.outcome, result.error.code) == (Outcome.PARKED, "REMOTE_CONFLICT")
        assert party.received() == before
        assert not any("manifest" in name for name in before)
        return
    assert result.outcome is Outcome.DELIVERED
    assert party.received().items() >= before.items()
    assert_delivered(party, bench)


def test_somebody_else_s_file_stays_as_it_is_and_no_manifest_appears(party, bench):
    foreign = party.directory / f"{party.guid}.{DAY}.users.updated.avro.pgp"
    foreign.write_bytes(b"theirs")
    foreign.chmod(0o644)
    with watching(party, bench, foreign=frozenset({foreign.name})):
        result = attempt(party)
        assert (result.outcome, result.error.code) == (Outcome.PARKED, "REMOTE_CONFLICT")
        assert foreign.read_bytes() == b"theirs"
        assert not any("manifest" in name for name in party.received())
        foreign.unlink()
        resume(party)
        assert attempt(party).outcome is Outcome.DELIVERED
    assert_delivered(party, bench)
