"""Opens what a command works with, from the configuration; nothing below knows how it is put together."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, TextIO

import click

from mxdeliver.core.errors import SchemaInvalid
from mxdeliver.core.model import DeliveryState
from mxdeliver.core.secret import SecretKind

if TYPE_CHECKING:
    from mxdeliver.cli.progress import Observer
    from mxdeliver.core.calendar import SnapshotDate
    from mxdeliver.core.model import Client, Resource
    from mxdeliver.edge.config import BrokenClient, Configuration
    from mxdeliver.edge.ledger import Ledger
    from mxdeliver.edge.sources import Source
    from mxdeliver.edge.spool import Spool
    from mxdeliver.site import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The clients that a command is about: usable ones, and those whose entry is wrong.

    `removed` are guids that stand in the ledger only, where they were named.
    """

    clients: tuple[Client, ...]
    broken: tuple[BrokenClient, ...]
    removed: tuple[str, ...] = ()

    @property
    def guids(self) -> list[str]:
        """The guids of all of them, as far as they are known."""
        usable = [client.guid for client in self.clients]
        broken = [client.guid for client in self.broken if client.guid is not None]
        return [*usable, *broken, *self.removed]


def utc_now() -> datetime:
    """Give the present moment, in UTC."""
    return datetime.now(UTC)


def choose(
    configuration: Configuration, names: Sequence[str], ledger: Ledger | None = None
) -> Chosen:
    """Give the clients named by guid or name, all of them without a name; UsageError for no one.

    With a `ledger` the guid of a client that has left the configuration counts, too.
    """
    if not names:
        return Chosen(clients=configuration.clients, broken=configuration.broken)
    clients = tuple(one for one in configuration.clients if {one.guid, one.name} & set(names))
    broken = tuple(one for one in configuration.broken if {one.guid, one.name} & set(names))
    known = {name for one in clients for name in (one.guid, one.name)}
    known |= {name for one in broken for name in (one.guid, one.name) if name is not None}
    removed = tuple(
        name
        for name in names
        if name not in known and ledger is not None and ledger.first_seen(name) is not None
    )
    if unknown := [name for name in names if name not in known and name not in removed]:
        called = [one.name for one in configuration.clients]
        called += [one.name for one in configuration.broken if one.name]
        raise click.UsageError(
            f"no client is called {', '.join(unknown)}; {_near(unknown[0], called)}"
        )
    return Chosen(clients=clients, broken=broken, removed=removed)


def _near(unknown: str, names: Sequence[str]) -> str:
    """Give a hint at the client that was meant."""
    folded = {name.casefold(): name for name in names}
    meant = [name for start, name in folded.items() if start.startswith(unknown.casefold())]
    meant += [folded[one] for one in get_close_matches(unknown.casefold(), folded, n=1)]
    return f"did you mean `{meant[0]}`?" if meant else "`mxdeliver check` lists them"


@contextmanager
def open_ledger(
    configuration: Configuration, now: datetime, *, stop: Callable[[], bool] = lambda: False
) -> Iterator[tuple[Ledger, Spool]]:
    """Open spool and ledger; says once when the state directory was created."""
    from mxdeliver.edge.config import secrets as references  # noqa: PLC0415 - see cli
    from mxdeliver.edge.ledger import Ledger  # noqa: PLC0415 - imports SQLAlchemy
    from mxdeliver.edge.spool import Spool  # noqa: PLC0415 - see cli

    spool = Spool(configuration.state_dir)
    if spool.check():
        click.echo(f"mxdeliver: created {configuration.state_dir}", err=True)
    reference = configuration.ledger_url
    url = None if reference is None else references.resolve(reference).reveal_text()
    has_bundles = spool.has_bundles()
    with Ledger.open(
        configuration.state_dir, url=url, now=now, spool_has_bundles=has_bundles, stop=stop
    ) as ledger:
        yield ledger, spool


@contextmanager
def read_ledger(configuration: Configuration, now: datetime) -> Iterator[Ledger | None]:
    """Open the ledger; None where there is no state yet, and none is created."""
    if configuration.ledger_url is None and not configuration.state_dir.exists():
        yield None
        return
    with open_ledger(configuration, now) as (ledger, _):
        yield ledger


def contexts(
    configuration: Configuration,
    clients: Sequence[Client],
    resources: Mapping[str, Resource],
    ledger: Ledger,
) -> dict[str, str]:
    """Give the version of all that each client's deliveries depend on, by guid, without a site."""
    from mxdeliver import binding  # noqa: PLC0415 - imports pgpy and paramiko

    return {
        client.guid: binding.version(
            client, resources, configuration.sources[client.source], ledger.secret_key
        )
        for client in clients
    }


