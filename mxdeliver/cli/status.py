"""`mxdeliver status`: what was delivered, what waits, what is parked or failed, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mxdeliver import cli
from mxdeliver.cli import options, wiring
from mxdeliver.cli.documents import JsonCommand, broken_rows
from mxdeliver.core.calendar import SnapshotDate, is_closed
from mxdeliver.core.errors import ConfigurationError
from mxdeliver.core.model import Delivery, DeliveryState

if TYPE_CHECKING:
    from datetime import datetime

    from mxdeliver.cli.wiring import Chosen
    from mxdeliver.core.model import Client, DeliveryKey
    from mxdeliver.edge.config import Configuration
    from mxdeliver.edge.ledger import Ledger, ServerProfile

_RECENT_DAYS = 7


@click.command(cls=JsonCommand)
@options.config_option
@click.option("--date", "day", type=options.DATE, help="Only this day.")
@click.option("--client", "names", multiple=True, help="Only this client (guid or name).")
@options.json_option
def command(
    config_path: Path, day: SnapshotDate | None, names: tuple[str, ...], as_json: bool
) -> int:
    """Show what was delivered, what waits and until when, what is parked or failed, and why.

    Without a date: the last seven days and whatever older is not delivered. Exits 1 while anything
    is failed, parked or missing, or a client's entry in the configuration is wrong; what clients
    have left behind that are in the configuration no more is shown, but does not count.
    """
    from mxdeliver import report  # noqa: PLC0415 - see cli

    configuration = wiring.load(config_path)
    now = wiring.utc_now()
    with wiring.read_ledger(configuration, now) as ledger:
        chosen = wiring.choose(configuration, names, ledger)
        deliveries = [
            one
            for one in ([] if ledger is None else ledger.deliveries(day=day))
            if not names or one.key.client_guid in chosen.guids
        ]
        missing = [
            (guid, date)
            for guid, date in _missing(configuration, chosen, ledger, now)
            if day in {None, date}
        ]
        servers = _servers(chosen, ledger)
        due = set() if as_json else _due(configuration, chosen, ledger, deliveries, now)
        nothing = "" if deliveries else _why_nothing(configuration, chosen, ledger, day, now)
    if as_json:
        document = {
            "deliveries": [report.status_row(one) for one in deliveries],
            "missing": [
                {"client_guid": guid, "snapshot_date": date.isoformat()} for guid, date in missing
            ],
            "broken": broken_rows(chosen),
            "servers": [report.server_row(client, one) for client, one in servers],
        }
        click.echo(json.dumps(document))
    else:
        shown = deliveries if day is not None else _recent(deliveries)
        _show(configuration, shown, missing, due, now)
        for client, profile in servers:
            click.echo(report.server_sentence(client, profile))
        _show_broken(chosen)
        if not (shown or missing or chosen.broken):
            click.echo(nothing)
    # Nobody can mend what a client has left behind that is in the configuration no more.
    present = {*wiring.choose(configuration, ()).guids}
    troubled = any(report.is_troubled(one) for one in deliveries if one.key.client_guid in present)
    return cli.EXIT_FAILED if troubled or missing or chosen.broken else 0


def _missing(
    configuration: Configuration, chosen: Chosen, ledger: Ledger | None, now: datetime
) -> list[tuple[str, SnapshotDate]]:
    from mxdeliver.edge.ledger.planning import owed_at_first_sight  # noqa: PLC0415 - as wiring

    days = configuration.catch_up_days
    if ledger is None:
        return owed_at_first_sight(chosen.clients, now=now, catch_up_days=days)
    return ledger.missing(chosen.clients, now=now, catch_up_days=days)


def _due(
    configuration: Configuration,
    chosen: Chosen,
    ledger: Ledger | None,
    deliveries: Sequence[Delivery],
    now: datetime,
) -> set[DeliveryKey]:
    """Give what a run would try now, as what it waits for may have changed; nothing is written.

    Without schemas that can be read no change can be told from them.
    """
    waits = {DeliveryState.WAITING, DeliveryState.PARKED}
    if ledger is None or not any(one.state in waits for one in deliveries):
        return set()  # what is needed below takes its time to import
    from mxdeliver.edge.avro import load_resources  # noqa: PLC0415 - imports pyarrow

    try:
        resources = load_resources(configuration.schema_folders)
    except ConfigurationError:
        return set()
    clients = chosen.clients
    contexts = wiring.contexts(configuration, clients, resources, ledger)
    found = ledger.due(
        clients, now=now, contexts=contexts, catch_up_days=configuration.catch_up_days
    )
    return {one.key for one in found}


def _why_nothing(
    configuration: Configuration,
    chosen: Chosen,
    ledger: Ledger | None,
    day: SnapshotDate | None,
    now: datetime,
) -> str:
    """Say why there is nothing to show: the day is still to come, or was never owed."""
    from mxdeliver.edge.ledger.planning import first_owed  # noqa: PLC0415 - as wiring

    if day is None or not chosen.clients:
        return "nothing is owed yet"
    for client in chosen.clients:
        seen = None if ledger is None else ledger.first_seen(client.guid)
        owed = day >= first_owed(client, seen or now, configuration.catch_up_days)
        if owed or not is_closed(day, client.zone, now):
            return "nothing is owed yet"
    return f"{day} is not owed by itself; `mxdeliver run --date {day}` delivers it"


def _servers(chosen: Chosen, ledger: Ledger | None) -> list[tuple[Client, ServerProfile]]:
    """Give what was found out about the chosen clients' servers, as configured at present."""
    known = {} if ledger is None else ledger.servers()
    return [
        (client, profile)
        for client in chosen.clients
        if (profile := known.get(client.guid)) is not None
        and profile.destination == client.endpoint.destination
    ]


