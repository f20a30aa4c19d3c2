"""From an error and an attempt's number to a decision; nothing here waits.

`worker` carries decisions out: with tenacity inside a run, through the ledger's `not_before` across
runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from mxdeliver.core.errors import DeadlinePassed, Kind, MxdeliverError
from mxdeliver.core.model import Attempt, Decision, Outcome, RetryPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """The number of an attempt since the last start anew, and that among those of its error code."""

    attempt: int
    alike: int


def count(
    error: MxdeliverError, earlier: Sequence[Attempt], *, since: datetime | None = None
) -> Count:
    """Number the attempt that ended in `error`, after those that came to an end `earlier`.

    Counting starts anew after an attempt that delivered, was parked or failed, and at `since`, when
    a person last asked for the delivery. Attempts that were stopped do not count.
    """
    series: list[Attempt] = []
    for attempt in earlier:
        if attempt.outcome in {Outcome.DELIVERED, Outcome.PARKED, Outcome.FAILED}:
            series.clear()
        elif attempt.outcome is Outcome.RETRY and (since is None or attempt.started_at >= since):
            series.append(attempt)
    alike = sum(attempt.error_code == error.code for attempt in series)
    return Count(attempt=len(series) + 1, alike=alike + 1)


def decide(
    error: MxdeliverError,
    *,
    attempt: int,
    now: datetime,
    deadline: datetime,
    policy: RetryPolicy,
    chance: float,
    alike: int | None = None,
) -> Decision:
    """Decide what follows the delivery's `attempt`th attempt (first: 1), which ended in `error`.

    It is the `alike`th that ended so (without: every one before did); `count` gives both numbers.
    `chance` in [0, 1) draws the wait from full jitter: AWS's "Exponential Backoff And Jitter",
    between nothing and the exponential wait, so that many clients do not return at once.
    """
    if error.kind is Kind.ELSEWHERE:
        return Decision(outcome=Outcome.STOPPED, error_code=error.code)
    if error.kind in {Kind.PARKED, Kind.CONFIGURATION}:
        return Decision(outcome=Outcome.PARKED, error_code=error.code)
    tried = attempt if alike is None else alike
    if not error.retryable or (error.tries is not None and tried >= error.tries):
        return Decision(outcome=Outcome.FAILED, error_code=error.code)
    retry_at = now + wait(error, attempt=attempt, policy=policy, chance=chance)
    if retry_at >= deadline:
        return Decision(outcome=Outcome.FAILED, error_code=DeadlinePassed.code)
    return Decision(outcome=Outcome.RETRY, error_code=error.code, retry_at=retry_at)


def put_off(error: MxdeliverError, *, until: datetime, deadline: datetime) -> Decision:
    """Decide what follows where no attempt is made: `error` was met on the way to the same server."""
    if until >= deadline:
        return Decision(outcome=Outcome.FAILED, error_code=DeadlinePassed.code)
    return Decision(outcome=Outcome.RETRY, error_code=error.code, retry_at=until)


def pause(*, policy: RetryPolicy, chance: float) -> timedelta:
    """Give the time for which a server that does not answer is left alone: as what heals slowly."""
    return policy.maximum * (0.5 + chance / 2)


def wait(error: MxdeliverError, *, attempt: int, policy: RetryPolicy, chance: float) -> timedelta:
    """Give the time to wait before the next attempt."""
    if error.kind is Kind.SLOW:
        return pause(policy=policy, chance=chance)
    doublings = min(attempt - 1, 32)
    longest: timedelta = min(policy.initial * 2**doublings, policy.maximum)
    return longest * chance
