"""Logins that a server refused and that are not tried again: servers lock accounts after a few.

One refused login for each version of its secret, whichever day or client is owed something there.
`worker` asks before each attempt, and parks without a connection what would only be refused again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from mxdeliver import binding
from mxdeliver.core.errors import AddressNotAllowed, HostKeyMismatch, MxdeliverError
from mxdeliver.core.model import Client, Delivery, DeliveryKey, DeliveryState
from mxdeliver.edge.journal import Journal
from mxdeliver.edge.ledger import Ledger
from mxdeliver.edge.ledger.contexts import is_changed

_REFUSED = "AUTH_"
_NOT_THE_SERVER = frozenset({HostKeyMismatch.code, AddressNotAllowed.code})


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why no connection is made: the code and text that a delivery was parked with."""

    code: str
    text: str


class Logins:
    """Which clients' logins were refused, as far as the ledger knows and nothing has changed since."""

    def __init__(
        self, clients: Sequence[Client], ledger: Ledger, *, context: Callable[[Client], str]
    ) -> None:
        self._accounts: dict[tuple[str, int, str], list[Client]] = {}
        for client in clients:
            self._accounts.setdefault(_account(client), []).append(client)
        self._ledger = ledger
        self._context = context
        self._remembered: dict[str, _Past] = {}

    def refusal(self, client: Client) -> Refusal | None:
        """Give the refusal that stands against a login of the client's, or None.

        It was met with the same secret at the same account, for whichever client. A person's
        `resume` and a delivery that went through lift it.
        """
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
            self._remembered.clear()
        else:
            self._remembered.pop(client.guid, None)

    def _past(self, client: Client) -> _Past:
        past = self._remembered.get(client.guid)
        if past is None:
            past = _Past.of(self._ledger.deliveries(client_guid=client.guid))
            self._remembered[client.guid] = past
        return past

    def _secrets(self, client: Client) -> list[str | None] | str:
        """Give the versions of the secrets that prove the client's login."""
        try:
            login = binding.credentials(client)
        except MxdeliverError:
            return client.guid  # like nobody else's
        key = self._ledger.secret_key
        return [
            None if secret is None else secret.version(key)
            for secret in (login.password, login.private_key)
        ]


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
