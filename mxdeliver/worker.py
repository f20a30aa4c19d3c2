"""Which deliveries are due; attempts and waits; clients side by side; the stop flag.

Three paths lead here and are one: `run` from cron or a timer, `run --date` by hand, `schedule` as a
daemon. The ledger says what is due. A client's days are delivered one after the other, oldest first;
clients go side by side, and one client's failure stays its own.

`core.retry` decides after each attempt; here tenacity carries the decision out around whole attempts
of `deliver`. A wait of up to five seconds is waited in place; with a longer one the client gives its
place to the next and comes back when its time has come, or, in the daemon, leaves it to the ledger.
Waits are cut at the client's longest and follow the monotonic clock: a clock that is set back during
a run holds nothing up.

A login that was refused is not tried again with the same secret, for whichever day or client: servers
lock accounts. `logins` knows which; what is owed there is parked without a connection.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from threading import Event
from typing import Any

import tenacity

from mxdeliver.core import calendar, retry
from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.errors import DayNotClosed, Elsewhere, Internal, MxdeliverError
from mxdeliver.core.model import Client, Delivery, DeliveryKey, DeliveryState, Outcome
from mxdeliver.deliver import Result, Site, deliver, needs_new_revision
from mxdeliver.edge.ledger.contexts import is_changed
from mxdeliver.logins import Logins, Refusal, refusal_of

_WAIT_IN_PLACE = timedelta(seconds=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A day that was asked for and has not ended yet for this client."""

    client: Client
    day: SnapshotDate


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run chose, how each of it ended, and what it left out.

    `results` holds the last attempt of each delivery that this run tried; a chosen delivery without
    one was delivered before, or is parked, failed, or waiting.
    """

    chosen: tuple[DeliveryKey, ...]
    results: Mapping[DeliveryKey, Result]
    attempts: Mapping[DeliveryKey, int]
    skipped: tuple[Skipped, ...] = ()


def run_due(
    clients: Sequence[Client],
    site: Site,
    *,
    catch_up_days: int,
    places: int,
    stop: Event,
    ask_every: timedelta | None = None,
) -> Report:
    """Deliver everything that the ledger says is due; cheap when nothing is.

    The report tells, once, of days that have left the catch-up window undelivered, too. With
    `ask_every`, the daemon's way: longer waits are left to the ledger, and as long as a delivery is
    under way the ledger is asked so often what has become due for other clients.
    """
    left: list[DeliveryKey] = []

    def due() -> list[DeliveryKey]:
        now = site.clock()
        for key in site.ledger.plan(clients, now=now, catch_up_days=catch_up_days):
            message = f"{key.snapshot_date} left the catch-up window undelivered"
            error = {"level": "error", "error_code": "DEADLINE", "retryable": False}
            _log(site, "delivery.failed", message, key, **error)
            left.append(key)
        contexts = {client.guid: site.context(client) for client in clients}
        found = site.ledger.due(clients, now=now, contexts=contexts, catch_up_days=catch_up_days)
        return _behind_nothing([one.key for one in found], site, now)

    again = None if ask_every is None else _Again(ask=due, every=ask_every)
    report = _Run(clients, site, places=places, stop=stop, again=again).carry_out(due())
    return replace(report, chosen=(*left, *report.chosen))


def _behind_nothing(keys: list[DeliveryKey], site: Site, now: datetime) -> list[DeliveryKey]:
    """Leave out days behind one that waits for its next attempt, or that another run is at."""
    kept: list[DeliveryKey] = []
    for guid in {key.client_guid for key in keys}:
        ahead = [
            one.key.snapshot_date
            for one in site.ledger.deliveries(client_guid=guid)
            if one.key not in keys
            and (one.state is DeliveryState.RUNNING or (one.not_before or now) > now)
        ]
        own = [key for key in keys if key.client_guid == guid]
        kept += [key for key in own if not ahead or key.snapshot_date < min(ahead)]
    return kept


def run_days(
    clients: Sequence[Client],
    days: Sequence[SnapshotDate],
    site: Site,
    *,
    places: int,
    stop: Event,
) -> Report:
    """Deliver these days, however old, unless delivered or parked; DayNotClosed if none has ended."""
    now = site.clock()
    chosen: list[DeliveryKey] = []
    started: list[DeliveryKey] = []
    skipped: list[Skipped] = []
    for day in days:
        closed = [client for client in clients if calendar.is_closed(day, client.zone, now)]
        if clients and not closed:
            raise DayNotClosed(f"{day} has not ended yet for any of the clients chosen")
        skipped += [Skipped(client=one, day=day) for one in clients if one not in closed]
        for client in closed:
            delivery = site.ledger.ensure(client, day, now=now)
            chosen.append(delivery.key)
            if (key := _start_by_hand(delivery, client, site, now)) is not None:
                started.append(key)
    report = _Run(clients, site, places=places, stop=stop).carry_out(started)
    return replace(report, chosen=tuple(chosen), skipped=tuple(skipped))


def _start_by_hand(
    delivery: Delivery, client: Client, site: Site, now: datetime
) -> DeliveryKey | None:
    """Apply the column `run --date` of the ledger's table of states; None where nothing is tried."""
    if delivery.state is DeliveryState.DELIVERED:
        return None
    if delivery.state is DeliveryState.PARKED:
        # as by any other run, once what it waits for has changed
        changed = is_changed(delivery.fingerprint, site.context(client), delivery.error_code)
        return delivery.key if changed else None
    if delivery.state is DeliveryState.RUNNING:
        return delivery.key
    return site.ledger.reopen(delivery.key, now=now, new_deadline=now + client.retry.deadline)


