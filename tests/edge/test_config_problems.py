"""Every mistake that the configuration can hold: told with file, line, path and remedy, and no value."""

import re

import pytest

from mxdeliver.core.errors import ConfigInvalid
from mxdeliver.edge.config import load

GUID = "CLT-0858efd1-2d2e-6a5d-f2b5-c7dad42ef184"
PIN = "SHA256:3vRkQ1mGzXo0b8nJ5yTt2uWcLh7sPiDe9fAaBqNwE4M"
KEY_LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBc2mVJkq0n8w4dXr7Yb1sTzEo5hLgPuCf3iKa9RjQeM"
FULL = f"""\
version: 1
retention_days: 7
schedule: {{workers: 2}}
retry: {{attempts: 6}}
include: []
sources:
  warehouse:
    type: duckdb
    database: data.duckdb
    queries: {{users: {{created: select 1}}}}
  other: {{type: adbc, driver: postgresql}}
defaults:
  resources: standard
clients:
  - guid: {GUID}
    name: First Union
    timezone: UTC
    source: warehouse
    due_after: 75m
    retry: {{deadline: 6h}}
    active_since: 2026-01-01
    pgp:
      public_key: keys/a.asc
      fingerprint: {"0123456789" * 4}
    sftp:
      host: sftp.example.test
      port: 8022
      username: mx
      password: {{env: SFTP_PASSWORD}}
      host_keys: ["{PIN}"]
      allowed_ips: [203.0.113.7]
      directory: /in
      open_files: 64
      replace: never
    files: {{suffix: .avro.pgp}}
"""
CLIENT = "clients[0]"


def problems_of(path):
    """Load and give all problems, wherever they stop what they concern."""
    try:
        configuration = load(path)
    except ConfigInvalid as error:
        return list(error.problems)
    return [problem for broken in configuration.broken for problem in broken.problems]


def line_of(text, old, new):
    """Tell on which line of the changed text the change begins."""
    assert text.count(old) == 1, f"{old!r} stands there {text.count(old)} times"
    leading = len(new) - len(new.lstrip("\n"))
    return text[: text.index(old)].count("\n") + 1 + leading


