"""Renames that were refused, half done or badly told of: what is asked then, and what is made of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from mxdeliver.core.errors import (
    ConnectionLost,
    MxdeliverError,
    RemoteConflict,
    RemoteDenied,
    RemoteFailure,
    RemoteFull,
    RemoteVerify,
    Stalled,
    StopRequested,
)
from mxdeliver.edge.sftp import Limits, Move, RenameOutcome, RenameRefused, Session, connect
from tests.support.programmable import SKIP, ProgrammableServer

TODAY = date(2026, 3, 1)
DATA = os.urandom(1000)
REGULAR, FOLDER = 0o100600, 0o040700
RENAMED = RenameOutcome.RENAMED
ALREADY = RenameOutcome.ALREADY_PUBLISHED
SWEPT = RenameOutcome.SWEPT


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ProgrammableServer]:
    with ProgrammableServer(tmp_path) as running:
        yield running


def temporary(server: ProgrammableServer, name: str = "a") -> Move:
    path = server.directory / f".{name}.part"
    path.write_bytes(DATA)
    return Move(temporary=path.name, final=name, size=len(DATA))


@contextmanager
def session_with(server: ProgrammableServer, **keywords: Any) -> Iterator[Session]:
    keywords.setdefault("sleep", lambda _seconds: None)
    with connect(server.endpoint(), server.credentials(), today=TODAY, **keywords) as session:
        yield session


def renamed(server: ProgrammableServer, *moves: Move, **keywords: Any) -> dict[str, RenameOutcome]:
    with session_with(server, **keywords) as session:
        renaming = session.rename(moves)
    if renaming.failure is not None:
        raise renaming.failure
    return dict(renaming.outcomes)


def names(server: ProgrammableServer) -> list[str]:
    return sorted(path.name for path in server.directory.iterdir())


def raising(error: Exception) -> Callable[..., None]:
    def hook(*_: object) -> None:
        raise error

    return hook


DENIED, UNSUPPORTED = asyncssh.SFTPPermissionDenied("no"), asyncssh.SFTPOpUnsupported("no")
FAILURE, MISSING = asyncssh.SFTPFailure("strange"), asyncssh.SFTPNoSuchFile("no")
FULL = asyncssh.SFTPFailure("quota exceeded")


def once_renamed(server: ProgrammableServer, told: Callable[[bytes], Any]) -> None:
    """Have looks answered by `told` from the moment on at which a rename was asked for."""
    server.hooks["lstat"] = lambda path: told(path) if "rename" in server.operations else None


# -- a final name that is taken --------------------------------------------------------------------


def without_size(server: ProgrammableServer) -> None:
    server.hooks["lstat"] = lambda path: (
        asyncssh.SFTPAttrs(permissions=REGULAR)
        if (server.root / path.decode().lstrip("/")).exists()
        else None
    )


def test_where_no_size_is_told_the_contents_decide(server: ProgrammableServer) -> None:
    without_size(server)
    (server.directory / "a").write_bytes(DATA)
    assert renamed(server, temporary(server)) == {"a": ALREADY}
    assert names(server) == ["a"]


@pytest.mark.parametrize("other", [DATA + b"x", DATA[:-1], b""])
def test_where_no_size_is_told_a_longer_or_shorter_file_is_a_conflict(
    server: ProgrammableServer, other: bytes
) -> None:
    without_size(server)
    (server.directory / "a").write_bytes(other)
    with pytest.raises(RemoteConflict):
        renamed(server, temporary(server))
    assert (server.directory / "a").read_bytes() == other
    assert names(server) == [".a.part", "a"]


def test_where_no_size_is_told_a_rename_is_believed(server: ProgrammableServer) -> None:
    without_size(server)
    pauses: list[float] = []
    assert renamed(server, temporary(server), sleep=pauses.append) == {"a": RENAMED}
    assert pauses == []


def test_a_file_whose_temporary_one_is_gone_is_not_read(server: ProgrammableServer) -> None:
    move = temporary(server)
    (server.directory / move.temporary).rename(server.directory / "a")
    assert renamed(server, move) == {"a": ALREADY}
    assert {"open", "remove", "rename"}.isdisjoint(server.operations)


def test_what_fails_to_be_read_counts_as_something_else(server: ProgrammableServer) -> None:
    (server.directory / "a").write_bytes(DATA)
    server.hooks["open"] = raising(FAILURE)
    with pytest.raises(RemoteConflict, match="holds something else"):
        renamed(server, temporary(server))
    assert names(server) == [".a.part", "a"]


def test_only_the_files_that_are_not_there_are_renamed(server: ProgrammableServer) -> None:
    (server.directory / "a").write_bytes(DATA)
    moves = [temporary(server, name) for name in "ab"]
    assert renamed(server, *moves) == {"a": ALREADY, "b": RENAMED}
    assert server.operations.count("rename") == 1


# -- a rename that failed --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plain", "extension", "expected"),
    [
        (DENIED, DENIED, RenameRefused),
        (DENIED, UNSUPPORTED, RenameRefused),
        (UNSUPPORTED, DENIED, RenameRefused),
        (UNSUPPORTED, FAILURE, RemoteFailure),
        (DENIED, FAILURE, RemoteFailure),
        (DENIED, FULL, RemoteFull),
        (FAILURE, DENIED, RemoteFailure),
        (FAILURE, FULL, RemoteFailure),
        (FULL, DENIED, RemoteFull),
        (MISSING, DENIED, RemoteFailure),
        (DENIED, MISSING, RemoteFailure),
    ],
)
def test_of_two_refusals_the_one_that_may_heal_is_told(
    server: ProgrammableServer,
    plain: Exception,
    extension: Exception,
    expected: type[MxdeliverError],
) -> None:
    server.hooks["rename"], server.hooks["posix_rename"] = raising(plain), raising(extension)
    with pytest.raises(expected) as caught:
        renamed(server, temporary(server))
    assert type(caught.value) is expected
    assert names(server) == [".a.part"]


@pytest.mark.parametrize("hidden", [b"/a", b".part"])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FAILURE, RemoteConflict),
        (DENIED, RemoteDenied),
        (UNSUPPORTED, RemoteDenied),
        (MISSING, RemoteFailure),
        (asyncssh.SFTPError(11, "exists"), RemoteConflict),
    ],
)
def test_with_one_of_both_names_not_seen_nothing_is_proven_and_no_extension_is_used(
    server: ProgrammableServer, hidden: bytes, error: Exception, expected: type[MxdeliverError]
) -> None:
    def deny(path: bytes) -> None:
        if path.endswith(hidden):
            raise DENIED

    server.hooks["rename"] = raising(error)
    once_renamed(server, deny)
    with pytest.raises(expected) as caught:
        renamed(server, temporary(server))
    assert type(caught.value) is expected
    assert "posix_rename" not in server.operations


def test_a_file_that_appears_while_the_rename_fails_is_looked_at(
    server: ProgrammableServer,
) -> None:
    def appear(*_: object) -> None:
        (server.directory / "a").write_bytes(b"theirs")
        raise FAILURE

    server.hooks["rename"] = appear
    with pytest.raises(RemoteConflict, match="6 bytes instead of 1000"):
        renamed(server, temporary(server))
    assert "posix_rename" not in server.operations


def by_extension(server: ProgrammableServer, after: Callable[..., Any]) -> None:
    server.hooks["rename"] = raising(DENIED)
    server.hooks["after posix_rename"] = after


def test_what_the_extension_has_renamed_is_looked_at(server: ProgrammableServer) -> None:
    by_extension(server, lambda *_: (server.directory / "a").write_bytes(b"short"))
    with pytest.raises(RemoteVerify, match="5 bytes instead of 1000"):
        renamed(server, temporary(server))


def test_what_the_extension_has_renamed_may_be_taken_at_once(server: ProgrammableServer) -> None:
    by_extension(server, lambda *_: (server.directory / "a").unlink())
    assert renamed(server, temporary(server)) == {"a": SWEPT}


# -- an answer that never comes --------------------------------------------------------------------


@pytest.mark.parametrize("expected", [ConnectionLost, Stalled, StopRequested])
def test_a_look_that_is_never_answered_ends_it_at_once_and_is_no_failure_of_one_file(
    server: ProgrammableServer, expected: type[MxdeliverError]
) -> None:
    stopped: list[bool] = []

    def strike(_: bytes) -> None:
        if expected is ConnectionLost:
            server.abort()
        elif expected is StopRequested:
            stopped.append(True)

    def silent(operation: str, answer: Callable[[], None]) -> None:
        if not (operation == "lstat" and "rename" in server.operations):
            answer()

    server.hooks["rename"] = raising(FAILURE)
    once_renamed(server, strike)
    server.reply = silent
    move = temporary(server)
    limits = Limits(request=20 if expected is StopRequested else 0.4, stop=0.1)
    with (
        pytest.raises(expected),
        session_with(server, limits=limits, stop=lambda: bool(stopped)) as session,
    ):
        session.rename([move])


def test_a_connection_that_ends_while_a_refusal_is_looked_into_ends_it_at_once(
    server: ProgrammableServer,
) -> None:
    """The files stay about to be renamed: nobody knows what became of them."""

    def cut(operation: str, answer: Callable[[], None]) -> None:
        # before; in one go with the rename; and then because that was refused
        if operation == "lstat" and server.operations.count("lstat") == 3:
            server.abort()
        else:
            answer()

    server.hooks["rename"] = raising(FAILURE)
    server.reply = cut
    move = temporary(server)
    with pytest.raises(ConnectionLost), session_with(server) as session:
        session.rename([move])


# -- looking at what was renamed -------------------------------------------------------------------


def test_a_wrong_size_is_looked_at_three_times_more(server: ProgrammableServer) -> None:
    pauses: list[float] = []
    once_renamed(server, lambda _: asyncssh.SFTPAttrs(size=7, permissions=REGULAR))
    with pytest.raises(RemoteVerify):
        renamed(server, temporary(server), sleep=pauses.append)
    assert pauses == [0.1, 0.4, 1.5]
    # before; in one go with the rename, which may overtake it; then four times
    assert server.operations.count("lstat") == 6


def test_a_size_that_is_right_at_the_last_look_is_right(server: ProgrammableServer) -> None:
    pauses: list[float] = []
    once_renamed(
        server,
        lambda _: asyncssh.SFTPAttrs(size=0, permissions=REGULAR) if len(pauses) < 3 else None,
    )
    assert renamed(server, temporary(server), sleep=pauses.append) == {"a": RENAMED}
    assert pauses == [0.1, 0.4, 1.5]


def test_what_turns_out_to_be_no_regular_file_is_a_failed_verification(
    server: ProgrammableServer,
) -> None:
    once_renamed(server, lambda _: asyncssh.SFTPAttrs(size=len(DATA), permissions=FOLDER))
    with pytest.raises(RemoteVerify):
        renamed(server, temporary(server))


def test_only_those_with_a_wrong_size_are_looked_at_again(server: ProgrammableServer) -> None:
    looked_at: list[bytes] = []

    def told(path: bytes) -> Any:
        looked_at.append(path.rpartition(b"/")[2])
        if path.endswith(b"/b"):
            return asyncssh.SFTPAttrs(size=7, permissions=REGULAR)
        return None

    once_renamed(server, told)
    moves = [temporary(server, name) for name in "abc"]
    with session_with(server) as session:
        renaming = session.rename(moves)
    assert renaming.outcomes == {"a": RENAMED, "c": RENAMED}
    assert isinstance(renaming.failure, RemoteVerify)
    assert looked_at == [b"a", b"b", b"c", b"b", b"b", b"b", b"b"]


def test_what_was_renamed_and_cannot_be_looked_at_is_told_apart_from_what_was_not(
    server: ProgrammableServer,
) -> None:
    once_renamed(server, raising(asyncssh.SFTPFailure("not now")))
    with session_with(server) as session:
        renaming = session.rename([temporary(server, name) for name in "ab"])
    assert renaming.outcomes == {}
    assert renaming.unconfirmed == {"a", "b"}
    assert isinstance(renaming.failure, RemoteFailure)
    assert names(server) == ["a", "b"]


def test_a_file_that_was_taken_between_two_looks_is_swept(server: ProgrammableServer) -> None:
    def take(_seconds: float) -> None:
        (server.directory / "a").unlink()
        del server.hooks["lstat"]

    once_renamed(server, lambda _: asyncssh.SFTPAttrs(size=7, permissions=REGULAR))
    assert renamed(server, temporary(server), sleep=take) == {"a": SWEPT}


def test_a_rename_that_was_not_done_is_a_failure_beside_those_that_were(
    server: ProgrammableServer,
) -> None:
    server.hooks["rename"] = lambda _old, new: SKIP if new.endswith(b"/b") else None
    moves = [temporary(server, name) for name in "abc"]
    with session_with(server) as session:
        renaming = session.rename(moves)
    assert renaming.outcomes == {"a": RENAMED, "c": RENAMED}
    assert type(renaming.failure) is RemoteFailure
    assert names(server) == [".b.part", "a", "c"]


def test_of_a_refusal_and_another_failure_the_other_is_told(server: ProgrammableServer) -> None:
    def refuse(_old: bytes, new: bytes) -> None:
        if new.endswith(b"/a"):
            raise DENIED
        raise FULL

    server.hooks["rename"] = server.hooks["posix_rename"] = refuse
    moves = [temporary(server, name) for name in "ab"]
    with pytest.raises(RemoteFull):
        renamed(server, *moves)


# -- what is told ----------------------------------------------------------------------------------


def vanish(server: ProgrammableServer) -> None:
    server.hooks["rename"] = lambda *_: (server.directory / ".a.part").unlink()


def fail(server: ProgrammableServer) -> None:
    server.hooks["rename"] = server.hooks["posix_rename"] = raising(FAILURE)


def refuse(server: ProgrammableServer) -> None:
    server.hooks["rename"] = server.hooks["posix_rename"] = raising(DENIED)


def hide(server: ProgrammableServer) -> None:
    server.hooks["rename"], server.hooks["lstat"] = raising(FAILURE), raising(DENIED)


def pretend(server: ProgrammableServer) -> None:
    server.hooks["rename"] = lambda *_: SKIP


def shorten(server: ProgrammableServer) -> None:
    once_renamed(server, lambda _: asyncssh.SFTPAttrs(size=7, permissions=REGULAR))


def be_taken(server: ProgrammableServer) -> None:
    (server.directory / "a").write_bytes(b"theirs")


@pytest.mark.parametrize(
    ("strike", "name"),
    [
        (vanish, ".a.part"),
        (fail, "a"),
        (refuse, ".a.part"),
        (hide, "a"),
        (pretend, ".a.part"),
        (shorten, "a"),
        (be_taken, "a"),
    ],
)
def test_each_error_names_the_file_and_the_server(
    server: ProgrammableServer, strike: Callable[[ProgrammableServer], None], name: str
) -> None:
    move = temporary(server)
    strike(server)
    with pytest.raises(MxdeliverError) as caught:
        renamed(server, move)
    words = str(caught.value).replace(":", " ").split()
    assert f"/incoming/{name}" in {word.rstrip(",") for word in words}
    assert f"127.0.0.1:{server.port}" in str(caught.value)
