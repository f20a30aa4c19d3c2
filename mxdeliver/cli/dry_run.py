"""`mxdeliver run --dry-run`: what would be sent; no source or network is touched, and nothing written."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from mxdeliver import binding, cli
from mxdeliver.cli import wiring
from mxdeliver.cli.documents import broken_rows
from mxdeliver.cli.run import NOTHING_DUE, show_broken
from mxdeliver.core import calendar, manifest, naming
from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.errors import MxdeliverError
from mxdeliver.core.model import Client, DailyFile, DeliveryState, EventType, ManifestFile

if TYPE_CHECKING:
    from datetime import datetime

    from mxdeliver.cli.wiring import Chosen
    from mxdeliver.core.model import Resource
    from mxdeliver.edge.config import Configuration
    from mxdeliver.edge.ledger import Ledger

_NOTHING_LEFT = "nothing would be sent; `mxdeliver status` shows what is delivered or parked"


def show_plan(
    configuration: Configuration,
    chosen: Chosen,
    days: Sequence[SnapshotDate] | None,
    *,
    as_json: bool,
) -> int:
    """Print each delivery that a run would try, and its files; gives the exit status.

    78 where an entry is wrong, 1 where a key is.
    """
    from mxdeliver.edge.avro import load_resources  # noqa: PLC0415 - imports pyarrow

    now = wiring.utc_now()
    resources = load_resources(configuration.schema_folders)
    with wiring.read_ledger(configuration, now) as ledger:
        if days is None:
            wanted = _due(configuration, chosen.clients, resources, ledger, now)
        else:
            wanted = _asked_for(configuration, chosen.clients, days, resources, ledger, now)
    rows: list[dict[str, object]] = []
    statuses = {cli.EXIT_CONFIGURATION} if chosen.broken else set()
    for client in chosen.clients:
        if client.guid not in wanted:
            continue
        try:
            fingerprint = binding.certificate(client, now).fingerprint
        except MxdeliverError as error:
            click.echo(f"mxdeliver: {client.name}: {error.code}: {error.explain()}", err=True)
            statuses.add(cli.exit_status(error))
            continue
        rows += [_row(client, day, fingerprint) for day in wanted[client.guid]]
    show_broken(chosen)
    if as_json:
        click.echo(json.dumps({"deliveries": rows, "broken": broken_rows(chosen)}))
    else:
        for row in rows:
            files: list[str] = row["files"]  # type: ignore[assignment]  # made in _row
            click.echo(
                f"{row['client']}, {row['snapshot_date']}: {len(files)} files to {row['server']} "
                f"for {row['fingerprint']}, from {files[0]} to {files[-1]}"
            )
        if not wanted and sys.stderr.isatty():
            click.echo(NOTHING_DUE if days is None else _NOTHING_LEFT, err=True)
    return cli.worst(statuses)


def _due(
    configuration: Configuration,
    clients: Sequence[Client],
    resources: Mapping[str, Resource],
    ledger: Ledger | None,
    now: datetime,
) -> dict[str, list[SnapshotDate]]:
    """Ask the ledger as a run does; by client, oldest day first."""
    from mxdeliver.edge.ledger.planning import owed_at_first_sight  # noqa: PLC0415 - as wiring

    catch_up_days = configuration.catch_up_days
    if ledger is None:
        owed = owed_at_first_sight(clients, now=now, catch_up_days=catch_up_days)
    else:
        contexts = wiring.contexts(configuration, clients, resources, ledger)
        keys = (
            delivery.key
            for delivery in ledger.preview(
                clients, now=now, contexts=contexts, catch_up_days=catch_up_days
            )
        )
        owed = [(key.client_guid, key.snapshot_date) for key in keys]
    wanted: dict[str, list[SnapshotDate]] = {}
    for guid, day in owed:
        wanted.setdefault(guid, []).append(day)
    return wanted


def _asked_for(
    configuration: Configuration,
    clients: Sequence[Client],
    days: Sequence[SnapshotDate],
    resources: Mapping[str, Resource],
    ledger: Ledger | None,
    now: datetime,
) -> dict[str, list[SnapshotDate]]:
    from mxdeliver.edge.ledger.planning import opens_by_change  # noqa: PLC0415 - as wiring

    contexts = {} if ledger is None else wiring.contexts(configuration, clients, resources, ledger)

    def is_tried(client: Client, day: SnapshotDate) -> bool:
        delivery = None if ledger is None else ledger.latest(client.guid, day)
        if delivery is not None and delivery.state is DeliveryState.PARKED:
            return opens_by_change(
                delivery,
                client,
                now=now,
                context=contexts[client.guid],
                catch_up_days=configuration.catch_up_days,
            )
        return delivery is None or delivery.state is not DeliveryState.DELIVERED

    wanted = {
        client.guid: [
            day
            for day in days
            if calendar.is_closed(day, client.zone, now) and is_tried(client, day)
        ]
        for client in clients
    }
    return {guid: chosen for guid, chosen in wanted.items() if chosen}


def _row(client: Client, day: SnapshotDate, fingerprint: str) -> dict[str, object]:
    pairs = manifest.consumption_order(
        (name, event) for name in client.resources for event in EventType
    )
    identities: list[DailyFile | ManifestFile] = [
        DailyFile(client_guid=client.guid, snapshot_date=day, resource=name, event=event)
        for name, event in pairs
    ]
    identities.append(ManifestFile(client_guid=client.guid, snapshot_date=day))
    files = [naming.file_name(identity, client.files.suffix) for identity in identities]
    return {
        "client_guid": client.guid,
        "client": client.name,
        "snapshot_date": day.isoformat(),
        "server": client.endpoint.server_name,
        "directory": client.endpoint.directory,
        "fingerprint": fingerprint,
        "files": files,
    }
