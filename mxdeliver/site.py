"""What deliveries share, and what an attempt of one comes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from mxdeliver import binding
from mxdeliver.builders import Builders, Work
from mxdeliver.core.errors import MxdeliverError
from mxdeliver.core.log import Log
from mxdeliver.core.model import (
    Bundle,
    Client,
    DeliveryKey,
    DeliveryState,
    Outcome,
    Resource,
    SourceSettings,
)
from mxdeliver.edge.journal import Journal
from mxdeliver.edge.ledger import Ledger
from mxdeliver.edge.openpgp import Certificate
from mxdeliver.edge.spool import Spool

if TYPE_CHECKING:
    from mxdeliver.edge.sources import Source

_UNFINISHED = tuple(state for state in DeliveryState if state is not DeliveryState.DELIVERED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What deliveries share: the ledger, the spool, the log, schemas and sources, clock and chance."""

    ledger: Ledger
    spool: Spool
    journal: Journal
    resources: Mapping[str, Resource]
    source_settings: Mapping[str, SourceSettings]
    source: Callable[[str], Source]
    clock: Callable[[], datetime]
    stop: Callable[[], bool]
    chance: Callable[[], float]
    nonce: Callable[[], str]
    builders: Builders | None = None

    def context(self, client: Client) -> str:
        """Give the version of all that the client's deliveries depend on."""
        settings = self.source_settings[client.source]
        return binding.version(client, self.resources, settings, self.ledger.secret_key)

    def expect(self, keys: AbstractSet[DeliveryKey]) -> None:
        """Start builders for these deliveries, where they are worth it."""
        if self.builders is not None:
            unfinished = self.ledger.deliveries(states=_UNFINISHED)
            self.builders.expect(one for one in unfinished if one.key in keys)

    @property
    def builds_side_by_side(self) -> int:
        """How many days builders build at once; 0 where each delivery builds its own here."""
        return 0 if self.builders is None else self.builders.count

    def build(
        self,
        key: DeliveryKey,
        client: Client,
        *,
        certificate: Certificate,
        lock: int,
        log: Log,
        stop: Callable[[], bool],
    ) -> Bundle:
        """Build and seal a day: see `build.build`; by a builder, who holds `lock`, where there is one.

        Raises BuilderDied, too.
        """
        resources = binding.resources_of(client, self.resources)
        if self.builders is not None:
            work = Work(
                key=key,
                client=client,
                resources=resources,
                source=self.source_settings[client.source],
                certificate=certificate,
                spool=self.spool,
            )
            bundle = self.builders.build(work, lock, log, stop)
            if bundle is not None:
                return bundle
        with nullcontext() if self.builders is None else self.builders.here(stop):
            from mxdeliver import build  # noqa: PLC0415 - imports pyarrow, which builders have

            with build.Threads() as threads:
                return build.build(
                    key,
                    client,
                    resources=resources,
                    source=self.source(client.source),
                    certificate=certificate,
                    spool=self.spool,
                    threads=threads,
                    log=log,
                    stop=stop,
                )

    def log(self, key: DeliveryKey, **fields: Any) -> Log:
        """Give a log whose lines are about this delivery."""
        return partial(
            self.journal.write,
            client_guid=key.client_guid,
            snapshot_date=key.snapshot_date.isoformat(),
            revision=key.revision,
            **fields,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How an attempt ended."""

    key: DeliveryKey
    outcome: Outcome
    error: MxdeliverError | None = None
    retry_at: datetime | None = None
    seconds: float = 0.0
