"""`mxdeliver demo`: a delivery that anybody can try, and its parts."""

from __future__ import annotations

import re
import shlex
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import duckdb
import paramiko
import pytest
from pgpy import PGPKey

from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.errors import Internal
from mxdeliver.demo.clients import CLIENTS, KeyKind
from mxdeliver.demo.folder import MARK, prepare, write_clients_side
from mxdeliver.demo.keys import make_host_key, make_key_pair, pin_of
from mxdeliver.demo.server import Login, serve
from mxdeliver.demo.steps import deliver, received_well
from mxdeliver.demo.warehouse import RECORDS_A_DAY, write_warehouse
from mxdeliver.edge.avro import load_resources
from mxdeliver.edge.openpgp import vet

DAYS = (SnapshotDate(2026, 1, 1), SnapshotDate(2026, 1, 2))
SCALE = 0.02


def run_program(*arguments: str, cwd) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mxdeliver", *arguments],
        cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Run the demo, small; gives its folder's parent and what it printed."""
    place = tmp_path_factory.mktemp("demo")
    done = run_program("demo", "--scale", str(SCALE), cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return place, done.stdout


def test_every_client_receives_every_file_of_both_days(shown):
    place, _ = shown

    for client in CLIENTS:
        received = place / "mxdeliver-demo" / "received" / client.short_name
        names = sorted(path.name for path in received.iterdir())
        assert len(names) == 2 * 64
        assert all(name.startswith(client.guid) for name in names)
        assert sum(name.endswith("-manifest.csv.pgp") for name in names) == 2


def test_the_table_tells_what_was_delivered(shown):
    _, output = shown
    rows = [
        line for line in output.splitlines() if re.search(r"\d{4}-\d{2}-\d{2} .*delivered", line)
    ]

    assert len(rows) == 6
    for client in CLIENTS:
        assert sum(client.name in row for row in rows) == 2
    assert all(" 64 " in row for row in rows)


def test_what_it_says_lies_there(shown):
    place, output = shown
    told = dict(re.findall(r"^(received files|delivery log|ledger) +(\S+)$", output, re.MULTILINE))

    assert set(told) == {"received files", "delivery log", "ledger"}
    for path in told.values():
        assert (place / path).exists()


def test_the_next_commands_work_when_the_server_is_gone(shown):
    place, output = shown
    commands = [
        shlex.split(line) for line in output.partition("Try next:")[2].splitlines() if line.strip()
    ]

    assert len(commands) == 3
    for words in commands:
        done = subprocess.run(
            words, cwd=place, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout


def test_a_client_cannot_read_what_another_received(shown):
    place, _ = shown
    folder = place / "mxdeliver-demo"
    done = run_program(
        "verify",
        str(folder / "received" / CLIENTS[0].short_name),
        "--secret-key",
        str(folder / "clients" / f"{CLIENTS[1].short_name}.secret.asc"),
        cwd=place,
    )

    assert done.returncode == 1


def test_passwords_and_secret_keys_are_closed_to_others(shown):
    place, _ = shown
    folder = place / "mxdeliver-demo"
    kept = [*(folder / "secrets").iterdir(), *(folder / "clients").iterdir()]

    assert len(kept) == 2 * len(CLIENTS)
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}


def test_the_days_are_delivered_once_however_often_run(shown):
    place, _ = shown
    received = place / "mxdeliver-demo" / "received" / CLIENTS[0].short_name
    days = {path.name.split(".")[1][:10] for path in received.iterdir()}
    assert len(days) == 2
    for day in days:
        done = run_program("run", "-c", "mxdeliver-demo/config.yaml", "--date", day, cwd=place)
        assert (done.returncode, done.stderr) == (0, ""), "a delivered day needs no server"


def test_a_folder_of_somebody_elses_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mxdeliver-demo").mkdir()
    done = run_program("demo", cwd=tmp_path)

    assert done.returncode == 2
    assert "was not made by the demo" in done.stderr
    assert list((tmp_path / "mxdeliver-demo").iterdir()) == []


def test_a_run_that_tells_nothing_is_an_error_of_the_demo(tmp_path):
    folder = prepare(tmp_path / "demo")

    with pytest.raises(Internal, match="ended with status 78"):
        deliver(folder, DAYS)


def test_a_client_who_received_nothing_is_not_content(tmp_path):
    folder = prepare(tmp_path / "demo")
    write_clients_side(folder, CLIENTS[0], make_key_pair(CLIENTS[0], datetime.now(UTC)))

    assert not received_well(folder, CLIENTS[0])


def test_only_a_folder_with_the_demos_mark_is_replaced(tmp_path):
    folder = prepare(tmp_path / "demo")
    (folder.root / "old").touch()
    prepare(folder.root)
    assert not (folder.root / "old").exists()

    (folder.root / MARK).unlink()
    with pytest.raises(FileExistsError, match="not made by the demo"):
        prepare(folder.root)


def test_a_link_is_never_replaced(tmp_path):
    folder = prepare(tmp_path / "demo")
    link = tmp_path / "link"
    link.symlink_to(folder.root)

    with pytest.raises(FileExistsError):
        prepare(link)
    assert (folder.root / MARK).is_file()


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.key.name)
def test_a_demo_key_is_accepted_without_a_warning(client):
    now = datetime(2026, 1, 3, tzinfo=UTC)
    pair = make_key_pair(client, now - timedelta(days=2))
    certificate = vet(pair.public.encode(), at=now, fingerprint=pair.fingerprint)

    assert len(certificate.encryption_keys) == 1
    assert certificate.encryption_keys[0].algorithm == client.key.value
    assert client.name in certificate.user_ids[0]


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_gpg_can_read_with_a_demo_s_rsa_key_every_time():
    (client,) = [client for client in CLIENTS if client.key is KeyKind.RSA2048]
    key, _ = PGPKey.from_blob(make_key_pair(client, datetime(2026, 1, 1, tzinfo=UTC)).secret)
    for part in (key, *key.subkeys.values()):
        numbers = part._key.keymaterial
        assert numbers.p < numbers.q
        assert numbers.p * numbers.u % numbers.q == 1
        assert part._key.header.length == len(part._key.__bytes__()[2:]) - 1


