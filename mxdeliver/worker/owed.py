"""What a run chooses: everything that the ledger says is due, or the days that a person names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from threading import Event

from mxdeliver.core import calendar
from mxdeliver.core.breaker import Breaker
from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.errors import DayNotClosed
from mxdeliver.core.model import Client, Delivery, DeliveryKey, DeliveryState
from mxdeliver.edge.ledger.planning import UNDELIVERED, opens_by_change
from mxdeliver.site import Site
from mxdeliver.worker.places import Again, Renew, Report, Run, Skipped


def run_due(
    clients: Sequence[Client],
    site: Site,
    *,
    catch_up_days: int,
    places: int,
    stop: Event,
    ask_every: timedelta | None = None,
    breaker: Breaker | None = None,
    renew: Renew = lambda: None,
) -> Report:
    """Deliver everything that the ledger says is due; cheap when nothing is.

    The report tells, once, of days that have left the catch-up window undelivered, too. With
    `ask_every`, the daemon's way: longer waits are left to the ledger, and as long as a delivery is
    under way the ledger is asked so often what has become due for other clients. Its `breaker` knows
    from one call to the next which servers do not answer, and `renew` is called before each asking.
    """
    left: list[DeliveryKey] = []

    def due() -> list[DeliveryKey]:
        now = site.clock()
        for key in site.ledger.plan(clients, now=now, catch_up_days=catch_up_days):
            message = f"{key.snapshot_date} left the catch-up window undelivered"
            error = {"level": "error", "error_code": "DEADLINE", "retryable": False}
            site.log(key)("delivery.failed", message, **error)
            left.append(key)
        contexts = {client.guid: site.context(client) for client in clients}
        found = site.ledger.due(clients, now=now, contexts=contexts, catch_up_days=catch_up_days)
        return _behind_nothing([one.key for one in found], site, now)

    def renewed() -> tuple[Sequence[Client], Site] | None:
        nonlocal clients, site
        if (found := renew()) is not None:
            clients, site = found
        return found

    again = None if ask_every is None else Again(ask=due, every=ask_every, renew=renewed)
    run = Run(clients, site, places=places, stop=stop, again=again, breaker=breaker)
    keys = due()
    elsewhere = _under_way_elsewhere(clients, keys, site) if again is None else []
    report = run.carry_out(keys)
    return _whole(report, site, chosen=(*left, *elsewhere, *report.chosen))


def _under_way_elsewhere(
    clients: Sequence[Client], keys: Sequence[DeliveryKey], site: Site
) -> list[DeliveryKey]:
    """Give what another run is at: this one leaves it alone, but it is not delivered either."""
    guids = {client.guid for client in clients}
    return [key for key in _held(site) if key.client_guid in guids and key not in keys]


def _held(site: Site) -> list[DeliveryKey]:
    """Give the deliveries that a process is at; one that runs by the ledger alone was interrupted."""
    running = site.ledger.deliveries(states=(DeliveryState.RUNNING,))
    return [one.key for one in running if site.ledger.is_held(one.key)]


def _whole(report: Report, site: Site, *, chosen: Sequence[DeliveryKey]) -> Report:
    """Give the report with all that was chosen, and with what is not this run's to tell."""
    elsewhere = frozenset(chosen) & frozenset(_held(site))
    return replace(report, chosen=tuple(chosen), elsewhere=elsewhere)


def _behind_nothing(keys: list[DeliveryKey], site: Site, now: datetime) -> list[DeliveryKey]:
    """Leave out days behind one that waits for its next attempt, or that another run is at."""
    chosen = set(keys)
    behind: dict[str, SnapshotDate] = {}
    for one in site.ledger.deliveries(states=UNDELIVERED):  # by day
        waits = one.state is DeliveryState.RUNNING or (one.not_before or now) > now
        if waits and one.key not in chosen:
            behind.setdefault(one.key.client_guid, one.key.snapshot_date)
    return [
        key
        for key in keys
        if key.client_guid not in behind or key.snapshot_date < behind[key.client_guid]
    ]


def run_days(
    clients: Sequence[Client],
    days: Sequence[SnapshotDate],
    site: Site,
    *,
    catch_up_days: int,
    places: int,
    stop: Event,
) -> Report:
    """Deliver these days, however old, unless delivered or parked; DayNotClosed if none has ended.

    A parked day within the window is tried where a run without a date would, after a change.
    """
    now = site.clock()
    chosen: list[DeliveryKey] = []
    started: list[DeliveryKey] = []
    skipped: list[Skipped] = []
    for day in days:
        closed = [client for client in clients if calendar.is_closed(day, client.zone, now)]
        if clients and not closed:
            raise DayNotClosed(f"{day} has not ended yet for any of the clients chosen")
        skipped += [Skipped(client=one, day=day) for one in clients if one not in closed]
        deliveries = site.ledger.ensure(closed, day, now=now)
        chosen += [one.key for one in deliveries]
        started += _start_by_hand(deliveries, closed, site, now, catch_up_days=catch_up_days)
    report = Run(clients, site, places=places, stop=stop).carry_out(started)
    return replace(_whole(report, site, chosen=chosen), skipped=tuple(skipped))


def _start_by_hand(
    deliveries: Sequence[Delivery],
    clients: Sequence[Client],
    site: Site,
    now: datetime,
    *,
    catch_up_days: int,
) -> list[DeliveryKey]:
    """Apply the column `run --date` of the ledger's table of states; gives what is tried."""
    started = []
    deadlines = {}
    for delivery, client in zip(deliveries, clients, strict=True):
        if delivery.state is DeliveryState.PARKED:
            # as by any other run, once what it waits for has changed
            context = site.context(client)
            if opens_by_change(
                delivery, client, now=now, context=context, catch_up_days=catch_up_days
            ):
                started.append(delivery.key)
        elif delivery.state is DeliveryState.RUNNING:
            started.append(delivery.key)
        elif delivery.state is not DeliveryState.DELIVERED:
            deadlines[delivery.key] = now + client.retry.deadline
    return started + site.ledger.reopen(deadlines, now=now)
