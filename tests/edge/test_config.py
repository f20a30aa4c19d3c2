"""A configuration read whole: what each key becomes, what is merged, included and relative to what."""

from datetime import date, timedelta
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from textwrap import dedent
from zoneinfo import ZoneInfo

import pytest

from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.errors import ConfigInvalid
from mxdeliver.core.manifest import STANDARD_RESOURCES
from mxdeliver.core.model import (
    Codec,
    EffectiveDateForm,
    EventType,
    FileOptions,
    HostKeyPin,
    ReplacePolicy,
    RetryPolicy,
    Verification,
)
from mxdeliver.core.secret import SecretKind, SecretReference
from mxdeliver.edge.config import load

GUID = "CLT-0858efd1-2d2e-6a5d-f2b5-c7dad42ef184"
OTHER_GUID = "CLT-5d1f7c3a-90be-4e26-8a47-1b6c0de2f935"
PIN = "SHA256:3vRkQ1mGzXo0b8nJ5yTt2uWcLh7sPiDe9fAaBqNwE4M"
FINGERPRINT = "4A3E2F619B0C7D58E1A453C60F9D8B27A6E514D3"

TOP = """\
version: 1
sources: {warehouse: {type: duckdb, database: w.duckdb}}
"""
CLIENT = f"""\
- guid: {GUID}
  pgp: {{public_key: keys/a.asc, fingerprint: {FINGERPRINT}}}
  sftp:
    host: sftp.example.test
    port: 8022
    username: mx
    password: {{env: SFTP_PASSWORD}}
    host_keys: [{PIN}]
    allowed_ips: [203.0.113.7]
"""


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text), encoding="utf-8")
    return path


def loaded(tmp_path, text=TOP + "clients:\n" + CLIENT):
    configuration = load(write(tmp_path / "config.yaml", text))
    assert configuration.broken == ()
    return configuration


def only_client(tmp_path, *changes):
    """Load one client; each change is (what stands in CLIENT, what is to stand there)."""
    text = CLIENT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return loaded(tmp_path, TOP + "clients:\n" + text).clients[0]


def test_the_least_configuration_has_the_defaults_of_the_documentation(tmp_path):
    configuration = loaded(tmp_path)
    assert configuration.path == tmp_path / "config.yaml"
    assert configuration.state_dir == tmp_path / "state"
    assert configuration.delivery_log == tmp_path / "logs/deliveries.jsonl"
    assert configuration.ledger_url is None
    assert configuration.retention_days == 7
    assert configuration.catch_up_days == 7
    assert configuration.workers == 2
    assert configuration.schema_folders == ()
    (client,) = configuration.clients
    assert (client.guid, client.name, client.active_since) == (GUID, GUID, None)
    assert client.zone == ZoneInfo("UTC")
    assert client.due_after == timedelta(minutes=75)
    assert client.resources == STANDARD_RESOURCES
    assert client.source == "warehouse"
    assert client.files == FileOptions()
    assert client.retry == RetryPolicy()
    assert client.endpoint.directory == ""
    assert client.endpoint.open_files == 64
    assert client.endpoint.replace is ReplacePolicy.NEVER
    assert client.endpoint.private_key is None
    (recipient,) = client.recipients
    assert recipient.public_key == tmp_path / "keys/a.asc"
    assert (recipient.not_before, recipient.not_after) == (None, None)


