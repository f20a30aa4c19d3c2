"""`mxdeliver run`: deliver what is due, or the days that are named."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from mxdeliver import cli
from mxdeliver.cli import options, process, wiring
from mxdeliver.cli.documents import JsonCommand, broken_rows
from mxdeliver.cli.progress import progress_bars
from mxdeliver.core import calendar
from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.errors import (
    DayNotClosed,
    Kind,
    LeaseHeld,
    StopRequested,
)
from mxdeliver.core.log import counted
from mxdeliver.core.model import Client, Delivery, DeliveryKey, DeliveryState
from mxdeliver.edge import kernel

if TYPE_CHECKING:
    from mxdeliver.cli.wiring import Chosen
    from mxdeliver.core.breaker import Breaker
    from mxdeliver.edge.config import Configuration
    from mxdeliver.edge.ledger import Ledger
    from mxdeliver.site import Result, Site
    from mxdeliver.worker import Renew, Report

NOTHING_DUE = "nothing is due; `mxdeliver status` shows what waits or is parked"


@click.command(cls=JsonCommand)
@options.config_option
@click.option("--date", "day", type=options.DATE, help="Deliver this day.")
@click.option("--from", "first", type=options.DATE, help="Deliver the days from this one.")
@click.option("--to", "last", type=options.DATE, help="Deliver the days to this one, included.")
@click.option(
    "--client", "names", multiple=True, help="Only this client (guid or name); repeatable."
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show which files would be sent where, by configuration, keys and ledger; `check` looks "
    "at secrets and sources. Exits with 1 where a key is wrong.",
)
@options.json_option
def command(
    config_path: Path,
    day: SnapshotDate | None,
    first: SnapshotDate | None,
    last: SnapshotDate | None,
    names: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> int:
    """Deliver everything that is due, or the closed days that are named.

    Meant to be called every 15 minutes; cheap when nothing is due. Exit status: 0 all that this run
    chose is delivered, 75 something waits or runs elsewhere, 1 something failed or is parked, 78 the
    configuration is wrong, 70 a bug, 2 wrong usage. `mxdeliver status` tells of earlier days, too.
    """
    days = _days(day, first, last)
    configuration = wiring.load(config_path)
    chosen = wiring.choose(configuration, names)
    if dry_run:
        if days and chosen.clients:
            _refuse_open_days(chosen, days)
        from mxdeliver.cli.dry_run import show_plan  # noqa: PLC0415 - see cli

        return show_plan(configuration, chosen, days, as_json=as_json)
    return run_chosen(configuration, chosen, days, as_json=as_json)


def _days(
    day: SnapshotDate | None, first: SnapshotDate | None, last: SnapshotDate | None
) -> list[SnapshotDate] | None:
    if day is not None and (first is not None or last is not None):
        raise click.UsageError("--date goes without --from and --to")
    if (first is None) != (last is None):
        raise click.UsageError("--from and --to go together")
    if first is not None and last is not None:
        if last < first:
            raise click.UsageError("--to is before --from")
        return list(calendar.days(first, last))
    return None if day is None else [day]


def run_chosen(
    configuration: Configuration,
    chosen: Chosen,
    days: Sequence[SnapshotDate] | None,
    *,
    as_json: bool,
) -> int:
    """Deliver, show what came of it, and give the exit status."""
    from mxdeliver.edge.avro import load_resources  # noqa: PLC0415 - imports pyarrow

    kernel.harden()
    stop = Event()
    process.stop_on_signals(stop)
    resources = load_resources(configuration.schema_folders)
    if days and chosen.clients:
        _refuse_open_days(chosen, days)
    run_id = wiring.new_run_id()
    with (
        progress_bars({client.guid: client for client in chosen.clients}) as observer,
        wiring.open_site(
            configuration,
            resources=resources,
            run_id=run_id,
            stop=stop,
            log_stream=sys.stderr if as_json else None,
            observer=observer,
            wanted=_closed_days(chosen, days or ()),
        ) as site,
    ):
        gc.freeze()  # what was loaded stays, and need not be looked through for garbage
        report, deliveries = carry_out(configuration, chosen, days, site, stop)
    show_broken(chosen)
    if as_json:
        click.echo(json.dumps(_document(run_id, report, deliveries, chosen)))
    elif sys.stderr.isatty() and not report.results:
        _say_that_nothing_was_sent(deliveries)
    by_hand = days is not None or sys.stderr.isatty()
    show_troubles(report, deliveries, chosen, by_hand=by_hand)
    return exit_status(report, deliveries, chosen)


def _say_that_nothing_was_sent(deliveries: Sequence[Delivery]) -> None:
    before = sum(one.state is DeliveryState.DELIVERED for one in deliveries)
    if before:
        click.echo(f"nothing was sent: {before} of {len(deliveries)} delivered before", err=True)
    elif not deliveries:
        click.echo(NOTHING_DUE, err=True)


def _closed_days(chosen: Chosen, days: Sequence[SnapshotDate]) -> list[tuple[Client, SnapshotDate]]:
    now = wiring.utc_now()
    return [
        (client, day)
        for day in days
        for client in chosen.clients
        if calendar.is_closed(day, client.zone, now)
    ]


def _refuse_open_days(chosen: Chosen, days: Sequence[SnapshotDate]) -> None:
    """Refuse before anything is opened or created."""
    for day in days:
        if not _closed_days(chosen, [day]):
            raise DayNotClosed(f"{day} has not ended yet for any of the clients chosen")


def carry_out(
    configuration: Configuration,
    chosen: Chosen,
    days: Sequence[SnapshotDate] | None,
    site: Site,
    stop: Event,
    *,
    log_run: bool = True,
    ask_every: timedelta | None = None,
    breaker: Breaker | None = None,
    renew: Renew = lambda: None,
) -> tuple[Report, list[Delivery]]:
    """Deliver, prune, and give what became of each delivery that was chosen.

    The run's beginning and end stand in the log only with `log_run`;
    `ask_every`, `breaker` and `renew` are explained by `worker.run_due`.
    """
    from mxdeliver import worker  # noqa: PLC0415 - imports pyarrow and paramiko

    if log_run:
        site.journal.write("run.started", counted(len(chosen.clients), "client"))
    places = configuration.workers
    if days is None:
        report = worker.run_due(
            chosen.clients,
            site,
            catch_up_days=configuration.catch_up_days,
            places=places,
            stop=stop,
            ask_every=ask_every,
            breaker=breaker,
            renew=renew,
        )
    else:
        report = worker.run_days(
            chosen.clients,
            days,
            site,
            catch_up_days=configuration.catch_up_days,
            places=places,
            stop=stop,
        )
    deliveries = _latest(report.chosen, site.ledger)
    wiring.prune(
        site.ledger,
        site.spool,
        now=site.clock(),
        retention_days=configuration.retention_days,
    )
    delivered = sum(one.state is DeliveryState.DELIVERED for one in deliveries)
    if log_run:
        said = f"{delivered} of {len(deliveries)} delivered" if deliveries else "nothing was due"
        site.journal.write("run.finished", said)
    return report, deliveries


def _latest(keys: Sequence[DeliveryKey], ledger: Ledger) -> list[Delivery]:
    """Give the latest revision of each day."""
    clients: dict[SnapshotDate, set[str]] = {}
    for key in keys:
        clients.setdefault(key.snapshot_date, set()).add(key.client_guid)
    latest = {
        (delivery.key.client_guid, day): delivery
        for day, guids in clients.items()
        for delivery in ledger.deliveries(client_guids=guids, day=day)
    }
    days = [(key.client_guid, key.snapshot_date) for key in keys]
    return [latest[day] for day in days if day in latest]


def _document(
    run_id: str, report: Report, deliveries: Sequence[Delivery], chosen: Chosen
) -> Mapping[str, Any]:
    from mxdeliver import report as reporting  # noqa: PLC0415 - see cli

    rows = []
    for delivery in deliveries:
        result = report.results.get(delivery.key)
        rows.append(
            reporting.row(
                delivery,
                attempts=report.attempts.get(delivery.key, 0),
                seconds=result.seconds if result else 0.0,
            )
        )
    skipped = [
        {"client_guid": one.client.guid, "snapshot_date": one.day.isoformat()}
        for one in report.skipped
    ]
    return {
        "run_id": run_id,
        "deliveries": rows,
        "skipped": skipped,
        "broken": broken_rows(chosen),
    }


def show_broken(chosen: Chosen) -> None:
    """Print what is wrong in clients' entries, one line each, on standard error."""
    for client in chosen.broken:
        name = client.name or client.guid or "a client without guid and name"
        for problem in client.problems:
            click.echo(f"mxdeliver: {name}: {cli.problem_code(problem)}: {problem}", err=True)


