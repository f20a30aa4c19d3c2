"""Sending alone: bundles that are sealed by hand, a real ledger and spool, and any test server.

    with ProgrammableServer(tmp_path) as server, a_sender(tmp_path, server) as sender:
        sender.push()
        assert sender.received() == contents(key())

Nothing is built, so that a push takes a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any, NoReturn

import asyncssh
import pytest

from mxdeliver.core.model import DeliveryKey, Endpoint
from mxdeliver.edge.ledger import FileStage, FileState, Ledger, ServerProfile
from mxdeliver.edge.spool import Spool
from mxdeliver.push import push
from tests.support.ledgers import NOON, TODAY, YESTERDAY, bundle, client, contents, key
from tests.support.programmable import ProgrammableServer

DEADLINE = NOON + timedelta(hours=6)


class CrashError(BaseException):
    """Ends everything, as SIGKILL would."""


class Sender:
    """One client's sealed bundles and the server that they go to."""

    def __init__(self, folder: Path, server: ProgrammableServer, ledger: Ledger) -> None:
        self.server = server
        self.directory = server.directory
        self.ledger = ledger
        self.spool_path = folder / "spool-of-its-own"
        self.spool = Spool(self.spool_path)
        self.spool.check()
        self.client = replace(client(), endpoint=server.endpoint())
        self.lines: list[tuple[str, str, dict[str, object]]] = []
        self._nonces = 0

    def change(self, **changes: Any) -> None:
        """Change the client's endpoint."""
        endpoint: Endpoint = replace(self.client.endpoint, **changes)
        self.client = replace(self.client, endpoint=endpoint)

    def seal(self, delivery: DeliveryKey | None = None, *, salt: str = "") -> DeliveryKey:
        """Seal a bundle in the spool; the first revision unless told."""
        delivery = delivery or key()
        with self.spool.stage(delivery) as staging:
            for name, data in contents(delivery, salt=salt).items():
                with staging.create(name) as file:
                    file.write(data)
            staging.seal(bundle(delivery, salt=salt))
        return delivery

    def rebuild(self) -> DeliveryKey:
        """Begin the next revision, and seal it."""
        return self.seal(self.ledger.new_revision(self.client, YESTERDAY, now=NOON))

    def push(
        self,
        delivery: DeliveryKey | None = None,
        *,
        today: date = TODAY,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Make one attempt; what it raises leaves the delivery to be taken up again."""
        delivery = delivery or key()
        sealed = self.spool.bundle(delivery)
        assert sealed is not None
        with self.ledger.claim(delivery, now=NOON, context="c", deadline=DEADLINE) as lease:
            lease.sealed(sealed)
            push(
                sealed,
                self.client,
                lease=lease,
                records=self.ledger,
                spool=self.spool,
                credentials=self.server.credentials(),
                today=today,
                nonce=self._nonce,
                log=self._log,
                stop=stop,
            )
            lease.delivered(now=NOON)

    def crash(
        self,
        monkeypatch: pytest.MonkeyPatch,
        owner: type,
        name: str,
        *,
        delivery: DeliveryKey | None = None,
        after: bool = False,
        call: int = 1,
        error: BaseException | None = None,
    ) -> None:
        """Make an attempt that ends before (or after) the `call`th call of a step."""
        raised = error or CrashError()
        original = getattr(owner, name)
        calls = []

        def crashing(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) != call:
                return original(*arguments, **options)
            if after:
                original(*arguments, **options)
            raise raised

        with monkeypatch.context() as patched:
            patched.setattr(owner, name, crashing)
            with pytest.raises(type(raised)):
                self.push(delivery)

    def received(self) -> dict[str, bytes]:
        """Give what lies under final names."""
        return {
            path.name: path.read_bytes()
            for path in self.directory.iterdir()
            if not path.name.startswith(".")
        }

    def leftovers(self) -> list[str]:
        """Give the temporary names that lie there."""
        return sorted(path.name for path in self.directory.iterdir() if path.name.startswith("."))

    def empty(self) -> None:
        """Take everything away that lies there."""
        for path in self.directory.iterdir():
            path.unlink()

    def half_written(self, delivery: DeliveryKey | None = None) -> list[tuple[str, bool]]:
        """Give the final names that may hold a part of a file, and whether we made them."""
        half_written = self.ledger.standing(delivery or key()).half_written
        return [(one.name, one.created) for one in half_written]

    def files(self, delivery: DeliveryKey | None = None) -> dict[str, FileState]:
        """Give what the ledger knows of each file."""
        return self.ledger.files(delivery or key())

    def stages(self, delivery: DeliveryKey | None = None) -> list[FileStage]:
        """Give each file's stage, the manifest's last."""
        return [one.state for one in self.files(delivery).values()]

    def evidence(self, delivery: DeliveryKey | None = None) -> list[tuple[str, str]]:
        """Give how each file came there and how well it was compared, the manifest's last."""
        found = [one.evidence for one in self.files(delivery).values()]
        return [(one.outcome, one.level) for one in found if one is not None]

    def profile(self) -> ServerProfile | None:
        """Give what the ledger knows of the server."""
        return self.ledger.servers().get(self.client.guid)

    def events(self, name: str) -> list[Mapping[str, object]]:
        """Give the fields of the log's lines of one kind, their text as `message`."""
        return [{"message": text, **fields} for event, text, fields in self.lines if event == name]

    def _log(self, event: str, message: str, /, **fields: object) -> None:
        self.lines.append((event, message, fields))

    def _nonce(self) -> str:
        self._nonces += 1
        return f"{self._nonces:08x}"


def names(delivery: DeliveryKey | None = None) -> list[str]:
    """Give the final names of a delivery, the manifest's last."""
    return list(contents(delivery or key()))


@contextmanager
def a_sender(folder: Path, server: ProgrammableServer) -> Iterator[Sender]:
    """Give a sender whose ledger owes the day, and who has it sealed."""
    with Ledger.open(folder, now=NOON) as ledger:
        ledger.plan([client()], now=NOON, catch_up_days=7)
        sender = Sender(folder, server, ledger)
        sender.seal()
        yield sender


@contextmanager
def server_without_renames(folder: Path) -> Iterator[ProgrammableServer]:
    """Give a server that renames nothing."""
    with ProgrammableServer(folder) as running:
        running.hooks["rename"] = running.hooks["posix_rename"] = deny
        yield running


def final(path: bytes) -> str:
    """Give the name at the end of a path that a hook of the server is told."""
    return path.decode().rpartition("/")[2]


def deny(*_: object) -> NoReturn:
    """Refuse, as a hook of the server."""
    raise asyncssh.SFTPPermissionDenied("no")
