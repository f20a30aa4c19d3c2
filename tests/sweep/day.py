"""The small day of the sweeps: made once, delivered many times, each time from its beginning."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from tests.support.deployment import Deployment, Party
from tests.support.invariants import Circumstances, Watch
from tests.support.openssh import OpenSSHServer
from tests.support.traces import Traces
from tests.support.violation import Violation
from tests.support.warehouse import make_warehouse
from tests.support.watcher import Seen, Watcher
from tests.sweep.program import Held, Program

DAY = "2026-11-20"
RESOURCES = ["users", "tags"]
FILES = 7
"""Three events of two resources, and the manifest."""
_ROWS = 200
_RUNS_AT_MOST = 5
_WAITING, _PARKED = 75, 1


class Day:
    """The warehouse, what the client decrypts after an undisturbed run, and the servers."""

    def __init__(
        self,
        folder: Path,
        server: OpenSSHServer,
        program: Program,
        strangers: Sequence[OpenSSHServer] = (),
    ) -> None:
        self.server = server
        self.strangers = strangers
        self.program = program
        self._folder = folder
        self._warehouse = folder / "warehouse.duckdb"
        self.plain: dict[str, bytes] | None = None
        with self.repetition() as one:
            make_warehouse(
                self._warehouse,
                clients=[one.party.guid],
                days=[date.fromisoformat(DAY)],
                rows=_ROWS,
                filled=RESOURCES,
            )
            shutil.copy(self._warehouse, one.deployment.warehouse)
            done = one.run()
            assert done == 0, one.said
            self.plain = one.party.decrypted()
        assert len(self.plain) == FILES

    @contextmanager
    def repetition(self, port: int | None = None) -> Iterator[Repetition]:
        """Give a deployment to which nothing has happened yet, watched; through `port`."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        deployment = Deployment(folder, self.server)
        deployment.document["retry"] = {"attempts": 1, "initial": "1s", "maximum": "1s"}
        party = deployment.add_client(resources=RESOURCES, sftp={"port": port or self.server.port})
        if self._warehouse.exists():
            shutil.copy(self._warehouse, deployment.warehouse)
        (folder / "tmp").mkdir()
        repetition = Repetition(self, deployment, party)
        traces = Traces(deployment, strangers=self.strangers)
        with Watcher(folder, [party.directory], notice=repetition.noticed) as watcher:
            repetition.watch = Watch(watcher, traces)
            yield repetition
        shutil.rmtree(folder)
        shutil.rmtree(party.directory)


@dataclass(slots=True)
class Repetition:
    """One delivery of the day, from nothing to its end."""

    day: Day
    deployment: Deployment
    party: Party
    watch: Watch | None = None
    said: str = ""
    """What the runs printed on standard error."""
    listener: object = None

    def noticed(self, seen: Seen) -> None:
        """Tell whoever listens of a change at the client's."""
        if callable(self.listener):
            self.listener(seen)

    def start(self) -> Held:
        """Begin a run that waits for `go`."""
        return self.day.program.start(self.deployment, "run", "--date", DAY)

    def run(self, *arguments: str) -> int:
        """Run to the end and look at what is left; gives the status."""
        held = self.day.program.start(self.deployment, *(arguments or ("run", "--date", DAY)))
        held.go()
        return self.end(held)

    def end(self, held: Held) -> int:
        """Wait for a run and look at what is left; gives the status."""
        done = held.wait()
        self.said += done.stderr
        assert self.watch is not None
        self.watch.ran(done)
        return done.returncode

    def deliver(
        self, settle: Callable[[], None] = lambda: None, **circumstances: Any
    ) -> list[Violation]:
        """Run again until the day is delivered, `settle`, and once more; gives all that does not hold.

        The `circumstances` are those of the invariant checker.
        """
        assert self.watch is not None
        statuses: list[int] = []
        while 0 not in statuses and len(statuses) < _RUNS_AT_MOST:
            if statuses and statuses[-1] == _PARKED:
                self.run("resume", "--client", self.party.guid)
            statuses.append(self.run())
        found: list[Violation] = []
        if statuses[-1] != 0:
            what = f"the day was not delivered: {statuses}: {self.said}"
            found.append(Violation(invariant="I9", what=what))
        settle()
        logins = self.watch.traces.logins()
        if (status := self.run()) != 0:
            found.append(Violation(invariant="I9", what=f"delivered, and then status {status}"))
        if self.watch.traces.logins() != logins:
            found.append(Violation(invariant="I9", what="a delivered day was connected for again"))
        told = Circumstances(
            plain=self.day.plain, secret_key=self.party.key.secret, **circumstances
        )
        return found + self.watch.violations(told)
