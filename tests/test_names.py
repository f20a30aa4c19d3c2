"""Names and addresses, on the real program with a nameserver of ours: who is never connected to."""

from __future__ import annotations

import itertools
import json
import select
import socket
from datetime import UTC, datetime

import pytest

from mxdeliver import unknown_names
from mxdeliver.core.errors import DnsFailed
from mxdeliver.core.model import Attempt, Outcome
from mxdeliver.edge.sftp import NameUnknown
from tests.support import outcomes
from tests.support.invariants import watched
from tests.support.nameserver import NXDOMAIN, SERVFAIL, Nameserver
from tests.support.openssh import OpenSSHServer
from tests.support.outcomes import (
    DAY,
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


def run_with(names, deployment, folder):
    """Run the day with this nameserver alone."""
    process = deployment.start("run", "--date", str(DAY), "--json", wrapper=names.wrapper(folder))
    output, errors = process.communicate(timeout=100)
    return outcomes.Outcome(status=process.returncode, document=json.loads(output), stderr=errors)


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
    allowed = [party["mixed"], party["rebinding"]]
    with watched(deployment, *allowed, delivered=False), Nameserver(answers) as names:
        outcome = run_with(names, deployment, tmp_path)
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


def test_a_name_that_does_not_exist_is_told_once_at_the_third_time_in_a_row_and_tried_on(
    tmp_path, server
):
    deployment = small_deployment(tmp_path, server)
    deployment.document["retry"] = {"attempts": 2, "initial": "1s", "maximum": "1s"}
    party = add_client(deployment, "Gone", sftp={"host": "gone.example.test"})
    fill(deployment)
    with watched(deployment, party), Nameserver({"gone.example.test": NXDOMAIN}) as names:
        assert run_with(names, deployment, tmp_path).status == 75
        assert alerts(deployment) == []
        outcome = run_with(names, deployment, tmp_path)
        row = outcome.row(party)
        assert (row["state"], row["error_code"]) == ("waiting", "DNS_FAILED")
        assert "server's name has changed" in outcome.line(party)
        (line,) = alerts(deployment)
        names.answers["gone.example.test"] = [ALLOWED]
        assert_delivered(run_with(names, deployment, tmp_path), party)
        assert alerts(deployment) == [line]
    assert (line["client_guid"], line["attempt"], line["level"]) == (party.guid, 3, "warning")
    assert "gone.example.test does not exist, as the resolver has said 3 times" in line["message"]
    assert "then correct `sftp.host`" in line["message"]
    assert_log_is_valid(deployment)


def alerts(deployment):
    return [line for line in deployment.log_lines() if line["event"] == "name.unknown"]


UNKNOWN = NameUnknown("sftp.example.test cannot be resolved: Name or service not known")
SILENT = DnsFailed("sftp.example.test cannot be resolved: Temporary failure in name resolution")


def test_an_unknown_name_is_told_in_the_words_that_ledgers_have_kept():
    # Ledgers keep these words of each attempt and nothing else that tells it from DNS_FAILED. With
    # other words earlier attempts would count no more: `is_told_in` must know the old ones, too.
    kept = (
        "sftp.example.test cannot be resolved: Name or service not known. Ask the client whether "
        "their server's name has changed, then correct `sftp.host`."
    )
    assert UNKNOWN.explain() == kept
    assert NameUnknown.is_told_in(kept)
    assert not NameUnknown.is_told_in(SILENT.explain())


@pytest.mark.parametrize(
    ("ends", "count"),
    [
        ([], 0),
        ([UNKNOWN, UNKNOWN], 2),
        ([UNKNOWN, UNKNOWN, SILENT], 0),
        ([UNKNOWN, SILENT, UNKNOWN], 1),
        ([UNKNOWN, Outcome.STOPPED, UNKNOWN], 2),
        ([UNKNOWN, Outcome.PARKED, UNKNOWN], 1),
        ([UNKNOWN, Outcome.DELIVERED], 0),
        ([SILENT, SILENT, SILENT], 0),
    ],
)
def test_only_answers_that_there_is_no_such_name_are_counted_and_only_those_in_a_row(ends, count):
    now = datetime.now(UTC)
    attempts = [
        Attempt(
            number=number,
            started_at=now,
            ended_at=now,
            outcome=end if isinstance(end, Outcome) else Outcome.RETRY,
            error_code=None if isinstance(end, Outcome) else end.code,
            error=None if isinstance(end, Outcome) else end.explain(),
        )
        for number, end in enumerate(ends, start=1)
    ]
    assert unknown_names.in_a_row(attempts) == count