# what stands there, what is written in its place, the path, the problem, the remedy
TABLE = [
    ("version: 1", "version: 2", "version", "a version that this program", "`version: 1`"),
    ("version: 1", "version: '1'", "version", "a version that this program", "`version: 1`"),
    ("retention_days: 7", "retention_days: 0", "retention_days", "out of range", "at least 1"),
    ("retention_days: 7", "retention_days: 9999", "retention_days", "range", "at most 3650"),
    ("retention_days: 7", "retention_days: 7d", "retention_days", "whole number", "digits alone"),
    ("retention_days: 7", "retention_days: 07", "retention_days", "whole number", "digits alone"),
    ("retention_days: 7", "retention_days: true", "retention_days", "whole number", "digits"),
    ("retention_days: 7", "retention_days:", "retention_days", "is empty", "remove the key"),
    ("retention_days: 7", "retention_day: 7", "retention_day", "unknown", "`retention_days`?"),
    ("retention_days: 7", "colour: blue", "colour", "unknown", "known here are version, state"),
    ("retention_days: 7", "ledger: postgres", "ledger", "not a ledger", "`sqlite` or"),
    ("retention_days: 7", "ledger: {url: x}", "ledger.url", "the secret itself", "{env: NAME}"),
    ("retention_days: 7", "ledger: {}", "ledger.url", "is missing", "add `url:`"),
    ("retention_days: 7", "state_dir: ~/x", "state_dir", "begins with ~", "write the path out"),
    ("retention_days: 7", 'state_dir: ""', "state_dir", "is empty", "give a value"),
    ("retention_days: 7", 'state_dir: "a\\nb"', "state_dir", "a line break", "one line"),
    ("retention_days: 7", "schemas: more", "schemas", "must be a list", "[first, second]"),
    ("retention_days: 7", "schemas: [[a]]", "schemas[0]", "must be text", "one value"),
    ("{workers: 2}", "{workers: 0}", "schedule.workers", "out of range", "at least 1"),
    ("{workers: 2}", "{catch_up_days: 1.5}", "schedule.catch_up_days", "whole number", "digits"),
    ("{workers: 2}", "[workers, 2]", "schedule", "must be a mapping", "`key: value`"),
    ("{attempts: 6}", "{atempts: 6}", "retry.atempts", "unknown key", "`attempts`?"),
    ("{attempts: 6}", "{initial: 0s}", "retry.initial", "longer than zero", "such as 2s"),
    ("{attempts: 6}", "{initial: 2m}", "retry.initial", "longer than `maximum`", "raise"),
    ("include: []", "include: [gone.yaml]", "include[0]", "not there", "correct the path"),
    ("type: duckdb", "typ: duckdb", "sources.warehouse.type", "is missing", "add `type:`"),
    ("database: data", "databse: data", "sources.warehouse.databse", "unknown", "`database`?"),
    ("{created: select 1}", "{create: select 1}", "sources.warehouse.queries.users.create",
     "not one of created, updated, deleted", "did you mean created?"),
    ("{created: select 1}", "{created: }", "sources.warehouse.queries.users.created",
     "must be SQL text", "in quotes or after `|`"),
    ("{users: {", "{Users: {", "sources.warehouse.queries.Users", "resource's name", "`users`?"),
    ("    database: data.duckdb\n", "", "sources.warehouse", "neither `database` nor", "add"),
    ("    database: data.duckdb", "    memory_limit: lots\n    database: x",
     "sources.warehouse.memory_limit", "amount of memory", "512MB"),
    ("    database: data.duckdb", "    threads: 0\n    database: x",
     "sources.warehouse.threads", "out of range", "at least 1"),
    ("{type: adbc, driver: postgresql}", "{type: adbc}", "sources.other.driver", "missing", "add"),
    ("{type: adbc, driver: postgresql}", "{type: acme, queries: x}", "sources.other.queries",
     "must be a mapping", "key: value"),
    ("{type: adbc, driver: postgresql}", "text", "sources.other", "must be a mapping", "key"),
    ("resources: standard", "recources: standard", "defaults.recources", "unknown", "`resources`?"),
    ("resources: standard", "resources: all", "defaults.resources", "not a list", "`standard`"),
    ("resources: standard", f"guid: {GUID}", "defaults.guid", "belongs to one", "under each"),
    ("resources: standard", "name: X", "defaults.name", "belongs to one client", "under each"),
    ("resources: standard", "source: gone", "defaults.source", "no entry of `sources`", "name one"),
    ("resources: standard", "sftp: {port: 22}", "defaults.sftp.port", "22 is refused", "other"),
    (GUID, "CLT-123", f"{CLIENT}.guid", "not a client guid", "lower-case UUID"),
    (GUID, f'"{GUID}/.."', f"{CLIENT}.guid", "not a client guid", "CLT-0858efd1"),
    (f"guid: {GUID}", "active: true", f"{CLIENT}.guid", "is missing", "add `guid:`"),
    ("name: First Union", f"name: {GUID}", f"{CLIENT}.name", "not a name", "in words"),
    ("timezone: UTC", "timezone: Europe/Berln", f"{CLIENT}.timezone", "zone", "Europe/Berlin?"),
    ("timezone: UTC", "timezone: localtime", f"{CLIENT}.timezone", "not a time zone", ""),
    ("timezone: UTC", "timezone: right/UTC", f"{CLIENT}.timezone", "not a time zone", ""),
    ("timezone: UTC", "timezone: ../UTC", f"{CLIENT}.timezone", "not a time zone", ""),
    ("timezone: UTC", "timezone: America", f"{CLIENT}.timezone", "not a time zone", ""),
    ("timezone: UTC", "timezone: '+02:00'", f"{CLIENT}.timezone", "zone", "America/Denver"),
    ("source: warehouse", "source: warehose", f"{CLIENT}.source", "no entry", "warehouse?"),
    ("source: warehouse", "source: xyzzy", f"{CLIENT}.source", "no entry", "add it there"),
    ("source: warehouse", "resources: [users]", f"{CLIENT}.source", "missing", "add `source:`"),
    ("source: warehouse", "resources: [Users]\n    source: other", f"{CLIENT}.resources[0]",
     "not a resource's name", "did you mean `users`?"),
    ("source: warehouse", "resources: [X Y]\n    source: other", f"{CLIENT}.resources[0]",
     "not a resource's name", "lower case"),
    ("source: warehouse", "resources: []\n    source: other", f"{CLIENT}.resources", "empty",
     "at least one"),
    ("source: warehouse", "resources: [users, users]\n    source: other", f"{CLIENT}.resources",
     "names a resource twice", "once"),
    ("due_after: 75m", "due_after: 75", f"{CLIENT}.due_after", "not a duration", "75m"),
    ("due_after: 75m", "due_after: 01:15", f"{CLIENT}.due_after", "not a duration", "75m"),
    ("due_after: 75m", "due_after: 400d", f"{CLIENT}.due_after", "longer than 366", "shorter"),
    ("{deadline: 6h}", "{maximum: 1s}", f"{CLIENT}.retry.initial", "than `maximum`", "raise"),
    ("2026-01-01", "01.01.2026", f"{CLIENT}.active_since", "not a date", "YYYY-MM-DD"),
    ("2026-01-01", "2026-02-30", f"{CLIENT}.active_since", "not a date", "YYYY-MM-DD"),
    ("      public_key: keys/a.asc\n", "", f"{CLIENT}.pgp.public_key", "missing", "public_key:"),
    ("0123456789" * 4, "0123456789ABCDEF", f"{CLIENT}.pgp.fingerprint", "a key id", "the full"),
    ("0123456789" * 4, "89ABCDEF", f"{CLIENT}.pgp.fingerprint", "8 digits", "mxdeliver key FILE"),
    ("0123456789" * 4, "ab" * 32, f"{CLIENT}.pgp.fingerprint", "version 6", "mxdeliver key"),
    ("0123456789" * 4, "4A3E…", f"{CLIENT}.pgp.fingerprint", "not a fingerprint", "mxdeliver key"),
    ("    sftp:\n", "    sftpp:\n", f"{CLIENT}.sftpp", "unknown key", "did you mean `sftp`?"),
    ("host: sftp.example.test", "hostname: x", f"{CLIENT}.sftp.hostname", "unknown", "host"),
    ("sftp.example.test", "sftp://a.test", f"{CLIENT}.sftp.host", "neither a host", "scheme"),
    ("sftp.example.test", "mx@a.test", f"{CLIENT}.sftp.host", "neither a host name", "user"),
    ("sftp.example.test", "2130706433", f"{CLIENT}.sftp.host", "neither a host name", "alone"),
    ("sftp.example.test", "0x7f.1", f"{CLIENT}.sftp.host", "neither a host name", "alone"),
    ("sftp.example.test", "127.1", f"{CLIENT}.sftp.host", "neither a host name", "alone"),
    ("sftp.example.test", "'[::1]'", f"{CLIENT}.sftp.host", "neither a host name", "brackets"),
    ("sftp.example.test", "10.1.2.3", f"{CLIENT}.sftp.host", "`allowed_ips`", "add the address"),
    ("port: 8022", "port: 22", f"{CLIENT}.sftp.port", "22 is refused", "other"),
    ("port: 8022", "port: '8022'", f"{CLIENT}.sftp.port", "not a port", "without quotes"),
    ("port: 8022", "port: 022", f"{CLIENT}.sftp.port", "not a port", "without quotes"),
    ("port: 8022", "port: 65536", f"{CLIENT}.sftp.port", "not a port", "1 to 65535"),
    ("port: 8022", "port: true", f"{CLIENT}.sftp.port", "not a port", "1 to 65535"),
    ("username: mx", "username:", f"{CLIENT}.sftp.username", "is empty", "give a value"),
    ("username: mx", "username: [a]", f"{CLIENT}.sftp.username", "must be text", "one value"),
    ("{env: SFTP_PASSWORD}", "literal", f"{CLIENT}.sftp.password", "the secret itself", "{env:"),
    ("{env: SFTP_PASSWORD}", "", f"{CLIENT}.sftp.password", "itself or nothing", "{file: PATH}"),
    ("{env: SFTP_PASSWORD}", "{}", f"{CLIENT}.sftp.password", "exactly one place", "{env: NAME}"),
    ("{env: SFTP_PASSWORD}", "{env: A, file: b}", f"{CLIENT}.sftp.password", "exactly one", "{env"),
    ("{env: SFTP_PASSWORD}", "{fiel: b}", f"{CLIENT}.sftp.password", "does not say", "`file`?"),
    ("{env: SFTP_PASSWORD}", "{vault: b}", f"{CLIENT}.sftp.password", "does not say", "{env:"),
    ("{env: SFTP_PASSWORD}", "{env: }", f"{CLIENT}.sftp.password", "names nothing", "{env: NAME}"),
    ("{env: SFTP_PASSWORD}", "{env: a b}", f"{CLIENT}.sftp.password", "environment", "letters"),
    ("{env: SFTP_PASSWORD}", "{credential: a/b}", f"{CLIENT}.sftp.password", "a credential", "let"),
    ("{env: SFTP_PASSWORD}", "{credential: ..}", f"{CLIENT}.sftp.password", "a credential", "let"),
    ("{env: SFTP_PASSWORD}", "{file: ~/p}", f"{CLIENT}.sftp.password", "begins with ~", "out"),
    ("      password: {env: SFTP_PASSWORD}\n", "", f"{CLIENT}.sftp", "neither `password`", "add"),
    ("password: {env", "pasword: {env", f"{CLIENT}.sftp.pasword", "unknown", "`password`?"),
    ("      password: {env: SFTP_PASSWORD}", "      passphrase: {env: B}\n      password: {env: A}",
     f"{CLIENT}.sftp.passphrase", "belongs to no `private_key`", "add"),
    (f'["{PIN}"]', "[]", f"{CLIENT}.sftp.host_keys", "is empty", "at least one"),
    (f'["{PIN}"]', PIN, f"{CLIENT}.sftp.host_keys", "must be a list", "[first"),
    (f'["{PIN}"]', f'["{PIN}", "{PIN}"]', f"{CLIENT}.sftp.host_keys[1]", "same key", "keep one"),
    (f'["{PIN}"]', "[a, b, c, d]", f"{CLIENT}.sftp.host_keys", "too many", "at most 3"),
    (f'["{PIN}"]', '["SHA256:abc"]', f"{CLIENT}.sftp.host_keys[0]", "whole SHA256", "hostkey"),
    (f'["{PIN}"]', '["SHA256:é"]', f"{CLIENT}.sftp.host_keys[0]", "whole SHA256", "hostkey"),
    (f'["{PIN}"]', '["MD5:aa:bb"]', f"{CLIENT}.sftp.host_keys[0]", "MD5", "mxdeliver hostkey"),
    (f'["{PIN}"]', f'["@revoked * {KEY_LINE}"]', f"{CLIENT}.sftp.host_keys[0]", "marker", "hostk"),
    (f'["{PIN}"]', '["ssh-ed25519"]', f"{CLIENT}.sftp.host_keys[0]", "neither a SHA256", "hostkey"),
    (f'["{PIN}"]', '["ssh-ed25519 AAAA"]', f"{CLIENT}.sftp.host_keys[0]", "damaged", "hostkey"),
    (f'["{PIN}"]', '["ssh-ed25519 A=é"]', f"{CLIENT}.sftp.host_keys[0]", "damaged", "hostkey"),
    (f'["{PIN}"]', f'["{KEY_LINE.replace("ed25519", "rsa", 1)}"]', f"{CLIENT}.sftp.host_keys[0]",
     "damaged", "hostkey"),
    (f'["{PIN}"]', '["ssh-dss AAAA"]', f"{CLIENT}.sftp.host_keys[0]", "DSA", "hostkey"),
    (f'["{PIN}"]', '["some text here"]', f"{CLIENT}.sftp.host_keys[0]", "neither", "hostkey"),
    (f'["{PIN}"]', "[{pin: x, not_after: soon}]", f"{CLIENT}.sftp.host_keys[0].pin", "neither", ""),
    (f'["{PIN}"]', f'[{{pn: "{PIN}"}}]', f"{CLIENT}.sftp.host_keys[0].pn", "unknown", "`pin`?"),
    ("[203.0.113.7]", "[]", f"{CLIENT}.sftp.allowed_ips", "is empty", "at least one"),
    ("[203.0.113.7]", "203.0.113.7", f"{CLIENT}.sftp.allowed_ips", "must be a list", "[first"),
    ("[203.0.113.7]", "[0.0.0.0/0]", f"{CLIENT}.sftp.allowed_ips[0]", "every address", "name the"),
    ("[203.0.113.7]", "['::/0']", f"{CLIENT}.sftp.allowed_ips[0]", "every address", "name the"),
    ("[203.0.113.7]", "['::ffff:0:0/96']", f"{CLIENT}.sftp.allowed_ips[0]", "every", "name the"),
    ("[203.0.113.7]", "['::/64']", f"{CLIENT}.sftp.allowed_ips[0]", "every address", "name the"),
    ("[203.0.113.7]", "[203.0.113.7/28]", f"{CLIENT}.sftp.allowed_ips[0]", "inside a /28",
     "write 203.0.113.0/28"),
    ("[203.0.113.7]", "[example.test]", f"{CLIENT}.sftp.allowed_ips[0]", "not an IP", "203.0.113"),
    ("[203.0.113.7]", "[3405803783]", f"{CLIENT}.sftp.allowed_ips[0]", "not an IP", "203.0.113"),
    ("[203.0.113.7]", "['fe80::1%eth0']", f"{CLIENT}.sftp.allowed_ips[0]", "not an IP", "203"),
    ("[203.0.113.7]", "[203.0.113.007]", f"{CLIENT}.sftp.allowed_ips[0]", "not an IP", "203"),
    ("directory: /in", "directory: /in/../out", f"{CLIENT}.sftp.directory", "climbs", "itself"),
    ("directory: /in", "directory: ~/in", f"{CLIENT}.sftp.directory", "~", "leave `~/` out"),
    ("directory: /in", 'directory: "/in\\0"', f"{CLIENT}.sftp.directory", "control", "one line"),
    ("directory: /in", 'directory: "/in\\n"', f"{CLIENT}.sftp.directory", "a line break", "one"),
    ("directory: /in", "directory:", f"{CLIENT}.sftp.directory", "is empty", "remove the key"),
    ("open_files: 64", "open_files: 0", f"{CLIENT}.sftp.open_files", "out of range", "least 1"),
    ("replace: never", "replace: always", f"{CLIENT}.sftp.replace", "not one of never, ours", ""),
    ("replace: never", "replace: our", f"{CLIENT}.sftp.replace", "not one of", "mean ours?"),
    ("{suffix: .avro.pgp}", "{suffix: pgp}", f"{CLIENT}.files.suffix", "not a file suffix", ".avro"),
    ("{suffix: .avro.pgp}", "{suffix: ./x}", f"{CLIENT}.files.suffix", "not a file suffix", ".avro"),
    ("{suffix: .avro.pgp}", "{codec: snappy}", f"{CLIENT}.files.codec", "null, deflate", "null or"),
    ("{suffix: .avro.pgp}", "{codec: }", f"{CLIENT}.files.codec", "is empty", "give a value"),
    ("{suffix: .avro.pgp}", "{verify: ful}", f"{CLIENT}.files.verify", "not one of", "mean full?"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "path", "problem", "remedy"), TABLE, ids=lambda value: str(value)[:40]
)
def test_a_mistake_is_told_with_its_line_path_and_remedy(tmp_path, old, new, path, problem, remedy):
    file = tmp_path / "config.yaml"
    file.write_text(FULL.replace(old, new), encoding="utf-8")
    line = line_of(FULL, old, new)
    at_path = [found for found in problems_of(file) if found.path == path]
    assert len(at_path) == 1, problems_of(file)
    (found,) = at_path
    assert found.file == str(file)
    assert problem in found.problem
    assert remedy in found.remedy
    assert found.remedy
    # what is missing is told at what lacks it, which begins above
    missing = new == "" or "missing" in found.problem or found.path == f"{CLIENT}.retry.initial"
    assert found.line is not None
    assert found.line == line or (missing and found.line <= line)
    assert re.fullmatch(r".*config\.yaml:\d+: \S+: .+, .+", str(found))


