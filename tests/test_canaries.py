"""No record, password, passphrase or key shows anywhere but in what the client decrypts.

Values that nothing else has are put into records and secrets; after deliveries that succeeded, that
failed in many ways, and that were killed, they are looked for in everything that the program wrote,
showed or held open: raw, as UTF-16, hex, base64, and inside packed streams. Everything runs in
Python's development mode and with every logger at its most talkative.

reliability.md I11, I15; F29, F46, F48, F91, F104, F123.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import zlib
from contextlib import contextmanager

import duckdb
import pytest

from mxdeliver.edge.avro import load_resources
from tests.support.accounts import PASSWORD
from tests.support.builders import at_work, needs_two_cores
from tests.support.canaries import Canaries, children, files, is_stopped, of_process
from tests.support.deployment import Deployment, key_pair
from tests.support.openssh import OpenSSHServer, wait_until
from tests.support.openssh import key_pair as ssh_key_pair
from tests.support.outcomes import DAY
from tests.support.proxy import Proxy
from tests.support.warehouse import columns, make_warehouse

TEXT = "Zephyrine Quilldragon-Oakenshaw"
WHOLE = 7316428809153571
REAL = 83915.20714653
WRONG_PASSWORD = "wrong-Kestrel-Pomegranate-41"
PASSPHRASE = "Umbrella-Saxophone-Glacier-77"
WRONG_PASSPHRASE = "Wrong-Marzipan-Trombone-13"
LEDGER_PASSWORD = "Cobalt-Rhinoceros-Lantern-59"
RAISED = "Obsidian Marigold Thunderclap"
DEVELOPMENT = ["-X", "dev", "-X", "faulthandler"]
USERS = load_resources()["users"]

LOUD = """
import logging
logging.basicConfig(level=1, format="%(name)s %(message)s %(args)s")
for name in ("paramiko", "paramiko.transport", "sqlalchemy", "alembic", "mxdeliver"):
    logging.getLogger(name).setLevel(1)
"""
"""Run by the interpreter when it starts: every line of every library goes to standard error."""
PLUGIN = f"""
class Raising:
    def __init__(self, settings): pass
    def problems(self, resources): return []
    def check(self, resources): pass
    def snapshot(self): raise RuntimeError("a row holds {RAISED}")