# -- the warehouse ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory):
    path = tmp_path_factory.mktemp("warehouse") / "warehouse.duckdb"
    written = write_warehouse(
        path, resources=tuple(load_resources().values()), clients=CLIENTS, days=DAYS, scale=SCALE
    )
    with duckdb.connect(str(path), read_only=True) as connection:
        yield connection, written


def test_every_resource_has_its_table_with_the_columns_of_a_source(warehouse):
    connection, written = warehouse
    total = 0
    for resource in load_resources().values():
        columns = connection.sql(f'SELECT * FROM "{resource.name}" LIMIT 0').columns
        assert {field.name for field in resource.fields} <= set(columns)
        assert {"client_guid", "created_at", "updated_at", "deleted_at"} <= set(columns)
        total += connection.sql(f'SELECT count(*) FROM "{resource.name}"').fetchall()[0][0]

    assert total == written


def test_some_resources_are_empty_and_each_event_happens(warehouse):
    connection, _ = warehouse
    assert connection.sql("SELECT count(*) FROM beat_feedback").fetchall() == [(0,)]
    per_client = dict(
        connection.sql("SELECT client_guid, count(*) FROM goals GROUP BY ALL").fetchall()
    )
    assert set(per_client) == {client.guid for client in CLIENTS if "goals" not in client.without}

    start, end = 1767225600, 1767312000
    for condition in (
        "created_at >= {0} AND created_at < {1}",
        "updated_at >= {0} AND updated_at < {1} AND updated_at > created_at",
        "deleted_at >= {0} AND deleted_at < {1}",
    ):
        happened = connection.sql(
            f"SELECT count(*) FROM transactions WHERE {condition.format(start, end)}"
        )
        assert happened.fetchall()[0][0] > 0


def test_no_guid_appears_twice_and_references_lead_somewhere(warehouse):
    connection, _ = warehouse
    assert connection.sql(
        "SELECT count(*) - count(DISTINCT guid) FROM transactions"
    ).fetchall() == [(0,)]
    assert connection.sql(
        "SELECT count(*) FROM transactions ANTI JOIN users ON user_guid = users.guid"
    ).fetchall() == [(0,)]


