"""`mxdeliver adopt`: a person vouches that a client has a day, and nothing is sent for it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mxdeliver import cli
from mxdeliver.cli import options, process, wiring
from mxdeliver.cli.documents import JsonCommand
from mxdeliver.core import calendar
from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.errors import DayNotClosed

if TYPE_CHECKING:
    from mxdeliver.cli.wiring import Chosen
    from mxdeliver.core.model import Client, Delivery
    from mxdeliver.edge.config import Configuration


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
    looked at nor touched.
    """
    configuration = wiring.load(config_path)
    process.harden()
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
        if client is None and ledger.latest(guid, day) is None:
            raise cli.Refused(f"the ledger knows nothing of {name}, {day}")
        adopted = ledger.adopt(guid, day, client=client, reason=reason, now=now)
        left = len(ledger.temporaries(adopted.key))
        who = ledger.history(client_guid=guid)[-1].who
    said = f"{name} has {day}, as {who} vouches{f': {reason}' if reason else ''}"
    _log(configuration, adopted, said, as_json=as_json)
    if as_json:
        click.echo(json.dumps(report.status_row(adopted)))
        return 0
    click.echo(f"{said}; nothing will be sent for it")
    if left:
        click.echo(f"{left} temporary files of earlier attempts may lie on the client's server")
    return 0


def _one(chosen: Chosen, name: str) -> tuple[str, Client | None]:
    if chosen.clients:
        return chosen.clients[0].guid, chosen.clients[0]
    if not chosen.guids:
        raise click.UsageError(f"the entry of {name} in the configuration has no usable guid")
    return chosen.guids[0], None


def _log(configuration: Configuration, adopted: Delivery, said: str, *, as_json: bool) -> None:
    from mxdeliver.edge.journal import Journal  # noqa: PLC0415 - see cli

    with Journal.open(
        configuration.delivery_log,
        run_id=wiring.new_run_id(),
        clock=wiring.utc_now,
        stream=sys.stderr if as_json else None,
    ) as journal:
        journal.write(
            "delivery.adopted",
            said,
            client_guid=adopted.key.client_guid,
            snapshot_date=adopted.key.snapshot_date,
            revision=adopted.key.revision,
        )