@contextmanager
def open_site(
    configuration: Configuration,
    *,
    resources: Mapping[str, Resource],
    run_id: str,
    stop: Event,
    clock: Callable[[], datetime] = utc_now,
    log_stream: TextIO | None = None,
    observer: Observer | None = None,
    wanted: Sequence[tuple[Client, SnapshotDate]] = (),
) -> Iterator[Site]:
    """Open everything that deliveries share.

    `log_stream` is where a log of "-" goes; `observer` is told what is logged. `wanted` are days that
    a person names: the ledger has them before anything that takes its time, so that the next run
    goes on with them where this one is killed.
    """
    from mxdeliver.builders import Builders  # noqa: PLC0415 - see cli
    from mxdeliver.edge.journal import Journal  # noqa: PLC0415 - see cli

    with ExitStack() as stack:
        ledger, spool = stack.enter_context(open_ledger(configuration, clock(), stop=stop.is_set))
        builders = stack.enter_context(
            Builders(
                min(configuration.workers, cores()),
                without_secrets(configuration, os.environ),
                places=configuration.workers,
            )
        )
        if wanted:
            ledger.ask_for(wanted, now=clock())
            # They start while this process loads its own libraries.
            days = {(client.guid, day) for client, day in wanted}
            builders.expect(
                one
                for one in ledger.deliveries(states=(DeliveryState.WAITING,))
                if (one.key.client_guid, one.key.snapshot_date) in days
            )
        from mxdeliver.site import Site  # noqa: PLC0415 - imports paramiko

        spool.sweep()
        journal = stack.enter_context(
            Journal.open(
                configuration.delivery_log,
                run_id=run_id,
                clock=clock,
                stream=log_stream,
                observer=observer,
            )
        )
        yield Site(
            ledger=ledger,
            spool=spool,
            journal=journal,
            resources=resources,
            source_settings=configuration.sources,
            source=_sources(configuration),
            clock=clock,
            stop=stop.is_set,
            chance=random.SystemRandom().random,
            nonce=lambda: secrets.token_hex(4),
            builders=builders,
        )


def renewed(site: Site, configuration: Configuration, resources: Mapping[str, Resource]) -> Site:
    """Give the site with the schemas and sources of a configuration that was read again."""
    return replace(
        site,
        resources=resources,
        source_settings=configuration.sources,
        source=_sources(configuration),
    )


def _sources(configuration: Configuration) -> Callable[[str], Source]:
    @cache
    def opened(name: str) -> Source:
        from mxdeliver.edge.sources import open_source  # noqa: PLC0415 - imports pyarrow

        return open_source(configuration.sources[name])

    return opened


def cores() -> int:
    """Give how many processors this process may use."""
    return len(os.sched_getaffinity(0))


def without_secrets(configuration: Configuration, environment: Mapping[str, str]) -> dict[str, str]:
    """Give an environment without the variables that hold clients' secrets or the ledger's."""
    endpoints = [client.endpoint for client in configuration.clients]
    references = [
        configuration.ledger_url,
        *(one.password for one in endpoints),
        *(one.private_key for one in endpoints),
        *(one.passphrase for one in endpoints),
    ]
    secret = {
        one.name for one in references if one is not None and one.kind is SecretKind.ENVIRONMENT
    }
    return {name: value for name, value in environment.items() if name not in secret}


def new_run_id() -> str:
    """Give an identifier for the lines of one run in the delivery log."""
    return secrets.token_hex(8)


def prune(ledger: Ledger, spool: Spool, *, now: datetime, retention_days: int) -> int:
    """Drop sealed bundles past their retention; gives how many."""
    return len(ledger.prune(now=now, retention_days=retention_days, drop=spool.remove))


def load(path: Path) -> Configuration:
    """Read the configuration; ConfigInvalid."""
    from mxdeliver.edge.config import load as load_configuration  # noqa: PLC0415 - imports pydantic

    return load_configuration(path, _schema_names)


def _schema_names(folders: Sequence[Path]) -> frozenset[str] | None:
    from mxdeliver.edge.avro import resource_names  # noqa: PLC0415 - see cli

    try:
        return resource_names(folders)
    except SchemaInvalid:  # raised again, and told, by what reads the schemas
        return None
