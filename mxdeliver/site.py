"""What deliveries share, and what an attempt of one comes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from mxdeliver import binding
from mxdeliver.core.errors import MxdeliverError
from mxdeliver.core.log import Log
from mxdeliver.core.model import Client, DeliveryKey, Outcome, Resource, SourceSettings
from mxdeliver.edge.journal import Journal
from mxdeliver.edge.ledger import Ledger
from mxdeliver.edge.sources import Source
from mxdeliver.edge.spool import Spool


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

    def context(self, client: Client) -> str:
        """Give the version of all that the client's deliveries depend on."""
        settings = self.source_settings[client.source]
        return binding.version(client, self.resources, settings, self.ledger.secret_key)

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
