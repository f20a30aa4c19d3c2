"""Connecting: who is talked to, who is believed, what is sent before that, how often a login is tried."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import re
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import date
from ipaddress import ip_network
from pathlib import Path
from threading import Event, Thread

import pytest

from mxdeliver.core.errors import (
    AddressNotAllowed,
    AuthChangeRequired,
    AuthFailed,
    AuthMethod,
    ConnectionLost,
    ConnectRefused,
    ConnectTimeout,
    DnsFailed,
    HostKeyMismatch,
    MxdeliverError,
    NetworkUnreachable,
    PortNotAllowed,
    SecretMissing,
    SessionLimit,
    SftpUnavailable,
    SshAlgorithmMismatch,
    SshBanner,
    Stalled,
    StopRequested,
)
from mxdeliver.core.model import Endpoint, HostKeyPin
from mxdeliver.core.secret import Secret
from mxdeliver.edge.sftp import Credentials, Limits, Session, connect, scan_host_keys
from tests.support.endpoints import STRANGER, some_endpoint
from tests.support.openssh import OpenSSHServer, fingerprint, free_port, key_pair
from tests.support.proftpd import ProFTPDServer
from tests.support.programmable import PASSWORD, ProgrammableServer
from tests.support.proxy import Proxy, black_hole

TODAY = date(2026, 3, 1)
SHORT = Limits(connect=1, banner=0.3, key_exchange=0.3, authentication=1, session=0.5)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSSHServer]:
    with OpenSSHServer(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def programmable(tmp_path: Path) -> Iterator[ProgrammableServer]:
    with ProgrammableServer(tmp_path) as running:
        yield running


def opened(endpoint: Endpoint, credentials: Credentials, **keywords: object) -> None:
    """Connect and hang up again."""
    with connect(endpoint, credentials, today=TODAY, **keywords) as session:  # type: ignore[arg-type]
        assert isinstance(session, Session)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail where the block takes longer: far more than our limits, and less than the usual ones."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def pins(*sha256: str, not_after: date | None = None) -> tuple[HostKeyPin, ...]:
    return tuple(HostKeyPin(sha256=one, not_after=not_after) for one in sha256)


@contextmanager
def listener(*answers: bytes, keep_open: bool = True) -> Iterator[int]:
    """Accept one connection, send `answers`, and keep it open until the end or close it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        accepted: list[socket.socket] = []

        def serve() -> None:
            connection, _ = listening.accept()
            accepted.append(connection)
            try:
                for answer in answers:
                    connection.sendall(answer)
            except OSError:
                return
            if not keep_open:
                connection.shutdown(socket.SHUT_WR)

        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)
        for connection in accepted:
            connection.close()


# -- addresses -------------------------------------------------------------------------------------


def test_facts_tell_who_answered(server: OpenSSHServer) -> None:
    with connect(server.endpoint(), server.credentials(), today=TODAY) as session:
        assert session.facts.address == "127.0.0.1"
        assert session.facts.port == server.port
        assert session.facts.host_key == server.pins["ed25519"]
        assert session.facts.server.startswith("SSH-2.0-OpenSSH")
        assert "posix-rename@openssh.com" in session.facts.extensions


def test_an_address_outside_the_list_is_not_connected_to() -> None:
    with Proxy(free_port()) as proxy:
        endpoint = some_endpoint(proxy.port, allowed_ips=(ip_network("192.0.2.0/24"),))
        with pytest.raises(AddressNotAllowed, match=r"127\.0\.0\.1.*192\.0\.2\.0/24"):
            opened(endpoint, Credentials())
        assert proxy.connections == 0