"""


@pytest.fixture(scope="module")
def canaries():
    found = Canaries()
    found.add("a record's text", TEXT)
    found.add("a record's whole number", WHOLE)
    found.add("a record's real number", REAL)
    found.add("an exception's text", RAISED)
    found.add("the password", PASSWORD)
    found.add("the wrong password", WRONG_PASSWORD)
    found.add("the passphrase", PASSPHRASE)
    found.add("the wrong passphrase", WRONG_PASSPHRASE)
    found.add("the ledger's password", LEDGER_PASSWORD)
    found.add("an SSH private key", ssh_key_pair("ed25519", None, PASSPHRASE)[0].splitlines()[2])
    secret = key_pair(0).secret
    found.add("an OpenPGP secret key", secret.splitlines()[4])
    found.add("an OpenPGP secret key's bytes", base64.b64decode(secret.splitlines()[4]))
    found.add("a plain Avro file", b"avro.codec")
    found.add("a plain manifest", b"ResourceType,EventType")
    return found


class Bench:
    """A deployment whose every trace is in reach: folder, temporary folder, working directory."""

    def __init__(self, folder, server):
        self.deployment = Deployment(folder, server)
        self.deployment.document["retry"] = {"attempts": 1, "initial": "1s", "maximum": "1s"}
        self.deployment.document["defaults"] = {"active_since": "2999-01-01"}
        self.temporary, self.cwd, loud = (folder / name for name in ("tmp", "cwd", "loud"))
        for path in (self.temporary, self.cwd, loud):
            path.mkdir()
        (loud / "sitecustomize.py").write_text(LOUD)
        (loud / "canary_source.py").write_text(PLUGIN)
        about = loud / "canary_source-1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: canary-source\nVersion: 1\n")
        (about / "entry_points.txt").write_text(
            "[mxdeliver.sources]\nraising = canary_source:Raising\n"
        )
        self.environment = {
            **os.environ,
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": str(loud),
            "PYTHONDONTWRITEBYTECODE": "1",  # of the plug-in, which has a canary in it
        }
        self.given = {}
        self.shown, self.errors = folder / "stdout", folder / "stderr"

    def secret(self, name, text):
        path = self.deployment.folder / name
        path.touch(mode=0o600)
        path.write_text(text)
        return {"file": name}

    def ready(self):
        """Take note of what the program is given: it is no trace of the program's."""
        self.deployment.write()
        folder = self.deployment.folder
        self.given = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    @contextmanager
    def start(self, *arguments):
        """Start a command where core files would be written if the program allowed them.

        Its output goes into files: a pipe that nobody reads would hold up who talks so much.
        """
        python, *rest = self.deployment.command(*arguments)
        allow = ["sh", "-c", 'ulimit -c "$(ulimit -Hc)"; exec "$@"', "sh"]
        with (
            self.shown.open("ab") as shown,
            self.errors.open("ab") as errors,
            subprocess.Popen(
                [*allow, python, *DEVELOPMENT, *rest],
                stdin=subprocess.DEVNULL,
                stdout=shown,
                stderr=errors,
                cwd=self.cwd,
                env=self.environment,
            ) as process,
        ):
            yield process

    def run(self, *arguments):
        with self.start(*arguments) as process:
            return process.wait(100)

    def traces(self):
        places = [self.deployment.folder]
        places += [party.directory for party in self.deployment.parties]
        return files(places, self.given)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    public = ssh_key_pair("ed25519", None, PASSPHRASE)[1]
    folder = tmp_path_factory.mktemp("server")
    with OpenSSHServer(folder, authorized_keys=[public]) as running:
        yield running


def plant(path):
    """Put the canaries into each user and transaction."""
    with duckdb.connect(str(path)) as connection:
        for resource in (USERS, load_resources()["transactions"]):
            values = {"VARCHAR": f"'{TEXT}'", "BIGINT": str(WHOLE), "DOUBLE": str(REAL)}
            changed = ", ".join(
                f'"{name}" = {values[kind]}'
                for name, kind in columns(resource).items()
                if kind in values
                and name not in {"guid", "client_guid"}
                and not name.endswith("_at")
            )
            connection.execute(f'update "{resource.name}" set {changed}')


def query(**cells):
    """Ask for each of the users' columns, some of them made otherwise."""
    chosen = [f'{cells.get(field.name, field.name)} as "{field.name}"' for field in USERS.fields]
    return f"select client_guid, {', '.join(chosen)} from users where client_guid = $client_guid"


QUERIES = {
    "Unconvertible": query(phone="(first_name::integer)::varchar"),
    "Said aloud": query(phone="case when phone is null then phone else error('it is ' || phone) end"),
    "Overflowing": query(gender="credit_score::hugeint * 1000000000000"),
    "Inexact": query(gender=f"{REAL}::double"),
}  # fmt: skip


