"""Watches what a run does, as it does it: the client's directory, the ledger's commits, the spool.

    with Watcher(deployment.folder, [party.directory]) as watcher:
        deployment.run("run", "--date", DAY)
        watcher.look_at_rest()      # also in between, while nothing of ours runs
    watcher.record                  # everything in one order; tests/support/invariants.py judges it

One inotify instance tells of the directories and of the ledger's commits (the journal's end), so
their order is the kernel's. The ledger is read after a commit and the directories once more after
that, so whatever the ledger tells of stands before it in the record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Self

from tests.support import inotify
from tests.support.inotify import Change, Inotify
from tests.support.ledger_history import LedgerHistory, Said

_ARRIVING = inotify.CREATE | inotify.MOVED_TO
_LEAVING = inotify.DELETE | inotify.MOVED_FROM
_WRITING = inotify.MODIFY | inotify.CLOSE_WRITE
_JOURNAL = "ledger.db-journal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A change of a directory.

    `what` is "appeared", "vanished", "written" (its content changes) or "closed" (after writing).
    `digest` is the SHA-256 of what lay under the name when it was looked at, just after; None where
    it was gone by then, and for hidden names.
    """

    directory: Path
    name: str
    what: str
    digest: str | None = None

    @property
    def hidden(self) -> bool:
        """Whether a poller passes it over."""
        return self.name.startswith(".")


@dataclass(frozen=True, slots=True, kw_only=True)
class AtRest:
    """Nothing of ours runs at this moment: what lies in the spool and in the clients' directories."""

    spool: dict[str, dict[str, str]]
    """By folder: each file's SHA-256."""
    directories: dict[Path, dict[str, str]]


@dataclass(slots=True)
class Record:
    """Everything that was seen, in order."""

    entries: list[Seen | Said | AtRest] = field(default_factory=list)
    contents: dict[str, bytes] = field(default_factory=dict)
    """What the clients could read, by SHA-256."""
    ledger: Path = Path()
    folder: Path = Path()
    """The deployment's."""
    directories: tuple[Path, ...] = ()
    """The clients' directories."""


class Watcher:
    """Records in a thread of its own; a context manager.

    `folder` is the deployment's, with `state/` in it or not yet; `notice` is told of each change of
    the clients' directories as soon as it is seen.
    """

    def __init__(
        self,
        folder: Path,
        directories: Sequence[Path],
        *,
        notice: Callable[[Seen], None] = lambda _: None,
    ) -> None:
        self._state = folder / "state"
        self._temporary = folder / "tmp"
        self._folder = folder
        self._notice = notice
        self._history = LedgerHistory(self._state / "ledger.db")
        self._inotify = Inotify()
        self._stop = Event()
        self._lock = Lock()
        self._failure: BaseException | None = None
        self._thread = Thread(target=self._watch, daemon=True)
        self.record = Record(
            ledger=self._history.path, folder=folder, directories=tuple(directories)
        )

    def __enter__(self) -> Self:
        self._inotify.__enter__()
        for directory in self.record.directories:
            self._inotify.watch(directory, _ARRIVING | _LEAVING | _WRITING)
        self._inotify.watch(self._folder, inotify.CREATE)
        with suppress(FileNotFoundError):
            self._inotify.watch(self._temporary, _ARRIVING)
        self._watch_state()
        self.record.entries += self._history.look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.look_at_rest()
        self._inotify.__exit__()

    def also(self, directory: Path) -> None:
        """Watch one more of the clients' directories from now on."""
        with self._lock:
            self._inotify.watch(directory, _ARRIVING | _LEAVING | _WRITING)
            self.record.directories += (directory,)

    def look_at_rest(self) -> None:
        """Note where everything stands; nothing of ours may run meanwhile."""
        if self._failure is not None:
            raise self._failure
        with self._lock:
            self.record.entries += self._history.look_at_rest()
            self._take()
            before = -1
            while before != len(self.record.entries):  # a server may still be at its last requests
                before = len(self.record.entries)
                directories = {one: self._visible(one) for one in self.record.directories}
                self._take()
            spool = {
                path.name: _digests(path) for path in sorted((self._state / "spool").glob("*"))
            }
            self.record.entries.append(AtRest(spool=spool, directories=directories))

    def _visible(self, directory: Path) -> dict[str, str]:
        return {
            path.name: "" if path.name.startswith(".") else self._digest(path) or ""
            for path in sorted(directory.iterdir())
        }

    def _watch(self) -> None:
        try:
            while not self._stop.is_set():
                self._inotify.wait(0.02)
                with self._lock:
                    if self._take():
                        said = self._history.look()
                        self._take()
                        self.record.entries += said
        except BaseException as error:  # noqa: BLE001 - raised where it can be seen
            self._failure = error

    def _take(self) -> bool:
        """Read all changes; tells whether the ledger has committed something."""
        committed = False
        for change in self._inotify.read():
            if change.directory == self._folder:
                if change.name == self._state.name:
                    self._watch_state()
            elif change.directory == self._state:
                committed |= change.name == _JOURNAL and bool(change.mask & inotify.DELETE)
            else:
                self._note(change)
        return committed

    def _watch_state(self) -> None:
        with suppress(FileNotFoundError):
            self._inotify.watch(self._state, inotify.DELETE)

    def _note(self, change: Change) -> None:
        what = _what(change.mask)
        hidden = change.name.startswith(".")
        if hidden and what == "written":
            return
        looked_at = what in {"appeared", "closed"} and not hidden and not change.is_directory
        seen = Seen(
            directory=change.directory,
            name=change.name,
            what=what,
            digest=self._digest(change.directory / change.name) if looked_at else None,
        )
        self.record.entries.append(seen)
        self._notice(seen)

    def _digest(self, path: Path) -> str | None:
        try:
            content = path.read_bytes()
        except OSError:  # gone meanwhile, or no file at all
            return None
        digest = sha256(content).hexdigest()
        self.record.contents[digest] = content
        return digest


def _what(mask: int) -> str:
    if mask & _ARRIVING:
        return "appeared"
    if mask & _LEAVING:
        return "vanished"
    return "closed" if mask & inotify.CLOSE_WRITE else "written"


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*"))}