def test_a_name_is_resolved_once_and_only_allowed_answers_are_used(server: OpenSSHServer) -> None:
    asked: list[str] = []

    def resolve(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["198.51.100.7", "::ffff:127.0.0.1"]

    endpoint = server.endpoint(host="sftp.example.test")
    with connect(endpoint, server.credentials(), today=TODAY, resolve=resolve) as session:
        assert session.facts.address == "127.0.0.1"
    assert asked == ["sftp.example.test"]


def test_the_next_allowed_address_is_tried_when_one_is_dead(server: OpenSSHServer) -> None:
    endpoint = server.endpoint(allowed_ips=(ip_network("127.0.0.0/8"),))
    with connect(
        endpoint,
        server.credentials(),
        today=TODAY,
        resolve=lambda _host, _port: ["127.0.0.9", "127.0.0.1"],
    ) as session:
        assert session.facts.address == "127.0.0.1"


def test_an_address_that_swallows_everything_leaves_the_next_one_its_share_of_the_time(
    server: OpenSSHServer,
) -> None:
    with black_hole(server.port, "127.0.0.9"):
        endpoint = server.endpoint(allowed_ips=(ip_network("127.0.0.0/8"), ip_network("::1")))
        started = time.monotonic()
        with connect(
            endpoint,
            server.credentials(),
            today=TODAY,
            limits=Limits(connect=1.5),
            resolve=lambda _host, _port: ["::1", "127.0.0.9", "127.0.0.1"],
        ) as session:
            assert session.facts.address == "127.0.0.1"
        assert time.monotonic() - started > 0.5, "the dead one had its share"


@pytest.mark.parametrize(
    "address", ["224.0.0.1", "2001:db8::1%lo"], ids=["nobody's", "behind the wrong interface"]
)
def test_an_address_without_a_way_to_it_is_unreachable(address: str) -> None:
    networks = (ip_network("0.0.0.0/0"), ip_network("::/0"))
    with pytest.raises(NetworkUnreachable, match="cannot be reached"):
        opened(
            some_endpoint(8022, allowed_ips=networks),
            Credentials(),
            limits=SHORT,
            resolve=lambda _host, _port: [address],
        )


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost"])
def test_no_spelling_of_an_address_gets_past_the_list(host: str) -> None:
    with Proxy(free_port()) as proxy:
        endpoint = some_endpoint(proxy.port, host=host, allowed_ips=(ip_network("203.0.113.0/24"),))
        with pytest.raises(AddressNotAllowed, match=r"127\.0\.0\.1"):
            opened(endpoint, Credentials())
        assert proxy.connections == 0


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("169.254.169.254", "169.254.169.254"),
        ("::ffff:169.254.169.254", "169.254.169.254"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("fd00:ec2::254", "fd00:ec2::254"),
        ("10.0.0.1", "10.0.0.1"),
        ("172.16.0.1", "172.16.0.1"),
        ("192.168.1.1", "192.168.1.1"),
        ("0.0.0.0", "0.0.0.0"),
        ("::", "::"),
        ("64:ff9b::7f00:1", "64:ff9b::7f00:1"),
    ],
)
def test_inner_addresses_are_refused_like_any_other_that_is_not_listed(
    answer: str, shown: str
) -> None:
    endpoint = some_endpoint(
        8022, allowed_ips=(ip_network("203.0.113.0/24"), ip_network("2001:db8::/32"))
    )
    with pytest.raises(AddressNotAllowed, match=re.escape(f"resolves to {shown}, ")):
        opened(endpoint, Credentials(), resolve=lambda _host, _port: [answer])


def test_port_22_is_refused_whatever_listens_there() -> None:
    with pytest.raises(PortNotAllowed, match="port 22"):
        opened(some_endpoint(22), Credentials())
    with pytest.raises(PortNotAllowed):
        scan_host_keys("127.0.0.1", 22)


def test_a_dead_port_is_refused() -> None:
    with pytest.raises(ConnectRefused, match=r"127\.0\.0\.1"):
        opened(some_endpoint(free_port()), Credentials())


def test_an_address_that_does_not_answer_ends_in_time() -> None:
    with black_hole() as port:
        endpoint = some_endpoint(port)
        with within(3), pytest.raises(ConnectTimeout):
            opened(endpoint, Credentials(), limits=replace(SHORT, connect=0.3))
        with pytest.raises(StopRequested):
            opened(endpoint, Credentials(), limits=SHORT, stop=lambda: True)


