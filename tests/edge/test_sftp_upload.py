"""Uploading: every byte acknowledged, every answer looked at, nothing left behind when it fails."""

from __future__ import annotations

import asyncio
import io
import os
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from mxdeliver.core.errors import (
    ConnectionLost,
    MxdeliverError,
    RemoteDenied,
    RemoteDirectoryMissing,
    RemoteFailure,
    RemoteFull,
    RemoteName,
    RemoteVerify,
    SpoolCorrupt,
    SpoolIO,
    Stalled,
    StopRequested,
)
from mxdeliver.edge.sftp import Evidence, Limits, Upload, connect
from tests.support.openssh import OpenSSHServer
from tests.support.proftpd import ProFTPDServer
from tests.support.programmable import ProgrammableServer, fail_at, hash_answer
from tests.support.proxy import Proxy

TODAY = date(2026, 3, 1)
DATA = os.urandom(300_000)
KEYS_CHANGE = "SSH2_MSG_KEXINIT sent"
AnyServer = OpenSSHServer | ProFTPDServer | ProgrammableServer


@pytest.fixture(scope="module")
def openssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSSHServer]:
    with OpenSSHServer(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def programmable(tmp_path: Path) -> Iterator[ProgrammableServer]:
    with ProgrammableServer(tmp_path) as running:
        yield running


@pytest.fixture(autouse=True)
def _empty_directory(request: pytest.FixtureRequest) -> None:
    if "openssh" in request.fixturenames:
        for path in request.getfixturevalue("openssh").directory.iterdir():
            path.unlink()


def upload(name: str = "a", data: bytes = DATA, size: int | None = None) -> Upload:
    return Upload(
        name=name,
        temporary=f".{name}.part",
        size=len(data) if size is None else size,
        open=lambda: io.BytesIO(data),
    )


def session_on(server: AnyServer, *, through: Proxy | None = None, **changes: Any) -> Any:
    """Open a session with changes to the endpoint, through a proxy where one is given."""
    keywords = {name: changes.pop(name) for name in ("limits", "stop", "sleep") if name in changes}
    if through is not None:
        changes["port"] = through.port
    return connect(server.endpoint(**changes), server.credentials(), today=TODAY, **keywords)


def sent(server: AnyServer, *uploads: Upload, **changes: Any) -> dict[str, Evidence]:
    with session_on(server, **changes) as session:
        evidence: dict[str, Evidence] = session.upload(uploads or [upload()])
        return evidence


# -- good paths ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 32_767, 32_768, 32_769, 5_000_000])
def test_a_file_arrives_byte_for_byte(openssh: OpenSSHServer, size: int) -> None:
    data = os.urandom(size)
    assert sent(openssh, upload(data=data)) == {"a": Evidence(level="size", size=size)}
    assert (openssh.directory / ".a.part").read_bytes() == data


def test_many_files_travel_at_once_and_progress_counts_every_byte(openssh: OpenSSHServer) -> None:
    contents = {f"file-{number}": os.urandom(number * 4_000) for number in range(70)}
    counted: list[int] = []
    with session_on(openssh) as session:
        session.upload([upload(name, data) for name, data in contents.items()], counted.append)
    assert sum(counted) == sum(map(len, contents.values()))
    for name, data in contents.items():
        assert (openssh.directory / f".{name}.part").read_bytes() == data


def test_proftpd_takes_many_files_of_many_pieces(tmp_path: Path) -> None:
    contents = {f"file-{number}": os.urandom(number * 40_000) for number in range(12)}
    with ProFTPDServer(tmp_path) as server:
        uploads = [
            replace(upload(name, data), sha256=sha256(data).hexdigest())
            for name, data in contents.items()
        ]
        levels = {name: one.level for name, one in sent(server, *uploads).items()}
        # ProFTPD computes no hash of an empty file
        assert levels == {**dict.fromkeys(contents, "hash"), "file-0": "size"}
        for name, data in contents.items():
            assert (server.directory / f".{name}.part").read_bytes() == data


def test_names_are_relative_to_the_login_directory_without_a_directory(
    openssh: OpenSSHServer,
) -> None:
    with session_on(openssh, directory="") as session:
        session.check_directory()
        session.upload([upload()])
        assert session.remove([".a.part"]) == {".a.part": True}
    with session_on(openssh, directory="incoming/") as session:
        session.upload([upload()])
    assert (openssh.directory / ".a.part").read_bytes() == DATA


def test_files_are_never_open_in_greater_number_than_allowed(
    programmable: ProgrammableServer,
) -> None:
    counts = most_open(programmable)
    sent(programmable, *(upload(str(number)) for number in range(6)), open_files=2)
    assert max(counts) == 2


def most_open(server: ProgrammableServer) -> list[int]:
    """Note at each open and close how many files are open."""
    counts = [0]
    server.hooks["open"] = lambda *_: counts.append(counts[-1] + 1)
    server.hooks["close"] = lambda *_: counts.append(counts[-1] - 1)
    return counts


def test_a_server_that_allows_one_open_file_gets_one_after_the_other(
    programmable: ProgrammableServer,
) -> None:
    counts = most_open(programmable)

    def one_at_a_time(*_: object) -> None:
        if counts[-1]:
            raise asyncssh.SFTPFailure("too many open files")
        counts.append(1)

    programmable.hooks["open"] = one_at_a_time
    sent(programmable, *(upload(str(number)) for number in range(6)))
    assert len(list(programmable.directory.iterdir())) == 6


def test_the_servers_own_limits_are_obeyed(programmable: ProgrammableServer) -> None:
    programmable.limits = asyncssh.SFTPLimits(256 * 1024, 16 * 1024, 16 * 1024, 2)
    sizes: list[int] = []
    counts = most_open(programmable)
    programmable.hooks["write"] = lambda _file, _offset, data: sizes.append(len(data))
    sent(programmable, *(upload(str(number)) for number in range(4)))
    assert max(sizes) == 16 * 1024
    assert max(counts) == 2


def test_pieces_grow_where_the_server_allows_it_and_answers_at_once(
    programmable: ProgrammableServer,
) -> None:
    sizes: list[int] = []
    programmable.hooks["write"] = lambda _file, _offset, data: sizes.append(len(data))
    sent(programmable, upload(data=bytes(9_000_000)))
    assert sizes[0] == 32 * 1024
    assert 32 * 1024 < max(sizes) <= 256 * 1024


def test_pieces_stay_small_where_answers_come_late(
    programmable: ProgrammableServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mxdeliver.edge.sftp.upload._PROMPT", 0.0)
    sizes: list[int] = []
    programmable.hooks["write"] = lambda _file, _offset, data: sizes.append(len(data))
    sent(programmable, upload(data=bytes(5_000_000)))
    assert max(sizes) == 32 * 1024


def test_answers_in_any_order_and_given_twice_are_matched_by_their_id(
    programmable: ProgrammableServer,
) -> None:
    held: list[Callable[[], None]] = []

    def reverse_in_tens(operation: str, answer: Callable[[], None]) -> None:
        if operation != "write":
            answer()
            return
        held.append(answer)
        if len(held) == 10:
            for one in reversed(held):
                one()
                one()
            held.clear()

    programmable.reply = reverse_in_tens
    data = os.urandom(10 * 32 * 1024)
    with session_on(programmable) as session:
        session._engine.piece = 32 * 1024
        session.upload([upload(data=data)])
    assert (programmable.directory / ".a.part").read_bytes() == data


def test_the_keys_may_change_in_the_middle(tmp_path: Path) -> None:
    data = os.urandom(12_000_000)
    with OpenSSHServer(tmp_path, settings=["RekeyLimit 1M"]) as server:
        sent(server, upload(data=data))
        assert (server.directory / ".a.part").read_bytes() == data
        assert server.log().count("set_newkeys") > 2 * 2, "in and out, more often than at first"


def test_the_keys_may_change_slowly(tmp_path: Path) -> None:
    data = os.urandom(1_500_000)
    with OpenSSHServer(tmp_path, settings=["RekeyLimit 1M"]) as server:
        with Proxy(server.port) as proxy, session_on(server, through=proxy) as session:
            proxy.one_way = 0.1
            session.upload([upload(data=data)])
        assert (server.directory / ".a.part").read_bytes() == data
        assert server.log().count(KEYS_CHANGE) > 1


def test_a_change_of_keys_that_never_ends_is_stalled(tmp_path: Path) -> None:
    def swallow(piece: bytes, from_client: bool) -> bytes:
        changing = not from_client and server.log().count(KEYS_CHANGE) > 1
        return b"" if changing else piece

    limits = Limits(no_progress=0.8)
    with (
        OpenSSHServer(tmp_path, settings=["RekeyLimit 1M"]) as server,
        Proxy(server.port) as proxy,
        session_on(server, through=proxy, limits=limits) as session,
    ):
        proxy.spoil = swallow
        started = time.monotonic()
        with pytest.raises(Stalled):
            session.upload([upload(data=os.urandom(9_000_000))])
        assert time.monotonic() - started < 10
        assert server.log().count(KEYS_CHANGE) == 2, "it was in the middle of the first change"


def test_a_full_window_is_waited_for(programmable: ProgrammableServer) -> None:
    released = threading.Event()
    looks: list[bool] = []

    def look() -> bool:
        # asked several times a second, also while nothing can be sent
        looks.append(True)
        if len(looks) > 8:
            released.set()
        return False

    async def wait(*_: object) -> None:
        await asyncio.get_running_loop().run_in_executor(None, released.wait)

    programmable.hooks["write"] = wait
    data = os.urandom(6_000_000)
    with session_on(programmable, stop=look) as session:
        session._engine.piece = 32 * 1024
        session._engine._channel.settimeout(0.01)
        looks.clear()
        session.upload([upload(data=data)])
    assert (programmable.directory / ".a.part").read_bytes() == data


def test_a_server_that_does_not_flush_is_no_failure(programmable: ProgrammableServer) -> None:
    programmable.hooks["fsync"] = raising(asyncssh.SFTPOpUnsupported("no"))
    assert sent(programmable)


def raising(error: Exception) -> Callable[..., None]:
    def hook(*_: object) -> None:
        raise error

    return hook


# -- sizes that cannot be looked at ----------------------------------------------------------------


def test_without_stat_the_acknowledgements_count(tmp_path: Path) -> None:
    options = "-P stat,lstat,fstat,statvfs,opendir,readdir,read"
    with OpenSSHServer(tmp_path, sftp_options=options) as server:
        with session_on(server) as session:
            session.check_directory()
            assert session.upload([upload()]) == {"a": Evidence(level="ack", size=len(DATA))}
            seen = session.attributes([".a.part"])[".a.part"]
            assert seen.denied
        assert (server.directory / ".a.part").read_bytes() == DATA


def test_a_temporary_file_that_a_sweeper_took_counts_as_acknowledged(
    programmable: ProgrammableServer,
) -> None:
    programmable.hooks["after close"] = lambda *_: (programmable.directory / ".a.part").unlink()
    assert sent(programmable) == {"a": Evidence(level="ack", size=len(DATA), taken=True)}


def test_a_size_that_is_told_late_is_waited_for(programmable: ProgrammableServer) -> None:
    answers = iter([0, 0])

    def late(path: bytes) -> Any:
        size = next(answers, None) if path.endswith(b".part") else None
        return None if size is None else asyncssh.SFTPAttrs(size=size, permissions=0o100600)

    programmable.hooks["lstat"] = late
    pauses: list[float] = []
    assert sent(programmable, sleep=pauses.append) == {"a": Evidence(level="size", size=300_000)}
    assert pauses == [0.1, 0.4]


def test_a_size_that_stays_wrong_is_a_failed_verification(
    programmable: ProgrammableServer,
) -> None:
    programmable.hooks["lstat"] = lambda _path: asyncssh.SFTPAttrs(size=7, permissions=0o100600)
    with pytest.raises(RemoteVerify, match="7 bytes instead of 300000"):
        sent(programmable, sleep=lambda _seconds: None)
    assert list(programmable.directory.iterdir()) == []


def hashed(server: ProgrammableServer, path: bytes) -> bytes:
    content = (server.root / path.decode().lstrip("/")).read_bytes()
    return hash_answer(sha256(content).digest())


def test_hashes_are_compared_where_the_server_computes_them(
    programmable: ProgrammableServer,
) -> None:
    programmable.file_hash = lambda path: hashed(programmable, path)
    known = replace(upload(), sha256=sha256(DATA).hexdigest())
    assert sent(programmable, known) == {"a": Evidence(level="hash", size=len(DATA))}


def test_other_bytes_of_the_right_length_are_a_failed_verification(
    programmable: ProgrammableServer,
) -> None:
    """A hole that the server has denied (reliability.md X1, F82)."""

    def spoil(file: Any) -> None:
        with open(file.name, "r+b") as again:  # noqa: PTH123 - its name is bytes
            again.seek(1_000)
            again.write(bytes(100))

    programmable.hooks["after close"] = spoil
    programmable.file_hash = lambda path: hashed(programmable, path)
    with pytest.raises(RemoteVerify, match="other bytes than were sent"):
        sent(programmable, replace(upload(), sha256=sha256(DATA).hexdigest()))
    assert list(programmable.directory.iterdir()) == []


def test_an_answer_that_is_no_hash_proves_nothing(programmable: ProgrammableServer) -> None:
    programmable.file_hash = lambda _path: hash_answer(b"short")
    known = replace(upload(), sha256=sha256(DATA).hexdigest())
    assert sent(programmable, known) == {"a": Evidence(level="size", size=len(DATA))}


def test_a_server_that_offers_no_hashes_is_not_asked(programmable: ProgrammableServer) -> None:
    sent(programmable, replace(upload(), sha256=sha256(DATA).hexdigest()))
    assert "check-file-name" not in programmable.operations


# -- failures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "hook", "expected"),
    [
        ("write", fail_at(65_536), RemoteFailure),
        ("write", fail_at(0), RemoteFailure),
        ("write", fail_at(65_536, "No space left on device"), RemoteFull),
        ("close", raising(asyncssh.SFTPFailure("quota exceeded")), RemoteFull),
        ("close", raising(asyncssh.SFTPFailure("strange")), RemoteFailure),
        ("fsync", raising(asyncssh.SFTPFailure("input/output error")), RemoteFailure),
        ("open", raising(asyncssh.SFTPFailure("strange")), RemoteFailure),
        ("open", raising(asyncssh.SFTPPermissionDenied("no")), RemoteDenied),
        ("open", raising(asyncssh.SFTPNoSuchFile("no")), RemoteDirectoryMissing),
        ("open", raising(asyncssh.SFTPBadMessage("no")), RemoteName),
        ("open", raising(asyncssh.SFTPFailure("File name too long")), RemoteName),
    ],
)
def test_a_failure_anywhere_is_raised_and_nothing_is_left(
    programmable: ProgrammableServer,
    operation: str,
    hook: Callable[..., Any],
    expected: type[MxdeliverError],
) -> None:
    programmable.hooks[operation] = hook
    if operation == "close":  # a second close, in cleaning up, must not be what is refused
        programmable.hooks["close"] = once(hook)
    with pytest.raises(expected) as caught:
        sent(programmable, upload("a"), upload("b"))
    assert type(caught.value) is expected
    assert list(programmable.directory.iterdir()) == []


def once(hook: Callable[..., Any]) -> Callable[..., Any]:
    hooks = [hook]
    return lambda *arguments: hooks.pop()(*arguments) if hooks else None


def test_a_full_disk_of_a_silent_server_is_recognised_by_its_free_space(tmp_path: Path) -> None:
    with OpenSSHServer(tmp_path) as server:
        full = server.directory / "full"
        full.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k,mode=777", "none", full], check=True
        )
        try:
            with pytest.raises(RemoteFull, match="disk or quota"):
                sent(server, upload(data=os.urandom(1_000_000)), directory=str(full))
            assert list(full.iterdir()) == []
        finally:
            subprocess.run(["umount", full], check=True)


