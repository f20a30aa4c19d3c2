"""`mxdeliver adopt`: a person vouches that a client has a day, and nothing is sent for it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mxdeliver import cli
from mxdeliver.cli import options, wiring
from mxdeliver.cli.documents import JsonCommand
from mxdeliver.core import calendar
from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.errors import DayNotClosed
from mxdeliver.core.model import DeliveryState
from mxdeliver.edge import kernel

if TYPE_CHECKING:
    from mxdeliver.cli.wiring import Chosen
    from mxdeliver.core.model import Client, Delivery
    from mxdeliver.edge.config import Configuration
    from mxdeliver.edge.ledger import LeftBehind


@click.command(cls=JsonCommand)
@options.config_option
@click.option("--client", "name", required=True, help="The client (guid or name).")
@click.option("--date", "day", type=options.DATE, required=True, help="The day.")
@click.option("--reason", default="", help="Who confirmed it, and how; kept in the ledger.")
@options.json_option
def command(config_path: Path, name: str, day: SnapshotDate, reason: str, as_json: bool) -> int:
    """Write down that a client has a day, because a person vouches for it; nothing is sent.

    For a day that was delivered in another way, or of which a rebuilt or restored ledger does not
    know. Who said so, when and why stays in the ledger. What lies on the client's server is neither
    looked at nor touched; what earlier attempts may have left there half-written is named.
    """
    configuration = wiring.load(config_path)
    kernel.harden()
    return _adopt(configuration, name, day, reason.strip(), as_json=as_json)


def _adopt(
    configuration: Configuration, name: str, day: SnapshotDate, reason: str, *, as_json: bool
) -> int:
    from mxdeliver import report  # noqa: PLC0415 - imports SQLAlchemy

    now = wiring.utc_now()
    for one in configuration.clients:
        # Before anything is created.
        if name in {one.guid, one.name} and not calendar.is_closed(day, one.zone, now):
            raise DayNotClosed(f"{day} has not ended yet for {one.name} ({one.zone})")
    with wiring.open_ledger(configuration, now) as (ledger, _):
        chosen = wiring.choose(configuration, (name,), ledger)
        guid, client = _one(chosen, name)
        called = name if client is None else client.name
        latest = ledger.latest(guid, day)
        if client is None and latest is None:
            raise cli.Refused(f"the ledger knows nothing of {called}, {day}")
        if (
            latest is not None
            and latest.state is DeliveryState.DELIVERED
            and not ledger.is_held(latest.key)
        ):
            raise cli.Refused(f"{called} has {day} already: it is delivered; nothing to adopt")
        adopted = ledger.adopt(guid, day, client=client, reason=reason, now=now)
        left = ledger.left_behind(guid, day)
        who = ledger.history(client_guid=guid)[-1].who
    said = f"{called} has {day}, as {who} vouches{f': {reason}' if reason else ''}"
    _log(configuration, adopted, said, left, as_json=as_json)
    if as_json:
        click.echo(json.dumps(report.status_row(adopted) | {"left": [asdict(one) for one in left]}))
        return 0
    click.echo(f"{said}; nothing will be sent for it")
    for file in left:
        click.echo(_removable(file))
    return 0


def _removable(file: LeftBehind) -> str:
    what = "the name that the client looks for" if file.final else "a temporary name"
    return (
        f"{file.name} may lie on {file.destination} with a part of the file, under {what}: ask the "
        "client to remove it"
    )


def _one(chosen: Chosen, name: str) -> tuple[str, Client | None]:
    if chosen.clients:
        return chosen.clients[0].guid, chosen.clients[0]
    if not chosen.guids:
        raise click.UsageError(f"the entry of {name} in the configuration has no usable guid")
    return chosen.guids[0], None


def _log(
    configuration: Configuration,
    adopted: Delivery,
    said: str,
    left: Sequence[LeftBehind],
    *,
    as_json: bool,
) -> None:
    from mxdeliver.edge.journal import Journal  # noqa: PLC0415 - see cli

    with Journal.open(
        configuration.delivery_log,
        run_id=wiring.new_run_id(),
        clock=wiring.utc_now,
        stream=sys.stderr if as_json else None,
    ) as journal:
        log = partial(
            journal.write,
            client_guid=adopted.key.client_guid,
            snapshot_date=adopted.key.snapshot_date,
            revision=adopted.key.revision,
        )
        log("delivery.adopted", said)
        for file in left:
            log("file.left", _removable(file), level="warning", file_name=file.name)
