"""`mxdeliver prune`: drop sealed bundles past their retention."""

from __future__ import annotations

from pathlib import Path

import click

from mxdeliver.cli import options, wiring
from mxdeliver.core.log import counted


@click.command(cls=options.Command)
@options.config_option
def command(config_path: Path) -> int:
    """Drop the sealed bundles of delivered days past `retention_days`; `run` does so at its end."""
    configuration = wiring.load(config_path)
    now = wiring.utc_now()
    with wiring.open_ledger(configuration, now) as (ledger, spool):
        dropped = wiring.prune(ledger, spool, now=now, retention_days=configuration.retention_days)
    click.echo(f"{counted(dropped, 'bundle')} dropped")
    return 0