def test_the_same_days_give_the_same_records(warehouse, tmp_path):
    connection, _ = warehouse
    accounts = load_resources()["accounts"]
    again = tmp_path / "again.duckdb"
    write_warehouse(again, resources=[accounts], clients=CLIENTS, days=DAYS, scale=SCALE)

    with duckdb.connect(str(again), read_only=True) as second:
        query = "SELECT * FROM accounts ORDER BY guid"
        assert second.sql(query).fetchall() == connection.sql(query).fetchall()


def test_every_resource_with_records_has_a_schema():
    assert set(RECORDS_A_DAY) <= set(load_resources())


# -- the server ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def host_key():
    return make_host_key()


@pytest.fixture
def server(tmp_path, host_key):
    """Serve two users; gives the port and their directories."""
    logins = {}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        logins[name] = Login(password=f"secret of {name}", directory=tmp_path / name)
    with serve(logins, host_key) as port:
        yield port, tmp_path


def connected(port: int, username: str, password: str) -> paramiko.Transport:
    transport = paramiko.Transport(("127.0.0.1", port))
    try:
        transport.connect(username=username, password=password)
    except BaseException:
        transport.close()
        raise
    return transport


@pytest.fixture
def session(server):
    port, folder = server
    transport = connected(port, "one", "secret of one")
    client = paramiko.SFTPClient.from_transport(transport)
    yield client, folder / "one"
    client.close()
    transport.close()


def test_a_file_is_written_read_listed_renamed_and_removed(session):
    client, directory = session
    content = bytes(range(256)) * 1000
    with client.open("new.part", "wbx") as file:
        file.write(content)
        file.flush()
        assert file.stat().st_size == len(content)
    client.rename("new.part", "new")

    assert (directory / "new").read_bytes() == content
    assert client.listdir(".") == ["new"]
    assert client.lstat("new").st_size == client.stat("/new").st_size == len(content)
    with client.open("new", "rb") as file:
        assert file.read() == content
    client.remove("new")
    assert list(directory.iterdir()) == []


def test_a_rename_never_replaces(session):
    client, directory = session
    (directory / "taken").write_text("first")
    (directory / "other").write_text("second")

    with pytest.raises(OSError, match="Failure"):
        client.rename("other", "taken")
    assert (directory / "taken").read_text() == "first"
    assert (directory / "other").read_text() == "second"


def test_what_is_missing_is_said_to_be_missing(session):
    client, _ = session
    for action in (
        lambda: client.stat("absent"),
        lambda: client.open("absent", "rb"),
        lambda: client.remove("absent"),
        lambda: client.rename("absent", "present"),
        lambda: client.listdir("absent"),
    ):
        with pytest.raises(FileNotFoundError):
            action()


def test_nothing_outside_the_users_directory_can_be_named(session):
    client, directory = session
    (directory.parent / "two" / "private").write_text("of two")

    for path in ("../two/private", "/../two/private", f"{directory.parent}/two/private"):
        with pytest.raises(FileNotFoundError):
            client.stat(path)
    assert client.listdir("/..") == []


@pytest.mark.parametrize(("username", "password"), [("one", "secret of two"), ("three", "")])
def test_nobody_logs_in_without_their_password(server, username, password):
    port, _ = server
    with pytest.raises(paramiko.AuthenticationException):
        connected(port, username, password)


def test_a_shell_is_refused(server):
    port, _ = server
    transport = connected(port, "one", "secret of one")
    try:
        with pytest.raises(paramiko.SSHException):
            transport.open_session().exec_command("true")
        with pytest.raises(paramiko.ChannelException):
            transport.open_channel("direct-tcpip", ("127.0.0.1", 1), ("127.0.0.1", 2))
    finally:
        transport.close()


def test_the_pin_is_what_the_server_shows(server, host_key):
    port, _ = server
    transport = connected(port, "two", "secret of two")
    try:
        assert pin_of(transport.get_remote_server_key()) == pin_of(host_key)
        assert pin_of(host_key).startswith("SHA256:")
    finally:
        transport.close()
