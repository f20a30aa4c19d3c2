"""The ledger for people and dashboards: rows, and sentences about what will happen next."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from mxdeliver.core.errors import DeliveryInDoubt, SpoolCorrupt
from mxdeliver.core.model import Client, Delivery, DeliveryState
from mxdeliver.edge.ledger import Publishing, ServerProfile
from mxdeliver.edge.ledger.planning import window_start

_TROUBLED = {DeliveryState.FAILED, DeliveryState.PARKED}


def row(delivery: Delivery, *, attempts: int = 0, seconds: float | None = 0.0) -> dict[str, object]:
    """Give a delivery as `run --json` shows it; `attempts` and `seconds` are those of the run."""
    waits = delivery.state is DeliveryState.WAITING
    return {
        "client_guid": delivery.key.client_guid,
        "snapshot_date": delivery.key.snapshot_date.isoformat(),
        "revision": delivery.key.revision,
        "state": delivery.state.value,
        "files": delivery.files,
        "records": delivery.records,
        "bytes": delivery.bytes,
        "attempts": attempts,
        "seconds": seconds,
        "error_code": delivery.error_code,
        "error": delivery.error,
        "retry_at": timestamp(delivery.not_before) if waits else None,
    }


def status_row(delivery: Delivery) -> dict[str, object]:
    """Give a delivery as `status --json` shows it.

    `attempts` are all that were ever made, `seconds` those of the last one, null where not known.
    """
    return {
        **row(delivery, attempts=delivery.attempts, seconds=delivery.seconds),
        "due_at": timestamp(delivery.due_at),
        "not_before": timestamp(delivery.not_before),
        "deadline": timestamp(delivery.deadline),
        "delivered_at": timestamp(delivery.delivered_at),
    }


def server_row(client: Client, profile: ServerProfile) -> dict[str, object]:
    """Give what was found out about a client's server as `status --json` shows it."""
    return {
        "client_guid": client.guid,
        "destination": profile.destination,
        "software": profile.software,
        "publishing": profile.publishing.value,
        "verification": profile.level,
        "sweeps": profile.sweeps,
        "decided_on": profile.decided_on.isoformat(),
    }


def server_sentence(client: Client, profile: ServerProfile) -> str:
    """Say how files get to a client's server."""
    how = {
        Publishing.RENAME: "files are renamed when they are whole",
        Publishing.DIRECT: "files are written under their final names, as no rename is possible",
    }[profile.publishing]
    swept = "; the receiver takes them away at once" if profile.sweeps else ""
    return f"{client.name}: {how}, {_VERIFIED[profile.level]}{swept} ({profile.destination})"


_VERIFIED = {
    "ack": "each answer of the server looked at",
    "size": "their sizes compared",
    "hash": "their hashes compared",
    "readback": "read back and compared",
}


def timestamp(moment: datetime | None) -> str | None:
    """Write a moment in UTC as RFC 3339."""
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def is_troubled(delivery: Delivery) -> bool:
    """Tell whether a person should look at it."""
    return delivery.state in _TROUBLED


def next_step(
    delivery: Delivery,
    clients: Mapping[str, Client],
    now: datetime,
    *,
    catch_up_days: int,
    is_due: bool = False,
) -> str:
    """Say what will happen by itself, or what must be done.

    `is_due`: what the delivery depends on has changed, or its time has come.
    """
    if delivery.state is DeliveryState.DELIVERED:
        if delivery.delivered_at is None:
            return f"adopted {_when(delivery.changed_at)}: a person vouches that the client has it"
        return f"delivered {_when(delivery.delivered_at)}"
    if delivery.state is DeliveryState.RUNNING:
        return "under way"
    if delivery.key.client_guid not in clients:
        return "nothing will be tried: the configuration has no usable entry for the client"
    if delivery.state is DeliveryState.WAITING:
        return _what_it_waits_for(delivery, now, is_due=is_due)
    client = clients[delivery.key.client_guid]
    opens_by_change = delivery.state is DeliveryState.PARKED and (
        delivery.key.snapshot_date >= window_start(client, now, catch_up_days)
    )
    return _what_must_be_done(
        delivery, _command_name(client), opens_by_change=opens_by_change, is_due=is_due
    )


def _what_it_waits_for(delivery: Delivery, now: datetime, *, is_due: bool) -> str:
    moment = delivery.not_before or delivery.due_at
    when = "by the next run" if is_due or moment <= now else f"at {_to_the_second(moment)}"
    # The deadline begins with the first attempt.
    if delivery.deadline is not None and delivery.deadline > now:
        when += f", until {_to_the_second(delivery.deadline)}"
    if delivery.error_code is None:
        return f"will be delivered {when}"
    return f"waits after {delivery.error_code}; will be tried again {when}"


def _what_must_be_done(
    delivery: Delivery, name: str, *, opens_by_change: bool, is_due: bool
) -> str:
    what = f"{delivery.state.value} {delivery.error_code} since {_when(delivery.changed_at)}"
    if delivery.error_code == DeliveryInDoubt.code:
        chosen = f"--client {name} --date {delivery.key.snapshot_date}"
        return (
            f"{what}; nothing will be sent until `mxdeliver adopt {chosen}` (the client has it) or "
            f"`mxdeliver resume {chosen}` (they do not)"
        )
    if delivery.error_code == SpoolCorrupt.code:
        chosen = f"--client {name} --date {delivery.key.snapshot_date}"
        return (
            f"{what}; nothing will be sent until `mxdeliver resend --rebuild {chosen}` (they have "
            f"nothing of it) or `mxdeliver adopt {chosen}` (they have it whole)"
        )
    if is_due:
        return (
            f"{what}; the client's configuration, key, secret or schema has changed since, and the "
            "next `mxdeliver run` tries it again"
        )
    if opens_by_change:
        return (
            f"{what}; nothing will be tried until "
            f"{_what_must_change(delivery.error_code)} or `mxdeliver resume --client {name}`"
        )
    return (
        f"{what}; nothing will be tried until "
        f"`mxdeliver resume --client {name} --date {delivery.key.snapshot_date}`"
    )


def _command_name(client: Client) -> str:
    if any(letter in client.name for letter in "\"'`$\\"):
        return client.guid
    return f'"{client.name}"' if " " in client.name else client.name


def _what_must_change(code: str | None) -> str:
    if code is None:
        return "the client's configuration changes"
    if code.startswith("AUTH_"):
        return "the password or key changes"
    if code.startswith("KEY_"):
        return "the client's public key or its fingerprint changes"
    if code.startswith("SECRET_"):
        return "the secret changes"
    return "the client's configuration changes"


def _when(moment: datetime | None) -> str:
    return "at an unknown time" if moment is None else f"{moment:%Y-%m-%d %H:%M} UTC"


def _to_the_second(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