def test_a_full_disk_on_proftpd_is_an_error_too(tmp_path: Path) -> None:
    with ProFTPDServer(tmp_path) as server:
        full = server.directory / "full"
        full.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k,mode=777", "none", full], check=True
        )
        try:
            with pytest.raises(RemoteFull):
                sent(server, upload(data=os.urandom(1_000_000)), directory=str(full))
            assert list(full.iterdir()) == []
        finally:
            subprocess.run(["umount", full], check=True)


def test_a_missing_directory_is_said_so_and_never_created(openssh: OpenSSHServer) -> None:
    with session_on(openssh, directory=str(openssh.home / "nowhere")) as session:
        with pytest.raises(RemoteDirectoryMissing, match="nowhere does not exist"):
            session.check_directory()
        with pytest.raises(RemoteDirectoryMissing, match="creating"):
            session.upload([upload()])
    assert not (openssh.home / "nowhere").exists()


def test_a_file_in_place_of_the_directory_is_said_so(openssh: OpenSSHServer) -> None:
    (openssh.directory / "file").touch()
    with (
        session_on(openssh, directory=str(openssh.directory / "file")) as session,
        pytest.raises(RemoteDirectoryMissing, match="not a directory"),
    ):
        session.check_directory()


def test_a_link_to_a_directory_is_a_directory(openssh: OpenSSHServer) -> None:
    link = openssh.directory / "link"
    link.symlink_to(openssh.home)
    with session_on(openssh, directory=str(link)) as session:
        session.check_directory()