@pytest.mark.parametrize(
    "error", [socket.gaierror(-2, "Name or service not known"), UnicodeError()]
)
def test_a_name_that_cannot_be_resolved_is_said_so(error: Exception) -> None:
    def resolve(_host: str, _port: int) -> list[str]:
        raise error

    with pytest.raises(DnsFailed, match=r"sftp\.example\.test cannot be resolved"):
        opened(some_endpoint(8022, host="sftp.example.test"), Credentials(), resolve=resolve)


def test_a_name_without_address_is_said_so() -> None:
    with pytest.raises(DnsFailed, match="no address"):
        opened(some_endpoint(8022), Credentials(), resolve=lambda _host, _port: [])


def test_a_resolver_that_hangs_is_not_waited_for() -> None:
    hanging = socket.socketpair()
    with hanging[0], hanging[1]:

        def resolve(_host: str, _port: int) -> list[str]:
            hanging[0].recv(1)
            return []

        with within(3), pytest.raises(DnsFailed, match=r"within 0\.1 s"):
            opened(some_endpoint(8022), Credentials(), resolve=resolve, limits=Limits(resolve=0.1))
        with pytest.raises(StopRequested, match="being resolved"):
            opened(some_endpoint(8022), Credentials(), resolve=resolve, stop=lambda: True)
        hanging[1].send(b"--")


# -- banner and key exchange -----------------------------------------------------------------------


def test_something_that_is_not_ssh_is_a_bad_banner() -> None:
    page = b"HTTP/1.1 400 Bad Request\r\n\x1b[31m\r\n"
    with listener(page, keep_open=False) as port, pytest.raises(SshBanner) as caught:
        opened(some_endpoint(port), Credentials(), limits=SHORT)
    assert "HTTP/1.1 400" in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_silence_is_a_bad_banner_and_ends_in_time() -> None:
    with within(3), listener() as port, pytest.raises(SshBanner):
        opened(some_endpoint(port), Credentials(), limits=SHORT)


@pytest.mark.parametrize("said", [b"S", b"SSH-2.0-slow\r\n"], ids=["banner", "key exchange"])
def test_a_server_that_trickles_is_given_up_when_the_whole_time_is_over(said: bytes) -> None:
    ended = Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                connection.sendall(said)
                while not ended.wait(0.05):
                    connection.sendall(b"x")

        thread = Thread(target=serve)
        thread.start()
        try:
            with within(3), pytest.raises((SshBanner, Stalled, ConnectionLost)):
                opened(some_endpoint(listening.getsockname()[1]), Credentials(), limits=SHORT)
        finally:
            ended.set()
            thread.join()


def test_a_banner_without_end_is_cut_short() -> None:
    with listener(b"x" * 100_000) as port, pytest.raises(SshBanner):
        opened(some_endpoint(port), Credentials(), limits=replace(SHORT, banner=15))


def test_a_server_that_is_full_is_a_session_limit() -> None:
    with (
        listener(b"Exceeded MaxStartups\r\n", keep_open=False) as port,
        pytest.raises(SessionLimit),
    ):
        opened(some_endpoint(port), Credentials(), limits=SHORT)


def test_openssh_at_its_limit_of_logins_is_a_session_limit(tmp_path: Path) -> None:
    with (
        OpenSSHServer(tmp_path, settings=["MaxStartups 1"]) as server,
        socket.create_connection(("127.0.0.1", server.port)) as waiting,
    ):
        assert waiting.recv(100).startswith(b"SSH-")
        with pytest.raises(SessionLimit, match="MaxStartups"):
            opened(server.endpoint(), server.credentials())


def test_a_key_exchange_that_stops_ends_in_time() -> None:
    silent = listener(b"SSH-2.0-silent\r\n")
    with within(3), silent as port, pytest.raises(Stalled, match="key exchange"):
        opened(some_endpoint(port), Credentials(), limits=SHORT)


def test_a_stop_request_ends_a_key_exchange() -> None:
    with listener(b"SSH-2.0-silent\r\n") as port, pytest.raises(StopRequested):
        opened(some_endpoint(port), Credentials(), stop=lambda: True)


