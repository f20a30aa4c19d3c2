"""Logins that a server refused and that are not tried again: servers lock accounts after a few.

One refused login for each version of its secret, whichever day or client is owed something there.
`worker` asks before each attempt, and parks without a connection what would only be refused again.
Until a login to an account went well in this run, one at a time is tried there: two that are under
way at once would both be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from typing import TypeAlias

from mxdeliver import binding
from mxdeliver.core.errors import (
    AddressNotAllowed,
    HostKeyMismatch,
    MxdeliverError,
    StopRequested,
    all_errors,
)
from mxdeliver.core.model import Client, Delivery, DeliveryKey, DeliveryState
from mxdeliver.edge.journal import Journal
from mxdeliver.edge.ledger import Ledger
from mxdeliver.edge.ledger.contexts import is_changed

_REFUSED = "AUTH_"
_LOOK_SECONDS = 0.2
_NOT_THE_SERVER = frozenset({HostKeyMismatch.code, AddressNotAllowed.code})


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why no connection is made: the code and text that a delivery was parked with."""

    code: str
    text: str

    def as_error(self) -> MxdeliverError:
        """Give the error that the other delivery has met."""
        kind = next(one for one in all_errors() if one.code == self.code)
        return kind(self.text.removesuffix(f". {kind.remedy}"))


_Secrets: TypeAlias = tuple[str | None, ...]
_Account: TypeAlias = tuple[str, int, str]
_Login: TypeAlias = tuple[_Account, _Secrets]


@dataclass(slots=True)
class Learnt:
    """What a run has learnt of logins so far, also before its configuration changed.

    Attempts that are under way keep their turn, and what they meet counts for those that come.
    """

    parked: dict[str, list[Delivery]] = field(default_factory=dict)
    """What is parked for a refused login, by client, as far as the ledger was asked."""
    forgotten: int = 0
    """How often something was forgotten: an answer from before that counts no longer."""
    met: dict[_Login, Refusal] = field(default_factory=dict)
    went_well: set[_Login] = field(default_factory=set)
    turns: dict[_Login, Lock] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)


