"""One attempt of one delivery, begin to end: claim, build unless sealed, push, tell the ledger.

Here an error becomes an outcome. Nothing waits or tries again; `worker` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeAlias

from mxdeliver import binding, unknown_names
from mxdeliver.core import retry
from mxdeliver.core.errors import (
    DeadlinePassed,
    Internal,
    KeyFingerprint,
    MxdeliverError,
    StopRequested,
)
from mxdeliver.core.log import Log, counted
from mxdeliver.core.model import (
    Bundle,
    Client,
    Decision,
    DeliveryKey,
    Outcome,
)
from mxdeliver.edge.ledger import FileStage, Lease
from mxdeliver.push import push
from mxdeliver.site import Result, Site

Gate: TypeAlias = Callable[[Client, Callable[[], bool]], AbstractContextManager[Callable[[], None]]]
"""Entered before the login, with what tells of a stop; gives what is to be called once it went well."""


@contextmanager
def _always_open(_client: Client, _stop: Callable[[], bool]) -> Iterator[Callable[[], None]]:
    yield lambda: None


def deliver(key: DeliveryKey, client: Client, site: Site, gate: Gate = _always_open) -> Result:
    """Make one attempt; LeaseHeld when another process is at it, ledger errors as they come."""
    started = time.monotonic()
    with site.ledger.claim(
        key,
        now=site.clock(),
        context=site.context(client),
        deadline=site.clock() + client.retry.deadline,
    ) as lease:
        log = site.log(key, attempt=lease.number)
        try:
            bundle = _attempt(key, client, site, gate, lease, log)
        except MxdeliverError as error:
            return _ended(error, key, client, site, lease=lease, log=log, started=started)
        except Exception as error:  # noqa: BLE001 - a bug stays with its client
            bug = Internal.of(error)
            return _ended(bug, key, client, site, lease=lease, log=log, started=started)
        lease.check()
        seconds = round(time.monotonic() - started, 3)
        # Before the ledger says so: killed in between, the next run says it again. The other way
        # round nobody would.
        log(
            "delivery.delivered",
            f"{client.name} has {key.snapshot_date}: {counted(len(bundle.files), 'file')}, "
            f"{counted(bundle.record_count, 'record')}",
            record_count=bundle.record_count,
            encrypted_file_size=bundle.encrypted_size,
            seconds=seconds,
        )
        lease.delivered(now=site.clock())
        return Result(key=key, outcome=Outcome.DELIVERED, seconds=seconds)


def _attempt(
    key: DeliveryKey, client: Client, site: Site, gate: Gate, lease: Lease, log: Log
) -> Bundle:
    log(
        "delivery.started",
        f"{client.name}, {key.snapshot_date}",
        host=client.endpoint.host,
        port=client.endpoint.port,
    )
    now = site.clock()
    # What is under way ends after so long, wherever a clock that is set meanwhile points.
    limit = time.monotonic() + (_time_limit(client, lease, now) - now).total_seconds()

    def stop() -> bool:
        return site.stop() or time.monotonic() >= limit

    try:
        return _build_and_push(key, client, site, gate, lease, log, now=now, stop=stop)
    except StopRequested as error:
        if site.stop():
            raise
        raise DeadlinePassed("the time for this delivery is over while it was under way") from error


def _time_limit(client: Client, lease: Lease, now: datetime) -> datetime:
    """Give the end of this attempt: the deadline, or as long anew where that has passed already."""
    return lease.deadline if lease.deadline > now else now + client.retry.deadline


def _build_and_push(
    key: DeliveryKey,
    client: Client,
    site: Site,
    gate: Gate,
    lease: Lease,
    log: Log,
    *,
    now: datetime,
    stop: Callable[[], bool],
) -> Bundle:
    # Vetted also when the bundle is sealed: a key that was revoked since then is not sent to.
    certificate = binding.certificate(client, now)
    binding.warn_of_expiry(client, certificate, now, log)
    known = site.ledger.bundle(key) if lease.was_sealed else None
    bundle = known or site.spool.bundle(key)
    # Sealed by no attempt that the ledger has: it was restored from an earlier backup.
    unheard_of = (
        bundle is not None
        and known is None
        and not site.ledger.may_have_sealed(key, before=lease.number)
    )
    if bundle is None:
        bundle = site.build(
            key, client, certificate=certificate, lock=lease.lock, log=log, stop=stop
        )
        log(
            "bundle.sealed",
            f"{len(bundle.files)} files sealed",
            record_count=bundle.record_count,
            encrypted_file_size=bundle.encrypted_size,
        )
    elif not (unheard_of or _is_in_doubt(key, site)) and set(bundle.key_fingerprints) != {
        k.fingerprint for k in certificate.encryption_keys
    }:
        raise KeyFingerprint(
            f"{key.snapshot_date} of {client.name} is sealed for an earlier key and partly "
            "delivered; `mxdeliver resend --rebuild` seals it for the present one"
        )
    lease.sealed(bundle, destination=client.endpoint.destination, in_doubt=unheard_of)
    with gate(client, stop) as went_well:
        push(
            bundle,
            client,
            lease=lease,
            records=site.ledger,
            spool=site.spool,
            credentials=binding.credentials(client),
            today=now.astimezone(UTC).date(),
            nonce=site.nonce,
            log=_and_then(log, "connection.opened", went_well),
            stop=stop,
        )
    return bundle


def _and_then(log: Log, event: str, call: Callable[[], None]) -> Log:
    """Give a log that tells also by `call` that something has come to pass."""

    def write(name: str, message: str, /, **fields: object) -> None:
        log(name, message, **fields)
        if name == event:
            call()

    return write


def needs_new_revision(key: DeliveryKey, client: Client, site: Site) -> bool:
    """Tell whether the sealed bundle is for another key than today's, and nothing of it was sent.

    Or whether the spool has the next revision already: then the ledger was restored from a backup.
    """
    try:
        if site.spool.has(replace(key, revision=key.revision + 1)):
            return True
        bundle = _known_bundle(key, site)
        if bundle is None:
            return False
        certificate = binding.certificate(client, site.clock())
    except MxdeliverError:
        return False  # what is wrong is met again, and written down, by `deliver`
    if set(bundle.key_fingerprints) == {k.fingerprint for k in certificate.encryption_keys}:
        return False
    untouched = {FileStage.SEALED, FileStage.UPLOADING}
    return all(
        file.state in untouched and file.evidence is None and not file.in_doubt
        for file in site.ledger.files(key).values()
    )


def _is_in_doubt(key: DeliveryKey, site: Site) -> bool:
    """Tell whether nothing of the delivery is sent for now, for whichever key it was sealed."""
    return any(file.in_doubt for file in site.ledger.files(key).values())


def _known_bundle(key: DeliveryKey, site: Site) -> Bundle | None:
    """Give the bundle that was sealed by an attempt of which the ledger knows."""
    delivery = site.ledger.get(key)
    if delivery is not None and delivery.sealed:
        return site.ledger.bundle(key)
    begun = 0 if delivery is None else delivery.attempts
    # After a crash just behind the seal the spool alone has it.
    own = begun > 0 and site.ledger.may_have_sealed(key, before=begun + 1)
    return site.spool.bundle(key) if own else None


def _ended(
    error: MxdeliverError,
    key: DeliveryKey,
    client: Client,
    site: Site,
    *,
    lease: Lease,
    log: Log,
    started: float,
) -> Result:
    """Decide what follows, write it into ledger and log."""
    now = site.clock()
    deadline = _deadline(key, site, now)
    earlier = site.ledger.attempts(key)
    tried = retry.count(error, earlier)
    decision = retry.decide(
        error,
        attempt=tried.attempt,
        alike=tried.alike,
        now=now,
        deadline=deadline,
        policy=client.retry,
        chance=site.chance(),
    )
    seconds = round(time.monotonic() - started, 3)
    _write_down(
        decision,
        error,
        error.explain(),
        client,
        lease=lease,
        log=log,
        deadline=deadline,
        now=now,
        seconds=seconds,
    )
    unknown_names.warn(error, earlier, client, log)
    return Result(
        key=key,
        outcome=decision.outcome,
        error=error,
        retry_at=decision.retry_at,
        seconds=seconds,
    )


def put_off(
    key: DeliveryKey,
    client: Client,
    site: Site,
    error: MxdeliverError,
    *,
    why: str,
    until: datetime,
) -> Result:
    """Leave a delivery until then without an attempt, after what others met at the same server.

    Past its deadline it has failed. LeaseHeld when another process is at it.
    """
    now = site.clock()
    with site.ledger.claim(
        key,
        now=now,
        context=site.context(client),
        deadline=now + client.retry.deadline,
        counted=False,
    ) as lease:
        deadline = _deadline(key, site, now)
        decision = retry.put_off(error, until=until, deadline=deadline)
        text = f"not tried, {why}; at last {error.explain()}"
        _write_down(
            decision,
            error,
            text,
            client,
            lease=lease,
            log=site.log(key),
            deadline=deadline,
            now=now,
        )
    return Result(key=key, outcome=decision.outcome, error=error, retry_at=decision.retry_at)


def _deadline(key: DeliveryKey, site: Site, now: datetime) -> datetime:
    delivery = site.ledger.get(key)
    return delivery.deadline if delivery is not None and delivery.deadline else now


def _write_down(
    decision: Decision,
    error: MxdeliverError,
    text: str,
    client: Client,
    *,
    lease: Lease,
    log: Log,
    deadline: datetime,
    now: datetime,
    **fields: object,
) -> None:
    """Tell the ledger, then the log, how it ended."""
    if decision.error_code == DeadlinePassed.code != error.code:
        text = f"not possible by {deadline:%Y-%m-%d %H:%M} UTC; at last {error.code}: {text}"
    _record(decision, error, text, lease, now)
    if decision.outcome is not Outcome.STOPPED:
        log(
            f"delivery.{_EVENT[decision.outcome]}",
            f"{client.name}, {lease.key.snapshot_date}: {text}",
            level="warning" if decision.outcome is Outcome.RETRY else "error",
            error_code=decision.error_code,
            retryable=decision.outcome is Outcome.RETRY,
            retry_at=decision.retry_at,
            host=client.endpoint.host,
            port=client.endpoint.port,
            **fields,
        )


_EVENT = {Outcome.RETRY: "retrying", Outcome.PARKED: "parked", Outcome.FAILED: "failed"}


def _record(
    decision: Decision, error: MxdeliverError, text: str, lease: Lease, now: datetime
) -> None:
    code = decision.error_code
    if decision.outcome is Outcome.RETRY and decision.retry_at is not None:
        lease.retry(now=now, not_before=decision.retry_at, error_code=code, error=text)
    elif decision.outcome is Outcome.PARKED:
        lease.park(now=now, error_code=code, error=text)
    elif decision.outcome is Outcome.FAILED:
        lease.fail(now=now, error_code=code, error=text, met=error.code)
    elif error.code != "LEASE_LOST":
        lease.stopped(now=now)