def test_a_packet_of_absurd_length_is_not_read() -> None:
    absurd = b"SSH-2.0-hostile\r\n" + b"\xff\xff\xff\x00" + b"\x00" * 60
    with listener(absurd) as port, pytest.raises(ConnectionLost):
        opened(some_endpoint(port), Credentials(), limits=SHORT)


def key_exchange_offer(*names: bytes) -> bytes:
    """Give a server's first packet (RFC 4253 section 7.1), its name lists filled with `names`."""
    lists = b"".join(len(name).to_bytes(4, "big") + name for name in (*names, b"", b""))
    payload = b"\x14" + bytes(16) + lists + bytes(5)
    padding = 16 - (5 + len(payload)) % 8
    head = (1 + len(payload) + padding).to_bytes(4, "big") + bytes([padding])
    return head + payload + bytes(padding)


def test_algorithms_with_hostile_names_are_shown_harmless_and_cut_short() -> None:
    evil = b"\x1b[2J\nevil," + b"x" * 20_000
    offer = b"SSH-2.0-evil\r\n" + key_exchange_offer(*[evil] * 8)
    with listener(offer) as port, pytest.raises(SshAlgorithmMismatch) as caught:
        opened(some_endpoint(port), Credentials(), limits=SHORT)
    assert "\\x1b[2J\\nevil" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2_000


def test_an_old_ssh_version_is_an_algorithm_mismatch() -> None:
    with (
        listener(b"SSH-1.5-ancient\r\n") as port,
        pytest.raises(SshAlgorithmMismatch, match=r"1\.5"),
    ):
        opened(some_endpoint(port), Credentials(), limits=SHORT)


@pytest.fixture(scope="module")
def bytes_to_log_in(server: OpenSSHServer) -> int:
    """How much a client sends until its session is open."""
    with Proxy(server.port) as proxy:
        opened(server.endpoint(port=proxy.port), server.credentials())
        return proxy.seen


def test_a_flipped_bit_is_never_accepted(server: OpenSSHServer, bytes_to_log_in: int) -> None:
    def flip(data: bytes, from_client: bool) -> bytes:
        if from_client or proxy.seen < bytes_to_log_in * 0.7:
            return data
        return data[:-1] + bytes([data[-1] ^ 1])

    with Proxy(server.port) as proxy:
        proxy.spoil = flip
        with pytest.raises(ConnectionLost):
            opened(server.endpoint(port=proxy.port), server.credentials())


ANSWERS = range(10)
"""What the server says until a session is open: banner, key exchange, login, channel, SFTP's INIT."""


@pytest.fixture(scope="module")
def answered(server: OpenSSHServer) -> list[int]:
    """How many bytes have come from the server after each of its answers."""
    sizes: list[int] = []

    def note(data: bytes, from_client: bool) -> bytes:
        if not from_client:
            sizes.append(len(data))
        return data

    with Proxy(server.port) as proxy:
        proxy.spoil = note
        opened(server.endpoint(port=proxy.port), server.credentials())
    return list(itertools.accumulate(sizes[: len(ANSWERS)], initial=0))


@contextmanager
def silent_after(server: OpenSSHServer, size: int) -> Iterator[Proxy]:
    """Let so many bytes pass from the server, and no more."""
    left = size

    def swallow(data: bytes, from_client: bool) -> bytes:
        nonlocal left
        if from_client:
            return data
        passed = data[:left]
        left -= len(passed)
        return passed

    with Proxy(server.port) as proxy:
        proxy.spoil = swallow
        yield proxy


@pytest.mark.parametrize("answers", ANSWERS)
def test_a_peer_that_falls_silent_anywhere_is_given_up_in_time_and_tried_again(
    server: OpenSSHServer, answered: list[int], answers: int
) -> None:
    limits = replace(SHORT, banner=0.5, key_exchange=0.5, authentication=0.4, session=0.4)
    with (
        silent_after(server, answered[min(answers, len(answered) - 2)]) as proxy,
        within(5),
        pytest.raises((SshBanner, Stalled, AuthFailed)) as caught,
    ):
        opened(server.endpoint(port=proxy.port), server.credentials(), limits=limits)
    assert "in time" in str(caught.value) or caught.value.retryable


