"""Publishing: files appear under their final names whole and never in place of something else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from mxdeliver.core.errors import (
    MxdeliverError,
    RemoteConflict,
    RemoteDenied,
    RemoteFailure,
    RemoteFull,
    RemoteVerify,
    Stalled,
    StopRequested,
)
from mxdeliver.edge.sftp import (
    Limits,
    Move,
    RenameOutcome,
    RenameRefused,
    TemporaryVanished,
    connect,
)
from tests.support.openssh import OpenSSHServer
from tests.support.proftpd import ProFTPDServer
from tests.support.programmable import SKIP, ProgrammableServer

TODAY = date(2026, 3, 1)
DATA = os.urandom(100_000)
OTHER = os.urandom(100_000)
RENAMED = RenameOutcome.RENAMED
ALREADY = RenameOutcome.ALREADY_PUBLISHED
SWEPT = RenameOutcome.SWEPT
AnyServer = OpenSSHServer | ProFTPDServer | ProgrammableServer


@pytest.fixture
def programmable(tmp_path: Path) -> Iterator[ProgrammableServer]:
    with ProgrammableServer(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def openssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSSHServer]:
    with OpenSSHServer(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture(scope="module")
def proftpd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProFTPDServer]:
    with ProFTPDServer(tmp_path_factory.mktemp("proftpd")) as running:
        yield running


@pytest.fixture(params=["openssh", "proftpd"])
def real(request: pytest.FixtureRequest) -> AnyServer:
    server: AnyServer = request.getfixturevalue(request.param)
    for path in server.directory.iterdir():
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    return server


def temporary(server: AnyServer, name: str = "a", data: bytes = DATA) -> Move:
    path = server.directory / f".{name}.part"
    path.write_bytes(data)
    path.chmod(0o666)
    return Move(temporary=path.name, final=name, size=len(data))


def renamed(server: AnyServer, *moves: Move, **keywords: Any) -> dict[str, RenameOutcome]:
    keywords.setdefault("sleep", lambda _seconds: None)
    with connect(server.endpoint(), server.credentials(), today=TODAY, **keywords) as session:
        renaming = session.rename(moves)
        if renaming.failure is not None:
            raise renaming.failure
        return dict(renaming.outcomes)


def names(server: AnyServer) -> list[str]:
    return sorted(path.name for path in server.directory.iterdir())


def raising(error: Exception) -> Callable[..., None]:
    def hook(*_: object) -> None:
        raise error

    return hook


# -- real servers ----------------------------------------------------------------------------------


def test_all_files_appear_under_their_final_names(real: AnyServer) -> None:
    moves = [temporary(real, f"file-{number}", os.urandom(number)) for number in range(20)]
    assert renamed(real, *moves) == {move.final: RENAMED for move in moves}
    assert names(real) == sorted(move.final for move in moves)


def test_another_file_is_never_replaced(real: AnyServer) -> None:
    (real.directory / "a").write_bytes(OTHER)
    with pytest.raises(RemoteConflict, match="holds something else"):
        renamed(real, temporary(real), temporary(real, "b"))
    assert (real.directory / "a").read_bytes() == OTHER
    assert names(real) == [".a.part", ".b.part", "a"]


def test_a_file_of_another_size_is_a_conflict_without_being_read(real: AnyServer) -> None:
    (real.directory / "a").write_bytes(b"theirs")
    with pytest.raises(RemoteConflict, match="6 bytes instead of 100000"):
        renamed(real, temporary(real))
    assert (real.directory / "a").read_bytes() == b"theirs"


def test_a_directory_is_never_replaced(real: AnyServer) -> None:
    (real.directory / "a").mkdir()
    with pytest.raises(RemoteConflict, match="not a regular file"):
        renamed(real, temporary(real))
    assert (real.directory / "a").is_dir()


def test_a_dangling_link_is_never_replaced(real: AnyServer) -> None:
    (real.directory / "a").symlink_to("nowhere")
    with pytest.raises(RemoteConflict, match="not a regular file"):
        renamed(real, temporary(real))
    assert (real.directory / "a").is_symlink()


def test_an_equal_file_counts_as_published_and_the_temporary_one_goes(real: AnyServer) -> None:
    (real.directory / "a").write_bytes(DATA)
    assert renamed(real, temporary(real)) == {"a": ALREADY}
    assert names(real) == ["a"]


def test_a_rename_whose_answer_was_lost_counts_as_published(real: AnyServer) -> None:
    move = temporary(real)
    (real.directory / move.temporary).rename(real.directory / "a")
    assert renamed(real, move) == {"a": ALREADY}
    assert names(real) == ["a"]


def test_a_temporary_file_that_vanished_is_a_failed_verification(real: AnyServer) -> None:
    move = temporary(real)
    (real.directory / move.temporary).unlink()
    with pytest.raises(TemporaryVanished, match="vanished"):
        renamed(real, move)


def test_without_posix_rename_plain_rename_is_enough(tmp_path: Path) -> None:
    with OpenSSHServer(tmp_path, sftp_options="-P posix-rename") as server:
        assert renamed(server, temporary(server)) == {"a": RENAMED}


def test_without_plain_rename_the_extension_is_used_while_the_name_is_free(tmp_path: Path) -> None:
    with OpenSSHServer(tmp_path, sftp_options="-P rename") as server:
        assert renamed(server, temporary(server)) == {"a": RENAMED}
        assert (server.directory / "a").read_bytes() == DATA
        with pytest.raises(RemoteConflict):
            renamed(server, temporary(server, "a", OTHER))
        assert (server.directory / "a").read_bytes() == DATA


def test_without_any_rename_it_is_denied_saying_so(tmp_path: Path) -> None:
    with OpenSSHServer(tmp_path, sftp_options="-P rename,posix-rename,hardlink") as server:
        with pytest.raises(RenameRefused, match="refuses to rename"):
            renamed(server, temporary(server))
        assert names(server) == [".a.part"]


def test_where_nothing_may_be_looked_at_the_servers_word_counts(tmp_path: Path) -> None:
    with OpenSSHServer(tmp_path, sftp_options="-P stat,lstat,fstat") as server:
        assert renamed(server, temporary(server)) == {"a": RENAMED}
        with pytest.raises(RemoteConflict, match="may lie there already"):
            renamed(server, temporary(server))
        assert (server.directory / "a").read_bytes() == DATA


def test_where_neither_looking_nor_renaming_is_allowed_it_is_denied(tmp_path: Path) -> None:
    options = "-P stat,lstat,fstat,rename,posix-rename"
    with OpenSSHServer(tmp_path, sftp_options=options) as server:
        move = temporary(server)
        with pytest.raises(RemoteDenied, match="refuses to rename") as caught:
            renamed(server, move)
        assert not isinstance(caught.value, RenameRefused), "nothing was looked at"


# -- servers that misbehave ------------------------------------------------------------------------


def test_a_server_that_would_replace_is_never_asked_to(programmable: ProgrammableServer) -> None:
    programmable.hooks["rename"] = lambda old, new: replace_at(programmable, old, new)
    (programmable.directory / "a").write_bytes(OTHER)
    with pytest.raises(RemoteConflict):
        renamed(programmable, temporary(programmable))
    assert (programmable.directory / "a").read_bytes() == OTHER
    assert "rename" not in programmable.operations


def replace_at(server: ProgrammableServer, old: bytes, new: bytes) -> object:
    os.replace(server.root / old.decode().lstrip("/"), server.root / new.decode().lstrip("/"))  # noqa: PTH105 - replacing is the point
    return SKIP


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (asyncssh.SFTPFailure("strange"), RemoteFailure),
        (asyncssh.SFTPFailure("quota exceeded"), RemoteFull),
        (asyncssh.SFTPNoSuchFile("no"), RemoteFailure),
        (asyncssh.SFTPOpUnsupported("no"), RenameRefused),
    ],
)
def test_a_rename_that_fails_both_ways_is_raised_and_leaves_the_temporary_file(
    programmable: ProgrammableServer, error: Exception, expected: type[MxdeliverError]
) -> None:
    programmable.hooks["rename"] = raising(error)
    programmable.hooks["posix_rename"] = raising(error)
    with pytest.raises(expected) as caught:
        renamed(programmable, temporary(programmable))
    assert type(caught.value) is expected
    assert names(programmable) == [".a.part"]


def test_a_rename_that_was_done_but_answered_with_a_failure_counts(
    programmable: ProgrammableServer,
) -> None:
    programmable.hooks["after rename"] = raising(asyncssh.SFTPFailure("strange"))
    assert renamed(programmable, temporary(programmable)) == {"a": ALREADY}


def test_a_foreign_file_that_appears_just_before_posix_rename_is_not_replaced(
    programmable: ProgrammableServer,
) -> None:
    looks: list[bytes] = []

    def appear(path: bytes) -> None:
        looks.append(path)
        # before; with the rename; because it was refused; and now
        if path.endswith(b"/a") and looks.count(path) == 4:
            (programmable.directory / "a").write_bytes(OTHER)

    programmable.hooks["rename"] = raising(asyncssh.SFTPPermissionDenied("no"))
    programmable.hooks["lstat"] = appear
    with pytest.raises(RemoteConflict):
        renamed(programmable, temporary(programmable))
    assert (programmable.directory / "a").read_bytes() == OTHER
    assert "posix_rename" not in programmable.operations


def test_one_failure_does_not_hide_the_others_success(programmable: ProgrammableServer) -> None:
    def refuse_b(_old: bytes, new: bytes) -> None:
        if new.endswith(b"/b"):
            raise asyncssh.SFTPFailure("strange")

    programmable.hooks["rename"] = refuse_b
    programmable.hooks["posix_rename"] = refuse_b
    moves = [temporary(programmable, name) for name in "abc"]
    with pytest.raises(RemoteFailure):
        renamed(programmable, *moves)
    assert names(programmable) == [".b.part", "a", "c"]


def test_what_was_renamed_beside_a_failure_is_told_with_it(
    programmable: ProgrammableServer,
) -> None:
    def refuse_b(_old: bytes, new: bytes) -> None:
        if new.endswith(b"/b"):
            raise asyncssh.SFTPPermissionDenied("no")

    def sweep_a(_old: bytes, new: bytes) -> None:
        if new.endswith(b"/a"):
            (programmable.directory / "a").unlink()

    programmable.hooks["rename"] = programmable.hooks["posix_rename"] = refuse_b
    programmable.hooks["after rename"] = sweep_a
    moves = [temporary(programmable, name) for name in "abc"]
    with connect(programmable.endpoint(), programmable.credentials(), today=TODAY) as session:
        renaming = session.rename(moves)
    assert renaming.outcomes == {"a": SWEPT, "c": RENAMED}
    assert type(renaming.failure) is RemoteDenied, "renaming is possible here"


def test_a_refusal_that_may_heal_shows_no_impossibility(programmable: ProgrammableServer) -> None:
    programmable.hooks["rename"] = raising(asyncssh.SFTPFailure("strange"))
    programmable.hooks["posix_rename"] = raising(asyncssh.SFTPPermissionDenied("no"))
    with pytest.raises(RemoteFailure):
        renamed(programmable, temporary(programmable))


def test_a_file_that_the_receiver_took_at_once_is_swept(programmable: ProgrammableServer) -> None:
    programmable.hooks["after rename"] = lambda *_: (programmable.directory / "a").unlink()
    assert renamed(programmable, temporary(programmable)) == {"a": SWEPT}


def test_a_rename_that_was_only_said_to_be_done_is_a_failure(
    programmable: ProgrammableServer,
) -> None:
    programmable.hooks["rename"] = lambda *_: SKIP
    with pytest.raises(RemoteFailure, match="still lies there"):
        renamed(programmable, temporary(programmable))


def test_a_size_that_is_told_late_is_waited_for(programmable: ProgrammableServer) -> None:
    pauses: list[float] = []

    def late(path: bytes) -> Any:
        renamed_already = "rename" in programmable.operations
        if path.endswith(b"/a") and renamed_already and len(pauses) < 2:
            return asyncssh.SFTPAttrs(size=0, permissions=0o100600)
        return None

    programmable.hooks["lstat"] = late
    assert renamed(programmable, temporary(programmable), sleep=pauses.append) == {"a": RENAMED}
    assert pauses == [0.1, 0.4]


def test_a_size_that_stays_wrong_is_a_failed_verification(
    programmable: ProgrammableServer,
) -> None:
    def wrong(_path: bytes) -> Any:
        if "rename" in programmable.operations:
            return asyncssh.SFTPAttrs(size=7, permissions=0o100600)
        return None

    programmable.hooks["lstat"] = wrong
    with pytest.raises(RemoteVerify, match="7 bytes instead of 100000"):
        renamed(programmable, temporary(programmable))


def test_what_cannot_be_read_back_counts_as_something_else(
    programmable: ProgrammableServer,
) -> None:
    (programmable.directory / "a").write_bytes(DATA)
    programmable.hooks["open"] = raising(asyncssh.SFTPPermissionDenied("no"))
    with pytest.raises(RemoteConflict):
        renamed(programmable, temporary(programmable))
    assert names(programmable) == [".a.part", "a"]


def test_an_answer_that_is_lost_is_stalled_and_the_next_attempt_finds_the_file(
    programmable: ProgrammableServer,
) -> None:
    programmable.reply = lambda operation, answer: None if operation == "rename" else answer()
    move = temporary(programmable)
    with pytest.raises(Stalled):
        renamed(programmable, move, limits=Limits(request=0.4))
    programmable.reply = None
    assert renamed(programmable, move) == {"a": ALREADY}
    assert (programmable.directory / "a").read_bytes() == DATA


def test_a_stop_request_comes_before_anything_is_renamed(programmable: ProgrammableServer) -> None:
    stopped: list[bool] = []
    move = temporary(programmable)
    with connect(
        programmable.endpoint(),
        programmable.credentials(),
        today=TODAY,
        stop=lambda: bool(stopped),
    ) as session:
        stopped.append(True)
        with pytest.raises(StopRequested):
            session.rename([move])
    assert names(programmable) == [".a.part"]