def test_every_key_of_the_top_arrives(tmp_path):
    configuration = loaded(
        tmp_path,
        f"""\
version: 1
state_dir: /var/lib/mxdeliver
ledger: {{url: {{file: secrets/ledger-url}}}}
delivery_log: "-"
retention_days: 3
schemas: [more, /etc/schemas]
schedule: {{due_after: 2h, catch_up_days: 14, workers: 8}}
retry: {{attempts: 2, initial: 1s, maximum: 5m, deadline: 1d}}
sources:
  warehouse:
    type: duckdb
    database: w.duckdb
    views: {{users: "read_parquet('users/*.parquet')"}}
    memory_limit: 512MB
    threads: 3
    queries: {{users: {{created: select 1, deleted: "select 2"}}}}
  cloud: {{type: adbc, driver: adbc_driver_postgresql, uri: {{file: secrets/uri}}}}
  other: {{type: acme-lake, address: 10.0.0.1, depth: 022, nested: {{a: [1, yes, true]}}}}
clients:
{CLIENT}  source: other
""",
    )
    assert configuration.state_dir == Path("/var/lib/mxdeliver")
    assert configuration.ledger_url == SecretReference(
        kind=SecretKind.FILE, name=str(tmp_path / "secrets/ledger-url")
    )
    assert configuration.delivery_log is None
    assert configuration.retention_days == 3
    assert configuration.schema_folders == (tmp_path / "more", Path("/etc/schemas"))
    assert (configuration.catch_up_days, configuration.workers) == (14, 8)
    (client,) = configuration.clients
    assert client.source == "other"
    assert client.due_after == timedelta(hours=2)
    assert client.retry == RetryPolicy(
        attempts=2,
        initial=timedelta(seconds=1),
        maximum=timedelta(minutes=5),
        deadline=timedelta(days=1),
    )
    warehouse, cloud, other = configuration.sources.values()
    assert (warehouse.name, warehouse.type, warehouse.folder) == ("warehouse", "duckdb", tmp_path)
    assert warehouse.options == {
        "database": "w.duckdb",
        "views": {"users": "read_parquet('users/*.parquet')"},
        "memory_limit": "512MB",
        "threads": 3,
    }
    assert warehouse.queries == {
        "users": {EventType.CREATED: "select 1", EventType.DELETED: "select 2"}
    }
    assert cloud.options == {
        "driver": "adbc_driver_postgresql",
        "uri": SecretReference(kind=SecretKind.FILE, name=str(tmp_path / "secrets/uri")),
    }
    assert other.type == "acme-lake"
    assert other.options == {
        "address": "10.0.0.1", "depth": "022", "nested": {"a": [1, "yes", True]},
    }  # fmt: skip


def test_every_key_of_a_client_arrives(tmp_path):
    text = f"""\
- guid: {OTHER_GUID}
  name: Second Bank
  active_since: 2026-01-01
  timezone: America/Denver
  due_after: 3h
  retry: {{deadline: 12h}}
  resources: [users, my_own]
  source: warehouse
  pgp:
    - {{public_key: a.asc, fingerprint: {FINGERPRINT}, not_after: 2026-06-30}}
    - {{public_key: /keys/b.asc, fingerprint: {"0" * 40}, not_before: 2026-06-01}}
  sftp:
    host: 203.0.113.7
    port: 2222
    username: 12345
    password: {{credential: sftp.password}}
    private_key: {{file: key}}
    passphrase: {{env: PASSPHRASE}}
    host_keys: [{{pin: "{PIN}", not_after: 2027-01-01}}]
    allowed_ips: [203.0.113.0/28, "2001:db8::1"]
    directory: /in/coming/
    open_files: 16
    replace: ours
  files: {{suffix: .gpg, codec: null, effective_date: timestamp, verify: full}}
"""
    (client,) = loaded(tmp_path, TOP + "retry: {attempts: 3}\nclients:\n" + text).clients
    assert (client.guid, client.name) == (OTHER_GUID, "Second Bank")
    assert client.active_since == SnapshotDate(2026, 1, 1)
    assert type(client.active_since) is SnapshotDate
    assert client.zone.key == "America/Denver"
    assert client.due_after == timedelta(hours=3)
    assert client.retry == RetryPolicy(attempts=3, deadline=timedelta(hours=12))
    assert client.resources == ("users", "my_own")
    first, second = client.recipients
    assert (first.public_key, first.not_after) == (tmp_path / "a.asc", date(2026, 6, 30))
    assert (second.public_key, second.not_before) == (Path("/keys/b.asc"), date(2026, 6, 1))
    endpoint = client.endpoint
    assert (endpoint.host, endpoint.port, endpoint.username) == ("203.0.113.7", 2222, "12345")
    assert endpoint.password == SecretReference(kind=SecretKind.CREDENTIAL, name="sftp.password")
    assert endpoint.private_key == SecretReference(kind=SecretKind.FILE, name=f"{tmp_path}/key")
    assert endpoint.passphrase == SecretReference(kind=SecretKind.ENVIRONMENT, name="PASSPHRASE")
    assert endpoint.host_keys == (HostKeyPin(sha256=PIN, not_after=date(2027, 1, 1)),)
    assert endpoint.allowed_ips == (IPv4Network("203.0.113.0/28"), IPv6Network("2001:db8::1"))
    assert endpoint.directory == "/in/coming"
    assert endpoint.open_files == 16
    assert endpoint.replace is ReplacePolicy.OURS
    assert client.files == FileOptions(
        suffix=".gpg",
        codec=Codec.NULL,
        effective_date=EffectiveDateForm.TIMESTAMP,
        verify=Verification.FULL,
    )