def show_troubles(
    report: Report, deliveries: Sequence[Delivery], chosen: Chosen, *, by_hand: bool = False
) -> None:
    """Print one line on standard error for each delivery that is not delivered.

    What another process is at is said only to a person: cron would mail it every quarter of an hour.
    """
    names = {client.guid: client.name for client in chosen.clients}
    last = {key.client_guid: result for key, result in sorted(report.results.items())}
    for delivery in deliveries:
        if delivery.state is DeliveryState.DELIVERED:
            continue
        name = names.get(delivery.key.client_guid, delivery.key.client_guid)
        result = report.results.get(delivery.key)
        # Days that were not tried wait behind the last one of their client that was.
        before = result or last.get(delivery.key.client_guid)
        held = delivery.key in report.elsewhere
        behind = before is not None and isinstance(before.error, LeaseHeld)
        if (held or behind) and not by_hand:
            continue
        state = delivery.state.value
        if delivery.state is DeliveryState.RUNNING and not held:
            state = "interrupted"
        reason = _reason(delivery, result, before, held=held)
        click.echo(f"mxdeliver: {name}, {delivery.key.snapshot_date}: {state}, {reason}", err=True)
    for skipped in report.skipped:
        click.echo(
            f"mxdeliver: {skipped.client.name}, {skipped.day}: skipped, the day has not ended "
            f"in {skipped.client.zone}",
            err=True,
        )