def test_a_directory_that_may_not_be_written_is_denied(openssh: OpenSSHServer) -> None:
    with pytest.raises(RemoteDenied, match=r"creating .*\.a\.part"):
        sent(openssh, directory="/etc")


def test_a_name_that_is_too_long_is_not_accepted(openssh: OpenSSHServer) -> None:
    with pytest.raises(RemoteName):
        sent(openssh, upload("n" * 300))


def test_a_temporary_file_that_is_not_ours_is_neither_written_nor_removed(
    openssh: OpenSSHServer,
) -> None:
    (openssh.directory / ".a.part").write_bytes(b"theirs")
    with pytest.raises(RemoteFailure):
        sent(openssh)
    assert (openssh.directory / ".a.part").read_bytes() == b"theirs"


def test_hostile_words_are_made_harmless(programmable: ProgrammableServer) -> None:
    words = "\x1b[2J\r\nroot:" + "%s" * 100_000
    programmable.hooks["write"] = fail_at(0, words[:60_000])
    with pytest.raises(RemoteFailure) as caught:
        sent(programmable)
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("size", "offset"), [(300_001, 300_000), (1, 0)])
def test_a_spool_file_of_another_length_is_not_delivered(
    openssh: OpenSSHServer, size: int, offset: int
) -> None:
    data = DATA if size > 1 else b""
    with pytest.raises(SpoolCorrupt, match=f"{offset} bytes instead of {size}"):
        sent(openssh, upload(data=data, size=size), upload("b"))
    assert list(openssh.directory.iterdir()) == []


