"""Faults that no other file has: sources that lie or die, keys that end behind the seal, mixed-up clients.

docs/guarantees.md lists which test shows which fault.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

import duckdb
import paramiko
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError

from mxdeliver.core.errors import SourceIncomplete, SourceUnavailable
from mxdeliver.core.model import EndOfStream, EventType, HostKeyPin, Outcome
from mxdeliver.deliver import deliver
from mxdeliver.edge.avro import ContainerWriter
from mxdeliver.edge.ledger import Lease
from mxdeliver.edge.openpgp import MessageWriter, vet
from mxdeliver.edge.sftp import Session, connect
from tests.support.attempts import (
    DAY,
    FILES,
    attempt,
    crash,
    is_whole,
    one_day,
    resume,
    sealed,
    site_of,
)
from tests.support.invariants import watched
from tests.support.openssh import OpenSSHServer
from tests.support.outcomes import assert_log_is_valid, fill, run_day, small_deployment
from tests.support.programmable import ProgrammableServer
from tests.support.proxy import Proxy

ROWS = 4


@pytest.fixture
def party(tmp_path, server):
    made = one_day(tmp_path, server, rows=ROWS)
    with watched(made.deployment, made, delivered=False):
        yield made


def attempt_with(party, **changes):
    """Make an attempt in which something of the site is otherwise: its clock, or its source."""
    with site_of(party) as (site, client):
        key = site.ledger.ensure([client], DAY, now=site.clock())[0].key
        site.ledger.reopen({key: site.clock() + client.retry.deadline}, now=site.clock())
        return deliver(key, client, replace(site, **changes))


# -- sources that lie or die -----------------------------------------------------------------------


@dataclass(frozen=True)
class Spoilt:
    """A real source whose stream of updates is passed through `spoil`, one record a batch."""

    real: object
    spoil: object

    @contextmanager
    def snapshot(self):
        with self.real.snapshot() as snapshot:
            yield SpoiltSnapshot(snapshot, self.spoil)


@dataclass(frozen=True)
class SpoiltSnapshot:
    real: object
    spoil: object

    def stream(self, resource, event, client_guid, window):
        items = self.real.stream(resource, event, client_guid, window)
        return self.spoil(one_by_one(items)) if event is EventType.UPDATED else items

    def interrupt(self):
        self.real.interrupt()


def one_by_one(items):
    for item in items:
        if isinstance(item, EndOfStream):
            yield item
        else:
            for row in range(item.num_rows):
                yield item.slice(row, 1)


def dying(items, after, error):
    for _ in range(after):
        yield next(items)
    raise error


def without_end(items, keep):
    yield from (item for item in items if keep and not isinstance(item, EndOfStream))


def miscounting(items, by):
    for item in items:
        yield EndOfStream(rows=item.rows + by) if isinstance(item, EndOfStream) else item


SPOILT = {
    "nothing and no end": (partial(without_end, keep=False), SourceIncomplete),
    "all records and no end": (partial(without_end, keep=True), SourceIncomplete),
    "one too few": (partial(miscounting, by=1), SourceIncomplete),
    "one too many": (partial(miscounting, by=-1), SourceIncomplete),
} | {
    f"dead after {after}": (
        partial(dying, after=after, error=SourceUnavailable("no longer kept")),
        SourceUnavailable,
    )
    for after in range(ROWS + 1)
}


def test_a_source_that_lies_or_dies_anywhere_leaves_nothing_sealed_and_is_asked_again(party):
    with site_of(party) as (site, _):
        real = site.source("warehouse")
    for spoil, error in SPOILT.values():
        result = attempt_with(party, source=lambda _name, spoil=spoil: Spoilt(real, spoil))
        assert (result.outcome, type(result.error)) == (Outcome.RETRY, error)
        assert list(party.directory.iterdir()) == []
        assert not list((party.deployment.folder / "state/spool").rglob("*.pgp"))
    assert attempt(party).outcome is Outcome.DELIVERED
    assert is_whole(party)


def test_what_the_source_holds_beside_the_clients_resources_is_neither_read_nor_sent(party):
    with duckdb.connect(str(party.deployment.warehouse)) as connection:
        connection.execute("create table novelties as from users")
        connection.execute("create table users_archived as from users")
    assert attempt(party).outcome is Outcome.DELIVERED
    assert len(party.received()) == FILES
    assert not any("novelties" in name or "archived" in name for name in party.received())


# -- what is checked while it is built --------------------------------------------------------------


def to_another_too(monkeypatch, other):
    def writer(keys, write):
        return MessageWriter([*keys, *other], write)

    monkeypatch.setattr("mxdeliver.build.MessageWriter", writer)


def to_another_alone(monkeypatch, other):
    def writer(_keys, write):
        return MessageWriter(other, write)

    monkeypatch.setattr("mxdeliver.build.MessageWriter", writer)


def with_a_flipped_bit(monkeypatch, _other):
    def writer(*arguments, **options):
        made = ContainerWriter(*arguments, **options)
        blocks, compress = made._blocks, made._blocks._compress
        blocks._compress = lambda body: compress(bytes([body[0] ^ 1]) + bytes(body[1:]))
        return made

    monkeypatch.setattr("mxdeliver.build.ContainerWriter", writer)


def cut_short(monkeypatch, _other):
    class Writer(MessageWriter):
        def finish(self):
            """Leave out what ends the message, its integrity code with it."""

    monkeypatch.setattr("mxdeliver.build.MessageWriter", Writer)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (to_another_too, "ENCRYPT_VERIFY"),
        (to_another_alone, "ENCRYPT_VERIFY"),
        (cut_short, "ENCRYPT_VERIFY"),
        (with_a_flipped_bit, "AVRO_VERIFY"),
    ],
)
def test_a_file_for_other_eyes_or_with_other_records_is_never_sealed(
    party, gnupg, monkeypatch, spoil, code
):
    other = vet(gnupg.export(gnupg.usual()), at=datetime.now(UTC)).encryption_keys
    with monkeypatch.context() as patched:
        spoil(patched, other)
        result = attempt(party)
    assert (result.outcome, result.error.code) == (Outcome.FAILED, code)
    assert list(party.directory.iterdir()) == []
    assert not list((party.deployment.folder / "state/spool").rglob("*.pgp"))
    resume(party)
    assert attempt(party).outcome is Outcome.DELIVERED
    assert is_whole(party)


# -- keys that end between the seal and the upload -------------------------------------------------


def give_key(party, gnupg, fingerprint):
    path = party.deployment.folder / party.entry["pgp"]["public_key"]
    path.write_bytes(gnupg.export(fingerprint))
    party.entry["pgp"]["fingerprint"] = fingerprint


def assert_held_back(party, result, code, proxy):
    """Nobody was connected to, and what was sealed lies where it lay, for a person to decide."""
    assert (result.outcome, result.error.code) == (Outcome.PARKED, code)
    assert proxy.connections == 0
    assert list(party.directory.iterdir()) == []
    assert len(list((party.deployment.folder / "state/spool").rglob("*.pgp"))) == FILES
    (line,) = (one for one in party.deployment.log_lines() if one["event"] == "delivery.parked")
    assert (line["error_code"], line["level"]) == (code, "error")


@pytest.fixture
def behind_a_proxy(party, server):
    with Proxy(server.port) as proxy:
        party.entry["sftp"]["port"] = proxy.port
        yield proxy


def test_what_was_sealed_for_a_key_that_has_expired_since_is_not_sent(
    party, behind_a_proxy, gnupg, monkeypatch
):
    now = datetime.now(UTC)
    give_key(party, gnupg, gnupg.usual(now - timedelta(days=1), expires="2d"))
    crash(party, monkeypatch, Lease, "bound_to")
    result = attempt_with(party, clock=lambda: now + timedelta(days=1, seconds=1))
    assert_held_back(party, result, "KEY_EXPIRED", behind_a_proxy)


def test_what_was_sealed_for_a_key_that_is_revoked_since_is_sent_only_for_the_next_key(
    party, behind_a_proxy, gnupg, monkeypatch
):
    old = gnupg.usual()
    give_key(party, gnupg, old)
    crash(party, monkeypatch, Lease, "bound_to")
    never_sent = set(sealed(party).values())
    gnupg.revoke(old)
    give_key(party, gnupg, old)
    assert_held_back(party, attempt(party), "KEY_REVOKED", behind_a_proxy)
    give_key(party, gnupg, gnupg.usual())
    resume(party)
    assert attempt(party).outcome is Outcome.DELIVERED
    assert is_whole(party)
    assert not never_sent & set(party.received().values())


# -- who is who ------------------------------------------------------------------------------------


def test_clients_whose_key_files_were_swapped_get_nothing(tmp_path, server):
    deployment = small_deployment(tmp_path, server)
    first = deployment.add_client("First", key=0, resources=["users"])
    second = deployment.add_client("Second", key=1, resources=["users"])
    fill(deployment)
    paths = [tmp_path / party.entry["pgp"]["public_key"] for party in (first, second)]
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, reversed(contents), strict=True):
        path.write_bytes(content)
    outcome = run_day(deployment)
    assert outcome.status == 1
    for party in (first, second):
        row = outcome.row(party)
        assert (row["state"], row["error_code"]) == ("parked", "KEY_FINGERPRINT")
        assert list(party.directory.iterdir()) == []


def test_each_clients_records_go_to_its_own_directory_for_its_own_key(tmp_path, server):
    deployment = small_deployment(tmp_path, server)
    parties = [deployment.add_client(f"Bank {n}", key=n, resources=["users"]) for n in range(2)]
    fill(deployment)
    with watched(deployment, *parties, secret_key=None):
        assert run_day(deployment).status == 0
    for party in parties:
        own, other = party.guid, next(one.guid for one in parties if one is not party)
        plain = party.decrypted()  # with this client's key alone
        assert len(plain) == FILES
        assert all(name.startswith(own) for name in plain)
        assert not any(other.encode() in content for content in plain.values())


def test_the_ledger_itself_takes_no_second_row_for_a_clients_day(party):
    assert attempt(party).outcome is Outcome.DELIVERED
    engine = create_engine(f"sqlite:///{party.deployment.folder}/state/ledger.db")
    with engine.begin() as connection:
        columns = ", ".join(
            row.name
            for row in connection.execute(text("pragma table_info(deliveries)"))
            if row.name != "id"
        )
        with pytest.raises(IntegrityError, match="UNIQUE"):
            connection.execute(
                text(f"insert into deliveries ({columns}) select {columns} from deliveries")
            )
    engine.dispose()


# -- host keys and ciphers -------------------------------------------------------------------------


def test_during_a_rotation_the_old_and_the_new_host_key_are_both_accepted(tmp_path, server):
    today = datetime.now(UTC).date()
    with OpenSSHServer(tmp_path, host_keys=["ecdsa"]) as rotated:
        both = (
            HostKeyPin(sha256=server.pins["ed25519"], not_after=None),
            HostKeyPin(sha256=rotated.pins["ecdsa"], not_after=None),
        )
        for one, kind in ((server, "ed25519"), (rotated, "ecdsa")):
            endpoint = one.endpoint(host_keys=both)
            with connect(endpoint, one.credentials(), today=today) as session:
                assert isinstance(session, Session)
                assert session.facts.host_key == one.pins[kind]


@pytest.mark.parametrize(
    ("cipher", "shown"),
    [
        ("aes256-gcm@openssh.com", "aes256-gcm@openssh.com"),
        ("aes128-ctr", "aes128-ctr, hmac-sha2-256-etm@openssh.com"),
    ],
)
def test_a_server_without_the_strict_key_exchange_is_delivered_to_and_named_with_its_ciphers(
    tmp_path, cipher, shown
):
    with ProgrammableServer(tmp_path) as server:
        party = one_day(tmp_path, server)
        assert attempt(party).outcome is Outcome.DELIVERED
    assert told_not_strict(party) == [], "asyncssh knows it"
    server = ProgrammableServer(tmp_path)
    server.strict_key_exchange = False
    exchange = "ecdh-sha2-nistp256"
    server.settings = {"encryption_algs": [cipher], "kex_algs": [exchange]}
    with server:
        party = one_day(server.root, server)
        with watched(party.deployment, party):
            assert attempt(party).outcome is Outcome.DELIVERED
        (warning,) = told_not_strict(party)
    assert warning["level"] == "warning"
    assert (warning["host"], warning["port"]) == ("127.0.0.1", server.port)
    assert f"127.0.0.1:{server.port} does not know the strict key exchange" in warning["message"]
    assert f"negotiated were {exchange}, {shown}, which are" in warning["message"]
    assert_log_is_valid(party.deployment)


def told_not_strict(party):
    lines = party.deployment.log_lines()
    return [line for line in lines if line["event"] == "connection.not_strict"]


def test_a_server_without_it_that_speaks_only_what_needs_it_is_refused(tmp_path):
    server = ProgrammableServer(tmp_path)
    server.strict_key_exchange = False
    server.settings = {"encryption_algs": ["chacha20-poly1305@openssh.com", "aes256-cbc"]}
    with server:
        party = one_day(tmp_path, server)
        result = attempt(party)
        assert (result.outcome, result.error.code) == (Outcome.PARKED, "SSH_ALGO_MISMATCH")
        assert server.user_names == []


@pytest.mark.parametrize("cipher", ["chacha20-poly1305@openssh.com", "aes256-cbc"])
def test_ciphers_that_need_the_strict_key_exchange_are_never_spoken(tmp_path, cipher):
    """The Terrapin attack works on these two families alone; so without it nothing is lost."""
    with OpenSSHServer(tmp_path, settings=[f"Ciphers {cipher}"]) as server:
        party = one_day(tmp_path, server)
        result = attempt(party)
        assert (result.outcome, result.error.code) == (Outcome.PARKED, "SSH_ALGO_MISMATCH")
        assert server.login_attempts() == []


# -- how much is there at once ---------------------------------------------------------------------


def test_a_connection_is_opened_once_for_all_files_and_only_when_they_are_sealed(party, server):
    with Proxy(server.port) as proxy:
        party.entry["sftp"]["port"] = proxy.port
        assert attempt(party).outcome is Outcome.DELIVERED
        assert proxy.connections == 1
    order = [line["event"] for line in party.deployment.log_lines()]
    assert order.index("bundle.sealed") < order.index("connection.opened")


NEVER = {
    "scandir": lambda client: client.listdir("/incoming"),
    "setstat": lambda client: client.chmod("/incoming", 0o755),
    "mkdir": lambda client: client.mkdir("/incoming/new"),
    "symlink": lambda client: client.symlink("nowhere", "/incoming/link"),
    "readlink": lambda client: client.readlink("/incoming/link"),
}


def test_no_directory_is_ever_listed_or_made_no_attribute_set_and_no_link_touched(tmp_path):
    with ProgrammableServer(tmp_path) as server:
        party = one_day(tmp_path, server)
        with watched(party.deployment, party):
            assert attempt(party).outcome is Outcome.DELIVERED
        asked_for = set(server.operations)
        assert "rename" in asked_for
        assert not asked_for & {*NEVER, "fsetstat", "lsetstat", "rmdir", "link"}
        with paramiko.Transport(("127.0.0.1", server.port)) as transport:
            transport.connect(username=server.username, password=server.password)
            client = paramiko.SFTPClient.from_transport(transport)
            for name, ask in NEVER.items():
                with suppress(OSError):
                    ask(client)
                assert name in server.operations, "it would have been seen"
