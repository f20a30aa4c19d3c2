"""Standard output that takes nothing, or little at a time: nothing is cut behind an exit status of 0."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import termios
from contextlib import contextmanager
from pathlib import Path

import pytest

from mxdeliver.cli.explain import page
from tests.support.deployment import PROGRAM
from tests.support.openssh import wait_until
from tests.support.outcomes import DAY, FILES, add_client, fill, small_deployment

_PIPE_BYTES = 4096
_A_LINE = 500


@pytest.fixture
def deployment(tmp_path, server):
    made = small_deployment(tmp_path, server)
    add_client(made, "First Union")
    fill(made)
    made.write()
    return made


def on_a_full_disk(command):
    with Path("/dev/full").open("wb") as full:
        return subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )


@contextmanager
def narrow_pipe(command):
    """Start a command whose output is a pipe of one page that asks to come again when it is full.

    Gives the pipe's other end, from which nothing was read yet, and the process.
    """
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    os.set_blocking(writing, False)
    process = subprocess.Popen(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    with open(reading, "rb") as stream, process:  # noqa: PTH123 - from a descriptor
        wait_until(lambda: held(stream) > _PIPE_BYTES - _A_LINE, "a full pipe", 60)
        yield stream, process


def held(stream):
    return int.from_bytes(fcntl.ioctl(stream, termios.FIONREAD, bytes(4)), "little")


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_output_that_a_full_disk_does_not_take_is_no_success(deployment, options):
    party = deployment.parties[0]
    assert deployment.run("run", "--date", str(DAY)).returncode == 0
    assert len(party.received()) == FILES
    assert deployment.run("status", *options).returncode == 0
    done = on_a_full_disk(deployment.command("status", *options))
    assert done.returncode == 1
    assert done.stderr == ("mxdeliver: standard output is cut short: No space left on device\n")


def test_a_document_that_a_full_disk_does_not_take_stops_no_delivery(deployment):
    done = on_a_full_disk(deployment.command("run", "--date", str(DAY), "--json"))
    assert len(deployment.parties[0].received()) == FILES
    assert done.returncode == 1
    assert "standard output is cut short: No space left on device" in done.stderr
    assert deployment.run("run", "--date", str(DAY), "--json").returncode == 0


def test_a_status_that_says_more_stays_as_it_is(deployment):
    deployment.document["clients"] = 5
    deployment.write()
    done = on_a_full_disk(deployment.command("status", "--json"))
    assert done.returncode == 78
    assert "CONFIG_INVALID" in done.stderr


def test_a_slow_reader_gets_all_of_it_through_a_pipe_that_does_not_block():
    with narrow_pipe([*PROGRAM, "explain", "--all"]) as (stream, process):
        assert stream.read().decode() == page()
    assert process.returncode == 0


def test_a_slow_reader_gets_a_whole_document_through_a_pipe_that_does_not_block():
    with narrow_pipe([*PROGRAM, "config", "schema"]) as (stream, process):
        assert "clients" in json.loads(stream.read())["properties"]
    assert process.returncode == 0


def test_a_slow_reader_gets_every_line_of_the_log(deployment):
    deployment.document["delivery_log"] = "-"
    deployment.write()
    with narrow_pipe(deployment.command("run", "--date", str(DAY))) as (stream, process):
        events = [json.loads(line)["event"] for line in stream.read().splitlines()]
        errors = process.stderr.read()
    assert (process.returncode, events[0], events[-1]) == (0, "run.started", "run.finished")
    assert "cannot be written" not in errors


def test_a_reader_that_leaves_in_the_middle_of_a_document_is_not_told_of_success():
    with narrow_pipe([*PROGRAM, "config", "schema"]) as (stream, process):
        stream.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