def test_a_spool_file_that_cannot_be_read_is_said_so(
    openssh: OpenSSHServer, tmp_path: Path
) -> None:
    broken = replace(upload(), open=lambda: (tmp_path / "missing").open("rb"))
    with pytest.raises(SpoolIO, match="No such file"):
        sent(openssh, broken)


def test_files_of_the_spool_are_closed_whatever_happens(programmable: ProgrammableServer) -> None:
    streams: list[io.BytesIO] = []

    def opening() -> io.BytesIO:
        streams.append(io.BytesIO(DATA))
        return streams[-1]

    sent(programmable, replace(upload(), open=opening))
    programmable.hooks["write"] = fail_at(65_536)
    with pytest.raises(RemoteFailure):
        sent(programmable, replace(upload("b"), open=opening))
    assert len(streams) == 2
    assert all(stream.closed for stream in streams)


# -- connections that break ------------------------------------------------------------------------


@pytest.mark.parametrize("cut_after", [100_000, 1_000_000, 2_900_000])
def test_a_connection_cut_in_the_middle_is_lost(openssh: OpenSSHServer, cut_after: int) -> None:
    with Proxy(openssh.port) as proxy, session_on(openssh, through=proxy) as session:
        proxy.cut_after = proxy.seen + cut_after
        with pytest.raises(ConnectionLost):
            session.upload([upload(data=os.urandom(3_000_000))])


