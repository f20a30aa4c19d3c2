"""What a first attempt sends OpenSSH without waiting: errors are told apart as ever."""

from __future__ import annotations

import asyncio
import io
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from mxdeliver.core.errors import (
    AuthFailed,
    AuthMethod,
    ConnectionLost,
    RemoteConflict,
    RemoteDirectoryMissing,
    SessionLimit,
    SftpUnavailable,
)
from mxdeliver.core.secret import Secret
from mxdeliver.edge.sftp import (
    Credentials,
    Limits,
    Move,
    Ownership,
    Session,
    Upload,
    connect,
    scan_host_keys,
)
from tests.support.openssh import OpenSSHServer, key_pair, wait_until
from tests.support.programmable import ProgrammableServer
from tests.support.proxy import Proxy

TODAY = date(2026, 11, 22)
FILES = {"a": 1, "b": 0}


@contextmanager
def first_attempt(
    server: Any,
    credentials: Credentials | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    **changes: Any,
) -> Iterator[Session]:
    with connect(
        server.endpoint(**changes),
        credentials or server.credentials(),
        today=TODAY,
        limits=limits,
        files=FILES,
    ) as session:
        yield session


def next_attempt(server: Any) -> AbstractContextManager[Session]:
    return connect(server.endpoint(), server.credentials(), today=TODAY)


def upload(name: str, *, directly: bool = False) -> Upload:
    return Upload(
        name=name,
        temporary=name if directly else f".{name}.part",
        size=4,
        open=lambda: io.BytesIO(b"ours"),
    )


def only_key(kind: str = "ed25519") -> Credentials:
    return Credentials(private_key=Secret(key_pair(kind)[0]))


@pytest.fixture
def called_openssh(tmp_path: Path) -> Iterator[ProgrammableServer]:
    server = ProgrammableServer(tmp_path)
    server.settings["server_version"] = "OpenSSH_9.2"
    with server:
        yield server


@pytest.mark.parametrize(
    ("kind", "with_password", "methods"),
    [
        ("ed25519", False, ["publickey"]),
        ("ecdsa", False, ["publickey"]),
        ("rsa", False, ["none", "publickey"]),
        ("ed25519", True, ["none", "publickey"]),
    ],
)
def test_methods_are_asked_for_only_where_that_can_change_anything(
    tmp_path: Path, kind: str, with_password: bool, methods: list[str]
) -> None:
    private, public = key_pair(kind)
    with OpenSSHServer(tmp_path, authorized_keys=[public]) as server:
        password = server.credentials().password if with_password else None
        credentials = Credentials(private_key=Secret(private), password=password)
        with first_attempt(server, credentials) as session:
            assert session.look(list(FILES)) == {"a": None, "b": None}
        assert [line.split("method ")[1].split()[0] for line in server.login_attempts()] == methods


def test_a_key_that_is_refused_at_once_is_a_refused_login(tmp_path: Path) -> None:
    with OpenSSHServer(tmp_path) as server:
        with (
            pytest.raises(AuthFailed, match="the login was refused"),
            first_attempt(server, only_key()),
        ):
            pass
        assert len(server.login_attempts()) == 1


def test_a_server_that_takes_no_keys_has_refused_none(tmp_path: Path) -> None:
    with OpenSSHServer(tmp_path, settings=["PubkeyAuthentication no"]) as server:
        with (
            pytest.raises(AuthMethod, match="asks for password"),
            first_attempt(server, only_key()),
        ):
            pass
        assert len(server.login_attempts()) == 1


def test_a_password_that_is_asked_for_behind_the_key_is_said_so(tmp_path: Path) -> None:
    settings = ["AuthenticationMethods publickey,password"]
    public = key_pair("ed25519")[1]
    with OpenSSHServer(tmp_path, authorized_keys=[public], settings=settings) as server:
        with pytest.raises(AuthMethod, match="password"), first_attempt(server, only_key()):
            pass
        with first_attempt(server, server.credentials(private_key=only_key().private_key)):
            pass


