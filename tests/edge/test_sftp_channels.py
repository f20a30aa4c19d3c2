"""Further channels on a long way: files spread over them, and servers that take them amiss."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from mxdeliver.core.errors import RemoteFailure
from mxdeliver.edge.sftp import Session, Upload, connect
from mxdeliver.edge.sftp.channels import channels_worth
from tests.support.openssh import OpenSSHServer
from tests.support.programmable import ProgrammableServer
from tests.support.proxy import Proxy

TODAY = date(2026, 11, 22)
FILES = {
    f"file-{number}": os.urandom(size) for number, size in enumerate([9_000_000, *[700_000] * 9])
}
ONE_WAY = 0.008


def uploads(contents: dict[str, bytes]) -> list[Upload]:
    return [
        Upload(
            name=name,
            temporary=f".{name}.part",
            size=len(data),
            open=lambda data=data: io.BytesIO(data),
        )
        for name, data in contents.items()
    ]


@contextmanager
def far_away(server: Any, contents: dict[str, bytes], **changes: Any) -> Iterator[Session]:
    """Give a session with a server sixteen milliseconds away, that is told of what will be sent."""
    with (
        Proxy(server.port, one_way=ONE_WAY) as proxy,
        connect(
            server.endpoint(port=proxy.port, **changes),
            server.credentials(),
            today=TODAY,
            files={name: len(data) for name, data in contents.items()},
        ) as session,
    ):
        yield session


def received(server: Any) -> dict[str, bytes]:
    return {
        path.name.removeprefix(".").removesuffix(".part"): path.read_bytes()
        for path in server.directory.iterdir()
    }


def test_on_a_long_way_files_are_spread_over_channels_and_arrive_whole(tmp_path: Path) -> None:
    with OpenSSHServer(tmp_path) as server, far_away(server, FILES) as session:
        assert len(session._further.engines()) == len(FILES) - 2 - 1  # 15.3 MB, 2 MiB to a channel
        evidence = session.upload(uploads(FILES))
        assert received(server) == FILES
    assert {one.level for one in evidence.values()} == {"size"}


@pytest.mark.parametrize(
    ("sizes", "round_trip", "channels"),
    [
        ([5_000_000] * 9, 0.009, 1),
        ([5_000_000] * 9, 0.01, 8),
        ([5_000_000] * 3, 0.15, 3),
        ([1_000_000] * 9, 0.15, 5),
        ([1_000] * 9, 0.15, 1),
        ([0] * 9, 0.15, 1),
        ([], 0.15, 1),
    ],
)
def test_there_are_as_many_channels_as_way_and_bytes_are_worth(
    sizes: list[int], round_trip: float, channels: int
) -> None:
    assert channels_worth(sizes, round_trip) == channels


@pytest.mark.parametrize("sessions", [1, 3])
def test_what_the_server_refuses_is_done_without(tmp_path: Path, sessions: int) -> None:
    with (
        OpenSSHServer(tmp_path, settings=[f"MaxSessions {sessions}"]) as server,
        far_away(server, FILES) as session,
    ):
        assert len(session._further.engines()) == sessions - 1
        session.upload(uploads(FILES))
        assert received(server) == FILES


def test_a_write_that_fails_on_one_channel_ends_all_and_leaves_nothing(tmp_path: Path) -> None:
    with ProgrammableServer(tmp_path) as server:

        def refuse(_file: Any, offset: int, _data: bytes) -> None:
            if offset > 5_000_000:
                raise OSError(5, "failing disk")

        server.hooks["write"] = refuse
        with far_away(server, FILES) as session:
            assert session._further.engines()
            with pytest.raises(RemoteFailure, match="writing"):
                session.upload(uploads(FILES))
        assert received(server) == {}


def test_all_channels_together_hold_no_more_files_open_than_are_allowed(tmp_path: Path) -> None:
    contents = {f"large-{number}": bytes(2_100_000) for number in range(7)}
    contents |= {f"small-{number}": b"small" for number in range(57)}
    with ProgrammableServer(tmp_path) as server:
        counts = [0]
        server.hooks["open"] = lambda *_: counts.append(counts[-1] + 1)
        server.hooks["close"] = lambda *_: counts.append(counts[-1] - 1)
        with far_away(server, contents, open_files=8) as session:
            assert len(session._further.engines()) > 5
            session.upload(uploads(contents))
        assert received(server) == contents
    assert max(counts) <= 8


def test_a_failure_that_is_told_behind_the_close_is_seen(tmp_path: Path) -> None:
    """OpenSSH may run another program as its sftp subsystem, which answers in any order."""
    late: list[Any] = []

    def behind_the_close(operation: str, answer: Any) -> None:
        if operation == "write" and len(late) < 2:
            late.append(answer)
            return
        answer()
        if operation == "close":
            for one in late:
                one()

    server = ProgrammableServer(tmp_path)
    server.settings["server_version"] = "OpenSSH_9.2"
    with server, far_away(server, {"a": bytes(100_000), "b": b"b"}) as session:
        assert session._engine.answers_in_order
        failing = iter([None])
        server.hooks["write"] = lambda *_: next(failing, OSError) is None and fail()
        server.reply = behind_the_close
        with pytest.raises(RemoteFailure, match="writing"):
            session.upload(uploads({"a": bytes(100_000)}))
        assert received(server) == {}


def fail() -> None:
    raise asyncssh.SFTPFailure("a hole")