def test_a_connection_that_goes_silent_is_stalled(openssh: OpenSSHServer) -> None:
    limits = Limits(no_progress=0.5)
    with (
        Proxy(openssh.port) as proxy,
        session_on(openssh, through=proxy, limits=limits) as session,
        pytest.raises(Stalled, match="acknowledged nothing"),
    ):
        session.upload([upload(data=os.urandom(9_000_000))], lambda _: proxy.hold.set())


def test_a_server_process_that_is_stopped_in_the_middle_is_stalled(tmp_path: Path) -> None:
    limits = Limits(no_progress=0.5)
    with OpenSSHServer(tmp_path) as server, session_on(server, limits=limits) as session:

        def stop(_acknowledged: int) -> None:
            for process in server.sessions():
                os.kill(process, signal.SIGSTOP)

        with pytest.raises(Stalled):
            session.upload([upload(data=os.urandom(9_000_000))], stop)


def test_a_peer_that_reads_nothing_is_stalled_also_where_the_kernel_takes_no_more(
    openssh: OpenSSHServer,
) -> None:
    """With small buffers, as SSH's window is full first otherwise, and that wait has a limit."""
    connections: list[socket.socket] = []
    taken: list[bool] = []

    def look() -> bool:  # asked by the watchdog, several times a second
        if connections:
            taken.append(bool(select.select([], connections, [], 0)[1]))
        return False

    limits = Limits(no_progress=0.8)
    with Proxy(openssh.port, buffer=4096) as proxy:
        with session_on(openssh, through=proxy, limits=limits, stop=look) as session:
            connections.append(session._connection.transport.sock)
            connections[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            started = time.monotonic()
            with pytest.raises(Stalled):
                session.upload(
                    [upload(data=os.urandom(9_000_000))], lambda _acknowledged: proxy.hold.set()
                )
            assert time.monotonic() - started < 5
            connections.clear()
        assert taken[-3:] == [False] * 3, "the program was in the middle of a write"


def test_an_answer_that_never_comes_is_stalled(programmable: ProgrammableServer) -> None:
    programmable.reply = lambda operation, answer: None if operation == "close" else answer()
    with (
        session_on(programmable, limits=Limits(no_progress=0.4)) as session,
        pytest.raises(Stalled),
    ):
        session.upload([upload()])


@pytest.mark.parametrize(
    "packet",
    [
        struct.pack(">I", 256 * 1024 * 1024) + b"x" * 100,
        struct.pack(">IB", 3, 101) + b"--",
        struct.pack(">IBIII", 13, 101, 1, 4, 99),
        struct.pack(">IBII", 9, 102, 1, 99),
    ],
    ids=["huge", "short", "text longer than packet", "handle longer than packet"],
)
def test_garbage_instead_of_an_answer_loses_the_connection(
    programmable: ProgrammableServer, packet: bytes
) -> None:
    async def raw(reader: Any, writer: Any) -> None:
        await reader.readexactly(9)
        writer.write(struct.pack(">IBI", 5, 2, 3))
        await reader.read(10)
        writer.write(packet)
        await reader.read()

    programmable.raw = raw
    with session_on(programmable) as session, pytest.raises(ConnectionLost):
        session.upload([upload()])


def test_a_stop_request_ends_an_upload_and_leaves_nothing(openssh: OpenSSHServer) -> None:
    stopped: list[bool] = []
    with (
        session_on(openssh, stop=lambda: bool(stopped)) as session,
        pytest.raises(StopRequested),
    ):
        session.upload([upload(data=os.urandom(9_000_000))], lambda _: stopped.append(True))
    assert list(openssh.directory.iterdir()) == []


def test_a_stop_request_ends_an_upload_to_a_silent_server_in_time(openssh: OpenSSHServer) -> None:
    limits = Limits(stop=0.3)
    stopped: list[bool] = []
    with (
        Proxy(openssh.port) as proxy,
        session_on(openssh, through=proxy, limits=limits, stop=lambda: bool(stopped)) as session,
    ):
        proxy.hold.set()
        stopped.append(True)
        with pytest.raises(StopRequested):
            session.check_directory()


# -- looking, reading, removing --------------------------------------------------------------------


def test_attributes_tell_files_from_everything_else(openssh: OpenSSHServer) -> None:
    with session_on(openssh, directory=str(openssh.home)) as session:
        (openssh.home / "file").write_bytes(b"12345")
        (openssh.home / "dangling").symlink_to("nowhere")
        (openssh.home / "link").symlink_to("file")
        os.mkfifo(openssh.home / "pipe")
        try:
            seen = session.attributes(["file", "dangling", "link", "pipe", "incoming", "absent"])
        finally:
            for name in ("file", "dangling", "link", "pipe"):
                (openssh.home / name).unlink()
    assert seen["absent"] is None
    assert seen["file"].size == 5
    assert [name for name, one in seen.items() if one and one.is_regular] == ["file"]


@pytest.mark.parametrize("size", [0, 1, 32_768, 3_000_001])
def test_a_file_is_read_back(openssh: OpenSSHServer, size: int) -> None:
    data = os.urandom(size)
    (openssh.directory / "a").write_bytes(data)
    with session_on(openssh) as session:
        assert b"".join(session.read("a", size + 1)) == data
        assert b"".join(session.read("a", 1_000)) == data[:1_000]


def test_a_server_that_reads_in_small_pieces_is_read_whole(
    programmable: ProgrammableServer,
) -> None:
    (programmable.directory / "a").write_bytes(DATA)
    programmable.hooks["read"] = lambda file, offset, size: read_at(file, offset, min(size, 20_000))
    with session_on(programmable) as session:
        assert b"".join(session.read("a", len(DATA) + 1)) == DATA


def read_at(file: Any, offset: int, size: int) -> bytes:
    file.seek(offset)
    data: bytes = file.read(size)
    if not data:
        raise asyncssh.SFTPEOFError
    return data


def test_a_read_that_gives_nothing_is_the_end(programmable: ProgrammableServer) -> None:
    (programmable.directory / "a").write_bytes(DATA)
    programmable.hooks["read"] = lambda *_: b""
    with session_on(programmable) as session:
        assert b"".join(session.read("a", 10)) == b""


def test_a_file_that_a_receiver_takes_before_it_is_read_is_no_missing_directory(
    openssh: OpenSSHServer,
) -> None:
    with session_on(openssh) as session, pytest.raises(RemoteFailure, match="vanished"):
        list(session.read("taken", 10))


def test_what_may_not_be_read_is_denied(programmable: ProgrammableServer) -> None:
    (programmable.directory / "a").write_bytes(DATA)
    with session_on(programmable) as session:
        programmable.hooks["read"] = raising(asyncssh.SFTPPermissionDenied("no"))
        with pytest.raises(RemoteDenied, match="reading"):
            list(session.read("a", 10))
        programmable.hooks["open"] = raising(asyncssh.SFTPPermissionDenied("no"))
        with pytest.raises(RemoteDenied, match="opening"):
            list(session.read("a", 10))


def test_attributes_that_fail_or_are_cut_short_are_errors(programmable: ProgrammableServer) -> None:
    (programmable.directory / "a").write_bytes(DATA)
    with session_on(programmable) as session:
        programmable.hooks["lstat"] = raising(asyncssh.SFTPFailure("strange"))
        with pytest.raises(RemoteFailure, match="looking at"):
            session.attributes(["a"])

        class Nothing:
            def encode(self, _version: int) -> bytes:
                return b"\x00\x00\x00\x01--"

        programmable.hooks["lstat"] = lambda _path: Nothing()
        with pytest.raises(ConnectionLost, match="cut short"):
            session.attributes(["a"])


def test_attributes_with_owner_and_without_mode_are_read(programmable: ProgrammableServer) -> None:
    attributes = asyncssh.SFTPAttrs(size=9, uid=1, gid=2)
    programmable.hooks["lstat"] = lambda _path: attributes
    with session_on(programmable) as session:
        seen = session.attributes(["a"])["a"]
    assert (seen.size, seen.is_regular) == (9, True)


def test_removing_tells_which_names_are_free(openssh: OpenSSHServer) -> None:
    (openssh.directory / "there").touch()
    with session_on(openssh, directory=str(openssh.home)) as session:
        removed = session.remove(["incoming/there", "absent", "incoming"])
    assert removed == {"incoming/there": True, "absent": True, "incoming": False}