def test_the_unchanged_file_has_no_problem(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(FULL, encoding="utf-8")
    assert problems_of(file) == []


def test_a_missing_key_is_told_at_the_line_of_what_lacks_it(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(FULL.replace("      port: 8022\n", ""), encoding="utf-8")
    (found,) = problems_of(file)
    assert (found.path, found.line) == ("clients[0].sftp.port", 25)
    assert found.remedy == "add `port:`, such as 8022"


def test_port_22_has_a_code_of_its_own_that_the_words_do_not_repeat(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(FULL.replace("port: 8022", "port: 22"), encoding="utf-8")
    (found,) = problems_of(file)
    assert (found.code, found.problem) == ("PORT_NOT_ALLOWED", "port 22 is refused")


@pytest.mark.parametrize(
    ("old", "new", "path", "meant"),
    [
        ("username: mx", "user: mx", "clients[0].sftp.user", "username"),
        ("    sftp:\n", "    sftpp:\n", "clients[0].sftpp", "sftp"),
        ("driver: postgresql", "drive: postgresql", "sources.other.drive", "driver"),
        ("sources:\n", "source:\n", "source", "sources"),
        ("clients:\n", "client:\n", "client", "clients"),
        (
            "0123456789" * 4,
            f"{'0' * 40}\n      publickey: a",
            "clients[0].pgp.publickey",
            "public_key",
        ),
    ],
)
def test_a_misspelt_key_is_one_problem_and_not_also_a_missing_one(tmp_path, old, new, path, meant):
    file = tmp_path / "config.yaml"
    file.write_text(FULL.replace(old, new), encoding="utf-8")
    (found,) = problems_of(file)
    assert (found.path, found.problem) == (path, "is an unknown key")
    assert found.remedy == f"did you mean `{meant}`?"


def test_what_misspelt_defaults_give_is_not_told_as_missing_too(tmp_path):
    file = tmp_path / "config.yaml"
    text = FULL.replace("defaults:\n", "default:\n  sftp: {port: 8022}\n")
    file.write_text(text.replace("      port: 8022\n", ""), encoding="utf-8")
    (found,) = problems_of(file)
    assert (found.path, found.remedy) == ("default", "did you mean `defaults`?")


def test_a_key_missing_below_what_defaults_give_is_told_at_the_client(tmp_path):
    file = tmp_path / "config.yaml"
    text = FULL.replace("  resources: standard", "  pgp: {public_key: keys/a.asc}")
    start, end = text.index("    pgp:\n"), text.index("    sftp:\n")
    file.write_text(text[:start] + text[end:], encoding="utf-8")
    (found,) = problems_of(file)
    assert found.path == "clients[0].pgp.fingerprint"
    assert found.line == 15


def test_all_problems_of_all_parts_are_told_at_once(tmp_path):
    text = FULL.replace("retention_days: 7", "retention_days: x").replace("port: 8022", "port: 22")
    text = text.replace("driver: postgresql", "colour: blue").replace("UTC", "Nowhere")
    text = text.replace("resources: standard", "resources: x").replace("[]", "[gone.yaml]")
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigInvalid, match="has 6 problems") as caught:
        load(file)
    assert {problem.path for problem in caught.value.problems} == {
        "retention_days", "sources.other.driver", "sources.other.colour", "defaults.resources",
        "clients[0].sftp.port", "clients[0].timezone",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("pgp", "path", "problem"),
    [
        ("{A, not_before: 2026-02-01, not_after: 2026-01-01}", "[0].not_after", "is before"),
        ("{A}, {A, not_before: 2026-01-01}", "[0]", "never used"),
        ("{A, not_before: 2026-02-30}", "[0].not_before", "is not a date"),
    ],
)
def test_dates_of_keys_must_leave_each_key_its_time(tmp_path, pgp, path, problem):
    file = tmp_path / "config.yaml"
    entry = f"public_key: a.asc, fingerprint: {'0' * 40}"
    text = FULL.replace("    pgp:\n", f"    pgp: [{pgp.replace('A', entry)}]\n")
    text = re.sub(r"      public_key: .*\n      fingerprint: .*\n", "", text)
    file.write_text(text, encoding="utf-8")
    (found,) = problems_of(file)
    assert found.path == f"clients[0].pgp{path}"
    assert problem in found.problem
    assert found.line == 22


# -- files around it -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "path", "problem"),
    [
        ("clients: []\nversion: 1\n", 2, "version", "is not read here"),
        ("clients: {a: b}\n", 1, "clients", "must be a list"),
        ("- a\n", 1, "", "names no clients"),
        ("clients: [\n", 2, "", "is not YAML"),
        ("", None, "", "is empty"),
    ],
)
def test_what_is_wrong_in_an_included_file_is_told_there(tmp_path, text, line, path, problem):
    (tmp_path / "more.yaml").write_text(text)
    file = tmp_path / "config.yaml"
    file.write_text(FULL.replace("include: []", "include: ['m*.yaml']"))
    with pytest.raises(ConfigInvalid) as caught:
        load(file)
    (found,) = caught.value.problems
    assert found.file == str(tmp_path / "more.yaml")
    assert (found.line, found.path) == (line, path)
    assert problem in found.problem


def test_a_configuration_without_any_client_is_refused(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(FULL[: FULL.index("clients:")].replace("[]", "['clients.d/*.yaml']"))
    (found,) = problems_of(file)
    assert found.path == "clients"
    assert "no client is named" in found.problem


def test_a_configuration_without_sources_is_refused(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(re.sub(r"sources:.*?defaults:", "defaults:", FULL, flags=re.DOTALL))
    assert [found.path for found in problems_of(file)] == ["sources", "clients[0].source"]


@pytest.mark.parametrize("text", ["- a\n- b\n", "text\n", "42\n", "null\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigInvalid, match="not a mapping"):
        load(file)


# -- what must never be repeated -------------------------------------------------------------------

CANARY = "hunter2Zq"
PLACES = [
    f"password: {CANARY}",
    f"password: '{CANARY}'",
    f"password: [{CANARY}]",
    f"password: {{{CANARY}}}",
    f"password: {{{CANARY}: x}}",
    f"password: {{{CANARY}: x, {CANARY}: y}}",
    f"password: {{env: [{CANARY}]}}",
    f"password: {{env: '{CANARY} '}}",
    f"password: {{file: {{x: {CANARY}}}}}",
    f"password: {{credential: '{CANARY}/'}}",
    f"password: {{value: {CANARY}}}",
    f"password: *{CANARY}",
    f"password: !{CANARY} x",
    f"password: !!{CANARY}! x",
    f"password: @{CANARY}",
    f"password: `{CANARY}",
    f"password: %{CANARY}",
    f"password: '{CANARY}",
    f'password: "{CANARY}\\q"',
    f"password: {CANARY}: x",
    f"password: &{CANARY} &{CANARY} x",
    f"password: ? {CANARY}",
    f"password: {{[{CANARY}]: x}}",
    f"password:{CANARY}",
    f"{{password:{CANARY}}}",
    f"pasword: {CANARY}",
    f"pasword: {{env: {CANARY}}}",
    f"passwd: {{{CANARY}: 1}}",
    f"passphrase: {CANARY}",
    f"private_key: |\n        -----BEGIN\n        {CANARY}",
    f"host: mx:{CANARY}@sftp.example.test",
    f"port: {CANARY}",
    f"username: [{CANARY}]",
    f"directory: ~{CANARY}",
    f"replace: {CANARY}",
    f"open_files: {CANARY}",
    f"host_keys: {CANARY}",
    f"host_keys: [{CANARY}]",
    f"allowed_ips: [{CANARY}]",
]  # fmt: skip


@pytest.mark.parametrize("written", PLACES)
@pytest.mark.parametrize("below", ["sftp", "defaults"])
def test_no_value_is_ever_repeated_wherever_it_stands(tmp_path, written, below):
    file = tmp_path / "config.yaml"
    mark = {
        "sftp": ("      password: {env: SFTP_PASSWORD}", "      "),
        "defaults": ("  resources: standard", "  sftp:\n      "),
    }[below]
    assert mark[0] in FULL
    file.write_text(FULL.replace(mark[0], mark[1] + written), encoding="utf-8")
    found = problems_of(file)
    assert found
    assert CANARY not in repr(found)
    try:
        configuration = load(file)
    except ConfigInvalid as error:
        assert CANARY not in str(error)  # noqa: PT017 - not every place stops the program
        assert CANARY not in repr(error.__context__)  # noqa: PT017 - as above
    else:
        assert CANARY not in repr([broken.problems for broken in configuration.broken])


def test_a_url_with_a_password_is_not_repeated(tmp_path):
    file = tmp_path / "config.yaml"
    for written in (
        f"ledger: postgresql://mx:{CANARY}@db/ledger",
        f"ledger: {{url: 'postgresql://mx:{CANARY}@db/ledger'}}",
        f"ledger: {{{CANARY}: 1}}",
    ):
        file.write_text(FULL.replace("retention_days: 7", written))
        assert "postgresql" not in repr(problems_of(file)).replace("'postgresql'", "")
        assert problems_of(file)
    file.write_text(FULL.replace("driver: postgresql", f"driver: x, uri: 'db://mx:{CANARY}@h'"))
    assert [found.path for found in problems_of(file)] == ["sources.other.uri"]
    assert CANARY not in repr(problems_of(file))
