"""`mxdeliver resume`: parked or failed deliveries become due again."""

from __future__ import annotations

from pathlib import Path

import click

from mxdeliver import cli
from mxdeliver.cli import options, wiring
from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.model import DeliveryKey


@click.command
@options.config_option
@click.option("--client", "name", required=True, help="The client (guid or name).")
@click.option("--date", "day", type=options.DATE, help="Only this day.")
def command(config_path: Path, name: str, day: SnapshotDate | None) -> int:
    """Make a client's parked or failed deliveries due again, with a new deadline."""
    configuration = wiring.load(config_path)
    now = wiring.utc_now()
    keys: list[DeliveryKey] = []
    with wiring.read_ledger(configuration, now) as ledger:
        chosen = wiring.choose(configuration, (name,), ledger)
        if ledger is not None:
            for guid in chosen.guids:
                keys += ledger.resume(client_guid=guid, day=day, now=now)
    then = "the next `mxdeliver run` delivers it"
    if not chosen.clients:
        then = "it waits for a usable entry of the client in the configuration"
    for key in keys:
        click.echo(f"{key.snapshot_date}: due again; {then}")
    if not keys:
        when = "" if day is None else f" on {day}"
        click.echo(f"mxdeliver: nothing of {name} is parked or failed{when}", err=True)
        return cli.EXIT_FAILED
    return 0
