"""`mxdeliver ledger rebuild`: a lost or damaged ledger, made anew from what the spool knows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mxdeliver.cli import options, wiring
from mxdeliver.cli.documents import JsonCommand
from mxdeliver.core.errors import ConfigInvalid, MxdeliverError
from mxdeliver.core.model import DeliveryState
from mxdeliver.edge import kernel

if TYPE_CHECKING:
    from mxdeliver.core.model import Bundle, DeliveryKey
    from mxdeliver.edge.config import Configuration
    from mxdeliver.edge.ledger import Rebuilt
    from mxdeliver.edge.spool import Spool


@click.group(name="ledger", cls=options.Group)
def command() -> None:
    """Make a lost or damaged ledger anew."""


@command.command(cls=JsonCommand)
@options.config_option
@options.json_option
def rebuild(config_path: Path, as_json: bool) -> int:
    """Read the spool's bundles back into a new ledger; a damaged one is set aside.

    The next run looks on the clients' servers for what was sealed and sends nothing twice: what lies
    there as it was sealed counts as delivered, and a day that does not is parked
    (DELIVERY_IN_DOUBT) until `mxdeliver adopt` or `mxdeliver resume`. So are days of the catch-up
    window that the spool does not hold. A healthy ledger is left alone.
    """
    from mxdeliver.edge.ledger import rebuild as rebuild_ledger  # noqa: PLC0415 - SQLAlchemy
    from mxdeliver.edge.spool import Spool  # noqa: PLC0415 - see cli

    configuration = wiring.load(config_path)
    _refuse_broken(configuration)
    kernel.harden()
    spool = Spool(configuration.state_dir)
    if spool.check():
        click.echo(f"mxdeliver: created {configuration.state_dir}", err=True)
    bundles, damaged = _read(spool)
    rebuilt = rebuild_ledger(
        configuration.state_dir,
        bundles=bundles,
        damaged=damaged,
        clients=configuration.clients,
        now=wiring.utc_now(),
        catch_up_days=configuration.catch_up_days,
    )
    _log(configuration, rebuilt, as_json=as_json)
    if as_json:
        _show_json(configuration, rebuilt)
    else:
        _show(configuration, rebuilt, sealed=len(bundles) + len(damaged))
    return 0


def _refuse_broken(configuration: Configuration) -> None:
    """Refuse while a client's entry is wrong: its days could not be worked out, and be sent twice."""
    if configuration.broken:
        raise ConfigInvalid(
            "the ledger is rebuilt with every client's days; correct what is wrong first",
            tuple(problem for client in configuration.broken for problem in client.problems),
        )
    if configuration.ledger_url is not None:
        raise ConfigInvalid("only a SQLite ledger is rebuilt; restore PostgreSQL from its backup")


def _read(spool: Spool) -> tuple[list[Bundle], dict[DeliveryKey, str]]:
    """Read every `bundle.json`; one that is damaged keeps no other from being read."""
    bundles: list[Bundle] = []
    damaged: dict[DeliveryKey, str] = {}
    for key in spool.sealed_keys():
        try:
            bundle = spool.bundle(key)
        except MxdeliverError as error:
            if error.retryable:
                raise
            damaged[key] = str(error)
        else:
            bundles += [] if bundle is None else [bundle]
    return bundles, damaged


def _log(configuration: Configuration, rebuilt: Rebuilt, *, as_json: bool) -> None:
    from mxdeliver.edge.journal import Journal  # noqa: PLC0415 - see cli

    with Journal.open(
        configuration.delivery_log,
        run_id=wiring.new_run_id(),
        clock=wiring.utc_now,
        stream=sys.stderr if as_json else None,
    ) as journal:
        if rebuilt.ledger:
            aside = ", ".join(path.name for path in rebuilt.set_aside) or "nothing"
            made = f"{len(rebuilt.deliveries)} deliveries; set aside: {aside}"
            journal.write("ledger.rebuilt", made, level="warning")
        if rebuilt.key:
            journal.write("ledger.key_renewed", _what_key(rebuilt), level="warning")
        for one in rebuilt.deliveries:
            if one.state in {DeliveryState.PARKED, DeliveryState.FAILED}:
                journal.write(
                    f"delivery.{one.state.value}",
                    one.error or "",
                    level="error",
                    client_guid=one.key.client_guid,
                    snapshot_date=one.key.snapshot_date,
                    revision=one.key.revision,
                    error_code=one.error_code,
                    retryable=False,
                )


def _what_key(rebuilt: Rebuilt) -> str:
    # A new ledger has nothing in it that was compared by the earlier key.
    then = "" if rebuilt.ledger else "; what is parked counts as changed and is tried once more"
    return f"a new random key{then}; restart `mxdeliver schedule` where it runs"


def _show_json(configuration: Configuration, rebuilt: Rebuilt) -> None:
    from mxdeliver import report  # noqa: PLC0415 - imports SQLAlchemy

    document = {
        "ledger": str(configuration.state_dir / "ledger.db"),
        "rebuilt": rebuilt.ledger,
        "key_renewed": rebuilt.key,
        "set_aside": [str(path) for path in rebuilt.set_aside],
        "deliveries": [report.status_row(one) for one in rebuilt.deliveries],
    }
    click.echo(json.dumps(document))


def _show(configuration: Configuration, rebuilt: Rebuilt, *, sealed: int) -> None:
    names = {client.guid: client.name for client in configuration.clients}
    path = configuration.state_dir / "ledger.db"
    for aside in rebuilt.set_aside:
        click.echo(f"set aside: {aside}")
    if rebuilt.ledger:
        click.echo(f"{path}: made anew from {sealed} sealed bundles")
    else:
        begun = "" if rebuilt.key else "; what an earlier rebuild had begun is removed"
        click.echo(f"{path} is healthy and stays as it is{begun}")
    if rebuilt.key:
        click.echo(f"{path.with_suffix('.key')}: {_what_key(rebuilt)}")
    if rebuilt.ledger and not rebuilt.deliveries:
        click.echo("nothing is owed yet")
    for one in rebuilt.deliveries:
        name = names.get(one.key.client_guid, one.key.client_guid)
        then = "the next `mxdeliver run` looks for it on the client's server"
        if one.error_code is not None:
            then = f"{one.state.value} {one.error_code}: {one.error}"
        elif not one.sealed:
            then = "not due yet"
        click.echo(f"{one.key.snapshot_date}  {name}: {then}")