@pytest.mark.parametrize("answers", ANSWERS)
def test_a_stop_request_ends_the_wait_for_a_silent_peer_anywhere(
    server: OpenSSHServer, answered: list[int], answers: int
) -> None:
    with silent_after(server, answered[min(answers, len(answered) - 2)]) as proxy:
        started = time.monotonic()
        with within(5), pytest.raises(StopRequested):
            opened(
                server.endpoint(port=proxy.port),
                server.credentials(),
                stop=lambda: time.monotonic() > started + 0.3,
            )


def test_unsafe_algorithms_are_refused_naming_both_sides(tmp_path: Path) -> None:
    settings = ["Ciphers aes128-cbc,3des-cbc", "KexAlgorithms diffie-hellman-group14-sha1"]
    with OpenSSHServer(tmp_path, settings=settings) as old:
        with pytest.raises(SshAlgorithmMismatch) as caught:
            opened(old.endpoint(), old.credentials())
        assert "the server offers diffie-hellman-group14-sha1" in str(caught.value)
        assert "the server offers aes128-cbc, 3des-cbc" in str(caught.value)
        assert "accepted are aes256-gcm@openssh.com" in str(caught.value)
        assert old.login_attempts() == []


# -- host keys -------------------------------------------------------------------------------------


def test_a_wrong_pin_ends_before_any_user_name_is_sent(tmp_path: Path) -> None:
    with OpenSSHServer(tmp_path) as server:
        with pytest.raises(HostKeyMismatch) as caught:
            opened(server.endpoint(host_keys=(STRANGER,)), server.credentials())
        for pin in server.pins.values():
            assert pin in str(caught.value)
        assert server.log().count("Connection from") == len(server.pins)
        assert server.login_attempts() == []
        opened(server.endpoint(), server.credentials())
        assert server.login_attempts(), "the log does show login attempts"


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_pin_of_any_type_is_found(server: OpenSSHServer, kind: str) -> None:
    endpoint = server.endpoint(host_keys=pins(server.pins[kind]))
    with connect(endpoint, server.credentials(), today=TODAY) as session:
        assert session.facts.host_key == server.pins[kind]


def test_a_pin_counts_until_its_last_day(server: OpenSSHServer) -> None:
    sha256 = server.pins["ed25519"]
    opened(server.endpoint(host_keys=pins(sha256, not_after=TODAY)), server.credentials())
    with pytest.raises(HostKeyMismatch):
        opened(
            server.endpoint(host_keys=pins(sha256, not_after=date(2026, 2, 28))),
            server.credentials(),
        )


def test_a_pinned_rsa_key_that_is_too_short_is_refused(tmp_path: Path) -> None:
    settings = ["RequiredRSASize 1024"]
    with OpenSSHServer(tmp_path, host_keys=["rsa"], rsa_bits=1024, settings=settings) as weak:
        with pytest.raises(SshAlgorithmMismatch, match="2048"):
            opened(weak.endpoint(), weak.credentials())
        assert weak.login_attempts() == []


def test_scanning_shows_every_key_and_sends_no_name(tmp_path: Path) -> None:
    with OpenSSHServer(tmp_path) as server:
        found = scan_host_keys("127.0.0.1", server.port)
        assert {key.sha256 for key in found} == set(server.pins.values())
        assert [key.algorithm for key in found] == ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"]
        assert all(fingerprint(key.public_key_line) == key.sha256 for key in found)
        assert server.login_attempts() == []


# -- login -----------------------------------------------------------------------------------------


def test_a_wrong_password_is_tried_once(tmp_path: Path) -> None:
    with OpenSSHServer(tmp_path, settings=["KbdInteractiveAuthentication yes"]) as server:
        wrong = server.credentials(password=Secret(b"not-the-password"))
        with pytest.raises(AuthFailed) as caught:
            opened(server.endpoint(), wrong)
        assert server.log().count("Failed password") == 1
        assert "not-the-password" not in str(caught.value)
        assert "Failed keyboard-interactive" not in server.log()


