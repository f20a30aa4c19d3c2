"""Clients side by side on a bounded number of places; each comes back when its time has come.

A client that waits for long gives its place to the next, and so does one whose server does not answer
others either; it is back as soon as that does. Times are those of `time.monotonic`: a
clock that is set back during a run holds nothing up.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from threading import Event
from typing import TypeAlias

from mxdeliver.core.breaker import Breaker, Host
from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.errors import MxdeliverError
from mxdeliver.core.model import Client, DeliveryKey
from mxdeliver.logins import Learnt, Logins
from mxdeliver.site import Result, Site
from mxdeliver.worker.turns import Connections, Queue, Turns


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A day that was asked for and has not ended yet for this client."""

    client: Client
    day: SnapshotDate


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run chose, how each of it ended, and what it left out.

    `results` holds the last attempt of each delivery that this run tried; a chosen delivery without
    one was delivered before, or is parked, failed, or waiting. `elsewhere` are those of it that
    another process was at in the end.
    """

    chosen: tuple[DeliveryKey, ...]
    results: Mapping[DeliveryKey, Result]
    attempts: Mapping[DeliveryKey, int]
    skipped: tuple[Skipped, ...] = ()
    elsewhere: frozenset[DeliveryKey] = frozenset()


Renew: TypeAlias = Callable[[], tuple[Sequence[Client], Site] | None]
"""Gives the clients and what their deliveries share anew, where the configuration has changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """How the daemon learns, during a run, what has become due."""

    ask: Callable[[], list[DeliveryKey]]
    every: timedelta
    renew: Renew = lambda: None


class Run:
    """Carries deliveries out on a bounded number of places."""

    def __init__(
        self,
        clients: Sequence[Client],
        site: Site,
        *,
        places: int,
        stop: Event,
        again: Again | None = None,
        breaker: Breaker | None = None,
    ) -> None:
        self._places = places
        self._stop, self._again = stop, again
        self._breaker = breaker or Breaker()
        self._results: dict[DeliveryKey, Result] = {}
        self._attempts: dict[DeliveryKey, int] = {}
        self._learnt = Learnt()
        self._connections = Connections(places)
        self._renew(clients, site)
        self._chosen: dict[DeliveryKey, None] = {}
        self._waiting: list[tuple[float, int, Queue]] = []
        self._under_way: dict[Future[float | None], Queue] = {}
        self._put_off: dict[Host, deque[Queue]] = defaultdict(deque)
        self._order = itertools.count()
        self._asked_at = time.monotonic()

    def _renew(self, clients: Sequence[Client], site: Site) -> None:
        """Go on with these clients; what is under way ends as it began."""
        self._site = site
        self._clients = {client.guid: client for client in clients}
        self._logins = Logins(clients, site.ledger, context=site.context, learnt=self._learnt)
        self._turns = Turns(
            site,
            self._logins,
            self._breaker,
            self._connections,
            stop=self._stop,
            leaves_waits=self._again is not None,
            results=self._results,
            attempts=self._attempts,
        )

    def carry_out(self, keys: Iterable[DeliveryKey]) -> Report:
        """Try every delivery until it has ended, waits for a later run, or the run is stopped."""
        self._add(keys)
        most = 3 * self._places  # see `_side_by_side`
        with ThreadPoolExecutor(max_workers=most, thread_name_prefix="delivery") as pool:
            while (self._waiting and not self._stop.is_set()) or self._under_way:
                while self._may_start():
                    queue = heapq.heappop(self._waiting)[2]
                    self._under_way[pool.submit(self._turns.take, queue)] = queue
                for future in self._wait():
                    queue = self._under_way.pop(future)
                    if (ready_at := future.result()) is not None:
                        self._put(queue, ready_at)
                    elif queue.is_put_off and self._again is None:
                        self._put_off[Host.of(queue.client)].append(queue)
                self._take_back()
                self._ask_again()
        return Report(
            chosen=tuple(self._chosen),
            results=self._results,
            attempts=self._attempts,
        )

    def _add(self, keys: Iterable[DeliveryKey]) -> None:
        """Make a queue for each client that has none."""
        queues: dict[str, Queue] = {}
        busy = {entry[2].client.guid for entry in self._waiting}
        busy |= {queue.client.guid for queue in self._under_way.values()}
        for key in sorted(keys, key=lambda key: (key.snapshot_date, key.client_guid)):
            guid = key.client_guid
            if guid not in busy:
                queues.setdefault(guid, Queue(client=self._clients[guid])).keys.append(key)
                self._chosen[key] = None
        for queue in queues.values():
            self._put(queue, time.monotonic())
        if queues:
            under_way = (*(entry[2] for entry in self._waiting), *self._under_way.values())
            self._site.expect({key for queue in under_way for key in queue.keys})

    @property
    def _side_by_side(self) -> int:
        """How many clients have their turn at once: beside those that send, two for each builder.

        One has it, the other was built and waits to be sent, or is about to be built: builders need
        not wait for the rest.
        """
        return self._places + 2 * self._site.builds_side_by_side

    def _put(self, queue: Queue, ready_at: float) -> None:
        heapq.heappush(self._waiting, (ready_at, next(self._order), queue))

    def _take_back(self) -> None:
        """Let clients come back whose server answers now, or is to be tried by another of them."""
        for host, queues in self._put_off.items():
            places = self._breaker.places(host)
            for _ in range(len(queues) if places is None else min(places, len(queues))):
                self._put(queues.popleft(), time.monotonic())

    def _may_start(self) -> bool:
        return (
            len(self._under_way) < self._side_by_side
            and bool(self._waiting)
            and not self._stop.is_set()
            and self._waiting[0][0] <= time.monotonic()
        )

    def _wait(self) -> Iterable[Future[float | None]]:
        """Wait until a place is free, a client's or the ledger's time has come, or the run is stopped."""
        moments = []
        if self._waiting and len(self._under_way) < self._side_by_side:
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
            if (renewed := again.renew()) is not None:
                # Those that wait for a place are asked for anew, as far as they are still there.
                self._waiting.clear()
                self._renew(*renewed)
            self._add(again.ask())
