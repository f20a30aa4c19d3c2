"""`mxdeliver check` on a whole deployment: bindings when all is well, every problem when it is not."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from datetime import date
from pathlib import Path

import pytest
import yaml

from mxdeliver import cli
from mxdeliver.cli.key import spaced
from mxdeliver.core.manifest import STANDARD_RESOURCES
from tests.support.deployment import gpg, gpg_home, key_pair
from tests.support.warehouse import make_warehouse

PIN = "SHA256:3vRkQ1mGzXo0b8nJ5yTt2uWcLh7sPiDe9fAaBqNwE4M"
SCHEMAS = Path(__file__).parents[1] / "schemas"
GUIDS = [f"CLT-{number:08d}-2d2e-6a5d-f2b5-c7dad42ef184" for number in range(3)]


class Site:
    """A configuration with keys, password and warehouse, changed by tests and then checked."""

    def __init__(self, folder, warehouse):
        self.folder = folder
        self.password = folder / "password"
        self.password.write_text("correct horse\n")
        self.password.chmod(0o600)
        shutil.copy(warehouse, folder)
        self.document = {
            "version": 1,
            "sources": {"warehouse": {"type": "duckdb", "database": "warehouse.duckdb"}},
            "clients": [self.client(0, "First Union"), self.client(1, "Second Bank")],
        }

    def client(self, number, name):
        key = key_pair(number)
        (self.folder / f"{number}.asc").write_bytes(key.public)
        return {
            "guid": GUIDS[number],
            "name": name,
            "resources": ["users", "accounts"],
            "pgp": {"public_key": f"{number}.asc", "fingerprint": key.fingerprint},
            "sftp": {
                "host": f"sftp{number}.example.test",
                "port": 8022,
                "username": "mx",
                "password": {"file": "password"},
                "host_keys": [PIN],
                "allowed_ips": ["203.0.113.7"],
            },
        }

    def first(self, **changes):
        self.document["clients"][0] |= changes
        return self

    def arguments(self, *more):
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(self.document, sort_keys=False))
        return ["check", "-c", str(path), *more]

    def check(self, *arguments):
        """Run the command in this process, as `__main__` does."""
        out, err = io.StringIO(), io.StringIO()
        with (
            redirect_stdout(out),
            redirect_stderr(err),
            pytest.raises(SystemExit) as left,
        ):
            cli.command_line(self.arguments(*arguments))
        return subprocess.CompletedProcess([], left.value.code, out.getvalue(), err.getvalue())

    def check_json(self, *arguments):
        done = self.check("--json", *arguments)
        return done.returncode, json.loads(done.stdout)

    def codes(self):
        """Check; give the exit status and the codes found, for all and by client."""
        status, document = self.check_json()
        codes = [[found["code"] for found in document["problems"]]]
        codes += [[found["code"] for found in one["problems"]] for one in document["clients"]]
        assert all(
            found["remedy"]
            for part in (document, *document["clients"])
            for found in part["problems"]
        )
        return status, codes


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory):
    path = tmp_path_factory.mktemp("check") / "warehouse.duckdb"
    make_warehouse(path, clients=GUIDS[:2], days=[date(2026, 11, 20)])
    return path


@pytest.fixture
def site(tmp_path, warehouse):
    return Site(tmp_path, warehouse)


def test_when_all_is_well_it_shows_who_is_bound_to_what(site):
    site.first(resources="standard")
    done = subprocess.run(
        [sys.executable, "-m", "mxdeliver", *site.arguments()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, last = done.stdout.splitlines()
    assert lines[:4] == [
        f"First Union ({GUIDS[0]})",
        "  -> sftp0.example.test:8022",
        f"  -> {spaced(key_pair(0).fingerprint)}",
        "  -> standard (21 resources)",
    ]
    assert lines[5:] == [
        "  -> sftp1.example.test:8022",
        f"  -> {spaced(key_pair(1).fingerprint)}",
        "  -> users, accounts",
    ]
    assert last == "all is well with 2 clients"
    assert done.stderr == ""
    assert not (site.folder / "state").exists(), "nothing is made"
    assert not (site.folder / "logs").exists()


def test_a_ledger_that_a_run_refuses_is_refused_in_the_same_words(site, monkeypatch):
    monkeypatch.setenv("LEDGER_URL", "postgresql://mx@db/ledger")
    site.document["ledger"] = {"url": {"env": "LEDGER_URL"}}
    status, document = site.check_json()
    path = str(site.folder / "config.yaml")
    run = subprocess.run(
        [sys.executable, "-m", "mxdeliver", "run", "-c", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert status == run.returncode == 78
    (problem,) = document["problems"]
    said = f"mxdeliver: {problem['code']}: {problem['message']}. {problem['remedy']}"
    assert run.stderr.splitlines()[-1] == said
    assert "not available yet" in said


def test_the_document_holds_bindings_and_no_problems(site):
    status, document = site.check_json()
    assert status == 0
    assert (document["problems"], document["warnings"]) == ([], [])
    first = document["clients"][0]
    assert (first["client_guid"], first["name"]) == (GUIDS[0], "First Union")
    assert (first["host"], first["port"], first["directory"]) == ("sftp0.example.test", 8022, "")
    assert first["fingerprints"] == [key_pair(0).fingerprint]
    assert (first["source"], first["resources"]) == ("warehouse", ["users", "accounts"])
    assert (first["problems"], first["warnings"]) == ([], [])


def test_a_client_can_be_chosen_by_name_and_by_guid(site):
    for name in ("Second Bank", GUIDS[1]):
        _, document = site.check_json("--client", name)
        assert [one["name"] for one in document["clients"]] == ["Second Bank"]
    assert site.check("--client", "Third").returncode == 2


def test_a_mistake_at_the_top_is_told_with_its_line_and_status_78(site):
    site.document["colour"] = "blue"
    done = site.check()
    assert done.returncode == 78
    assert re.search(r"CONFIG_INVALID: .*config\.yaml:\d+: colour: is an unknown key", done.stderr)
    status, document = site.check_json()
    assert status == 78
    assert document["error"]["code"] == "CONFIG_INVALID"
    (problem,) = document["error"]["problems"]
    assert problem["path"] == "colour"
    assert problem["line"] > 1
    assert problem["remedy"]


def test_a_mistake_in_one_entry_is_that_clients_and_the_other_is_checked(site):
    site.document["clients"][0]["sftp"]["port"] = 22
    status, document = site.check_json()
    assert status == 78
    second, first = document["clients"]
    assert (first["client_guid"], second["problems"]) == (GUIDS[0], [])
    (found,) = first["problems"]
    assert found["code"] == "PORT_NOT_ALLOWED"
    assert found["path"] == "clients[0].sftp.port"
    assert found["line"] > 1
    done = site.check()
    assert f"First Union ({GUIDS[0]}): not usable" in done.stdout
    assert "PORT_NOT_ALLOWED: " in done.stdout
    assert done.stdout.endswith("1 problem\n")


def test_each_unknown_resource_is_named_with_its_line_and_the_one_that_was_meant(site):
    (site.folder / "more").mkdir()
    (site.folder / "more/loans.avsc").write_bytes((SCHEMAS / "tags.avsc").read_bytes())
    site.document["schemas"] = ["more"]
    site.document["clients"][0]["resources"] = ["tag", "users", "Tags", "loan", "xyzzy"]
    status, document = site.check_json()
    assert status == 78
    first = next(one for one in document["clients"] if one["client_guid"] == GUIDS[0])
    found = {one["path"].removeprefix("clients[0]."): one for one in first["problems"]}
    assert {path: one["remedy"] for path, one in found.items()} == {
        "resources[0]": "did you mean `tags`?",
        "resources[2]": "did you mean `tags`?",
        "resources[3]": "did you mean `loans`?",
        "resources[4]": "add xyzzy.avsc to a folder of `schemas` or correct the name",
    }
    lines = (site.folder / "config.yaml").read_text().splitlines()
    for path, word in {"resources[0]": "tag", "resources[2]": "Tags"}.items():
        assert word in lines[found[path]["line"] - 1]


def test_a_resource_whose_schema_was_added_is_taken(site):
    site.document["clients"][0]["resources"] = ["loans"]
    assert site.check_json()[0] == 78
    (site.folder / "more").mkdir()
    (site.folder / "more/loans.avsc").write_bytes((SCHEMAS / "tags.avsc").read_bytes())
    site.document["schemas"] = ["more"]
    _, document = site.check_json()
    first = next(one for one in document["clients"] if one["client_guid"] == GUIDS[0])
    assert first["resources"] == ["loans"]
    assert "CONFIG_INVALID" not in {one["code"] for one in first["problems"]}


def test_an_entry_without_guid_and_name_is_named_as_such(site):
    site.document["clients"].append({"timezone": "UTC"})
    done = site.check()
    assert done.returncode == 78
    assert "a client without guid and name: not usable" in done.stdout


def secret_gone(site):
    site.first().document["clients"][0]["sftp"]["password"] = {"file": "gone"}


def secret_open(site):
    site.document["clients"][0]["sftp"]["password"] = {"file": "open"}
    (site.folder / "open").write_text("x")
    (site.folder / "open").chmod(0o644)


def key_gone(site):
    (site.folder / "0.asc").unlink()


def key_swapped(site):
    (site.folder / "0.asc").write_bytes(key_pair(1).public)


def key_secret(site):
    (site.folder / "0.asc").write_bytes(key_pair(0).secret)


def key_is_ssh(site):
    (site.folder / "0.asc").write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 x\n")


def key_not_yet(site):
    site.first(pgp=site.document["clients"][0]["pgp"] | {"not_before": "2999-01-01"})


def table_gone(site):
    site.document["sources"]["lake"] = {
        "type": "duckdb",
        "views": {"unrelated": "(select 1 as one)"},
    }
    site.document["clients"][1]["source"] = "warehouse"
    site.first(source="lake", resources=["users"])


def query_for_everybody(site):
    table_gone(site)
    sql = "select * from unrelated"
    site.document["sources"]["lake"]["queries"] = {"users": {"created": sql}}


def database_gone(site):
    site.document["sources"]["lake"] = {"type": "duckdb", "database": "gone.duckdb"}
    site.document["clients"][1]["source"] = "warehouse"
    site.first(source="lake", resources=["users"])


@pytest.mark.parametrize(
    ("change", "code", "status"),
    [
        (secret_gone, "SECRET_MISSING", 1),
        (secret_open, "SECRET_MODE", 1),
        (key_gone, "KEY_MISSING", 1),
        (key_swapped, "KEY_FINGERPRINT", 1),
        (key_secret, "KEY_SECRET_SUPPLIED", 1),
        (key_is_ssh, "KEY_PARSE", 1),
        (table_gone, "SOURCE_SCHEMA", 1),
        (query_for_everybody, "SOURCE_SCHEMA", 1),
        (database_gone, "SOURCE_UNAVAILABLE", 75),
    ],
)
def test_what_an_entry_points_to_is_that_clients_problem(site, change, code, status):
    change(site)
    found_status, (general, first, second) = site.codes()
    assert (found_status, general, second) == (status, [], [])
    assert set(first) == {code}
    assert f"    {code}: " in site.check("--client", GUIDS[0]).stdout


def test_a_query_without_the_client_is_refused_by_name(site):
    query_for_everybody(site)
    assert "$client_guid" in site.check().stdout


def test_no_key_for_today_is_told_and_the_later_one_vetted_already(site):
    key_not_yet(site)
    status, (_, first, _) = site.codes()
    assert status == 1
    assert "KEY_MISSING" in first, "no certificate is valid today"
    assert first[1:] == ["KEY_EXPIRED"], "in 2999 it will have expired"


def test_a_key_whose_days_are_over_is_not_looked_at(site):
    pgp = site.document["clients"][0]["pgp"]
    past = {"public_key": "gone.asc", "fingerprint": "0" * 40, "not_after": "2020-01-01"}
    site.first(pgp=[past, pgp])
    assert site.codes() == (0, [[], [], []])


def test_several_problems_of_several_clients_are_told_at_once_the_worst_decides(site):
    secret_gone(site)
    key_gone(site)
    site.document["clients"][1]["resources"] = ["nonsense"]
    status, (general, first, second) = site.codes()
    assert status == 78
    assert general == []
    assert first == ["SECRET_MISSING", "KEY_MISSING"]
    assert second == ["CONFIG_INVALID"]


def test_no_secret_is_shown(site):
    site.password.write_text("hunter2Zq\n")
    site.password.chmod(0o644)
    done = site.check()
    assert done.returncode == 1
    assert "hunter2Zq" not in done.stdout + done.stderr


# -- what concerns all clients ---------------------------------------------------------------------


def test_a_bad_schema_is_named_for_all(site):
    (site.folder / "more").mkdir()
    (site.folder / "more/x.avsc").write_text("{}")
    site.document["schemas"] = ["more"]
    status, (general, *_) = site.codes()
    assert (status, general) == (78, ["SCHEMA_INVALID"])
    assert "for all clients\n    SCHEMA_INVALID: " in site.check().stdout


def test_a_state_directory_open_to_others_is_told(site):
    state = site.folder / "state"
    state.mkdir()
    (state / "something").write_text("")
    state.chmod(0o755)
    status, (general, *_) = site.codes()
    assert (status, general) == (1, ["SPOOL_MODE"])
    state.chmod(0o700)
    assert site.codes()[0] == 0


def test_a_state_directory_that_cannot_be_made_is_told(site):
    (site.folder / "file").write_text("")
    site.document["state_dir"] = "file/state"
    assert site.codes()[:2] == (1, [["SPOOL_MODE"], [], []])


def test_a_delivery_log_that_cannot_be_written_is_a_warning(site):
    (site.folder / "logs").mkdir()
    (site.folder / "logs/deliveries.jsonl").mkdir()
    status, document = site.check_json()
    assert status == 0
    assert "delivery log" in document["warnings"][0]
    assert "for all clients\n    warning: the delivery log" in site.check().stdout


def test_a_log_on_standard_output_or_already_there_is_fine(site):
    (site.folder / "logs").mkdir()
    (site.folder / "logs/deliveries.jsonl").write_text("")
    assert site.check_json()[1]["warnings"] == []
    site.document["delivery_log"] = "-"
    assert site.check_json()[1]["warnings"] == []


def test_the_ledgers_url_is_a_secret_that_is_checked_too(site):
    site.document["ledger"] = {"url": {"env": "MXDELIVER_TEST_NOT_SET"}}
    assert site.codes()[:2] == (1, [["SECRET_MISSING"], [], []])


# -- what may be right and looks wrong -------------------------------------------------------------


def warnings_of(site):
    status, document = site.check_json()
    assert status == 0
    return [one["warnings"] for one in document["clients"]]


def test_one_key_for_two_servers_is_a_warning_to_both(site):
    site.first(pgp=site.document["clients"][1]["pgp"])
    first, second = warnings_of(site)
    assert "same OpenPGP key as Second Bank" in first[0]
    assert "same OpenPGP key as First Union" in second[0]
    assert "    warning: has the same OpenPGP key" in site.check().stdout


def test_two_keys_for_one_directory_are_a_warning_to_both(site):
    site.first(sftp=site.document["clients"][1]["sftp"])
    first, second = warnings_of(site)
    assert "same directory as Second Bank" in first[0]
    assert "same directory as First Union" in second[0]
    site.document["clients"][0]["sftp"] = site.document["clients"][1]["sftp"] | {
        "directory": "/elsewhere"
    }
    assert warnings_of(site) == [[], []]


def test_a_secret_that_its_group_can_read_is_a_warning(site):
    site.password.chmod(0o640)
    assert all("group" in warnings[0] for warnings in warnings_of(site))


def test_pins_that_are_all_past_are_a_warning(site):
    site.document["clients"][0]["sftp"]["host_keys"] = [{"pin": PIN, "not_after": "2020-01-01"}]
    first, second = warnings_of(site)
    assert first == ["every pinned host key has passed its not_after"]
    assert second == []


def test_a_key_that_soon_expires_is_a_warning(site):
    with gpg_home() as home:
        gpg(home, "--quick-gen-key", "soon@example.test", "future-default", "default", "10d")
        listed = gpg(home, "--with-colons", "--list-keys").decode()
        (site.folder / "0.asc").write_bytes(gpg(home, "--armor", "--export"))
    fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))
    site.first(pgp={"public_key": "0.asc", "fingerprint": fingerprint})
    (warning,) = warnings_of(site)[0]
    assert "0.asc" in warning


def test_an_ipv6_server_is_shown_in_brackets(site):
    sftp = site.document["clients"][0]["sftp"]
    sftp |= {"host": "2001:db8::7", "allowed_ips": ["2001:db8::7"]}
    assert "\n  -> [2001:db8::7]:8022\n" in site.check().stdout


def test_the_bindings_stand_above_the_problems_of_each_client(site):
    key_gone(site)
    lines = site.check().stdout.splitlines()
    assert lines[0].startswith("First Union")
    assert [line.startswith("  -> ") for line in lines[1:4]] == [True] * 3
    assert lines[4].startswith("    KEY_MISSING: ")
    assert lines[5].startswith("Second Bank")
    assert lines[9:] == ["1 problem"]


def test_a_long_list_of_resources_is_wrapped(site):
    site.first(resources=list(STANDARD_RESOURCES[:20]))
    shown = site.check().stdout
    assert max(len(line) for line in shown.splitlines() if "SOURCE_SCHEMA" not in line) < 90
    assert "\n     " in shown


def test_a_pipe_into_which_nobody_writes_is_no_configuration(tmp_path):
    os.mkfifo(tmp_path / "config.yaml")
    done = subprocess.run(
        [sys.executable, "-m", "mxdeliver", "check", "-c", str(tmp_path / "config.yaml")],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 78
    assert "config.yaml: cannot be read (nobody writes into the pipe)" in done.stderr
