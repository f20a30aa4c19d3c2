"""Networks that are slow, lossy, forgetful, half dead, or somebody else's.

Cuts, resets and flipped bits are in tests/test_sweep.py and tests/edge/test_sftp_*.py.
"""

from __future__ import annotations

import io
import itertools
import os
import time
from dataclasses import replace
from datetime import date
from ipaddress import ip_network
from pathlib import Path

import pytest

from mxdeliver.core.errors import ConnectTimeout, Stalled
from mxdeliver.core.model import Outcome
from mxdeliver.edge.sftp import Limits, Upload, connect
from tests.support.attempts import attempt, is_whole, one_day, resume
from tests.support.invariants import watched
from tests.support.openssh import wait_until
from tests.support.outcomes import assert_log_is_valid
from tests.support.programmable import ProgrammableServer
from tests.support.proxy import Proxy, black_hole
from tests.support.relay import Relay

TODAY = date(2026, 3, 1)
LOGIN = 30_000
"""More bytes than a login takes."""


@pytest.fixture
def proxy(server):
    with Proxy(server.port) as running:
        yield running


@pytest.fixture
def party(tmp_path, server, proxy):
    """A client whose server is reached through the proxy alone, with some hundred kilobytes to get."""
    made = one_day(tmp_path, server, rows=6_000)
    made.entry["sftp"]["port"] = proxy.port
    yield made
    assert_log_is_valid(made.deployment)


def events(party, name):
    return [line for line in party.deployment.log_lines() if line["event"] == name]


# -- slow ------------------------------------------------------------------------------------------


def test_a_trickle_that_lasts_until_the_deadline_ends_there_as_deadline(party, proxy):
    came: list[float] = []

    def note(data, _from_client):
        came.append(time.monotonic())
        return data

    proxy.spoil = note
    proxy.rate = 30_000
    party.entry["retry"] = {"deadline": "3s"}
    with watched(party.deployment, party):
        result = attempt(party)
        ended = time.monotonic()
        assert (result.outcome, result.error.code) == (Outcome.FAILED, "DEADLINE")
        assert proxy.seen > LOGIN, "it was at the files"
        gaps = [after - before for before, after in itertools.pairwise([*came, ended])]
        assert max(gaps) < 1.5, "and bytes came until the end"
        (failed,) = events(party, "delivery.failed")
        assert (failed["error_code"], failed["level"]) == ("DEADLINE", "error")
        assert party.received() == {}
        proxy.rate = None
        party.entry["retry"]["deadline"] = "6h"
        resume(party)
        assert attempt(party).outcome is Outcome.DELIVERED
    assert is_whole(party)


def test_progress_however_slow_is_no_stall_and_none_at_all_is(tmp_path):
    data = os.urandom(250_000)  # in pieces of 32 KiB: this server allows no larger ones
    upload = Upload(name="a", temporary=".a", size=len(data), open=lambda: io.BytesIO(data))
    limits = Limits(no_progress=0.7)
    with ProgrammableServer(tmp_path) as server, Proxy(server.port) as proxy:
        endpoint, credentials = server.endpoint(port=proxy.port), server.credentials()
        with connect(endpoint, credentials, today=TODAY, limits=limits) as session:
            proxy.rate = 150_000
            started = time.monotonic()
            session.upload([upload])
            assert time.monotonic() - started > 2 * limits.no_progress
        assert (server.directory / ".a").read_bytes() == data
        proxy.rate = None
        with connect(endpoint, credentials, today=TODAY, limits=limits) as session:
            proxy.rate = 10_000
            with pytest.raises(Stalled, match="acknowledged nothing"):
                session.upload([replace(upload, temporary=".b")])


# -- lossy -----------------------------------------------------------------------------------------


def test_with_a_tenth_of_all_packets_lost_the_day_arrives_at_once_and_whole(party, proxy):
    proxy.loss = 0.1
    with watched(party.deployment, party):
        assert attempt(party).outcome is Outcome.DELIVERED
        assert proxy.connections == 1
        assert proxy.lost > 3
    assert is_whole(party)