def test_a_password_need_not_be_utf_8(programmable: ProgrammableServer) -> None:
    with pytest.raises((AuthFailed, ConnectionLost)):
        opened(programmable.endpoint(), Credentials(password=Secret(b"\xff\xfe")))


def test_a_server_that_hangs_up_at_a_wrong_password_has_refused_it(tmp_path: Path) -> None:
    with OpenSSHServer(tmp_path, settings=["MaxAuthTries 1"]) as server:
        with pytest.raises(AuthFailed):
            opened(server.endpoint(), server.credentials(password=Secret(b"wrong")))
        assert server.log().count("Failed password") == 1


async def reset(server: ProgrammableServer) -> None:
    """End the connection with RST instead of FIN, the password unanswered."""
    server.abort()


async def silence(_: ProgrammableServer) -> None:
    """Never answer."""
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("prompts", [None, [[("Password: ", False)]]], ids=["plain", "prompt"])
@pytest.mark.parametrize(
    ("answer", "said"), [(reset, "hung up"), (silence, "did not answer in time")]
)
def test_a_password_without_a_clear_answer_counts_as_refused(
    programmable: ProgrammableServer,
    answer: Callable[[ProgrammableServer], Awaitable[None]],
    said: str,
    prompts: list[list[tuple[str, bool]]] | None,
) -> None:
    programmable.prompts = prompts
    programmable.verdict = answer
    with pytest.raises(AuthFailed, match=said):
        opened(programmable.endpoint(), programmable.credentials(), limits=SHORT)
    assert programmable.passwords == [PASSWORD]


def test_a_stop_request_while_the_password_is_unanswered_is_no_refusal(
    programmable: ProgrammableServer,
) -> None:
    programmable.verdict = silence
    with pytest.raises(StopRequested):
        opened(
            programmable.endpoint(),
            programmable.credentials(),
            stop=lambda: bool(programmable.passwords),
        )


@pytest.mark.parametrize("prompts", [None, [[("Password: ", False)]]], ids=["plain", "prompt"])
def test_a_connection_that_breaks_before_the_password_left_is_lost(
    programmable: ProgrammableServer, prompts: list[list[tuple[str, bool]]] | None
) -> None:
    programmable.prompts = prompts
    programmable.at_name = reset
    with pytest.raises(ConnectionLost):
        opened(programmable.endpoint(), programmable.credentials())
    assert programmable.passwords == []


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_private_key_logs_in(tmp_path: Path, kind: str) -> None:
    private, public = key_pair(kind)
    with OpenSSHServer(tmp_path, authorized_keys=[public]) as server:
        opened(server.endpoint(), Credentials(private_key=Secret(private)))


def test_a_private_key_with_passphrase_logs_in_and_a_wrong_passphrase_sends_nothing(
    tmp_path: Path,
) -> None:
    private, public = key_pair("ed25519", None, "open sesame")
    with OpenSSHServer(tmp_path, authorized_keys=[public]) as server:
        for passphrase in (None, Secret(b"wrong")):
            with pytest.raises(SecretMissing, match="passphrase"):
                opened(
                    server.endpoint(),
                    Credentials(private_key=Secret(private), passphrase=passphrase),
                )
        assert server.login_attempts() == []
        right = Credentials(private_key=Secret(private), passphrase=Secret(b"open sesame"))
        opened(server.endpoint(), right)


@pytest.mark.parametrize(
    "text", [b"", b"\xff\xfe", b"no key at all", b"-----BEGIN PRIVATE KEY-----"]
)
def test_something_that_is_no_private_key_is_said_so(server: OpenSSHServer, text: bytes) -> None:
    with pytest.raises(SecretMissing, match=r"sftp\.private_key"):
        opened(server.endpoint(), Credentials(private_key=Secret(text)))