def test_a_connection_that_breaks_before_logins_are_taken_is_no_refusal(
    called_openssh: ProgrammableServer,
) -> None:
    with Proxy(called_openssh.port) as proxy:
        scan_host_keys("127.0.0.1", proxy.port)
        proxy.cut_after = 2 * proxy.seen + 5  # in the middle of what follows the handshake
        with (
            pytest.raises(ConnectionLost),
            first_attempt(called_openssh, only_key(), port=proxy.port),
        ):
            pass
    assert called_openssh.user_names == []


def test_a_connection_that_breaks_at_the_credential_counts_as_a_refusal(
    called_openssh: ProgrammableServer,
) -> None:
    async def hang_up(server: ProgrammableServer) -> None:
        server.abort()

    called_openssh.at_name = hang_up
    with (
        pytest.raises(AuthFailed, match="hung up instead of answering"),
        first_attempt(called_openssh, only_key()),
    ):
        pass


def test_the_look_has_been_asked_for_with_the_connection_and_is_used_once(
    called_openssh: ProgrammableServer,
) -> None:
    (called_openssh.directory / "a").write_bytes(b"x")
    with first_attempt(called_openssh) as session:
        wait_until(lambda: called_openssh.operations == ["stat", "lstat", "lstat"], "the look")
        first = session.look(list(FILES))
        assert first["a"] is not None
        assert first["a"].size == 1
        assert called_openssh.operations.count("stat") == 1
        (called_openssh.directory / "a").unlink()
        assert session.look(list(FILES)) == {"a": None, "b": None}
        assert called_openssh.operations.count("stat") == 2


def test_other_names_are_looked_at_anew(called_openssh: ProgrammableServer) -> None:
    (called_openssh.directory / "b").write_bytes(b"")
    with first_attempt(called_openssh) as session:
        assert list(session.look(["b"])) == ["b"]
        assert called_openssh.operations.count("stat") == 2


def test_a_missing_directory_is_told_by_the_first_look(tmp_path: Path) -> None:
    with (
        OpenSSHServer(tmp_path) as server,
        first_attempt(server, directory="/nowhere") as session,
        pytest.raises(RemoteDirectoryMissing),
    ):
        session.look(list(FILES))


def test_another_server_is_sent_nothing_ahead(tmp_path: Path) -> None:
    with ProgrammableServer(tmp_path) as server, first_attempt(server) as session:
        assert not session._engine.answers_in_order
        assert server.operations == []


def test_a_subsystem_that_is_refused_is_told_so(called_openssh: ProgrammableServer) -> None:
    called_openssh.offers_sftp = False
    with (
        pytest.raises(SftpUnavailable, match="refuses the sftp subsystem"),
        first_attempt(called_openssh),
    ):
        pass


def test_openssh_without_the_subsystem_is_told_so(tmp_path: Path) -> None:
    with (
        OpenSSHServer(tmp_path, sftp_program=None) as server,
        pytest.raises(SftpUnavailable, match="refuses the sftp subsystem"),
        first_attempt(server),
    ):
        pass


def test_a_subsystem_that_is_no_sftp_server_is_told_so_by_the_next_attempt(tmp_path: Path) -> None:
    with OpenSSHServer(tmp_path, sftp_program="/bin/false") as server:
        with (
            pytest.raises(ConnectionLost, match="asked for without waiting"),
            first_attempt(server),
        ):
            pass
        with pytest.raises(SftpUnavailable, match="does not answer"), next_attempt(server):
            pass


async def close_the_channel(_reader: Any, writer: Any) -> None:
    writer.close()


async def take_the_question_for_limits_amiss(reader: Any, writer: Any) -> None:
    await reader.readexactly(9)  # SSH_FXP_INIT
    with suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            await reader.readexactly(1)
            writer.close()
            return
    await speak_sftp(reader, writer)


async def answer_the_question_for_limits_first(reader: Any, writer: Any) -> None:
    await reader.readexactly(9)
    with suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            await reader.readexactly(1)
            writer.write(struct.pack(">IBIIII", 17, 101, 1, 8, 0, 0))  # SSH_FX_OP_UNSUPPORTED
    await speak_sftp(reader, writer)