# -- forgetful -------------------------------------------------------------------------------------


def test_a_firewall_that_forgets_quiet_connections_does_not_forget_one_that_is_kept_alive(
    server, proxy
):
    proxy.forgets_after = 1.7
    endpoint, credentials = server.endpoint(port=proxy.port), server.credentials()
    before = server.log().count("rtype keepalive@")
    limits = Limits(keepalive=1, request=0.5)
    with connect(endpoint, credentials, today=TODAY, limits=limits) as session:
        wait_until(lambda: server.log().count("rtype keepalive@") >= before + 2, "two signs")
        session.check_directory()
    with connect(endpoint, credentials, today=TODAY, limits=replace(limits, keepalive=60)) as quiet:
        quiet.check_directory()
        wait_until(lambda: time.monotonic() - proxy.last_seen > 1.8, "silence")
        with pytest.raises(Stalled):
            quiet.check_directory()


def test_the_kernel_asks_whether_the_peer_is_still_there(server):
    with connect(server.endpoint(), server.credentials(), today=TODAY) as session:
        session.check_directory()
        local = session._connection.transport.sock.getsockname()[1]
        wait_until(lambda: kernel_timer(local, server.port) is not None, "its timer")
        assert 0 < kernel_timer(local, server.port) <= Limits().keepalive


def kernel_timer(local, remote):
    """Give the seconds until the kernel's keepalive of a connection, or None while it has none.

    https://docs.kernel.org/networking/proc_net_tcp.html: a timer of kind 2, in hundredths.
    """
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, here, there, _, _, timer, *_ = line.split()
        kind, left = timer.split(":")
        ports = [int(address.split(":")[1], 16) for address in (here, there)]
        if ports == [local, remote] and kind == "02":
            return int(left, 16) / os.sysconf("SC_CLK_TCK")
    return None


# -- half dead -------------------------------------------------------------------------------------


def test_behind_a_dead_ipv6_address_the_next_one_is_tried_within_the_time_for_all(server):
    limits = Limits(connect=1.2)
    with black_hole(server.port, "::1"), black_hole(server.port, "127.0.0.9"):
        endpoint = server.endpoint(allowed_ips=(ip_network("127.0.0.0/8"), ip_network("::1")))

        def session(*answers):
            return connect(
                endpoint,
                server.credentials(),
                today=TODAY,
                limits=limits,
                resolve=lambda _host, _port: answers,
            )

        started = time.monotonic()
        with session("::1", "127.0.0.1") as open_one:
            assert open_one.facts.address == "127.0.0.1"
        assert time.monotonic() - started > limits.connect / 2 - 0.1, "the dead one had its half"
        started = time.monotonic()
        with pytest.raises(ConnectTimeout), session("::1", "127.0.0.9"):
            pass
        assert limits.connect - 0.1 < time.monotonic() - started < limits.connect + 1


# -- somebody else's -------------------------------------------------------------------------------


def test_somebody_in_the_middle_hears_no_user_name_and_the_real_server_nothing(tmp_path, server):
    with Relay(tmp_path, server) as relay:
        party = one_day(tmp_path, server)
        party.entry["sftp"]["port"] = relay.port
        already = server.log_size()
        with watched(party.deployment, party):
            result = attempt(party)
            assert (result.outcome, result.error.code) == (Outcome.PARKED, "HOSTKEY_MISMATCH")
            assert relay.pins["ed25519"] in str(result.error)
            assert (relay.user_names, relay.passwords, relay.passed) == ([], [], 0)
            assert server.login_attempts(already) == []
            assert party.received() == {}
            # It is a relay indeed: whoever believes its key is served by the real server.
            party.entry["sftp"]["host_keys"] = list(relay.pins.values())
            resume(party)
            assert attempt(party).outcome is Outcome.DELIVERED
            assert relay.passwords == [server.password]
            assert relay.passed > sum(map(len, party.received().values()))
        assert is_whole(party)