def test_a_key_and_then_a_password_log_in_where_both_are_asked_for(tmp_path: Path) -> None:
    private, public = key_pair("ed25519")
    settings = ["AuthenticationMethods publickey,password"]
    with OpenSSHServer(tmp_path, authorized_keys=[public], settings=settings) as server:
        opened(server.endpoint(), server.credentials(private_key=Secret(private)))
        with pytest.raises(AuthMethod, match="publickey"):
            opened(server.endpoint(), server.credentials())
        with pytest.raises(AuthMethod, match="password"):
            opened(server.endpoint(), Credentials(private_key=Secret(private)))


def test_the_password_follows_a_key_that_was_refused(tmp_path: Path) -> None:
    private, _ = key_pair("ed25519")
    with OpenSSHServer(tmp_path) as server:
        opened(server.endpoint(), server.credentials(private_key=Secret(private)))
        assert server.log().count("Failed publickey") <= 1
        assert server.log().count("Accepted password") == 1


def test_no_credential_that_the_server_takes_is_a_wrong_method(server: OpenSSHServer) -> None:
    with pytest.raises(AuthMethod, match=r"publickey.*password|password.*publickey"):
        opened(server.endpoint(), Credentials())


def test_one_hidden_prompt_is_answered_with_the_password(programmable: ProgrammableServer) -> None:
    programmable.prompts = [[("Password: ", False)]]
    opened(programmable.endpoint(), programmable.credentials())
    with pytest.raises(AuthFailed):
        opened(programmable.endpoint(), Credentials(password=Secret(b"wrong")))
    assert programmable.passwords.count("wrong") == 1


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        ([[("Password: ", False), ("Code: ", False)]], AuthMethod),
        ([[("Password: ", True)]], AuthMethod),
        ([[("Password: ", False)], [("One-time code: ", False)]], AuthMethod),
        ([[("Your password has expired. New password: ", False)] * 2], AuthChangeRequired),
    ],
)
def test_other_prompts_are_not_guessed_at(
    programmable: ProgrammableServer,
    rounds: list[list[tuple[str, bool]]],
    expected: type[MxdeliverError],
) -> None:
    programmable.prompts = rounds
    with pytest.raises(expected):
        opened(programmable.endpoint(), programmable.credentials())
    assert len(programmable.passwords) == len(rounds) - 1


def test_a_prompt_without_questions_is_passed_over(programmable: ProgrammableServer) -> None:
    programmable.prompts = [[("Password: ", False)], []]
    opened(programmable.endpoint(), programmable.credentials())


def test_a_password_that_must_be_changed_is_said_so(programmable: ProgrammableServer) -> None:
    programmable.change_password = True
    with pytest.raises(AuthChangeRequired):
        opened(programmable.endpoint(), programmable.credentials())
    assert len(programmable.passwords) == 1


# -- sessions --------------------------------------------------------------------------------------


def test_a_server_that_opens_no_session_is_a_session_limit(tmp_path: Path) -> None:
    with (
        OpenSSHServer(tmp_path, settings=["MaxSessions 0"]) as server,
        pytest.raises(SessionLimit),
    ):
        opened(server.endpoint(), server.credentials())


def test_a_server_without_sftp_is_said_so(programmable: ProgrammableServer) -> None:
    programmable.offers_sftp = False
    with pytest.raises(SftpUnavailable, match="refuses"):
        opened(programmable.endpoint(), programmable.credentials())


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00\x00\x00\x05\x02\x00\x00\x00\x06",
        b"\x00\x00\x00\x01\x02",
        b"Welcome! This account is currently not available.\n",
        b"\x00\x00\x00\x0b\x02\x00\x00\x00\x03\x00\x00\x00\xff--",
    ],
    ids=["another version", "cut short", "text", "bad extension"],
)
def test_an_sftp_server_that_does_not_speak_version_3_is_said_so(
    programmable: ProgrammableServer, answer: bytes
) -> None:
    async def raw(reader: object, writer: object) -> None:
        writer.write(answer)  # type: ignore[attr-defined]
        await reader.read()  # type: ignore[attr-defined]

    programmable.raw = raw
    with pytest.raises(SftpUnavailable):
        opened(programmable.endpoint(), programmable.credentials(), limits=replace(SHORT, banner=5))