def _recent(deliveries: Sequence[Delivery]) -> list[Delivery]:
    """Leave out what was delivered long ago."""
    if not deliveries:
        return []
    newest = max(one.key.snapshot_date for one in deliveries)
    oldest = newest.following(1 - _RECENT_DAYS)
    return [
        one
        for one in deliveries
        if one.state is not DeliveryState.DELIVERED or one.key.snapshot_date >= oldest
    ]


def _show(
    configuration: Configuration,
    deliveries: Sequence[Delivery],
    missing: Sequence[tuple[str, SnapshotDate]],
    due: AbstractSet[DeliveryKey],
    now: datetime,
) -> None:
    from mxdeliver import report  # noqa: PLC0415 - see cli

    clients = {client.guid: client for client in configuration.clients}
    names = {one.guid: one.name for one in configuration.broken}
    names |= {guid: client.name for guid, client in clients.items()}
    for delivery in sorted(deliveries, key=lambda one: (one.key.snapshot_date, one.key)):
        guid = delivery.key.client_guid
        name = names.get(guid) or guid
        revision = f" (revision {delivery.key.revision})" if delivery.key.revision > 1 else ""
        step = report.next_step(
            delivery,
            clients,
            now,
            catch_up_days=configuration.catch_up_days,
            is_due=delivery.key in due,
        )
        if (guid, delivery.key.snapshot_date) in missing:
            step = "interrupted, its process is gone; the next `mxdeliver run` goes on with it"
        click.echo(f"{delivery.key.snapshot_date}  {name}{revision}: {step}")
        if delivery.files:
            click.echo(
                f"            {delivery.files} files, {delivery.records} records, "
                f"{delivery.bytes} bytes"
            )
        if delivery.error and delivery.state is not DeliveryState.DELIVERED:
            click.echo(f"            {delivery.error}")
    shown = {(one.key.client_guid, one.key.snapshot_date) for one in deliveries}
    for guid, date in [one for one in missing if one not in shown]:
        click.echo(
            f"{date}  {names.get(guid) or guid}: missing; the next `mxdeliver run` takes it up"
        )


def _show_broken(chosen: Chosen) -> None:
    for client in chosen.broken:
        name = client.name or client.guid or "a client without guid and name"
        click.echo(
            f"{name}: nothing will be tried until its entry in the configuration is corrected; "
            "`mxdeliver check` says what is wrong"
        )
