"""Builders as a whole: a run for several clients, undisturbed, stopped, and killed anywhere."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from contextlib import suppress

import pytest

from tests.support.builders import (
    ENDLESS,
    at_work,
    builders_of,
    in_each_builder,
    needs_two_cores,
    python_path,
    wait_until_all_build,
    wait_until_gone,
)
from tests.support.deployment import kill
from tests.support.invariants import everyone_watched
from tests.support.openssh import wait_until
from tests.support.outcomes import (
    DAY,
    FILES,
    add_client,
    assert_log_is_valid,
    fill,
    small_deployment,
)
from tests.support.proxy import Proxy

pytestmark = needs_two_cores


@pytest.fixture
def deployment(tmp_path, server):
    made = small_deployment(tmp_path, server)
    with everyone_watched(made):
        yield made
    assert_log_is_valid(made)


@pytest.fixture
def two(deployment):
    """Two clients, tried twice a run."""
    deployment.document["retry"]["attempts"] = 2
    parties = [add_client(deployment, name) for name in ("First", "Second")]
    fill(deployment, rows=50)
    return parties


def start(deployment, **options):
    return deployment.start("run", "--date", str(DAY), "--json", **options)


def ended(process, seconds=60):
    output, errors = process.communicate(timeout=seconds)
    return process.returncode, json.loads(output)["deliveries"] if output else [], errors


def run_again(deployment, parties):
    """The next run delivers to everybody, and leaves nothing half done."""
    again = deployment.run("run", "--date", str(DAY))
    assert again.returncode == 0, again.stderr
    assert [len(party.received()) for party in parties] == [FILES] * len(parties)
    assert not at_work(deployment)


def events(deployment, name):
    return [line for line in deployment.log_lines() if line["event"] == name]


def endless(deployment, is_so=True):
    source = deployment.document["sources"]["warehouse"]
    source.pop("queries", None)
    if is_so:
        source["queries"] = {"users": {"created": ENDLESS}}


def nothing_is_sealed(deployment):
    return not list((deployment.folder / "state/spool").glob("CLT-*"))


# -- undisturbed -----------------------------------------------------------------------------------


def test_builders_give_the_same_records_and_lines_as_the_program_by_itself(server, tmp_path):
    given = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        deployment = small_deployment(folder, server)
        deployment.document["schedule"] = {"workers": workers}
        parties = [add_client(deployment, name) for name in ("First", "Second")]
        fill(deployment, rows=50)
        done = deployment.run("run", "--date", str(DAY))
        assert done.returncode == 0, done.stderr
        built = events(deployment, "file.built")
        lines = sorted((one["file_name"], one["record_count"], one["checksum"]) for one in built)
        avro = [
            {name: data for name, data in party.decrypted().items() if "avro" in name}
            for party in parties
        ]
        given.append((lines, avro))
    assert given[0] == given[1]
    assert len(given[0][0]) == 12


def test_one_client_and_one_worker_start_no_builder(deployment, server):
    with Proxy(server.port) as proxy:
        proxy.hold.set()
        for name in ("First", "Second"):
            add_client(deployment, name, sftp={"port": proxy.port})
        fill(deployment)
        for arguments, workers in ((["--client", "First"], 2), ([], 1)):
            deployment.document["schedule"] = {"workers": workers}
            before = proxy.connections
            process = deployment.start("run", "--date", str(DAY), *arguments)
            wait_until(lambda before=before: proxy.connections > before, "a connection", 60)
            assert builders_of(process.pid) == []
            kill(process)
        proxy.hold.clear()
        run_again(deployment, deployment.parties)


def test_more_clients_than_workers_have_as_many_builders_as_workers_and_connections(
    deployment, server
):
    with Proxy(server.port) as proxy:
        proxy.hold_after = {1: 12_000, 2: 12_000}
        parties = [
            add_client(deployment, f"Client {letter}", sftp={"port": proxy.port})
            for letter in "abcdefgh"
        ]
        fill(deployment, rows=200)
        process = start(deployment)
        wait_until(lambda: len(events_if_any(deployment, "bundle.sealed")) == 6, "six days", 60)
        wait_until(lambda: proxy.connections == 2, "two connections", 60)
        assert len(builders_of(process.pid)) == 2
        assert len(events(deployment, "delivery.started")) == 6
        proxy.hold_after = {}
        status, deliveries, errors = ended(process)
    assert status == 0, errors
    assert {row["state"] for row in deliveries} == {"delivered"}
    assert [len(party.received()) for party in parties] == [FILES] * 8


def events_if_any(deployment, name):
    path = deployment.folder / "logs/deliveries.jsonl"
    return events(deployment, name) if path.exists() else []


# -- what a builder is and knows -------------------------------------------------------------------


def test_a_builder_is_hardened_deaf_and_knows_neither_secret_nor_network_nor_ledger(
    deployment, tmp_path
):
    told = tmp_path / "told"
    told.mkdir()
    deployment.document["sources"]["telling"] = {"type": "telling", "folder": str(told)}
    for name in ("First", "Second"):
        party = add_client(deployment, name, source="telling")
        party.entry["sftp"]["password"] = {"env": f"{name.upper()}_PASSWORD"}
    fill(deployment)
    secrets = {"FIRST_PASSWORD": "correct horse", "SECOND_PASSWORD": "correct mule"}
    process = start(deployment, environment=python_path(tmp_path) | secrets | {"OTHER": "kept"})
    status, _, errors = ended(process)
    assert status == 75, errors
    reports = [json.loads(path.read_text()) for path in told.iterdir()]
    assert process.pid not in {facts["process"] for facts in reports}
    for facts in reports:
        assert (facts["dumpable"], facts["core"], facts["mask"]) == (0, [0, 0], 0o077)
        assert {"SIGINT", "SIGTERM"} <= set(facts["deaf"])
        assert facts["group"] == facts["process"]
        assert not secrets.keys() & facts["environment"].keys()
        assert facts["environment"]["OTHER"] == "kept"
        assert "" not in facts["path"]
        foreign = {"paramiko", "sqlalchemy", "alembic", "yaml", "pydantic", "click", "tenacity"}
        ours = {"worker", "deliver", "site", "push", "logins", "cli", "binding"}
        ours |= {"edge.ledger", "edge.sftp", "edge.config", "edge.journal"}
        foreign |= {f"mxdeliver.{name}" for name in ours}
        assert not foreign & set(facts["modules"])


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        ("raise MemoryError", "INTERNAL"),
        ("raise KeyError('a value')", "INTERNAL"),
        ("from mxdeliver.core.errors import RecordInvalid; raise RecordInvalid('a column')",
         "RECORD_INVALID"),
        ("import os; os._exit(7)", "BUILDER_DIED"),
        ("import os; os.kill(os.getpid(), 11)", "BUILDER_DIED"),
    ],
)  # fmt: skip
def test_what_goes_wrong_in_a_builder_is_its_clients_alone(deployment, tmp_path, raised, code):
    deployment.document["sources"]["failing"] = {"type": "failing", "raised": raised}
    broken = add_client(deployment, "Broken", source="failing")
    sound = [add_client(deployment, f"Sound {letter}") for letter in "abc"]
    fill(deployment)
    status, deliveries, errors = ended(start(deployment, environment=python_path(tmp_path)))
    codes = {row["client_guid"]: row["error_code"] for row in deliveries}
    assert codes == {broken.guid: code} | {party.guid: None for party in sound}, errors
    assert status == {"INTERNAL": 70, "RECORD_INVALID": 1, "BUILDER_DIED": 75}[code]
    assert "a value" not in errors
    assert "Traceback" not in errors
    assert [len(party.received()) for party in sound] == [FILES] * 3
    assert not at_work(deployment)


# -- stopped ---------------------------------------------------------------------------------------


def to_the_program(process, _builders):
    process.send_signal(signal.SIGTERM)


def to_all_of_a_service(process, builders):
    for one in (*builders, process.pid):
        os.kill(one, signal.SIGTERM)


@pytest.mark.parametrize("send", [to_the_program, to_all_of_a_service])
def test_sigterm_ends_a_run_whose_builders_are_at_a_query_within_ten_seconds(deployment, two, send):
    endless(deployment)
    process = start(deployment)
    builders = set(wait_until_all_build(deployment).values())
    send(process, builders)
    status, deliveries, errors = ended(process, 10)
    assert status == 75, errors
    assert {(row["state"], row["error_code"]) for row in deliveries} == {("waiting", None)}
    assert (at_work(deployment), nothing_is_sealed(deployment)) == ({}, True)
    wait_until_gone(builders)
    endless(deployment, is_so=False)
    run_again(deployment, two)


def test_a_builder_that_does_not_stop_is_ended_and_its_day_waits(deployment, two):
    endless(deployment)
    process = start(deployment)
    builders = wait_until_all_build(deployment)
    os.kill(builders[two[0].guid], signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    status, deliveries, errors = ended(process, 10)
    assert status == 75, errors
    assert {row["client_guid"]: row["error_code"] for row in deliveries} == {
        two[0].guid: "BUILDER_DIED",
        two[1].guid: None,
    }
    wait_until_gone(builders.values())
    endless(deployment, is_so=False)
    run_again(deployment, two)


def test_ctrl_c_at_a_terminal_ends_a_run_with_builders_without_a_word_from_them(deployment, two):
    endless(deployment)
    deployment.write()
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", "--wait", *deployment.command("run", "--date", str(DAY))],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
    ) as process:
        os.close(theirs)
        builders = set(wait_until_all_build(deployment).values())
        os.write(ours, b"\x03")
        shown = b""
        with suppress(OSError):  # the other side is closed
            while piece := os.read(ours, 65536):
                shown += piece
        assert process.wait(10) == 75
    os.close(ours)
    assert b"Traceback" not in shown
    wait_until_gone(builders)
    endless(deployment, is_so=False)
    run_again(deployment, two)


# -- killed ----------------------------------------------------------------------------------------


def test_a_builder_that_is_killed_costs_its_delivery_one_attempt(deployment, two):
    endless(deployment)
    process = start(deployment)
    builders = wait_until_all_build(deployment)
    os.kill(builders[two[0].guid], signal.SIGKILL)
    wait_until(lambda: events_if_any(deployment, "delivery.retrying"), "the retry")
    (line,) = events(deployment, "delivery.retrying")
    assert (line["client_guid"], line["error_code"]) == (two[0].guid, "BUILDER_DIED")
    assert "by SIGKILL" in line["message"]
    wait_until(lambda: builders[two[0].guid] not in at_work(deployment).values(), "the sweep")
    again = wait_until_all_build(deployment)
    assert again[two[0].guid] != builders[two[0].guid]
    assert again[two[1].guid] == builders[two[1].guid]
    process.send_signal(signal.SIGTERM)
    assert ended(process, 10)[0] == 75
    endless(deployment, is_so=False)
    run_again(deployment, two)


def test_killed_with_its_builders_at_work_the_program_takes_them_along(deployment, two):
    endless(deployment)
    process = start(deployment)
    builders = set(wait_until_all_build(deployment).values())
    kill(process)
    wait_until_gone(builders)
    assert nothing_is_sealed(deployment)
    endless(deployment, is_so=False)
    run_again(deployment, two)


def test_a_program_that_was_killed_may_be_run_again_at_once(deployment, two):
    """The day is locked as long as somebody builds it, and not a moment longer."""
    endless(deployment)
    process = start(deployment)
    wait_until_all_build(deployment)
    endless(deployment, is_so=False)
    process.send_signal(signal.SIGKILL)
    first = deployment.run("run", "--date", str(DAY))
    assert first.returncode in {0, 75}, first.stderr
    process.communicate()
    run_again(deployment, two)


KILL_ONCE = """
import os, signal
from pathlib import Path
done, original, calls = Path({done!r}), os.{call}, []
def {call}(*arguments, **options):
    calls.append(1)
    if {after}:
        result = original(*arguments, **options)
    if len(calls) == {number}:
        try:
            os.close(os.open(done, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            os.kill({victim}, signal.SIGKILL)
            signal.pause()
    return result if {after} else original(*arguments, **options)
os.{call} = {call}
"""
MOMENTS = [
    ("mkdir", 1, True),
    ("fsync", 3, False),
    ("fsync", FILES + 1, True),
    ("rename", 1, False),
    ("rename", 1, True),
]


@pytest.mark.parametrize("victim", ["os.getpid()", "os.getppid()"], ids=["builder", "program"])
@pytest.mark.parametrize(("call", "number", "after"), MOMENTS)
def test_killed_anywhere_in_a_build_each_day_is_sealed_and_delivered_once(
    deployment, two, tmp_path, victim, call, number, after
):
    code = KILL_ONCE.format(
        done=str(tmp_path / "done"), call=call, number=number, after=after, victim=victim
    )
    process = start(deployment, environment=in_each_builder(tmp_path, code))
    status, deliveries, errors = ended(process)
    assert (tmp_path / "done").exists()
    if victim == "os.getpid()":
        assert status == 0, errors
        assert {row["attempts"] for row in deliveries} == {1, 2}
        (line,) = events(deployment, "delivery.retrying")
        assert line["error_code"] == "BUILDER_DIED"
    else:
        assert status == -signal.SIGKILL
    run_again(deployment, two)
    sealed = [line["client_guid"] for line in events(deployment, "bundle.sealed")]
    assert len(sealed) == len(set(sealed)), "the same day was sealed twice"


def test_without_the_kernels_help_nothing_is_sealed_once_the_program_is_gone(
    deployment, two, tmp_path
):
    code = """
import os, signal
import mxdeliver.edge.kernel
mxdeliver.edge.kernel.end_with_parent = lambda: None
program, original = os.getppid(), os.fsync
def fsync(descriptor):
    original(descriptor)
    if os.path.isdir(f"/proc/self/fd/{descriptor}"):
        if os.getppid() == program:
            os.kill(program, signal.SIGKILL)
        while os.getppid() == program:
            pass
os.fsync = fsync
"""
    process = start(deployment, environment=in_each_builder(tmp_path, code))
    status, _, _ = ended(process)
    assert status == -signal.SIGKILL
    wait_until(lambda: not at_work(deployment), "the builders to clean up")
    assert nothing_is_sealed(deployment)
    run_again(deployment, two)


# -- where none can be had -------------------------------------------------------------------------


def test_no_builder_is_started_where_nothing_is_to_be_built(deployment, two, tmp_path):
    started = tmp_path / "started"
    environment = in_each_builder(tmp_path, f"open({str(started)!r}, 'a').write('x')")
    for party in two:
        party.entry["sftp"]["port"] = 1
    states = []
    for _ in range(2):
        status, deliveries, errors = ended(start(deployment, environment=environment))
        assert status == 75, errors
        states.append({(row["state"], row["error_code"]) for row in deliveries})
        assert started.read_text() == "xx"
    assert states == [{("waiting", "CONNECT_REFUSED")}] * 2


@pytest.mark.parametrize(
    "code",
    [
        "import os; os._exit(3)",
        "from mxdeliver.builders import wire; wire.PROGRAM_FILES = 'others'",
    ],
    ids=["ends at once", "runs other files"],
)
def test_where_no_builder_comes_up_the_program_builds_by_itself(deployment, two, tmp_path, code):
    environment = in_each_builder(tmp_path, code)
    status, deliveries, errors = ended(start(deployment, environment=environment))
    assert status == 0, errors
    assert {row["attempts"] for row in deliveries} == {1}
    assert [len(party.received()) for party in two] == [FILES, FILES]
