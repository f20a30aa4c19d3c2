"""Logins that a server refused and that are not tried again: servers lock accounts after a few.

One refused login for each version of its secret, whichever day or client is owed something there.
`worker` asks before each attempt, and parks without a connection what would only be refused again.
Until a login to an account went well in this run, one at a time is tried there: two that are under
way at once would both be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from typing import Self, TypeAlias

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
_Login: TypeAlias = tuple[tuple[str, int, str], _Secrets]


@dataclass(slots=True)
class Learnt:
    """What a run has learnt of logins so far, also before its configuration changed.

    Attempts that are under way keep their turn, and what they meet counts for those that come.
    """

    remembered: dict[str, _Past] = field(default_factory=dict)
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
        self._accounts: dict[tuple[str, int, str], list[Client]] = {}
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
        account = self._accounts[_account(client)]
        if not any(self._past(other).refused for other in account):
            return None
        secrets = self._secrets(client)
        sharing = [one for one in account if one is client or self._secrets(one) == secrets]
        refused = [
            delivery
            for one in sharing
            for delivery in self._past(one).refused
            if not is_changed(delivery.fingerprint, self._context(one), delivery.error_code)
        ]
        if not refused:
            return None
        latest = max(refused, key=_changed_at)
        lifted = [self._past(one).delivered_at for one in sharing]
        for one in sharing:
            history = self._ledger.history(client_guid=one.guid)
            lifted += [entry.at for entry in history if entry.what == "resume"]
        if any(at is not None and at >= _changed_at(latest) for at in lifted):
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
                for other in self._accounts[_account(client)]:
                    self._learnt.remembered.pop(other.guid, None)
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
            self._learnt.remembered.clear()
        else:
            self._learnt.remembered.pop(client.guid, None)
            self._learnt.met.pop(self._login(client), None)  # the ledger knows it by now

    def _login(self, client: Client) -> _Login:
        return _account(client), self._secrets(client)

    def _past(self, client: Client) -> _Past:
        past = self._learnt.remembered.get(client.guid)
        if past is None:
            past = _Past.of(self._ledger.deliveries(client_guid=client.guid))
            self._learnt.remembered[client.guid] = past
        return past

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Past:
    """What the ledger says of a client's logins: the refused ones, and the latest that did well."""

    refused: tuple[Delivery, ...]
    delivered_at: datetime | None

    @classmethod
    def of(cls, deliveries: Sequence[Delivery]) -> Self:
        """Pick what counts from all of a client's deliveries."""
        return cls(
            refused=tuple(
                one
                for one in deliveries
                if one.state is DeliveryState.PARKED and _is_login(one.error_code)
            ),
            delivered_at=max(
                (one.delivered_at for one in deliveries if one.delivered_at is not None),
                default=None,
            ),
        )


class _Once:
    """Calls something at the first call, and nothing at later ones."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call: Callable[[], object] | None = call

    def __call__(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()


def _account(client: Client) -> tuple[str, int, str]:
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
