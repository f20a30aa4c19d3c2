"""The checker itself: each violation is planted, and found; without one, nothing is.

A delivery is carried out by hand, with the real ledger and real files, so that every step of it can
be done wrongly.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256

import pysequoia
import pytest

from mxdeliver.edge.ledger import Ledger
from tests.support.deployment import Deployment, key_pair
from tests.support.evidence import EVIDENCE
from tests.support.invariants import Circumstances, check, everyone_watched
from tests.support.ledger_history import LedgerHistory, Said
from tests.support.ledgers import NOON, bundle, client, contents, key
from tests.support.openssh import OpenSSHServer, wait_until
from tests.support.traces import Traces
from tests.support.watcher import Seen, Watcher

SEALED = bundle(key())
BYTES = contents(key())
*DAILY, MANIFEST = BYTES


class Hand:
    """Delivers a day step by step."""

    def __init__(self, folder, ledger, watcher):
        self.directory = folder / "client"
        self.spool = folder / "state/spool"
        self.ledger = ledger
        self.watcher = watcher
        self.lease = None

    def seal(self):
        folder = self.spool / f"{key().client_guid}.{key().snapshot_date}.r1"
        folder.mkdir(parents=True)
        for name, content in BYTES.items():
            (folder / name).write_bytes(content)
        self.lease.sealed(SEALED)

    def temporary(self, name, number=0):
        return f".{name}.{self.lease.token}-{number:08x}.part"

    def upload(self):
        self.lease.uploading({name: self.temporary(name) for name in BYTES})
        for name, content in BYTES.items():
            (self.directory / self.temporary(name)).write_bytes(content)

    def rename(self, *names):
        self.lease.publishing(names)
        for name in names:
            # as OpenSSH does it
            os.link(self.directory / self.temporary(name), self.directory / name)
            (self.directory / self.temporary(name)).unlink()

    def published(self, *names):
        self.lease.published(dict.fromkeys(names, EVIDENCE))

    def publish(self, *names):
        self.rename(*names)
        self.published(*names)

    def delivered(self):
        self.lease.delivered(now=NOON)

    def seen(self, name):
        """Wait until the watcher has seen the name appear."""

        def is_recorded():
            return any(isinstance(one, Seen) and one.name == name for one in self.record())

        wait_until(is_recorded, f"{name} to be seen")

    def said(self, what, value):
        """Wait until the watcher has read this from the ledger."""

        def is_recorded():
            entries = [one for one in self.record() if isinstance(one, Said)]
            return any((one.what, one.value) == (what, value) for one in entries)

        wait_until(is_recorded, f"{what} {value}")

    def record(self):
        return list(self.watcher.record.entries)


@contextmanager
def by_hand(folder):
    (folder / "client").mkdir()
    with (
        Ledger.open(folder / "state", now=NOON) as ledger,
        Watcher(folder, [folder / "client"]) as watcher,
    ):
        hand = Hand(folder, ledger, watcher)
        ledger.ensure([client()], key().snapshot_date, now=NOON)
        deadline = NOON + timedelta(hours=6)
        with ledger.claim(key(), now=NOON, context="c", deadline=deadline) as lease:
            hand.lease = lease
            yield hand


def well(hand):
    hand.seal()
    hand.upload()
    hand.publish(*DAILY)
    hand.publish(MANIFEST)
    hand.delivered()


def found_in(watcher, **circumstances):
    violations = check(watcher.record, Circumstances(**circumstances))
    return {violation.invariant for violation in violations}, "\n".join(map(str, violations))


def test_in_a_delivery_done_well_nothing_is_found(tmp_path):
    with by_hand(tmp_path) as hand:
        well(hand)
    assert found_in(hand.watcher) == (set(), "")


def manifest_first(hand):
    hand.seal()
    hand.upload()
    hand.rename(MANIFEST, *DAILY)


def manifest_beside_a_removed_file(hand):
    hand.seal()
    hand.upload()
    hand.publish(*DAILY)
    hand.publish(MANIFEST)
    (hand.directory / DAILY[0]).unlink()


def half_a_file(hand):
    hand.seal()
    hand.upload()
    path = hand.directory / hand.temporary(DAILY[0])
    path.write_bytes(path.read_bytes()[:-1])
    hand.rename(*DAILY)


def written_under_its_final_name(hand):
    hand.seal()
    hand.upload()
    hand.rename(*DAILY[1:])
    with (hand.directory / DAILY[0]).open("wb", buffering=0) as file:
        file.write(BYTES[DAILY[0]][:5])
        hand.seen(DAILY[0])
        file.write(BYTES[DAILY[0]][5:])


def written_again_when_visible(hand):
    well(hand)
    hand.seen(MANIFEST)
    (hand.directory / DAILY[0]).write_bytes(BYTES[DAILY[0]])


def of_no_delivery(hand):
    well(hand)
    (hand.directory / "report.csv").write_bytes(b"1")


def altered_in_the_spool(hand):
    well(hand)
    next(hand.spool.glob("*/*created*")).write_bytes(b"other bytes")


def sealed_twice(hand):
    well(hand)
    with hand.ledger._database.write() as connection:
        connection.exec_driver_sql("DROP TRIGGER sealed_is_write_once")
        connection.exec_driver_sql(f"UPDATE files SET encrypted_checksum = '{'1' * 64}'")


def replaced(hand):
    hand.seal()
    hand.upload()
    hand.rename(*DAILY)
    hand.seen(DAILY[-1])
    (hand.directory / ".x").write_bytes(BYTES[DAILY[0]])
    (hand.directory / ".x").rename(hand.directory / DAILY[0])


def temporary_made_twice(hand):
    hand.seal()
    hand.upload()
    path = hand.directory / hand.temporary(DAILY[0])
    path.unlink()
    path.write_bytes(b"")


def earlier_lease(hand):
    with hand.ledger._database.write() as connection:
        connection.exec_driver_sql("UPDATE deliveries SET token = 0")


def published_too_early(hand):
    hand.seal()
    hand.upload()
    hand.published(*DAILY)


def delivered_too_early(hand):
    hand.seal()
    hand.upload()
    hand.publish(*DAILY)
    with hand.ledger._database.write() as connection:
        connection.exec_driver_sql("UPDATE deliveries SET state = 'delivered'")


def renamed_without_a_word(hand):
    hand.seal()
    hand.upload()
    (hand.directory / hand.temporary(DAILY[0])).rename(hand.directory / DAILY[0])


def appeared_again(hand):
    hand.seal()
    hand.upload()
    hand.rename(*DAILY)
    (hand.directory / DAILY[0]).rename(hand.directory / hand.temporary(DAILY[0]))
    hand.rename(DAILY[0])


def something_after_the_end(hand):
    well(hand)
    hand.said("delivery", "delivered")
    (hand.directory / hand.temporary(DAILY[0])).write_bytes(b"")


def not_delivered(hand):
    hand.seal()
    hand.lease.stopped(now=NOON)


def a_temporary_file_stays(hand):
    hand.seal()
    hand.upload()
    (hand.directory / DAILY[0]).hardlink_to(hand.directory / hand.temporary(DAILY[0]))


def an_unknown_temporary_name(hand):
    hand.seal()
    hand.upload()
    (hand.directory / hand.temporary(DAILY[0], number=7)).write_bytes(b"")


def more_temporary_files_than_files(hand):
    hand.seal()
    hand.upload()
    hand.lease.uploading({name: hand.temporary(name, number=7) for name in BYTES})
    (hand.directory / hand.temporary(DAILY[0], number=7)).write_bytes(b"")


def foreign_file_removed(hand):
    foreign = hand.directory / "statement.pdf"
    foreign.write_bytes(b"1")
    hand.seen(foreign.name)
    foreign.unlink()


def foreign_temporary_file_removed(hand):
    foreign = hand.directory / ".statement.part"
    foreign.write_bytes(b"1")
    foreign.unlink()


def unsealed_folder_stays(hand):
    well(hand)
    (hand.spool / f".{key().client_guid}.{key().snapshot_date}.r2.1-00000000.tmp").mkdir()


@pytest.mark.parametrize(
    ("invariant", "planted"),
    [
        ("I1", manifest_first),
        ("I1", manifest_beside_a_removed_file),
        ("I2", half_a_file),
        ("I2", written_under_its_final_name),
        ("I2", written_again_when_visible),
        ("I3", of_no_delivery),
        ("I3", altered_in_the_spool),
        ("I3", sealed_twice),
        ("I7", replaced),
        ("I7", temporary_made_twice),
        ("I7", earlier_lease),
        ("I8", published_too_early),
        ("I8", delivered_too_early),
        ("I8", renamed_without_a_word),
        ("I9", appeared_again),
        ("I9", something_after_the_end),
        ("I9", not_delivered),
        ("I16", a_temporary_file_stays),
        ("I16", an_unknown_temporary_name),
        ("I16", more_temporary_files_than_files),
        ("I16", foreign_file_removed),
        ("I16", foreign_temporary_file_removed),
        ("I16", unsealed_folder_stays),
    ],
)
def test_a_planted_violation_is_found(tmp_path, invariant, planted):
    with by_hand(tmp_path) as hand:
        planted(hand)
    invariants, text = found_in(hand.watcher)
    assert invariant in invariants, text


def test_a_file_written_before_its_manifest_is_no_violation_where_nothing_can_be_renamed(tmp_path):
    with by_hand(tmp_path) as hand:
        hand.seal()
        for names in (DAILY, [MANIFEST]):
            hand.lease.writing(names)
            for name in names:
                (hand.directory / name).write_bytes(BYTES[name])
            hand.lease.created(names)
            hand.published(*names)
        hand.delivered()
    assert found_in(hand.watcher, direct=True) == (set(), "")
    assert "I2" in found_in(hand.watcher)[0]


def test_a_receiver_that_takes_files_as_they_appear_is_no_violation(tmp_path):
    with by_hand(tmp_path) as hand:
        hand.seal()
        hand.upload()
        for names in (DAILY, [MANIFEST]):
            hand.publish(*names)
            for name in names:
                (hand.directory / name).unlink()
        hand.delivered()
    assert found_in(hand.watcher, taken=True) == (set(), "")
    assert found_in(hand.watcher)[0] & {"I1", "I2"}


def test_a_client_that_is_added_later_is_watched_too(tmp_path, server):
    deployment = Deployment(tmp_path, server)
    watching = everyone_watched(deployment)
    watching.__enter__()
    planted = deployment.add_client().directory / ".x.part"
    planted.touch()
    planted.unlink()
    with pytest.raises(AssertionError, match=r"I16: \.x\.part was removed"):
        watching.__exit__(None, None, None)


# -- what was received ------------------------------------------------------------------------------


def encrypted(plain):
    recipient = pysequoia.Cert.from_bytes(key_pair(0).public)
    return pysequoia.encrypt(plain, [recipient], armor=False)


def received(folder, monkeypatch, *, rows=None, manifest=None):
    """Deliver files that can be decrypted, with a manifest that can be made to lie."""
    plain = {name: f"of {name}".encode() for name in DAILY}
    files = {name: encrypted(content) for name, content in plain.items()}
    lines = [
        f"{sha256(plain[name]).hexdigest()},{len(plain[name])},{len(files[name])},"
        f"{name.removesuffix('.avro.pgp')}"
        for name in DAILY
    ]
    text = "\n".join(
        ["Checksum,FileSize,EncryptedFileSize,FileName", *(rows or (lambda _: _))(lines)]
    )
    plain[MANIFEST] = text.encode()
    files[MANIFEST] = encrypted(plain[MANIFEST]) if manifest is None else manifest
    artifacts = [
        replace(
            artifact,
            encrypted_file_size=len(files[artifact.name]),
            encrypted_checksum=sha256(files[artifact.name]).hexdigest(),
        )
        for artifact in SEALED.files
    ]
    module = "tests.test_invariants"
    monkeypatch.setattr(f"{module}.BYTES", files)
    monkeypatch.setattr(
        f"{module}.SEALED",
        replace(SEALED, artifacts=tuple(artifacts[:-1]), manifest=artifacts[-1]),
    )
    with by_hand(folder) as hand:
        well(hand)
    return hand.watcher, {"secret_key": key_pair(0).secret, "plain": plain}


def test_what_was_received_is_decrypted_and_compared(tmp_path, monkeypatch):
    watcher, told = received(tmp_path, monkeypatch)
    assert found_in(watcher, **told) == (set(), "")
    told["plain"] = {**told["plain"], DAILY[0]: b"another day's"}
    assert found_in(watcher, **told)[0] == {"I9"}


@pytest.mark.parametrize(
    ("invariant", "lie"),
    [
        ("I1", {"rows": lambda lines: lines[1:]}),
        ("I1", {"rows": lambda lines: [line.replace("created", "erased") for line in lines]}),
        ("I5", {"rows": lambda lines: [lines[0].replace(lines[0][:4], "0000"), *lines[1:]]}),
        ("I2", {"manifest": b"no message"}),
    ],
)
def test_a_manifest_that_lies_is_found(tmp_path, monkeypatch, invariant, lie):
    watcher, told = received(tmp_path, monkeypatch, **lie)
    assert invariant in found_in(watcher, **told)[0]


# -- traces -----------------------------------------------------------------------------------------


@pytest.fixture
def deployment(tmp_path, server):
    deployment = Deployment(tmp_path, server)
    deployment.add_client()
    for folder in ("state/spool", "logs", "tmp"):
        (tmp_path / folder).mkdir(parents=True)
    return deployment


def traces_of(deployment, **options):
    traces = Traces(deployment, **options)
    traces.look()
    return {violation.invariant for violation in traces.violations}


@pytest.mark.parametrize(
    ("invariant", "place", "content"),
    [
        ("I11", "state/ledger.db", "guid-7 é✓"),
        ("I11", "state/spool/x", "guid-7 \\u00e9\\u2713"),
        ("I11", "tmp/x", "Obj\x01\x04\x16avro.schema"),
        ("I11", "state/core.17", ""),
        ("I15", "logs/deliveries.jsonl", '{"message": "guid-7 é✓"}\n'),
        ("I15", "logs/deliveries.jsonl", '{"message": "correct-horse-7-battery"}\n'),
        ("I15", "logs/deliveries.jsonl", '{"message": "\\u001b[2J"}\n'),
        ("I15", "logs/deliveries.jsonl", f'{{"message": "{"x" * 5000}"}}\n'),
        ("I15", "logs/deliveries.jsonl", '{"message": "half a l'),
        ("I15", "state/ledger.db", "correct-horse-7-battery"),
    ],
)
def test_a_planted_trace_is_found(deployment, invariant, place, content):
    assert traces_of(deployment) == set()
    (deployment.folder / place).write_text(content)
    assert traces_of(deployment) == {invariant}


def test_a_record_at_the_clients_is_found(deployment):
    (deployment.parties[0].directory / "x").write_text("guid-7 é✓")
    assert traces_of(deployment) == {"I11"}


def test_a_secret_that_was_printed_is_found(deployment):
    traces = Traces(deployment)
    traces.printed(subprocess.CompletedProcess([], 1, stdout="", stderr=deployment.server.password))
    assert {violation.invariant for violation in traces.violations} == {"I15"}


def log_in(server, name):
    command = ["sftp", "-q", "-b", "/dev/null", "-P", str(server.port), "-o", "BatchMode=yes"]
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    subprocess.run([*command, *options, f"{name}@{server.host}"], check=False, capture_output=True)


def test_a_user_name_told_to_a_stranger_is_found(tmp_path, deployment):
    with OpenSSHServer(tmp_path) as stranger:
        traces = Traces(deployment, strangers=[stranger])
        log_in(stranger, "anyone")
        traces.look()
    assert {violation.invariant for violation in traces.violations} == {"I13"}


def test_another_user_name_than_the_clients_is_found(deployment):
    traces = Traces(deployment)
    log_in(deployment.server, "anyone")
    traces.look()
    assert {violation.invariant for violation in traces.violations} == {"I13"}


def test_what_a_killed_process_did_not_commit_is_left_to_the_program(tmp_path):
    with by_hand(tmp_path) as hand:
        hand.seal()
    killed = tmp_path / "killed"
    killed.mkdir()
    with closing(sqlite3.connect(tmp_path / "state/ledger.db", isolation_level=None)) as ledger:
        ledger.execute("PRAGMA cache_size = 1")  # so that it writes before it commits
        ledger.execute("BEGIN IMMEDIATE")
        ledger.execute("UPDATE watched SET value = printf('%.*c', 3000, 'x')")
        for path in (tmp_path / "state").glob("ledger.db*"):
            shutil.copy(path, killed)
        ledger.execute("ROLLBACK")
    assert b"xxxx" in (killed / "ledger.db").read_bytes()
    history = LedgerHistory(killed / "ledger.db")
    said = history.look_at_rest()
    assert {one.value for one in said if one.what == "delivery"} == {"waiting", "running"}
    assert (killed / "ledger.db-journal").exists()
