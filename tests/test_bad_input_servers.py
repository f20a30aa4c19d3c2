"""Servers that cannot be reached, are not the client's, or refuse: waiting or parked, never guessed."""

from __future__ import annotations

import pytest

from tests.support.invariants import everyone_watched, watched
from tests.support.openssh import OpenSSHServer, fingerprint, free_port, key_pair
from tests.support.outcomes import (
    DAY,
    add_client,
    assert_delivered,
    assert_nothing_arrived,
    fill,
    next_step,
    run_day,
    small_deployment,
)

WRONG_PASSWORD = "donkey-battery-9-stable"
KINDS = ("ed25519", "ecdsa", "rsa")


class Bench:
    """One run of a client whose server is down, then one of all that need a person."""

    def __init__(self, deployment, strange):
        self.strange = strange
        self.deployment = deployment
        self.healthy = self._client("healthy")
        self.dead = self._client("dead port", port=free_port())
        foreign = ["203.0.113.7", "198.51.100.0/24"]
        self.elsewhere = self._client("elsewhere", host="localhost", allowed_ips=foreign)
        self.swapped = self._client(
            "swapped", port=strange.port, host_keys=[fingerprint(key_pair("ed25519", None, "x")[1])]
        )
        self.pinned = {
            kind: self._client(f"pinned {kind}", host_keys=[deployment.server.pins[kind]])
            for kind in KINDS
        }
        self.no_directory = self._client("no directory", directory="/nowhere/at-all")
        self.read_only = self._client("read only")
        self.read_only.directory.chmod(0o555)
        fill(self.deployment)
        self.first = run_day(
            self.deployment, "--date", str(DAY), "--client", "healthy", "--client", "dead port"
        )
        others = [p for p in self.deployment.parties if p not in (self.healthy, self.dead)]
        chosen = [word for party in others for word in ("--client", party.guid)]
        self.second = run_day(self.deployment, "--date", str(DAY), *chosen)

    def _client(self, name, **sftp):
        return add_client(self.deployment, name, sftp=sftp)

    def assert_parked(self, party, code):
        row = self.second.row(party)
        assert (row["state"], row["error_code"], row["attempts"]) == ("parked", code, 1)
        line = self.second.line(party)
        assert f"{party.entry['name']}, {DAY}: parked, {code}: " in line
        assert row["error"] in line
        assert_nothing_arrived(party)
        return row["error"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("servers")
    with OpenSSHServer(folder) as server, OpenSSHServer(folder) as strange:
        deployment = small_deployment(folder, server)
        with everyone_watched(deployment):
            bench = Bench(deployment, strange)
        yield bench


def test_a_server_that_is_down_is_waited_for_and_the_other_client_delivered(bench):
    assert bench.first.status == 75
    assert_delivered(bench.first, bench.healthy)
    row = bench.first.row(bench.dead)
    assert (row["state"], row["error_code"], row["attempts"]) == ("waiting", "CONNECT_REFUSED", 1)
    assert row["retry_at"] is not None
    line = bench.first.line(bench.dead)
    assert f"127.0.0.1:{bench.dead.entry['sftp']['port']}" in line
    assert "Ask the client whether their server runs, and on which port" in line
    assert_nothing_arrived(bench.dead)


def test_status_says_when_a_server_that_is_down_is_tried_again(bench):
    assert "waits after CONNECT_REFUSED; will be tried again" in next_step(
        bench.deployment, bench.dead
    )


def test_those_that_need_a_person_end_the_run_with_1(bench):
    assert bench.second.status == 1


def test_an_address_outside_the_list_is_never_connected_to(bench):
    error = bench.assert_parked(bench.elsewhere, "ADDRESS_NOT_ALLOWED")
    assert "127.0.0.1" in error
    assert "`sftp.allowed_ips`" in error
    opened = [one for one in bench.deployment.log_lines() if one["event"] == "connection.opened"]
    guids = {one["client_guid"] for one in opened}
    assert bench.healthy.guid in guids
    assert not guids & {bench.elsewhere.guid, bench.swapped.guid}


def test_a_server_with_another_host_key_sees_no_login(bench):
    error = bench.assert_parked(bench.swapped, "HOSTKEY_MISMATCH")
    for pin in bench.strange.pins.values():
        assert pin in error
    assert "over a second channel" in error
    assert "Connection from 127.0.0.1" in bench.strange.log()
    assert bench.strange.login_attempts() == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_pin_of_any_of_the_servers_key_types_is_enough(bench, kind):
    assert_delivered(bench.second, bench.pinned[kind])


def test_a_directory_that_does_not_exist_is_not_created(bench):
    error = bench.assert_parked(bench.no_directory, "REMOTE_DIR_MISSING")
    assert "/nowhere/at-all" in error
    assert "correct `sftp.directory`" in error


def test_a_directory_that_cannot_be_written_gets_nothing(bench):
    error = bench.assert_parked(bench.read_only, "REMOTE_DENIED")
    assert "Ask the client to let the user create and rename files" in error


def test_status_names_what_each_parked_client_waits_for(bench):
    said = next_step(bench.deployment, bench.swapped)
    assert "parked HOSTKEY_MISMATCH since" in said
    assert "nothing will be tried until the client's configuration changes or" in said
    assert "`mxdeliver resume --client swapped`" in said


# -- the password ----------------------------------------------------------------------------------


@pytest.fixture
def locked_out(tmp_path):
    with OpenSSHServer(tmp_path) as server:
        deployment = small_deployment(tmp_path, server)
        deployment.document["retry"] = {"attempts": 4, "initial": "1s", "maximum": "1s"}
        deployment.write_secret(WRONG_PASSWORD)
        party = add_client(deployment, "Locked Out")
        fill(deployment)
        with watched(deployment, party):
            yield deployment, party


def failures(deployment):
    return deployment.server.log().count("Failed password for ")


def test_a_wrong_password_is_tried_once_and_again_only_when_it_changed(locked_out):
    deployment, party = locked_out
    outcome = run_day(deployment)
    row = outcome.row(party)
    assert outcome.status == 1
    assert (row["state"], row["error_code"], row["attempts"]) == ("parked", "AUTH_FAILED", 1)
    assert "a changed secret is noticed by itself" in outcome.line(party)
    assert failures(deployment) == 1
    assert_nothing_arrived(party)
    said = next_step(deployment, party)
    assert "parked AUTH_FAILED since" in said
    assert "nothing will be tried until the password or key changes or `mxdeliver resume" in said
    assert run_day(deployment, "--client", party.guid).document["deliveries"] == []
    by_hand = run_day(deployment)
    assert (by_hand.status, by_hand.row(party)["attempts"]) == (1, 0)
    assert "AUTH_FAILED" in by_hand.line(party)
    assert failures(deployment) == 1
    deployment.write_secret(deployment.server.password)
    again = run_day(deployment, "--client", party.guid)
    assert again.status == 0
    assert_delivered(again, party)
    assert failures(deployment) == 1