def test_where_the_channel_ends_there_is_no_sftp_and_where_the_connection_ends_it_is_lost(
    programmable: ProgrammableServer,
) -> None:
    async def hang_up(reader: object, writer: object) -> None:
        await reader.read(1)  # type: ignore[attr-defined]
        writer.close()  # type: ignore[attr-defined]

    async def break_down(reader: object, _writer: object) -> None:
        await reader.read(1)  # type: ignore[attr-defined]
        programmable.abort()

    programmable.raw = hang_up
    with pytest.raises(SftpUnavailable):
        opened(programmable.endpoint(), programmable.credentials())
    programmable.raw = break_down
    with pytest.raises(ConnectionLost):
        opened(programmable.endpoint(), programmable.credentials())


def test_a_peer_that_is_stopped_is_noticed(tmp_path: Path) -> None:
    with OpenSSHServer(tmp_path) as server:
        limits = Limits(request=0.4, no_progress=0.4)
        with connect(
            server.endpoint(), server.credentials(), today=TODAY, limits=limits
        ) as session:
            session.check_directory()
            for process in server.sessions():
                os.kill(process, signal.SIGSTOP)
            with pytest.raises(Stalled, match="acknowledged nothing"):
                session.check_directory()


def test_proftpd_is_connected_to(tmp_path: Path) -> None:
    with ProFTPDServer(tmp_path) as server:
        with connect(server.endpoint(), server.credentials(), today=TODAY) as session:
            session.check_directory()
            assert session.facts.server == "SSH-2.0-mod_sftp"
        with pytest.raises(AuthFailed):
            opened(server.endpoint(), server.credentials(password=Secret(b"wrong")))


class Lines(logging.Handler):
    """Keeps what it is given, as any handler would write it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.text: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.text.append(self.format(record))


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """Listen at the highest level to every logger that a line of paramiko's may go through."""
    handler = Lines()
    loggers = [
        logging.getLogger(name)
        for name in (None, "paramiko", "paramiko.transport", "mxdeliver", "mxdeliver.peer")
    ]
    before = [(logger, logger.level) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield handler.text
    for logger, level in before:
        logger.removeHandler(handler)
        logger.setLevel(level)


def test_with_every_logger_open_no_password_and_no_raw_word_of_the_peer_is_heard(
    programmable: ProgrammableServer, server: OpenSSHServer, lines: list[str]
) -> None:
    hostile = b"\x1b[31mHello\r\nSSH-2.0-evil\x1b[2J\r\n" + key_exchange_offer(b"\x1b[3J,evil")
    with listener(hostile) as port, pytest.raises((SshAlgorithmMismatch, ConnectionLost)):
        opened(some_endpoint(port), Credentials(), limits=SHORT)
    with (
        listener(b"SSH-2.0-evil\r\n" + b"\0\0\0\x1c\x04\x02\x1b[31m\r\n" + bytes(60)) as port,
        pytest.raises((ConnectionLost, Stalled)),
    ):
        opened(some_endpoint(port), Credentials(), limits=SHORT)
    canary = "canary-password"
    for endpoint in (programmable.endpoint(), server.endpoint()):
        with pytest.raises(AuthFailed):
            opened(endpoint, Credentials(password=Secret(canary.encode())))
    opened(server.endpoint(), server.credentials())
    assert all(line.isprintable() for line in lines)
    assert canary not in "".join(lines)
    assert server.password not in "".join(lines)
    logging.getLogger("mxdeliver.peer").warning("a %s word", "\x1b[31m")
    assert lines[-1] == "a \\x1b[31m word"
    assert len([line for line in lines if "evil" in line]) == 0  # below a warning nothing is heard


def test_nothing_is_printed_and_no_log_line_leaves_the_library(
    server: OpenSSHServer, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        opened(server.endpoint(), server.credentials())
        with pytest.raises(AuthFailed):
            opened(server.endpoint(), server.credentials(password=Secret(b"canary-password")))
        with pytest.raises(HostKeyMismatch):
            opened(server.endpoint(host_keys=(STRANGER,)), server.credentials())
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert [record for record in caplog.records if record.name.startswith("paramiko")] == []
