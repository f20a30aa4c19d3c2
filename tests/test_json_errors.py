"""With --json a command that stops says so in a document, too, whatever stopped it."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import timedelta

import pytest

from tests.support.deployment import PROGRAM
from tests.support.openssh import OpenSSHServer, free_port
from tests.support.outcomes import DAY, add_client, fill, small_deployment

DATE = ("--date", str(DAY))
CLIENT = ("--client", "First")


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deployment")
    with OpenSSHServer(folder) as server:
        made = small_deployment(folder, server)
        add_client(made, "First")
        add_client(made, "Second")
        fill(made)
        assert made.run("run", *DATE, *CLIENT).returncode == 0
        yield made


def refused(command):
    """Run a command with and without --json; give its error and exit status."""
    runs = [
        subprocess.run(
            [*command, *options], capture_output=True, text=True, check=False, timeout=60,
            stdin=subprocess.DEVNULL, env={**os.environ, "COLUMNS": "1000"},
        )
        for options in ([], ["--json"])
    ]  # fmt: skip
    for_people, for_programs = runs
    assert for_people.stdout == ""
    assert for_people.stderr == for_programs.stderr
    assert for_people.returncode == for_programs.returncode
    document = json.loads(for_programs.stdout)
    error = document["error"]
    assert {"code", "message"} <= error.keys()
    said = [error["message"], *(one["problem"] for one in error.get("problems", []))][-1]
    assert said in for_people.stderr
    return error, for_programs.returncode


WITH_CONFIGURATION = {
    "run": ("run", *DATE),
    "run --dry-run": ("run", *DATE, "--dry-run"),
    "status": ("status",),
    "check": ("check",),
    "resend": ("resend", *CLIENT, *DATE),
    "adopt": ("adopt", *CLIENT, *DATE),
    "hostkey": ("hostkey", *CLIENT),
    "ledger rebuild": ("ledger", "rebuild"),
}


@pytest.mark.parametrize("arguments", WITH_CONFIGURATION.values(), ids=WITH_CONFIGURATION)
def test_a_configuration_that_is_not_there(tmp_path, arguments):
    error, status = refused([*PROGRAM, *arguments, "-c", str(tmp_path / "none.yaml")])
    assert (error["code"], status) == ("CONFIG_INVALID", 78)
    (problem,) = error["problems"]
    assert problem.keys() == {"code", "file", "line", "path", "problem", "remedy"}
    assert problem["file"] == str(tmp_path / "none.yaml")


NAMING_A_CLIENT = {
    name: arguments for name, arguments in WITH_CONFIGURATION.items() if name != "ledger rebuild"
}


@pytest.mark.parametrize("arguments", NAMING_A_CLIENT.values(), ids=NAMING_A_CLIENT)
def test_a_client_that_nobody_knows(deployment, arguments):
    named = [word for word in arguments if word not in CLIENT]
    error, status = refused(deployment.command(*named, "--client", "Fist"))
    assert (error["code"], status) == ("USAGE", 2)
    assert error["message"] == "no client is called Fist; did you mean `First`?"


@pytest.mark.parametrize("arguments", NAMING_A_CLIENT.values(), ids=NAMING_A_CLIENT)
def test_options_that_are_not_understood(deployment, arguments):
    error, status = refused(deployment.command(*arguments, "--colour"))
    assert (error["code"], status) == ("USAGE", 2)
    assert "--colour" in error["message"]


def test_a_date_that_is_none(deployment):
    error, status = refused(deployment.command("status", "--date", "yesterday"))
    assert (error["code"], status) == ("USAGE", 2)
    assert "'yesterday' is not a date of the form YYYY-MM-DD" in error["message"]


def test_a_day_that_was_never_delivered_is_not_sent_again(deployment):
    before = str(DAY - timedelta(days=40))
    error, status = refused(deployment.command("resend", *CLIENT, "--date", before))
    assert (error["code"], status) == ("USAGE", 1)
    assert f"First, {before}: not known; only a delivered day is sent again" in error["message"]


def test_a_day_whose_sealed_files_are_gone_is_not_sent_again(deployment):
    spool = deployment.folder / "state/spool"
    spool.rename(deployment.folder / "set-aside")
    try:
        error, status = refused(deployment.command("resend", *CLIENT, *DATE))
    finally:
        if spool.exists():
            spool.rmdir()
        (deployment.folder / "set-aside").rename(spool)
    assert (error["code"], status) == ("USAGE", 1)
    assert "--rebuild makes them anew from the source" in error["message"]


def test_nobody_vouches_for_a_day_of_a_client_that_is_gone_and_unknown(deployment):
    guid = "CLT-00000009-2d2e-6a5d-f2b5-c7dad42ef184"
    clients = deployment.document["clients"]
    gone, *others = clients
    deployment.document["clients"] = others
    deployment.write()
    try:
        day = str(DAY - timedelta(days=40))
        error, status = refused(
            deployment.command("adopt", "--client", gone["guid"], "--date", day)
        )
        assert (error["code"], status) == ("USAGE", 1)
        assert f"the ledger knows nothing of {gone['guid']}, {day}" in error["message"]
        error, status = refused(deployment.command("adopt", "--client", guid, "--date", day))
        assert (error["code"], status) == ("USAGE", 2)
    finally:
        deployment.document["clients"] = clients
        deployment.write()


def test_a_server_that_shows_no_host_key():
    error, status = refused([*PROGRAM, "hostkey", f"127.0.0.1:{free_port()}"])
    assert (error["code"], status) == ("CONNECT_REFUSED", 75)


def test_an_address_that_is_none():
    error, status = refused([*PROGRAM, "hostkey", "127.0.0.1"])
    assert (error["code"], status) == ("USAGE", 2)


def test_a_public_key_that_is_not_there(tmp_path):
    error, status = refused([*PROGRAM, "key", str(tmp_path / "none.asc")])
    assert (error["code"], status) == ("KEY_MISSING", 1)


@pytest.mark.parametrize("what", ["folder", "key", "text"])
def test_what_a_recipient_cannot_check_with(tmp_path, what):
    key = tmp_path / "secret.asc"
    if what == "text":
        key.write_text("not a key")
    folder = tmp_path / "none" if what == "folder" else tmp_path
    key = key if what != "folder" else tmp_path
    error, status = refused([*PROGRAM, "verify", str(folder), "--secret-key", str(key)])
    assert (error["code"], status) == ("USAGE", 2)