@pytest.mark.parametrize(
    "written",
    [
        "4a3e2f619b0c7d58e1a453c60f9d8b27a6e514d3",
        "4A3E 2F61 9B0C 7D58 E1A4  53C6 0F9D 8B27 A6E5 14D3",
        "0x4A3E2F619B0C7D58E1A453C60F9D8B27A6E514D3",
    ],
)
def test_a_fingerprint_may_have_spaces_and_small_letters(tmp_path, written):
    client = only_client(tmp_path, (FINGERPRINT, f'"{written}"'))
    assert client.recipients[0].fingerprint == FINGERPRINT


def test_a_fingerprint_of_digits_alone_stays_text(tmp_path):
    client = only_client(tmp_path, (FINGERPRINT, "0123456789" * 4))
    assert client.recipients[0].fingerprint == "0123456789" * 4


# the key and its fingerprint were made with ssh-keygen
LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBc2mVJkq0n8w4dXr7Yb1sTzEo5hLgPuCf3iKa9RjQeM"
LINE_PIN = "SHA256:Wf5omWvKVLaXx25azluLtIf0l/HN9OfzyE0SoGbQzqE"


@pytest.mark.parametrize(
    "written",
    [
        LINE,
        f"{LINE} a comment",
        f'"[sftp.example.test]:8022 {LINE}"',
        f'"sftp.example.test,203.0.113.7 {LINE} comment"',
        LINE_PIN,
        f"{LINE_PIN}=",
    ],
)
def test_a_host_key_is_a_pin_or_a_public_key_line(tmp_path, written):
    client = only_client(tmp_path, (f"[{PIN}]", f"\n    - {written}"))
    assert client.endpoint.host_keys == (HostKeyPin(sha256=LINE_PIN),)


@pytest.mark.parametrize(
    ("written", "network"),
    [
        ("203.0.113.7", "203.0.113.7/32"),
        ("203.0.113.16/28", "203.0.113.16/28"),
        ("203.0.113.16/255.255.255.240", "203.0.113.16/28"),
        ("::ffff:203.0.113.7", "203.0.113.7/32"),
        ("::ffff:203.0.113.0/120", "203.0.113.0/24"),
        ("2001:db8::/64", "2001:db8::/64"),
        ("127.0.0.1", "127.0.0.1/32"),
    ],
)
def test_an_allowed_address_becomes_a_network_of_its_own_version(tmp_path, written, network):
    client = only_client(tmp_path, ("[203.0.113.7]", f'["{written}"]'))
    assert [str(allowed) for allowed in client.endpoint.allowed_ips] == [network]


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("203.0.113.7", "203.0.113.7"),
        ("sftp-1.example.test.", "sftp-1.example.test."),
        ("localhost", "localhost"),
    ],
)
def test_a_host_is_a_name_or_an_address(tmp_path, written, host):
    assert only_client(tmp_path, ("sftp.example.test", f'"{written}"')).endpoint.host == host


@pytest.mark.parametrize(
    ("written", "length"),
    [("0s", 0), ("90s", 90), ("75m", 4500), ("6h", 21600), ("1d", 86400), ("366d", 31622400)],
)
def test_durations_have_four_units(tmp_path, written, length):
    client = only_client(tmp_path, ("  sftp:", f"  due_after: {written}\n  sftp:"))
    assert client.due_after == timedelta(seconds=length)


@pytest.mark.parametrize(
    ("written", "directory"),
    [("''", ""), ("/", "/"), ("/in/", "/in"), ("in/a..b", "in/a..b"), ("2026", "2026")],
)
def test_a_directory_is_literal(tmp_path, written, directory):
    client = only_client(tmp_path, ("username: mx", f"username: mx\n    directory: {written}"))
    assert client.endpoint.directory == directory


# -- defaults --------------------------------------------------------------------------------------


def test_defaults_are_merged_under_clients_key_by_key(tmp_path):
    defaults = """\
defaults:
  timezone: Europe/Berlin
  resources: [users]
  retry: {attempts: 2}
  sftp: {username: shared, directory: /in, allowed_ips: [198.51.100.1]}
  files: {codec: null, suffix: .x}
"""
    client = CLIENT.replace("    username: mx\n", "") + "  files: {suffix: .y}\n"
    (found,) = loaded(tmp_path, TOP + defaults + "clients:\n" + client).clients
    assert found.zone.key == "Europe/Berlin"
    assert found.resources == ("users",)
    assert found.retry.attempts == 2
    assert (found.endpoint.username, found.endpoint.directory) == ("shared", "/in")
    assert found.endpoint.allowed_ips == (IPv4Network("203.0.113.7"),), "lists are replaced"
    assert found.files == FileOptions(codec=Codec.NULL, suffix=".y")