def _log(site: Site, event: str, message: str, key: DeliveryKey, **fields: Any) -> None:
    site.journal.write(
        event,
        message,
        client_guid=key.client_guid,
        snapshot_date=key.snapshot_date.isoformat(),
        revision=key.revision,
        **fields,
    )


@dataclass(slots=True)
class _Queue:
    """One client's deliveries in this run, oldest first, and the attempts made of the first.

    With a `refusal` the rest is parked without a connection.
    """

    client: Client
    keys: deque[DeliveryKey] = field(default_factory=deque)
    attempts: int = 0
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Again:
    """How the daemon learns, during a run, what has become due."""

    ask: Callable[[], list[DeliveryKey]]
    every: timedelta


class _Run:
    """Carries deliveries out on a bounded number of places. Times are those of `time.monotonic`."""

    def __init__(
        self,
        clients: Sequence[Client],
        site: Site,
        *,
        places: int,
        stop: Event,
        again: _Again | None = None,
    ) -> None:
        self._clients = {client.guid: client for client in clients}
        self._site = site
        self._places = places
        self._stop, self._again = stop, again
        self._logins = Logins(clients, site.ledger, context=site.context)
        self._chosen: dict[DeliveryKey, None] = {}
        self._results: dict[DeliveryKey, Result] = {}
        self._attempts: dict[DeliveryKey, int] = {}
        self._waiting: list[tuple[float, int, _Queue]] = []
        self._under_way: dict[Future[float | None], _Queue] = {}
        self._order = itertools.count()
        self._asked_at = time.monotonic()

    def carry_out(self, keys: Iterable[DeliveryKey]) -> Report:
        """Try every delivery until it has ended, waits for a later run, or the run is stopped."""
        self._add(keys)
        with ThreadPoolExecutor(max_workers=self._places, thread_name_prefix="delivery") as pool:
            while (self._waiting and not self._stop.is_set()) or self._under_way:
                while self._may_start():
                    queue = heapq.heappop(self._waiting)[2]
                    self._under_way[pool.submit(self._turn, queue)] = queue
                for future in self._wait():
                    queue = self._under_way.pop(future)
                    if (ready_at := future.result()) is not None:
                        self._put(queue, ready_at)
                self._ask_again()
        return Report(chosen=tuple(self._chosen), results=self._results, attempts=self._attempts)

    def _add(self, keys: Iterable[DeliveryKey]) -> None:
        """Make a queue for each client that has none."""
        queues: dict[str, _Queue] = {}
        busy = {entry[2].client.guid for entry in self._waiting}
        busy |= {queue.client.guid for queue in self._under_way.values()}
        for key in sorted(keys, key=lambda key: (key.snapshot_date, key.client_guid)):
            guid = key.client_guid
            if guid not in busy:
                queues.setdefault(guid, _Queue(client=self._clients[guid])).keys.append(key)
                self._chosen[key] = None
        for queue in queues.values():
            self._put(queue, time.monotonic())

    def _put(self, queue: _Queue, ready_at: float) -> None:
        heapq.heappush(self._waiting, (ready_at, next(self._order), queue))

    def _may_start(self) -> bool:
        return (
            len(self._under_way) < self._places
            and bool(self._waiting)
            and not self._stop.is_set()
            and self._waiting[0][0] <= time.monotonic()
        )

    def _wait(self) -> Iterable[Future[float | None]]:
        """Wait until a place is free, a client's or the ledger's time has come, or the run is stopped."""
        moments = []
        if self._waiting and len(self._under_way) < self._places:
            moments.append(self._waiting[0][0])
        if self._again is not None:
            moments.append(self._asked_at + self._again.every.total_seconds())
        seconds = max(0.0, min(moments) - time.monotonic()) if moments else None
        if not self._under_way:
            self._stop.wait(seconds)
            return ()
        return wait(self._under_way, timeout=seconds, return_when=FIRST_COMPLETED).done

    def _ask_again(self) -> None:
        again = self._again
        if again is None or not self._under_way or self._stop.is_set():
            return
        if time.monotonic() < self._asked_at + again.every.total_seconds():
            return
        self._asked_at = time.monotonic()
        self._logins.forget()
        # What is wrong with the ledger now is said by the next wake-up, which meets it again.
        with suppress(MxdeliverError):
            self._add(again.ask())

    def _turn(self, queue: _Queue) -> float | None:
        """Work on a client's deliveries; give the time to come back at, or None when through.

        Whatever is wrong stays with the client.
        """
        try:
            return self._work(queue)
        except MxdeliverError as error:
            self._results[queue.keys[0]] = self._outside(error, queue)
        except Exception as error:  # noqa: BLE001 - a bug stays with its client
            self._results[queue.keys[0]] = self._outside(Internal.of(error), queue)
        return None

    def _work(self, queue: _Queue) -> float | None:
        while queue.keys and not self._stop.is_set():
            result = self._try(queue)
            self._results[result.key] = result
            self._attempts[result.key] = queue.attempts
            if result.outcome is Outcome.RETRY:
                # Where this was the last attempt, the client's later days wait with it.
                last = queue.attempts >= queue.client.retry.attempts or self._again is not None
                return None if last else time.monotonic() + self._seconds_until(result, queue)
            if result.outcome is Outcome.STOPPED and self._leave(queue):
                return None
            self._learn(result, queue)
            queue.keys.popleft()
            queue.attempts = 0
        return None

    def _leave(self, queue: _Queue) -> bool:
        """Tell whether to stop here: the run ends, or another one is at this client's oldest day."""
        if self._stop.is_set():
            return True
        delivery = self._site.ledger.get(queue.keys[0])
        return delivery is not None and delivery.state is DeliveryState.RUNNING

    def _learn(self, result: Result, queue: _Queue) -> None:
        """Take a refusal for the client's other days, too."""
        if result.outcome is Outcome.PARKED:
            self._logins.forget(queue.client)
            if result.error is not None:
                queue.refusal = refusal_of(result.error)

    def _try(self, queue: _Queue) -> Result:
        """Make attempts until the delivery has ended, must wait long, or is stopped."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda result: result.outcome is Outcome.RETRY),
            wait=lambda state: self._seconds_until(_last_result(state), queue),
            stop=lambda state: (
                # sleep_using_event alone would fire all remaining attempts once the event is set
                tenacity.stop_when_event_set(self._stop)(state)
                or queue.attempts >= queue.client.retry.attempts
                or self._seconds_until(_last_result(state), queue) > _WAIT_IN_PLACE.total_seconds()
            ),
            sleep=tenacity.sleep_using_event(self._stop),
            retry_error_callback=_last_result,
        )
        result: Result = retrying(self._attempt, queue)
        return result

    def _seconds_until(self, result: Result, queue: _Queue) -> float:
        """Give the wait before the next attempt; the clock may have been set back meanwhile."""
        if result.retry_at is None:
            return 0.0
        left = min(result.retry_at - self._site.clock(), queue.client.retry.maximum)
        return max(0.0, left.total_seconds())

    def _attempt(self, queue: _Queue) -> Result:
        key, client = queue.keys[0], queue.client
        try:
            refusal = queue.refusal or self._logins.refusal(client)
            if refusal is not None:
                now, journal = self._site.clock(), self._site.journal
                self._logins.park(key, client, refusal, now=now, journal=journal)
                return Result(key=key, outcome=Outcome.PARKED)
            if needs_new_revision(key, client, self._site):
                key = self._site.ledger.new_revision(
                    client, key.snapshot_date, now=self._site.clock()
                )
                queue.keys[0] = key
            result = deliver(key, client, self._site)
        except Elsewhere as error:
            return Result(key=key, outcome=Outcome.STOPPED, error=error)
        except MxdeliverError as error:
            result = self._outside(error, queue)
        except Exception as error:  # noqa: BLE001 - a bug stays with its client
            result = self._outside(Internal.of(error), queue)
        queue.attempts += 1
        return result

    def _outside(self, error: MxdeliverError, queue: _Queue) -> Result:
        """Decide what follows an error that the ledger could not be told: it concerns the ledger."""
        key, client, now = queue.keys[0], queue.client, self._site.clock()
        decision = retry.decide(
            error,
            attempt=queue.attempts + 1,
            now=now,
            deadline=now + client.retry.deadline,
            policy=client.retry,
            chance=self._site.chance(),
        )
        again = decision.outcome is Outcome.RETRY
        _log(
            self._site,
            "delivery.retrying" if again else "delivery.failed",
            f"{client.name}, {key.snapshot_date}: {error.explain()}",
            key,
            level="warning" if again else "error",
            attempt=queue.attempts + 1,
            error_code=error.code,
            retryable=again,
            retry_at=decision.retry_at,
        )
        outcome = Outcome.RETRY if again else Outcome.FAILED
        return Result(key=key, outcome=outcome, error=error, retry_at=decision.retry_at)


def _last_result(state: tenacity.RetryCallState) -> Result:
    if state.outcome is None:
        raise RuntimeError("tenacity asked before the first attempt")
    result: Result = state.outcome.result()
    return result