def _reason(delivery: Delivery, result: Result | None, before: Result | None, *, held: bool) -> str:
    if result is None and held:
        return "another process is at it"
    if delivery.error_code:
        reason = f"{delivery.error_code}: {delivery.error}"
    elif result is not None and result.error is not None:
        reason = f"{result.error.code}: {result.error.explain()}"
    else:
        reason = _why_not_tried(before)
    if result is None and delivery.state is DeliveryState.PARKED and delivery.changed_at:
        return f"since {delivery.changed_at:%Y-%m-%d %H:%M} UTC and not tried again, {reason}"
    return reason


def _why_not_tried(before: Result | None) -> str:
    if before is None or before.error is None or isinstance(before.error, StopRequested):
        return "not tried before the run was stopped"
    if isinstance(before.error, LeaseHeld):
        return "not tried while another process is at an earlier day of this client"
    return f"not tried after {before.error.code} with an earlier day of this client"


def exit_status(report: Report, deliveries: Sequence[Delivery], chosen: Chosen) -> int:
    """Give the highest exit status that anything in this run asks for."""
    errors = [result.error for result in report.results.values() if result.error is not None]
    states = {delivery.state for delivery in deliveries}
    codes = {delivery.error_code for delivery in deliveries} | {error.code for error in errors}
    if "INTERNAL" in codes:
        return cli.EXIT_INTERNAL
    if chosen.broken or any(error.kind is Kind.CONFIGURATION for error in errors):
        return cli.EXIT_CONFIGURATION
    if states & {DeliveryState.FAILED, DeliveryState.PARKED} or any(
        error.kind is Kind.FAILED for error in errors
    ):
        return cli.EXIT_FAILED
    if states - {DeliveryState.DELIVERED}:
        return cli.EXIT_TEMPORARY
    return 0