def test_a_reference_to_a_secret_is_replaced_whole(tmp_path):
    defaults = "defaults: {sftp: {password: {file: shared}}}\n"
    (client,) = loaded(tmp_path, TOP + defaults + "clients:\n" + CLIENT).clients
    assert client.endpoint.password == SecretReference(
        kind=SecretKind.ENVIRONMENT, name="SFTP_PASSWORD"
    )


# -- includes --------------------------------------------------------------------------------------


def test_included_files_hold_clients_and_their_paths_count_from_there(tmp_path):
    write(
        tmp_path / "clients.d/b.yaml",
        "clients:\n" + CLIENT.replace("{env: SFTP_PASSWORD}", "{file: password}"),
    )
    text = TOP + "include: [clients.d/*.yaml]\ndefaults: {sftp: {passphrase: {file: common}, "
    text += "private_key: {file: key}}}\n"
    (client,) = loaded(tmp_path, text).clients
    assert client.recipients[0].public_key == tmp_path / "clients.d/keys/a.asc"
    assert client.endpoint.password == SecretReference(
        kind=SecretKind.FILE, name=str(tmp_path / "clients.d/password")
    )
    assert client.endpoint.private_key == SecretReference(
        kind=SecretKind.FILE, name=str(tmp_path / "key")
    ), "what stands in defaults counts from the main file"


def test_includes_are_read_in_order_each_once_and_hidden_files_and_itself_never(tmp_path):
    guids = [f"CLT-{number:08d}-2d2e-6a5d-f2b5-c7dad42ef184" for number in range(3)]
    for name, guid in zip(("b", "a", ".hidden"), guids, strict=True):
        write(tmp_path / f"{name}.yaml", "clients:\n" + CLIENT.replace(GUID, guid))
    configuration = loaded(
        tmp_path, TOP + "include: ['*.yaml', b.yaml, 'none/*.yaml']\nclients:\n" + CLIENT
    )
    assert [client.guid for client in configuration.clients] == [GUID, guids[1], guids[0]]


# -- one client's mistake is that client's ---------------------------------------------------------


def test_a_mistake_in_one_entry_leaves_the_other_clients_usable(tmp_path):
    broken = CLIENT.replace(GUID, OTHER_GUID).replace("8022", "22")
    broken = broken.replace("  pgp:", "  name: Second\n  pgp:")
    configuration = load(
        write(tmp_path / "config.yaml", TOP + "clients:\n" + broken + CLIENT + "- just text\n")
    )
    assert [client.guid for client in configuration.clients] == [GUID]
    second, text = configuration.broken
    assert (second.guid, second.name) == (OTHER_GUID, "Second")
    assert second.problems[0].code == "PORT_NOT_ALLOWED"
    assert (text.guid, text.name) == (None, None)
    assert text.problems[0].problem == "must be a mapping"


@pytest.mark.parametrize(("key", "value"), [("guid", GUID), ("name", "First Union")])
def test_two_clients_of_one_guid_or_name_are_both_unusable(tmp_path, key, value):
    one = CLIENT.replace("  pgp:", "  name: First Union\n  pgp:")
    other = CLIENT if key == "guid" else one.replace(GUID, OTHER_GUID)
    third = CLIENT.replace(GUID, "CLT-00000000-2d2e-6a5d-f2b5-c7dad42ef184")
    configuration = load(write(tmp_path / "config.yaml", TOP + "clients:\n" + one + other + third))
    assert len(configuration.clients) == 1
    assert [len(broken.problems) for broken in configuration.broken] == [1, 1]
    first, second = (broken.problems[0] for broken in configuration.broken)
    assert first.path == f"clients[0].{key}"
    assert second.path == f"clients[1].{key}"
    assert f"config.yaml:{first.line}" in second.problem
    assert value not in str(first)


def test_names_that_differ_in_case_and_spaces_only_are_the_same(tmp_path):
    one = CLIENT.replace("  pgp:", "  name: First Union\n  pgp:")
    other = CLIENT.replace(GUID, OTHER_GUID).replace("  pgp:", "  name: first  UNION\n  pgp:")
    configuration = load(write(tmp_path / "config.yaml", TOP + "clients:\n" + one + other))
    assert len(configuration.broken) == 2


def test_a_missing_file_is_told_with_how_to_begin(tmp_path):
    with pytest.raises(ConfigInvalid) as caught:
        load(tmp_path / "config.yaml")
    (problem,) = caught.value.problems
    assert problem.problem == "does not exist"
    assert "mxdeliver config sample > config.yaml" in problem.remedy
    assert "does not exist" in str(caught.value)


def test_a_folder_in_place_of_the_file_is_told(tmp_path):
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        load(tmp_path)