class Logins:
    """Which clients' logins were refused, as far as the ledger knows and nothing has changed since."""

    def __init__(
        self,
        clients: Sequence[Client],
        ledger: Ledger,
        *,
        context: Callable[[Client], str],
        learnt: Learnt,
    ) -> None:
        self._accounts: dict[_Account, list[Client]] = {}
        for client in clients:
            self._accounts.setdefault(_account(client), []).append(client)
        self._ledger = ledger
        self._context = context
        self._learnt = learnt

    def refusal(self, client: Client) -> Refusal | None:
        """Give the refusal that stands against a login of the client's, or None.

        It was met with the same secret at the same account, for whichever client. A person's
        `resume` and a delivery that went through lift it.
        """
        if self._learnt.met and (met := self._learnt.met.get(self._login(client))) is not None:
            return met
        parked = self._parked(client)
        if not parked:
            return None
        secrets = self._secrets(client)
        account = self._accounts[_account(client)]
        sharing = [one for one in account if one is client or self._secrets(one) == secrets]
        refused = [
            delivery
            for one in sharing
            for delivery in parked.get(one.guid, ())
            if not is_changed(delivery.fingerprint, self._context(one), delivery.error_code)
        ]
        if not refused:
            return None
        latest = max(refused, key=_changed_at)
        lifted_at = self._ledger.lifted_at([one.guid for one in sharing])
        if lifted_at is not None and lifted_at >= _changed_at(latest):
            return None
        return Refusal(code=latest.error_code or "", text=latest.error or "")

    @contextmanager
    def in_turn(self, client: Client, stop: Callable[[], bool]) -> Iterator[Callable[[], None]]:
        """Wait until this login may be tried, and give what is to be called once it went well.

        Raises what the ledger or another delivery knows of a refusal by then, and StopRequested. A
        refusal that is raised inside is remembered at once: the ledger may not be able to.
        """
        login = self._login(client)
        with self._learnt.lock:
            turn = self._learnt.turns.setdefault(login, Lock())
        waits = login not in self._learnt.went_well
        while waits and not turn.acquire(timeout=_LOOK_SECONDS):
            if stop():
                raise StopRequested("stopped before logging in")
        free = _Once(turn.release if waits else lambda: None)

        def went_well() -> None:
            self._learnt.went_well.add(login)
            free()

        try:
            if waits:  # another may have met something meanwhile
                self._forget(self._accounts[_account(client)])
            if (refusal := self.refusal(client)) is not None:
                raise refusal.as_error()
            yield went_well
        except MxdeliverError as error:
            if _is_login(error.code):
                self._learnt.went_well.discard(login)
                self._learnt.met[login] = Refusal(code=error.code, text=error.explain())
            raise
        finally:
            free()

    def park(
        self, key: DeliveryKey, client: Client, refusal: Refusal, *, now: datetime, journal: Journal
    ) -> None:
        """Park a delivery, without a connection, for what another one has met; LeaseHeld."""
        with self._ledger.claim(
            key, now=now, context=self._context(client), deadline=now + client.retry.deadline
        ) as lease:
            lease.park(now=now, error_code=refusal.code, error=refusal.text)
            journal.write(
                "delivery.parked",
                f"{client.name}, {key.snapshot_date}, without a connection: {refusal.text}",
                level="error",
                client_guid=key.client_guid,
                snapshot_date=key.snapshot_date.isoformat(),
                revision=key.revision,
                attempt=lease.number,
                error_code=refusal.code,
                retryable=False,
                host=client.endpoint.host,
                port=client.endpoint.port,
            )

    def forget(self, client: Client | None = None) -> None:
        """Ask the ledger anew about the client, or about everyone."""
        if client is None:
            for account in self._accounts.values():
                self._forget(account)
        else:
            self._forget([client])
            self._learnt.met.pop(self._login(client), None)  # the ledger knows it by now

    def _forget(self, clients: Iterable[Client]) -> None:
        with self._learnt.lock:
            self._learnt.forgotten += 1
            for client in clients:
                self._learnt.parked.pop(client.guid, None)

    def _login(self, client: Client) -> _Login:
        return _account(client), self._secrets(client)

    def _parked(self, client: Client) -> dict[str, list[Delivery]]:
        """Give what is parked for a refused login to the client's account, by client."""
        guids = [one.guid for one in self._accounts[_account(client)]]
        with self._learnt.lock:
            known, forgotten = self._learnt.parked.copy(), self._learnt.forgotten
        asked: dict[str, list[Delivery]] = {guid: [] for guid in guids if guid not in known}
        if asked:
            states = (DeliveryState.PARKED,)
            for delivery in self._ledger.deliveries(client_guids=asked, states=states):
                if _is_login(delivery.error_code):
                    asked[delivery.key.client_guid].append(delivery)
            with self._learnt.lock:
                if self._learnt.forgotten == forgotten:
                    self._learnt.parked |= asked
        known |= asked
        return {guid: known[guid] for guid in guids if known[guid]}

    def _secrets(self, client: Client) -> _Secrets:
        """Give the versions of the secrets that prove the client's login."""
        try:
            login = binding.credentials(client)
        except MxdeliverError:
            return (client.guid,)  # like nobody else's
        key = self._ledger.secret_key
        return tuple(
            None if secret is None else secret.version(key)
            for secret in (login.password, login.private_key)
        )


class _Once:
    """Calls something at the first call, and nothing at later ones."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call: Callable[[], object] | None = call

    def __call__(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()


def _account(client: Client) -> _Account:
    return client.endpoint.host, client.endpoint.port, client.endpoint.username


def _is_login(code: str | None) -> bool:
    return code is not None and code.startswith(_REFUSED)


def _changed_at(delivery: Delivery) -> datetime:
    return delivery.changed_at or delivery.due_at


def refusal_of(error: MxdeliverError) -> Refusal | None:
    """Give what every other day of the client would meet as well; None for other errors."""
    if _is_login(error.code) or error.code in _NOT_THE_SERVER:
        return Refusal(code=error.code, text=error.explain())
    return None
