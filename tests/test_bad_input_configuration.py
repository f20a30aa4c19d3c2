"""What is written down wrong: the program stops, or that client only; the sentence leads to the line."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass

import pytest
import yaml

from tests.support.openssh import OpenSSHServer
from tests.support.outcomes import (
    DAY,
    add_client,
    assert_delivered,
    assert_nothing_arrived,
    fill,
    run_day,
    small_deployment,
)

LITERAL = "mule-literal-3-copper"


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """A change to an entry, and what must be said: code, path in the entry, problem, remedy."""

    change: dict
    code: str = "CONFIG_INVALID"
    path: str
    problem: str
    remedy: str


ENTRIES = {
    "port 22": Wrong(
        change={"sftp": {"port": 22}},
        code="PORT_NOT_ALLOWED",
        path="sftp.port",
        problem="port 22 is refused",
        remedy="ask the client for a port other than 22",
    ),
    "unknown key": Wrong(
        change={"sftp": {"pasword": {"env": "X"}}},
        path="sftp.pasword",
        problem="unknown key",
        remedy="did you mean `password`?",
    ),
    "literal password": Wrong(
        change={"sftp": {"password": LITERAL}},
        path="sftp.password",
        problem="holds the secret itself",
        remedy="write {env: NAME}, {file: PATH} or {credential: NAME}",
    ),
    "no guid": Wrong(
        change={"guid": "CLT-1234"},
        path="guid",
        problem="is not a client guid",
        remedy="such as CLT-0858efd1-2d2e-6a5d-f2b5-c7dad42ef184",
    ),
    "address outside": Wrong(
        change={"sftp": {"allowed_ips": ["203.0.113.7"]}},
        path="sftp.host",
        problem="allowed_ips",
        remedy="",
    ),
    "no such resource": Wrong(
        change={"resources": ["users", "userz"]},
        path="resources[1]",
        problem="there is no schema for 'userz'",
        remedy="did you mean `users`?",
    ),
}


class Bench:
    """One run of a healthy client and one for each wrong entry, twins included."""

    def __init__(self, folder, server):
        self.deployment = small_deployment(folder, server)
        self.healthy = add_client(self.deployment, "healthy")
        self.wrong = {
            name: add_client(self.deployment, name, **wrong.change)
            for name, wrong in ENTRIES.items()
        }
        self.twins = [add_client(self.deployment, f"twin {letter}") for letter in "ab"]
        self.twins[1].entry["guid"] = self.twins[0].guid
        fill(self.deployment)
        self.outcome = run_day(self.deployment)
        assert LITERAL not in self.outcome.stderr + json.dumps(self.outcome.document)

    def problems(self, party):
        (found,) = (
            one for one in self.outcome.document["broken"] if one["name"] == party.entry["name"]
        )
        return found["problems"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configuration")
    with OpenSSHServer(folder) as server:
        yield Bench(folder, server)


@pytest.mark.parametrize("name", ENTRIES)
def test_a_wrong_entry_stops_its_client_and_leads_to_the_line(bench, name):
    wrong, party = ENTRIES[name], bench.wrong[name]
    (problem,) = bench.problems(party)
    assert problem["code"] == wrong.code
    assert problem["path"].endswith(wrong.path)
    assert wrong.problem in problem["problem"]
    assert wrong.remedy in problem["remedy"]
    line = bench.outcome.line(party)
    assert line.startswith(f"mxdeliver: {name}: {wrong.code}: {bench.deployment.config_path}")
    assert problem["problem"] in line
    assert problem["remedy"] in line
    assert_nothing_arrived(party)


def test_the_line_named_is_the_one_that_is_wrong(bench):
    (problem,) = bench.problems(bench.wrong["port 22"])
    lines = bench.deployment.config_path.read_text().splitlines()
    assert lines[problem["line"] - 1].strip() == "port: 22"


def test_clients_with_the_same_guid_are_both_stopped(bench):
    for party, other in (bench.twins, reversed(bench.twins)):
        (problem,) = bench.problems(party)
        assert problem["path"].endswith("guid")
        assert "is also that of the client at" in problem["problem"]
        assert problem["remedy"] == "give each client its own"
        assert_nothing_arrived(party)
        assert other.entry["guid"] == party.guid


def test_the_other_client_is_delivered_and_the_status_is_78(bench):
    assert bench.outcome.status == 78
    assert_delivered(bench.outcome, bench.healthy)
    assert len(bench.outcome.document["deliveries"]) == 1


def test_status_says_that_the_entry_must_be_corrected(bench):
    done = bench.deployment.run("status")
    assert done.returncode == 1
    for name in ("port 22", "literal password", "twin a"):
        sentence = "nothing will be tried until its entry in the configuration is corrected"
        assert f"{name}: {sentence}; `mxdeliver check` says what is wrong" in done.stdout


# -- what stops the program ------------------------------------------------------------------------


def duplicate_key(document):
    text = yaml.safe_dump(document, sort_keys=False)
    return text.replace("  name: First\n", "  name: First\n  name: First\n")


def unknown_key_at_the_top(document):
    return yaml.safe_dump({**document, "pasword": LITERAL}, sort_keys=False)


def no_yaml(document):
    return yaml.safe_dump(document, sort_keys=False) + "\n  - : ]\n"


def no_clients(document):
    return yaml.safe_dump({**document, "clients": []}, sort_keys=False)


def not_there(_):
    return None


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    with OpenSSHServer(folder) as server:
        deployment = small_deployment(folder, server)
        yield deployment, add_client(deployment, "First")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (duplicate_key, "name: is given twice"),
        (unknown_key_at_the_top, "pasword"),
        (no_yaml, "config.yaml:"),
        (no_clients, "no client is named"),
        (not_there, "config.yaml"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_stops_the_program(first, spoil, said):
    deployment, party = first
    deployment.write()
    text = spoil(deployment.document)
    if text is None:
        deployment.config_path.unlink()
    else:
        deployment.config_path.write_text(text)
    done = subprocess.run(
        deployment.command("run", "--date", str(DAY), "--json"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 78
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "CONFIG_INVALID"
    assert {"file", "line", "path", "problem", "remedy"} <= error["problems"][0].keys()
    assert said in done.stderr
    assert "mxdeliver: CONFIG_INVALID: " in done.stderr
    assert error["problems"][0]["remedy"] in done.stderr
    assert LITERAL not in done.stdout + done.stderr
    assert not (deployment.folder / "state").exists()
    assert_nothing_arrived(party)


@pytest.mark.parametrize(
    "arguments", [("status",), ("resend", "--client", "First", "--date", str(DAY))], ids=" ".join
)
def test_other_commands_tell_of_a_wrong_file_as_json_too(first, arguments):
    deployment, _ = first
    deployment.config_path.write_text("version: 2\n")
    done = subprocess.run(
        deployment.command(*arguments, "--json"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 78
    assert json.loads(done.stdout)["error"]["code"] == "CONFIG_INVALID"
    assert "mxdeliver: CONFIG_INVALID: " in done.stderr
