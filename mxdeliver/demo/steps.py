"""The demo from begin to end: make everything, deliver, check as the clients would.

The delivery is `mxdeliver run` in a process of its own, the check `mxdeliver verify`: what is seen
here is what an installation does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from mxdeliver.core.calendar import SnapshotDate, last_closed
from mxdeliver.core.errors import Internal
from mxdeliver.demo.clients import CLIENTS, DemoClient
from mxdeliver.demo.folder import DemoFolder, prepare, write_clients_side, write_config
from mxdeliver.demo.keys import make_host_key, make_key_pair, pin_of
from mxdeliver.demo.server import Login, serve
from mxdeliver.demo.warehouse import write_warehouse
from mxdeliver.edge.avro import load_resources

DAYS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoReport:
    """What came of it: the deliveries as `run --json` tells them, and who could not read theirs."""

    folder: DemoFolder
    days: tuple[SnapshotDate, ...]
    deliveries: tuple[Mapping[str, Any], ...]
    run_status: int
    unverified: tuple[DemoClient, ...]


def run_demo(
    root: Path, *, now: datetime, tell: Callable[[str], object], scale: float = 1.0
) -> DemoReport:
    """Deliver the two days before `now` (aware) to the demo's clients.

    `tell` is given a sentence before each step. FileExistsError as `folder.prepare`; Internal when
    the delivery did not even say what it did.
    """
    last = last_closed(ZoneInfo("UTC"), now)
    days = tuple(last.following(place - DAYS + 1) for place in range(DAYS))
    folder = prepare(root)
    logins, fingerprints = _make_clients(folder, now, tell)
    tell("Making a warehouse with two days of sample records")
    write_warehouse(
        folder.warehouse,
        resources=tuple(load_resources().values()),
        clients=CLIENTS,
        days=days,
        scale=scale,
    )
    host_key = make_host_key()
    with serve(logins, host_key) as port:
        write_config(
            folder, fingerprints, port=port, host_key_pin=pin_of(host_key), first_day=days[0]
        )
        tell(f"Delivering {days[0]} and {days[-1]} to the clients' server on 127.0.0.1:{port}")
        status, deliveries = deliver(folder, days)
    tell("Decrypting and checking everything with the clients' own keys")
    with ThreadPoolExecutor() as side_by_side:
        well = list(side_by_side.map(partial(received_well, folder), CLIENTS))
    return DemoReport(
        folder=folder,
        days=days,
        deliveries=deliveries,
        run_status=status,
        unverified=tuple(client for client, fine in zip(CLIENTS, well, strict=True) if not fine),
    )


def _make_clients(
    folder: DemoFolder, now: datetime, tell: Callable[[str], object]
) -> tuple[dict[str, Login], dict[DemoClient, str]]:
    tell(f"Making keys, passwords and a server for {len(CLIENTS)} clients")
    logins: dict[str, Login] = {}
    fingerprints: dict[DemoClient, str] = {}
    for client in CLIENTS:
        # A key dated now would not be valid yet for whoever's clock is a moment behind.
        pair = make_key_pair(client, now.astimezone(UTC) - timedelta(days=DAYS + 1))
        password = write_clients_side(folder, client, pair)
        logins[client.short_name] = Login(password=password, directory=folder.received(client))
        fingerprints[client] = pair.fingerprint
    return logins, fingerprints


def deliver(
    folder: DemoFolder, days: tuple[SnapshotDate, ...]
) -> tuple[int, tuple[Mapping[str, Any], ...]]:
    """Run the delivery and give its exit status and what it says of each delivery; Internal if nothing."""
    finished = _mxdeliver(
        "run", "--config", str(folder.config), "--from", str(days[0]), "--to", str(days[-1]), "--json"
    )  # fmt: skip
    try:
        document = json.loads(finished.stdout)
        return finished.returncode, tuple(document["deliveries"])
    except (ValueError, KeyError) as error:
        raise Internal(
            f"`mxdeliver run` ended with status {finished.returncode} and did not say what it delivered"
        ) from error


def received_well(folder: DemoFolder, client: DemoClient) -> bool:
    """Tell whether `mxdeliver verify` finds all right; what it finds wrong goes to standard error."""
    finished = _mxdeliver(
        "verify", str(folder.received(client)), "--secret-key", str(folder.secret_key(client))
    )
    if finished.returncode:
        sys.stderr.write(finished.stdout)
    return finished.returncode == 0


def _mxdeliver(*arguments: str) -> subprocess.CompletedProcess[str]:
    # -P: the working directory must not take part in finding the program's modules.
    finished = subprocess.run(  # noqa: S603 - our own program with arguments of our own
        [sys.executable, "-P", "-m", "mxdeliver", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if finished.returncode:
        sys.stderr.write(finished.stderr)
    return finished
