"""Attempts of one delivery in this process, and crashes between two of its steps.

    party = one_day(tmp_path, server)
    crash(party, monkeypatch, Lease, "publishing", after=True)
    assert attempt(party).outcome is Outcome.DELIVERED

The steps are the real ones; a crash is an exception that nothing in the program catches, so that
what is behind it does not happen, as after SIGKILL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from mxdeliver.cli import wiring
from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.model import Client, DeliveryKey
from mxdeliver.deliver import deliver, needs_new_revision
from mxdeliver.edge.avro import load_resources
from mxdeliver.edge.ledger import ServerProfile
from mxdeliver.site import Result, Site
from tests.support.deployment import DeliveryServer, Deployment, Party
from tests.support.warehouse import make_warehouse

DAY = SnapshotDate(2026, 11, 20)
FILES = 4
"""Three events of one resource, and the manifest."""


class CrashError(BaseException):
    """Ends everything, as SIGKILL would."""


class DayParty(Party):
    """A client with its deployment, which has nothing to deliver but `DAY`."""

    deployment: Deployment
    at_rest: Callable[[], None] = staticmethod(lambda: None)
    """Called when an attempt is over, crashed or not."""


def one_day(folder: Path, server: DeliveryServer, *, rows: int = 5) -> DayParty:
    """Give a client of a fresh deployment that is to get one resource."""
    deployment = Deployment(folder, server)
    added = deployment.add_client(resources=["users"])
    party = DayParty(added.entry, added.directory, added.key)
    make_warehouse(
        deployment.warehouse,
        clients=[party.guid],
        days=[date.fromordinal(DAY.toordinal())],
        filled=["users"],
        rows=rows,
    )
    party.deployment = deployment
    return party


@contextmanager
def site_of(party: DayParty) -> Iterator[tuple[Site, Client]]:
    """Open the deployment as a command does."""
    party.deployment.write()
    configuration = wiring.load(party.deployment.config_path)
    with wiring.open_site(
        configuration, resources=load_resources(), run_id="test", stop=Event()
    ) as site:
        yield site, configuration.clients[0]


def attempt(party: DayParty) -> Result:
    """Make one attempt of the day's latest revision, or of the next one where that is needed."""
    with site_of(party) as (site, client):
        key = site.ledger.ensure([client], DAY, now=site.clock())[0].key
        site.ledger.reopen({key: site.clock() + client.retry.deadline}, now=site.clock())
        if needs_new_revision(key, client, site):
            key = site.ledger.new_revision(client, DAY, now=site.clock())
        result = deliver(key, client, site)
    party.at_rest()
    return result


def resume(party: DayParty) -> None:
    """Do what `mxdeliver resume` does."""
    with site_of(party) as (site, _):
        site.ledger.resume(client_guid=party.guid, day=DAY, now=site.clock())


def resend(party: DayParty) -> DeliveryKey:
    """Do what `mxdeliver resend` does, but for the attempt."""
    with site_of(party) as (site, client):
        latest = site.ledger.latest(client.guid, DAY)
        assert latest is not None
        site.ledger.resend(latest.key, now=site.clock())
        return latest.key


def rebuild(party: DayParty) -> None:
    """Do what `mxdeliver resend --rebuild` does, but for the attempt."""
    with site_of(party) as (site, client):
        site.ledger.new_revision(client, DAY, now=site.clock())


def sealed(party: DayParty) -> dict[str, bytes]:
    """Give what was sealed for the latest revision: the only bytes that may be seen whole (I3)."""
    with site_of(party) as (site, client):
        latest = site.ledger.latest(client.guid, DAY)
        bundle = None if latest is None else site.ledger.bundle(latest.key)
        assert bundle is not None
        found = {}
        for file in bundle.files:
            with site.spool.read(bundle.key, file) as stream:
                found[file.name] = stream.read()
        return found


def profile(party: DayParty) -> ServerProfile | None:
    """Give what the ledger knows of the client's server."""
    with site_of(party) as (site, client):
        return site.ledger.servers().get(client.guid)


def crash(
    party: DayParty,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    *,
    after: bool = False,
    call: int = 1,
) -> None:
    """Make an attempt that ends before (or after) the `call`th call of a step."""
    original = getattr(owner, name)
    calls = []

    def crashing(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) < call:
            return original(*arguments, **options)
        if after:
            original(*arguments, **options)
        raise CrashError

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, crashing)
        with pytest.raises(CrashError):
            attempt(party)
    party.at_rest()


def is_whole(party: Party) -> bool:
    """Tell whether the client has all files of the day and nothing beside them."""
    return len(party.received()) == FILES and party.leftovers() == []
