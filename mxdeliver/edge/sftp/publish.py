"""From temporary to final names without ever replacing anything.

Plain RENAME is asked to refuse an existing name (draft-ietf-secsh-filexfer-02, section 6.5), and
OpenSSH and ProFTPD do so race-free. Where it fails, both names are looked at, because the same
status may mean a lost answer of an earlier attempt, a foreign file, or a server without rename.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import zip_longest

from mxdeliver.core.errors import (
    ConnectionLost,
    MxdeliverError,
    RemoteConflict,
    RemoteDenied,
    RemoteFailure,
    RemoteVerify,
    Stalled,
    StopRequested,
)
from mxdeliver.edge.sftp.attributes import unpack
from mxdeliver.edge.sftp.engine import Engine, Kind, Reply, Status, text
from mxdeliver.edge.sftp.failures import RenameRefused, TemporaryVanished, failure
from mxdeliver.edge.sftp.model import Move, RemoteAttributes, RenameOutcome, Renaming

_POSIX_RENAME = "posix-rename@openssh.com"
_DENIED = {Status.PERMISSION_DENIED, Status.UNSUPPORTED}
_LOOK_AGAIN_AFTER = (0.1, 0.4, 1.5)


class Publisher:
    """One call of `Session.rename`."""

    def __init__(
        self,
        engine: Engine,
        *,
        path: Callable[[str], str],
        attributes: Callable[[Sequence[str]], dict[str, RemoteAttributes | None]],
        read: Callable[[str, int], Iterator[bytes]],
        place: str,
        sleep: Callable[[float], None],
    ) -> None:
        self._engine = engine
        self._path = path
        self._attributes = attributes
        self._read = read
        self._place = place
        self._sleep = sleep

    def run(self, moves: Sequence[Move], free: AbstractSet[str]) -> Renaming:
        """Publish all `moves` at once; what failed does not hide what appeared.

        Those of the final names that were seen `free` a moment ago are not looked at again.

        What is there already is left alone; when that concerns one file, none is renamed:
        RemoteConflict. Of several failures one is given, RenameRefused only where it is all of them.
        """
        found = self._attributes([move.final for move in moves if move.final not in free])
        outcomes = {
            move.final: self._settle_existing(move, there)
            for move in moves
            if (there := found.get(move.final)) is not None and not there.denied
        }
        absent = [move for move in moves if move.final not in outcomes]
        replies, looks = self._rename_and_look(absent)
        renamed = [move for move, reply in zip(absent, replies, strict=True) if reply.ok]
        failures: list[MxdeliverError] = []
        for move, reply in zip(absent, replies, strict=True):
            if reply.ok:
                continue
            try:
                outcomes[move.final] = self._settle_failed(move, reply)
            except (ConnectionLost, Stalled, StopRequested):
                raise
            except MxdeliverError as error:
                failures.append(error)
        unsure = [move for move in renamed if not _is_whole(move, looks[move.final])]
        outcomes |= {move.final: RenameOutcome.RENAMED for move in renamed if move not in unsure}
        try:
            confirmed, unconfirmed = self._confirm(unsure)
        except (ConnectionLost, Stalled, StopRequested):
            raise
        except MxdeliverError as error:  # the server does not let it be looked at
            confirmed, unconfirmed = {}, [error]
        failures += unconfirmed
        outcomes |= confirmed
        return Renaming(
            outcomes=outcomes,
            unconfirmed=frozenset(move.final for move in renamed if move.final not in outcomes),
            failure=_one_of(failures, any_renamed=bool(renamed)),
        )

    def _rename_and_look(self, moves: Sequence[Move]) -> tuple[list[Reply], dict[str, Reply]]:
        """Rename, and look at the final names without waiting in between.

        A server may answer in another order than it was asked: who is not seen whole is looked at
        again.
        """
        replies = self._engine.call_all(
            [
                *((Kind.RENAME, self._names(move)) for move in moves),
                *((Kind.LSTAT, text(self._path(move.final).encode())) for move in moves),
            ]
        )
        looks = replies[len(moves) :]
        return replies[: len(moves)], {
            move.final: look for move, look in zip(moves, looks, strict=True)
        }

    def _names(self, move: Move) -> bytes:
        return text(self._path(move.temporary).encode()) + text(self._path(move.final).encode())

    # -- a final name that is taken ----------------------------------------------------------------

    def _settle_existing(self, move: Move, seen: RemoteAttributes) -> RenameOutcome:
        """Decide about a final name that exists, while the temporary one may."""
        where = f"{self._path(move.final)} on {self._place}"
        if not seen.is_regular:
            raise RemoteConflict(f"{where} exists and is not a regular file")
        if seen.size is not None and seen.size != move.size:
            raise RemoteConflict(f"{where} exists with {seen.size} bytes instead of {move.size}")
        (temporary,) = self._attributes([move.temporary]).values()
        if temporary is None:
            return RenameOutcome.ALREADY_PUBLISHED  # renamed before; the answer was lost
        if not self._same_content(move):
            raise RemoteConflict(f"{where} exists and holds something else")
        self._engine.call(Kind.REMOVE, text(self._path(move.temporary).encode()))
        return RenameOutcome.ALREADY_PUBLISHED

    def _same_content(self, move: Move) -> bool:
        """Compare both files by reading them; what cannot be read counts as different."""
        try:
            pairs = zip_longest(
                self._read(move.final, move.size + 1), self._read(move.temporary, move.size + 1)
            )
            return all(ours == theirs for ours, theirs in pairs)
        except (RemoteDenied, RemoteFailure):
            return False

    # -- a rename that failed ----------------------------------------------------------------------

    def _settle_failed(self, move: Move, reply: Reply) -> RenameOutcome:
        final, temporary = self._attributes([move.final, move.temporary]).values()
        if (final is not None and final.denied) or (temporary is not None and temporary.denied):
            return self._refuse_unseen(move, reply)
        if final is not None:
            return self._settle_existing(move, final)
        if temporary is None:
            raise TemporaryVanished(
                f"{self._path(move.temporary)} on {self._place} vanished before it was renamed"
            )
        if _POSIX_RENAME in self._engine.extensions:
            return self._posix_rename(move, reply)
        raise self._refused(move, reply)

    def _refuse_unseen(self, move: Move, reply: Reply) -> RenameOutcome:
        if reply.status in {Status.FAILURE, Status.ALREADY_EXISTS}:
            raise RemoteConflict(
                f"{self._place} does not rename to {self._path(move.final)} nor let it be looked "
                f"at ({reply.text}): something may lie there already"
            )
        refused = self._refused(move, reply)
        raise RemoteDenied(str(refused)) if isinstance(refused, RenameRefused) else refused

    def _posix_rename(self, move: Move, plain: Reply) -> RenameOutcome:
        """Rename by the extension, which replaces: only while the final name is seen to be free."""
        (final,) = self._attributes([move.final]).values()
        if final is not None:
            return self._settle_existing(move, final)
        body = text(_POSIX_RENAME.encode()) + self._names(move)
        reply = self._engine.call(Kind.EXTENDED, body)
        if not reply.ok:
            # refused only where neither of the two ways may heal by itself
            raise self._refused(move, reply if plain.status in _DENIED else plain)
        confirmed, failures = self._confirm([move])
        if failures:
            raise failures[0]
        return confirmed[move.final]

    def _refused(self, move: Move, reply: Reply) -> MxdeliverError:
        """Give the error of a server on which no rename was possible: both names were looked at."""
        error = failure(reply, "renaming to", self._path(move.final), self._place)
        if isinstance(error, RemoteDenied):
            return RenameRefused(
                f"{self._place} refuses to rename {self._path(move.temporary)} ({reply.text})"
            )
        if reply.status == Status.NO_SUCH_FILE:
            return RemoteFailure(str(error))
        return error

    # -- looking at what was renamed ---------------------------------------------------------------

    def _confirm(
        self, moves: Sequence[Move]
    ) -> tuple[dict[str, RenameOutcome], list[MxdeliverError]]:
        """Look at the final names; some servers tell a size late, so wrong ones are looked at again."""
        outcomes: dict[str, RenameOutcome] = {}
        failures: list[MxdeliverError] = []
        waiting = list(moves)
        for pause in (*_LOOK_AGAIN_AFTER, None):
            found = self._attributes([move.final for move in waiting])
            waiting = [
                move
                for move in waiting
                if not self._is_settled(move, found[move.final], outcomes, failures)
            ]
            if not waiting or pause is None:
                break
            self._sleep(pause)
        for move in waiting:
            seen = found[move.final]
            failures.append(
                RemoteVerify(
                    f"{self._path(move.final)} on {self._place} has {seen.size if seen else 'no'} "
                    f"bytes instead of {move.size}"
                )
            )
        return outcomes, failures

    def _is_settled(
        self,
        move: Move,
        seen: RemoteAttributes | None,
        outcomes: dict[str, RenameOutcome],
        failures: list[MxdeliverError],
    ) -> bool:
        if seen is None:
            if self._attributes([move.temporary])[move.temporary] is None:
                outcomes[move.final] = RenameOutcome.SWEPT
            else:
                failures.append(
                    RemoteFailure(
                        f"{self._place} said that it renamed {self._path(move.temporary)}, "
                        "which still lies there"
                    )
                )
            return True
        if seen.is_regular and seen.size in {None, move.size}:
            outcomes[move.final] = RenameOutcome.RENAMED
            return True
        return False


def _is_whole(move: Move, look: Reply) -> bool:
    if look.kind != Kind.ATTRS:
        return False
    attributes = unpack(look.body)
    return attributes.is_regular and attributes.size == move.size


def _one_of(failures: Sequence[MxdeliverError], *, any_renamed: bool) -> MxdeliverError | None:
    """Give the failure to speak of; a refusal is general only where nothing was renamed."""
    others = [error for error in failures if not isinstance(error, RenameRefused)]
    if others or not failures:
        return others[0] if others else None
    return RemoteDenied(str(failures[0])) if any_renamed else failures[0]