async def speak_sftp(reader: Any, writer: Any) -> None:
    writer.write(struct.pack(">IBI", 5, 2, 3))
    await reader.read()


@pytest.mark.parametrize(
    "raw", [take_the_question_for_limits_amiss, answer_the_question_for_limits_first]
)
def test_a_server_that_takes_amiss_what_is_sent_ahead_is_tried_again_without(
    called_openssh: ProgrammableServer, raw: Callable[[Any, Any], Awaitable[None]]
) -> None:
    called_openssh.raw = raw
    with (
        pytest.raises(ConnectionLost, match="asked for without waiting"),
        first_attempt(called_openssh),
    ):
        pass
    with next_attempt(called_openssh) as session:
        assert not session._engine.answers_in_order


def test_a_channel_that_is_closed_is_no_refusal_of_the_subsystem(
    called_openssh: ProgrammableServer,
) -> None:
    called_openssh.raw = close_the_channel
    with pytest.raises(ConnectionLost), first_attempt(called_openssh):
        pass
    with pytest.raises(SftpUnavailable), next_attempt(called_openssh):
        pass


def test_a_session_that_is_refused_is_told_so(tmp_path: Path) -> None:
    with (
        OpenSSHServer(tmp_path, settings=["MaxSessions 0"]) as server,
        pytest.raises(SessionLimit, match="opens no session"),
        first_attempt(server),
    ):
        pass


# -- looks behind each file's close ----------------------------------------------------------------


def looked_at(server: ProgrammableServer) -> int:
    return server.operations.count("lstat")


def test_what_was_seen_behind_each_close_is_not_looked_at_again(
    called_openssh: ProgrammableServer,
) -> None:
    with first_attempt(called_openssh) as session:
        session.look(list(FILES))
        session.upload([upload(name) for name in FILES])
        assert looked_at(called_openssh) == len(FILES) + 2 * len(FILES)
        session.rename([Move(temporary=f".{name}.part", final=name, size=4) for name in FILES])
    assert looked_at(called_openssh) == len(FILES) + 3 * len(FILES)


def test_a_name_that_is_taken_during_a_long_upload_is_seen_before_any_rename(
    called_openssh: ProgrammableServer,
) -> None:
    async def take_long(path: bytes, *_: Any) -> None:
        if path.endswith(b".b.part"):
            (called_openssh.directory / "a").write_bytes(b"theirs")  # was seen free a moment ago
            await asyncio.sleep(0.4)

    called_openssh.hooks["open"] = take_long
    limits = Limits(fresh=0.3)
    with first_attempt(called_openssh, limits=limits, open_files=1) as session:
        assert session.look(list(FILES)) == {"a": None, "b": None}
        session.upload([upload(name) for name in FILES])
        with pytest.raises(RemoteConflict, match="6 bytes instead of 4"):
            session.rename([Move(temporary=f".{name}.part", final=name, size=4) for name in FILES])
    assert "rename" not in called_openssh.operations
    assert (called_openssh.directory / "a").read_bytes() == b"theirs"
    assert not (called_openssh.directory / "b").exists()


def test_final_names_that_are_written_are_looked_at_only_when_all_are_closed(
    called_openssh: ProgrammableServer,
) -> None:
    seen: list[int] = []

    async def close_slowly(*_: Any) -> None:
        await asyncio.sleep(0.1)  # what was sent behind it has arrived by then
        seen.append(looked_at(called_openssh))

    nobody = Ownership(created=lambda _: None, may_remove=lambda: None, removed=lambda _: None)
    called_openssh.hooks["close"] = close_slowly
    with first_attempt(called_openssh) as session:
        session.look(list(FILES))
        evidence = session.write([upload(name, directly=True) for name in FILES], nobody)
    assert seen == [len(FILES)] * len(FILES)
    assert {one.level for one in evidence.values()} == {"size"}
    assert looked_at(called_openssh) == 2 * len(FILES)