@pytest.fixture(scope="module")
def bench(tmp_path_factory, server):
    """One run over clients that succeed and that fail in every way in which a value is at hand."""
    bench = Bench(tmp_path_factory.mktemp("bench"), server)
    deployment = bench.deployment
    sources = deployment.document["sources"]

    def add(name, **changes):
        changes = {"resources": ["users", "transactions"], "files": {"codec": "null"}, **changes}
        return deployment.add_client(name, key=0, **changes)

    add("Delivered")
    key, _ = ssh_key_pair("ed25519", None, PASSPHRASE)
    private = {"password": None, "private_key": bench.secret("key", key.decode())}
    add("By key", sftp={**private, "passphrase": bench.secret("passphrase", PASSPHRASE)})
    wrong = bench.secret("wrong-passphrase", WRONG_PASSPHRASE)
    add("Wrong passphrase", sftp={**private, "passphrase": wrong})
    add("Wrong password", sftp={"password": bench.secret("wrong-password", WRONG_PASSWORD)})
    secret = add("Secret key")
    (deployment.folder / secret.entry["pgp"]["public_key"]).write_bytes(secret.key.secret)
    for number, (name, sql) in enumerate(QUERIES.items()):
        source = {"type": "duckdb", "database": "warehouse.duckdb"}
        sources[f"odd{number}"] = {**source, "queries": {"users": {"created": sql}}}
        add(name, source=f"odd{number}", resources=["users"])
    sources["raising"] = {"type": "raising"}
    add("Raising", source="raising")
    table = deployment.folder / "users.csv"
    sources["dying"] = {"type": "duckdb", "views": {"users": "read_csv('users.csv')"}}
    dying = add("Dying", source="dying", resources=["users"])
    conflict = add("Conflict")
    taken = conflict.directory / f"{conflict.guid}.{DAY}.users.created.avro.pgp"
    taken.write_bytes(b"somebody else's")
    for party in deployment.parties:
        party.entry["sftp"] = {key: value for key, value in party.entry["sftp"].items() if value}
    guids = [party.guid for party in deployment.parties]
    filled = ["users", "transactions"]
    make_warehouse(deployment.warehouse, clients=guids, days=[DAY], rows=3, filled=filled)
    plant(deployment.warehouse)
    with duckdb.connect(str(deployment.warehouse)) as connection:
        named = f"copy (from users where client_guid = '{dying.guid}') to '{table}' (header)"
        connection.execute(named)
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines * 2_000) + f'\n{TEXT},"{TEXT}\n')
    bench.ready()
    assert bench.run("run", "--date", str(DAY), "--json") == 70
    bench.report = bench.shown.read_bytes()
    return bench


def assert_none(canaries, traces):
    found = canaries.found(traces)
    assert not found, "\n".join(found)


def outcomes(bench):
    document = json.loads(bench.report)
    names = {party.guid: party.entry["name"] for party in bench.deployment.parties}
    return {names[row["client_guid"]]: row["error_code"] for row in document["deliveries"]}


def test_every_client_ended_as_it_was_meant_to(bench):
    found = outcomes(bench)
    dying = found.pop("Dying")
    assert dying in {"SOURCE_INCOMPLETE", "RECORD_INVALID", "SOURCE_SCHEMA", "SOURCE_UNAVAILABLE"}
    assert found == {
        "Delivered": None,
        "By key": None,
        "Wrong passphrase": "SECRET_MISSING",
        "Wrong password": "AUTH_FAILED",
        "Secret key": "KEY_SECRET_SUPPLIED",
        "Unconvertible": "RECORD_INVALID",
        "Said aloud": "RECORD_INVALID",
        "Overflowing": "RECORD_INVALID",
        "Inexact": "RECORD_INVALID",
        "Raising": "INTERNAL",
        "Conflict": "REMOTE_CONFLICT",
    }


def test_after_success_and_every_failure_no_canary_shows_anywhere(bench, canaries):
    for command in (["status"], ["check"], ["resume", "--client", "Wrong password"], ["run"]):
        bench.run(*command)
    traces = bench.traces()
    assert any(name.endswith("ledger.db") for name in traces)
    assert any(name.endswith("deliveries.jsonl") for name in traces)
    assert any("sqlalchemy" in str(trace) for trace in traces.values())  # loud as it was meant
    assert_none(canaries, traces)
    assert list(bench.temporary.iterdir()) == list(bench.cwd.glob("core*")) == []


def test_the_clients_were_sent_the_canaries_that_nobody_else_saw(bench, canaries):
    party = bench.deployment.parties[0]
    found = "\n".join(canaries.found(party.decrypted()))
    for what in ("text", "whole number", "real number", "plain Avro file", "plain manifest"):
        assert what in found


