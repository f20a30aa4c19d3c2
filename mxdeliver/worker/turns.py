"""One client's turn: attempts of its deliveries, oldest day first, and the waits between them.

`core.retry` decides after each attempt; here tenacity carries the decision out around whole attempts
of `deliver`. A wait of up to five seconds is waited in place; with a longer one the client gives its
place to the next and comes back when its time has come, or, in the daemon, leaves it to the ledger.
Waits are cut at the client's longest.

A server that did not answer several times in a row is tried by one delivery at a time: the others are
put off without an attempt (`core.breaker`), and come back in this run as soon as it answers.

A login that was refused is not tried again with the same secret, for whichever day or client: servers
lock accounts. `logins` knows which; what is owed there is parked without a connection.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from threading import Event, Semaphore

import tenacity

from mxdeliver.core import retry
from mxdeliver.core.breaker import ANSWERS, SILENCE, Breaker, Host, Silent
from mxdeliver.core.errors import Elsewhere, Internal, MxdeliverError, StopRequested
from mxdeliver.core.model import Client, DeliveryKey, DeliveryState, Outcome
from mxdeliver.deliver import deliver, needs_new_revision, put_off
from mxdeliver.logins import Logins, Refusal, refusal_of
from mxdeliver.site import Result, Site

_WAIT_IN_PLACE = timedelta(seconds=5)
_LOOK_SECONDS = 0.2


@dataclass(slots=True)
class Queue:
    """One client's deliveries in this run, oldest first, and the attempts made of the first.

    With a `refusal` the rest is parked without a connection; `is_put_off` while its host does not
    answer.
    """

    client: Client
    keys: deque[DeliveryKey] = field(default_factory=deque)
    attempts: int = 0
    refusal: Refusal | None = None
    is_put_off: bool = False


class Connections:
    """At most so many deliveries send at once; those beyond are built, or were and wait here."""

    def __init__(self, most: int) -> None:
        self._free = Semaphore(most)

    @contextmanager
    def one(self, stop: Callable[[], bool]) -> Iterator[None]:
        """Wait until one more may send; StopRequested."""
        while not self._free.acquire(timeout=_LOOK_SECONDS):
            if stop():
                raise StopRequested("stopped before connecting")
        try:
            yield
        finally:
            self._free.release()


class Turns:
    """Gives clients their turns; used by several threads, each with another client's queue."""

    def __init__(
        self,
        site: Site,
        logins: Logins,
        breaker: Breaker,
        connections: Connections,
        *,
        stop: Event,
        leaves_waits: bool,
        results: dict[DeliveryKey, Result],
        attempts: dict[DeliveryKey, int],
    ) -> None:
        self._site = site
        self._logins = logins
        self._breaker = breaker
        self._connections = connections
        self._stop = stop
        self._leaves_waits = leaves_waits
        self.results = results
        self.attempts = attempts

    def take(self, queue: Queue) -> float | None:
        """Work on a client's deliveries; give the time to come back at, or None.

        That is when it is through, or `is_put_off`. Whatever is wrong stays with the client.
        """
        queue.is_put_off = False
        try:
            return self._work(queue)
        except MxdeliverError as error:
            self.results[queue.keys[0]] = self._outside(error, queue)
        except Exception as error:  # noqa: BLE001 - a bug stays with its client
            self.results[queue.keys[0]] = self._outside(Internal.of(error), queue)
        return None

    def _work(self, queue: Queue) -> float | None:
        while queue.keys and not self._stop.is_set():
            result = self._try(queue)
            self.results[result.key] = result
            self.attempts[result.key] = queue.attempts
            if result.outcome is Outcome.RETRY:
                if queue.is_put_off:
                    return None
                # Where this was the last attempt, the client's later days wait with it.
                last = queue.attempts >= queue.client.retry.attempts or self._leaves_waits
                return None if last else time.monotonic() + self._seconds_until(result, queue)
            if result.outcome is Outcome.STOPPED and self._leave(queue):
                return None
            self._learn(result, queue)
            queue.keys.popleft()
            queue.attempts = 0
        return None

    def _leave(self, queue: Queue) -> bool:
        """Tell whether to stop here: the run ends, or another one is at this client's oldest day."""
        if self._stop.is_set():
            return True
        delivery = self._site.ledger.get(queue.keys[0])
        return delivery is not None and delivery.state is DeliveryState.RUNNING

    def _learn(self, result: Result, queue: Queue) -> None:
        """Take a refusal for the client's other days, too."""
        if result.outcome is Outcome.PARKED:
            self._logins.forget(queue.client)
            if result.error is not None:
                queue.refusal = refusal_of(result.error)

    def _try(self, queue: Queue) -> Result:
        """Make attempts until the delivery has ended, must wait long, or is stopped."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda result: result.outcome is Outcome.RETRY),
            wait=lambda state: self._seconds_until(_last_result(state), queue),
            stop=lambda state: (
                # sleep_using_event alone would fire all remaining attempts once the event is set
                tenacity.stop_when_event_set(self._stop)(state)
                or queue.is_put_off
                or queue.attempts >= queue.client.retry.attempts
                or self._seconds_until(_last_result(state), queue) > _WAIT_IN_PLACE.total_seconds()
            ),
            sleep=tenacity.sleep_using_event(self._stop),
            retry_error_callback=_last_result,
        )
        result: Result = retrying(self._attempt, queue)
        return result

    def _seconds_until(self, result: Result, queue: Queue) -> float:
        """Give the wait before the next attempt; the clock may have been set back meanwhile."""
        if result.retry_at is None:
            return 0.0
        left = min(result.retry_at - self._site.clock(), queue.client.retry.maximum)
        return max(0.0, left.total_seconds())

    def _attempt(self, queue: Queue) -> Result:
        # Its place among those that send is free once the breaker knows what it has met.
        with ExitStack() as connection:
            return self._attempted(queue, connection)

    def _attempted(self, queue: Queue, connection: ExitStack) -> Result:
        client, host = queue.client, Host.of(queue.client)
        try:
            if self._is_refused(queue):
                self._breaker.untold(host, client.guid)
                return Result(key=queue.keys[0], outcome=Outcome.PARKED)
            silent = self._breaker.ask(host, client.guid, now=time.monotonic())
            if silent is not None:
                return self._put_off(queue, silent)
            self._renew(queue)
            gate = partial(self._gate, queue, connection)
            result = deliver(queue.keys[0], client, self._site, gate)
        except Elsewhere as error:
            self._breaker.untold(host, client.guid)
            queue.is_put_off = False
            return Result(key=queue.keys[0], outcome=Outcome.STOPPED, error=error)
        except MxdeliverError as error:
            result = self._outside(error, queue)
        except Exception as error:  # noqa: BLE001 - a bug stays with its client
            result = self._outside(Internal.of(error), queue)
        queue.attempts += 1
        if queue.is_put_off:
            self._breaker.untold(host, client.guid)
            queue.is_put_off = result.outcome is Outcome.RETRY
        else:
            self._tell_breaker(client, result.error)
        return result

    @contextmanager
    def _gate(
        self, queue: Queue, connection: ExitStack, client: Client, stop: Callable[[], bool]
    ) -> Iterator[Callable[[], None]]:
        connection.enter_context(self._connections.one(stop))
        self._refuse_silent(queue, client)
        with self._logins.in_turn(client, stop) as went_well:
            yield went_well

    def _refuse_silent(self, queue: Queue, client: Client) -> None:
        """Raise what others have met at the client's server while its day was built."""
        silent = self._breaker.ask(Host.of(client), client.guid, now=time.monotonic())
        if silent is not None:
            queue.is_put_off = True
            why = _why(client, silent)
            raise type(silent.error)(f"not tried, {why}; at last {silent.error}")

    def _is_refused(self, queue: Queue) -> bool:
        """Park the delivery where its login would only be refused again."""
        refusal = queue.refusal or self._logins.refusal(queue.client)
        if refusal is not None:
            now, journal = self._site.clock(), self._site.journal
            self._logins.park(queue.keys[0], queue.client, refusal, now=now, journal=journal)
        return refusal is not None

    def _renew(self, queue: Queue) -> None:
        """Begin the day's next revision where it is sealed for a key that was replaced.

        Or the one that the spool has already, where the ledger was restored from a backup.
        """
        client = queue.client
        while needs_new_revision(queue.keys[0], client, self._site):
            day, now = queue.keys[0].snapshot_date, self._site.clock()
            queue.keys[0] = self._site.ledger.new_revision(client, day, now=now)

    def _tell_breaker(self, client: Client, error: MxdeliverError | None) -> None:
        host = Host.of(client)
        if error is None or isinstance(error, ANSWERS):
            self._breaker.answered(host)
        elif isinstance(error, SILENCE):
            pause = retry.pause(policy=client.retry, chance=self._site.chance()).total_seconds()
            now = time.monotonic()
            self._breaker.failed(host, client.guid, error, now=now, pause=pause)
        else:
            self._breaker.untold(host, client.guid)

    def _put_off(self, queue: Queue, silent: Silent) -> Result:
        left = timedelta(seconds=silent.until - time.monotonic())
        result = put_off(
            queue.keys[0],
            queue.client,
            self._site,
            silent.error,
            why=_why(queue.client, silent),
            until=self._site.clock() + left,
        )
        queue.is_put_off = result.outcome is Outcome.RETRY
        return result

    def _outside(self, error: MxdeliverError, queue: Queue) -> Result:
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
        self._site.log(key)(
            "delivery.retrying" if again else "delivery.failed",
            f"{client.name}, {key.snapshot_date}: {error.explain()}",
            level="warning" if again else "error",
            attempt=queue.attempts + 1,
            error_code=error.code,
            retryable=again,
            retry_at=decision.retry_at,
        )
        outcome = Outcome.RETRY if again else Outcome.FAILED
        return Result(key=key, outcome=outcome, error=error, retry_at=decision.retry_at)


def _why(client: Client, silent: Silent) -> str:
    name = client.endpoint.server_name
    return f"because {name} did not answer {silent.failures} times in a row"


def _last_result(state: tenacity.RetryCallState) -> Result:
    if state.outcome is None:
        raise RuntimeError("tenacity asked before the first attempt")
    result: Result = state.outcome.result()
    return result
