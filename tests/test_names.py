"""Names and addresses, on the real program with a nameserver of ours: who is never connected to."""

from __future__ import annotations

import itertools
import json
import select
import socket

import pytest

from tests.support.nameserver import NXDOMAIN, SERVFAIL, Nameserver
from tests.support.openssh import OpenSSHServer
from tests.support.outcomes import (
    DAY,
    Outcome,
    add_client,
    assert_delivered,
    assert_log_is_valid,
    fill,
    small_deployment,
)

ALLOWED, OTHER, THIRD = "127.0.0.1", "127.0.0.77", "127.0.0.78"


@pytest.fixture
def server(tmp_path):
    with OpenSSHServer(tmp_path) as running:
        yield running


@pytest.fixture
def traps(server):
    """Listen at the server's port on addresses that nobody may connect to."""
    listening = [socket.create_server((address, server.port)) for address in (OTHER, THIRD)]
    yield listening
    for one in listening:
        one.close()


def test_only_allowed_answers_of_one_resolution_are_connected_to(tmp_path, server, traps):
    deployment = small_deployment(tmp_path, server)
    answers = {
        "servfail.example.test": SERVFAIL,
        "nxdomain.example.test": NXDOMAIN,
        "mixed.example.test": [OTHER, ALLOWED],
        "moved.example.test": [OTHER, THIRD],
        "rebinding.example.test": itertools.chain([[ALLOWED]], itertools.repeat([OTHER])),
    }
    party = {
        name.split(".")[0]: add_client(deployment, name.split(".")[0], sftp={"host": name})
        for name in answers
    }
    fill(deployment)
    with Nameserver(answers) as names:
        process = deployment.start(
            "run", "--date", str(DAY), "--json", wrapper=names.wrapper(tmp_path)
        )
        output, errors = process.communicate(timeout=100)
    outcome = Outcome(status=process.returncode, document=json.loads(output), stderr=errors)
    assert select.select(traps, [], [], 0)[0] == [], "somebody was connected to"
    for name in ("servfail", "nxdomain"):
        row = outcome.row(party[name])
        assert (row["state"], row["error_code"]) == ("waiting", "DNS_FAILED")
        assert f"{name}.example.test cannot be resolved" in row["error"]
    for name in ("mixed", "rebinding"):
        assert_delivered(outcome, party[name])
        assert names.asked.count(f"{name}.example.test") == 1
    row = outcome.row(party["moved"])
    assert (row["state"], row["error_code"]) == ("parked", "ADDRESS_NOT_ALLOWED")
    assert f"resolves to {OTHER}, {THIRD}, and only {ALLOWED} may be connected to" in row["error"]
    assert_log_is_valid(deployment)