def test_a_ledgers_database_url_shows_nowhere(tmp_path, server, canaries):
    bench = Bench(tmp_path, server)
    bench.deployment.add_client(key=0, resources=["users"])
    make_warehouse(bench.deployment.warehouse, clients=[], days=[])
    reference = bench.secret("url", f"postgresql://mx:{LEDGER_PASSWORD}@127.0.0.1:1/ledger")
    bench.deployment.document["ledger"] = {"url": reference}
    bench.ready()
    assert [bench.run(command) for command in ("run", "status")] == [78, 78]
    assert_none(canaries, bench.traces())


def test_a_secret_key_handed_to_key_is_repeated_nowhere(tmp_path, server, canaries):
    bench = Bench(tmp_path, server)
    bench.deployment.add_client(key=0)
    path = tmp_path / "mistake.asc"
    path.write_bytes(key_pair(0).secret)
    bench.ready()
    python, *_ = bench.deployment.command("key")
    command = [python, *DEVELOPMENT, "-m", "mxdeliver", "key", str(path)]
    done = subprocess.run(command, env=bench.environment, capture_output=True, check=False)
    assert done.returncode == 1
    assert_none(canaries, {"stdout": done.stdout, "stderr": done.stderr})


def test_verify_shows_and_leaves_nothing_of_what_it_decrypts(bench, canaries, tmp_path):
    party = bench.deployment.parties[0]
    received = tmp_path / "received"
    shutil.copytree(party.directory, received)
    damaged = received / f"{party.guid}.{DAY}.users.created.avro.pgp"
    damaged.write_bytes(damaged.read_bytes()[:-30] + bytes(30))
    (tmp_path / "secret.asc").write_bytes(party.key.secret)
    command = [sys.executable, *DEVELOPMENT, "-m", "mxdeliver", "verify", str(received)]
    command += ["--secret-key", str(tmp_path / "secret.asc")]
    environment = {**bench.environment, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, check=False, env=environment, cwd=tmp_path)
    assert b"1 fault" in done.stdout, done.stderr
    assert done.returncode == 1
    assert {path.name for path in tmp_path.iterdir()} == {"received", "secret.asc"}
    assert_none(canaries, {"stdout": done.stdout, "stderr": done.stderr})


# -- ended in the middle ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A warehouse that takes a while to be built from, for the first client of a deployment."""
    path = tmp_path_factory.mktemp("large") / "warehouse.duckdb"
    guid = "CLT-00000000-2d2e-6a5d-f2b5-c7dad42ef184"
    make_warehouse(path, clients=[guid], days=[DAY], rows=400, filled=["users", "transactions"])
    plant(path)
    return path


def stopped_at(process, moment, log, bench):
    """Stop the process once the log has the event; give all that can be seen of it then."""
    try:
        wait_until(
            lambda: process.poll() is not None or (log.exists() and moment in log.read_text()),
            f"{moment} in the log",
            seconds=60,
        )
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: is_stopped(process.pid), "the program to stand still")
    except BaseException:
        process.kill()
        raise
    return of_process(process.pid, bench.given) | files([log.parents[1]], bench.given)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV], ids=["SIGKILL", "SIGSEGV"])
@pytest.mark.parametrize("moment", ["file.built", "connection.opened"])
def test_ended_in_the_middle_nothing_of_records_and_secrets_remains(
    tmp_path, server, canaries, large, number, moment
):
    bench = Bench(tmp_path, server)
    deployment = bench.deployment
    with Proxy(server.port, one_way=0.2) as proxy:
        party = deployment.add_client(
            key=0,
            resources=["users", "transactions"],
            files={"codec": "null"},
            sftp={"port": proxy.port},
        )
        shutil.copy(large, deployment.warehouse)
        bench.ready()
        log = tmp_path / "logs/deliveries.jsonl"
        with bench.start("run", "--date", str(DAY)) as process:
            traces = stopped_at(process, moment, log, bench)
            started = children(process.pid)
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)
            assert process.wait(60) == -number
        assert started == []
        assert list(bench.cwd.iterdir()) == list(bench.temporary.iterdir()) == []
        assert_none(canaries, traces)
        assert_none(canaries, bench.traces())
        if number == signal.SIGSEGV:
            return
        proxy.one_way = 0
        assert bench.run("run", "--date", str(DAY)) == 0
    assert_none(canaries, bench.traces())
    assert len(party.received()) == 7


