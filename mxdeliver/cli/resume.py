"""`mxdeliver resume`: parked or failed deliveries become due again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from mxdeliver import cli
from mxdeliver.cli import options, wiring
from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.errors import DeliveryInDoubt
from mxdeliver.core.model import Delivery, DeliveryKey


@click.command(cls=options.Command)
@options.config_option
@click.option("--client", "name", required=True, help="The client (guid or name).")
@click.option("--date", "day", type=options.DATE, help="Only this day.")
def command(config_path: Path, name: str, day: SnapshotDate | None) -> int:
    """Make a client's parked or failed deliveries due again, with a new deadline.

    Nothing is sent at once: the next `mxdeliver run`, or the daemon, delivers them.

    Days in doubt (DELIVERY_IN_DOUBT) only one by one, with `--date`: they may have arrived already.
    """
    configuration = wiring.load(config_path)
    now = wiring.utc_now()
    keys: list[DeliveryKey] = []
    doubtful: list[Delivery] = []
    with wiring.read_ledger(configuration, now) as ledger:
        chosen = wiring.choose(configuration, (name,), ledger)
        if ledger is not None:
            for guid in chosen.guids:
                keys += ledger.resume(client_guid=guid, day=day, now=now)
                doubtful += _in_doubt(ledger.deliveries(client_guids=[guid], day=day))
    then = "the next `mxdeliver run` delivers it"
    if not chosen.clients:
        then = "it waits for a usable entry of the client in the configuration"
    for key in keys:
        click.echo(f"{key.snapshot_date}: due again; {then}")
    for one in doubtful:
        date = one.key.snapshot_date
        click.echo(
            f"{date}: in doubt, stays parked; `--date {date}` where the client does not have it"
        )
    if not keys and not doubtful:
        when = "" if day is None else f" on {day}"
        click.echo(f"mxdeliver: nothing of {name} is parked or failed{when}", err=True)
    return 0 if keys else cli.EXIT_FAILED


def _in_doubt(deliveries: Sequence[Delivery]) -> list[Delivery]:
    return [one for one in deliveries if one.error_code == DeliveryInDoubt.code]
