"""`mxdeliver resend`: a delivered day again, the same sealed bytes or built anew."""

from __future__ import annotations

from pathlib import Path

import click

from mxdeliver import cli
from mxdeliver.cli import options, wiring
from mxdeliver.cli.documents import JsonCommand
from mxdeliver.cli.run import run_chosen
from mxdeliver.core import calendar
from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.errors import DayNotClosed
from mxdeliver.core.model import DeliveryState


@click.command(cls=JsonCommand)
@options.config_option
@click.option("--client", "name", required=True, help="The client (guid or name).")
@click.option("--date", "day", type=options.DATE, required=True, help="The day.")
@click.option("--rebuild", is_flag=True, help="Build a new revision from the source.")
@options.json_option
def command(config_path: Path, name: str, day: SnapshotDate, rebuild: bool, as_json: bool) -> int:
    """Send a day again, at once: the same sealed bytes; what is there and equal is left alone.

    With --rebuild a new revision is made from the source. It takes the place of the earlier files
    only where the client's `sftp.replace` is `ours`; with `never`, the delivery is parked until the
    client has moved all files of that day away.
    """
    configuration = wiring.load(config_path)
    chosen = wiring.choose(configuration, (name,))
    now = wiring.utc_now()
    for client in chosen.clients:
        # Before anything is written: what the ledger has is delivered by the next run.
        if not calendar.is_closed(day, client.zone, now):
            raise DayNotClosed(f"{day} has not ended yet for {client.name} ({client.zone})")
    for client in chosen.clients:
        with wiring.open_ledger(configuration, now) as (ledger, spool):
            delivery = ledger.latest(client.guid, day)
            if rebuild:
                while spool.has(ledger.new_revision(client, day, now=now)):
                    pass  # sealed before the ledger was restored from a backup: not from the source
            elif delivery is None or delivery.state is not DeliveryState.DELIVERED:
                state = "not known" if delivery is None else delivery.state.value
                raise cli.Refused(
                    f"{client.name}, {day}: {state}; only a delivered day is sent again "
                    "(`mxdeliver run --date` or `mxdeliver resume` for others)"
                )
            elif spool.bundle(delivery.key) is None:
                raise cli.Refused(
                    f"{client.name}, {day}: its sealed files are past `retention_days` and gone; "
                    "--rebuild makes them anew from the source"
                )
            else:
                ledger.resend(delivery.key, now=now)
    return run_chosen(configuration, chosen, [day], as_json=as_json)