@needs_two_cores
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV], ids=["SIGKILL", "SIGSEGV"])
def test_a_builder_ended_in_the_middle_leaves_nothing_of_records_and_was_told_no_secret(
    tmp_path, server, canaries, large, number
):
    bench = Bench(tmp_path, server)
    deployment = bench.deployment
    deployment.secret_path.unlink()
    bench.environment["FIRST_PASSWORD"] = PASSWORD
    for name in ("First", "Second"):
        party = deployment.add_client(
            name, key=0, resources=["users", "transactions"], files={"codec": "null"}
        )
        party.entry["sftp"]["password"] = {"env": "FIRST_PASSWORD"}
    shutil.copy(large, deployment.warehouse)
    bench.ready()
    guid = deployment.parties[0].guid
    with bench.start("run", "--date", str(DAY)) as process:
        wait_until(lambda: guid in at_work(deployment), "the builder", seconds=60)
        builder = at_work(deployment)[guid]
        os.kill(builder, signal.SIGSTOP)
        wait_until(lambda: is_stopped(builder), "the builder to stand still")
        traces = of_process(builder, bench.given) | of_process(process.pid, bench.given)
        assert f"environ of child {builder}" in traces
        os.kill(builder, number)
        os.kill(builder, signal.SIGCONT)
        assert process.wait(60) == 75
    assert b"BUILDER_DIED" in bench.errors.read_bytes()
    assert list(bench.cwd.iterdir()) == list(bench.temporary.iterdir()) == []
    assert_none(canaries, traces)
    assert_none(canaries, bench.traces())
    assert bench.run("run", "--date", str(DAY)) == 0
    assert_none(canaries, bench.traces())


def test_a_program_that_allows_it_leaves_a_core_file_with_a_canary(tmp_path, server, canaries):
    """Or else that none was left above would show nothing."""
    bench = Bench(tmp_path, server)
    code = f"import os; secret = '{TEXT}'; os.kill(os.getpid(), {signal.SIGSEGV:d})"
    bench.deployment.command = lambda *_: [sys.executable, "-c", code]
    assert bench.run("control") == -signal.SIGSEGV
    left = files([bench.cwd])
    if not left:
        pytest.skip("core files are not written into the working directory on this machine")
    assert canaries.found(left)


def test_no_core_file_no_tracing_and_no_access_for_others_once_hardened():
    code = """
        import ctypes, os, resource
        from mxdeliver.edge.kernel import harden
        harden()
        print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3), os.umask(0))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["(0,", "0)", "0", str(0o077)]


# -- that the search finds -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "write",
    [
        lambda text: text,
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("utf-16-be"),
        lambda text: text.encode().hex(),
        lambda text: base64.b64encode(text.encode()),
        lambda text: base64.b64encode(b"x" + text.encode() + b"y"),
        lambda text: base64.b64encode(b"xx" + text.encode() + b"yyy"),
        lambda text: zlib.compress(b"before " + text.encode() + b" after"),
        lambda text: b"head" + gzip.compress(text.encode()),
    ],
)
def test_the_search_finds_a_canary_however_it_is_written(canaries, write):
    assert canaries.found({"a trace": write(TEXT)})


def test_the_search_finds_numbers_and_what_a_file_without_a_name_holds(canaries):
    assert canaries.found({"Arrow": WHOLE.to_bytes(8, "little")})
    assert canaries.found({"text": f"{WHOLE:,}"})
    with tempfile.TemporaryFile() as nameless:
        nameless.write(TEXT.encode())
        nameless.flush()
        assert canaries.found(of_process(os.getpid(), []))
    assert not canaries.found({"nothing": b"nothing"})
