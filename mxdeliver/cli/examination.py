"""What `mxdeliver check` finds: every problem of a configuration and of what it points to.

Nothing here touches the network or makes anything: a state directory created by the wrong user
would be refused later. Errors are collected, not raised, so that all are told at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING

from mxdeliver import cli
from mxdeliver.core.errors import (
    ConfigInvalid,
    KeyMissing,
    MxdeliverError,
    Problem,
    SpoolMode,
)

if TYPE_CHECKING:
    from mxdeliver.cli.wiring import Chosen
    from mxdeliver.core.model import Client, Recipient, Resource
    from mxdeliver.core.secret import SecretReference
    from mxdeliver.edge.config import Configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing wrong; `place` is `file:line: path` where it stands in the configuration."""

    code: str
    message: str
    remedy: str
    status: int
    problem: Problem | None = None

    def __str__(self) -> str:
        if self.problem is not None:
            return f"{self.code}: {self.problem}"
        return f"{self.code}: {self.message}. {self.remedy}"


@dataclass(slots=True, kw_only=True)
class Subject:
    """Whom findings concern: a client, or everyone where `guid` and `name` are None."""

    guid: str | None = None
    name: str | None = None
    client: Client | None = None
    findings: list[Finding] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def note(self, error: MxdeliverError, about: str = "") -> None:
        """Add what an error says; `about` names the file that it does not name itself."""
        if isinstance(error, ConfigInvalid) and error.problems:
            self.findings += map(finding_of, error.problems)
            return
        self.findings.append(
            Finding(
                code=error.code,
                message=f"{about}{error}",
                remedy=error.remedy,
                status=cli.exit_status(error),
            )
        )


def finding_of(problem: Problem) -> Finding:
    """Turn a line of the configuration that is wrong into a finding."""
    return Finding(
        code=cli.problem_code(problem),
        message=f"{problem.path} {problem.problem}".strip(),
        remedy=problem.remedy,
        status=cli.EXIT_CONFIGURATION,
        problem=problem,
    )


def examine(configuration: Configuration, chosen: Chosen, now: datetime) -> list[Subject]:
    """Look at everything; the first subject is what concerns all clients."""
    from mxdeliver.edge.avro import load_resources  # noqa: PLC0415 - see cli

    general = Subject()
    resources: Mapping[str, Resource] | None = None
    try:
        resources = load_resources(configuration.schema_folders)
    except MxdeliverError as error:
        general.note(error)
    _directories(configuration, general)
    _ledger(configuration, general)
    broken = [
        Subject(guid=one.guid, name=one.name, findings=list(map(finding_of, one.problems)))
        for one in chosen.broken
    ]
    subjects = [_client(client, now) for client in chosen.clients]
    if resources is not None:
        _sources(configuration, subjects, resources)
    for subject in subjects:
        _mix_ups(subject, configuration.clients)
    return [general, *subjects, *broken]


# -- files that everyone shares --------------------------------------------------------------------


def _directories(configuration: Configuration, general: Subject) -> None:
    from mxdeliver.edge.spool import Spool  # noqa: PLC0415 - see cli

    state_dir = configuration.state_dir
    try:
        if os.path.lexists(state_dir):
            Spool(state_dir).check()
        elif (parent := _blocked(state_dir)) is not None:
            raise SpoolMode(f"{state_dir} does not exist and cannot be made in {parent}")
    except MxdeliverError as error:
        general.note(error)
    log = configuration.delivery_log
    if log is not None and (parent := _blocked(log)) is not None:
        general.warnings.append(f"the delivery log {log} cannot be written: see {parent}")


def _ledger(configuration: Configuration, general: Subject) -> None:
    from mxdeliver.edge.config import secrets  # noqa: PLC0415 - see cli
    from mxdeliver.edge.ledger import require_place  # noqa: PLC0415 - imports SQLAlchemy

    reference = configuration.ledger_url
    try:
        url = None if reference is None else secrets.resolve(reference).reveal_text()
        require_place(configuration.state_dir, url)
    except MxdeliverError as error:
        general.note(error)


def _blocked(path: Path) -> Path | None:
    """Give what keeps this user from writing `path`: the file, or the nearest folder there is."""
    if path.is_file():
        return None if os.access(path, os.W_OK) else path
    parent = next(folder for folder in path.parents if folder.exists())
    writable = parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)
    return None if writable and not path.is_dir() else parent


# -- one client ------------------------------------------------------------------------------------


def _client(client: Client, now: datetime) -> Subject:
    subject = Subject(guid=client.guid, name=client.name, client=client)
    for reference in _secrets_of(client):
        _secret(reference, subject)
    _keys(client, subject, now)
    pins = client.endpoint.host_keys
    if all(pin.not_after is not None and pin.not_after < now.date() for pin in pins):
        subject.warnings.append("every pinned host key has passed its not_after")
    return subject


def _secrets_of(client: Client) -> Iterator[SecretReference]:
    endpoint = client.endpoint
    for reference in (endpoint.private_key, endpoint.passphrase, endpoint.password):
        if reference is not None:
            yield reference


def _secret(reference: SecretReference, subject: Subject) -> None:
    from mxdeliver.edge.config import secrets  # noqa: PLC0415 - see cli

    try:
        secrets.resolve(reference)
        subject.warnings += secrets.warnings(reference)
    except MxdeliverError as error:
        subject.note(error)


def _keys(client: Client, subject: Subject, now: datetime) -> None:
    from mxdeliver import binding  # noqa: PLC0415 - imports paramiko and pgpy

    today = now.astimezone(UTC).date()
    try:
        binding.recipient_on(client, today)
    except KeyMissing as error:
        subject.note(error)
    for recipient in client.recipients:
        if recipient.not_after is None or recipient.not_after >= today:
            _key(recipient, subject, now)


def _key(recipient: Recipient, subject: Subject, now: datetime) -> None:
    from mxdeliver import binding  # noqa: PLC0415 - imports paramiko and pgpy
    from mxdeliver.edge.openpgp import vet  # noqa: PLC0415 - imports pgpy

    at = now
    if recipient.not_before is not None:
        at = max(now, datetime.combine(recipient.not_before, time.min, UTC))
    try:
        data = binding.key_file(recipient.public_key)
        certificate = vet(data, at=at, fingerprint=recipient.fingerprint)
    except KeyMissing as error:
        subject.note(error)
    except MxdeliverError as error:
        subject.note(error, f"{recipient.public_key}: ")
    else:
        subject.warnings += (f"{recipient.public_key}: {text}" for text in certificate.warnings)


def _mix_ups(subject: Subject, clients: Sequence[Client]) -> None:
    """Warn of what may be right but is what a mix-up of two clients looks like."""
    client = subject.client
    for other in clients:
        if client is None or other.guid == client.guid:
            continue
        mine, theirs = client.endpoint, other.endpoint
        fingerprints = {recipient.fingerprint for recipient in client.recipients}
        same_key = fingerprints & {recipient.fingerprint for recipient in other.recipients}
        same_server = (mine.host.lower(), mine.port) == (theirs.host.lower(), theirs.port)
        if same_key and not same_server:
            subject.warnings.append(
                f"has the same OpenPGP key as {other.name}, but another server: each of them can "
                "read what is meant for the other"
            )
        same_place = same_server and mine.directory == theirs.directory
        if same_place and mine.username == theirs.username and not same_key:
            subject.warnings.append(
                f"is delivered into the same directory as {other.name}, with another OpenPGP key"
            )


# -- sources ---------------------------------------------------------------------------------------


def _sources(
    configuration: Configuration, subjects: Sequence[Subject], known: Mapping[str, Resource]
) -> None:
    """Ask each source once for each set of resources that its clients want."""
    from mxdeliver import binding  # noqa: PLC0415 - as above

    asked: dict[tuple[str, tuple[str, ...]], list[MxdeliverError]] = {}
    for subject in subjects:
        client = subject.client
        if client is None:
            continue
        try:
            resources = binding.resources_of(client, known)
        except MxdeliverError as error:
            subject.note(error)
            continue
        question = (client.source, client.resources)
        if question not in asked:
            asked[question] = _ask(configuration, client.source, resources)
        for found in asked[question]:
            subject.note(found)


def _ask(
    configuration: Configuration, name: str, resources: Sequence[Resource]
) -> list[MxdeliverError]:
    from mxdeliver.edge.sources import open_source  # noqa: PLC0415 - imports duckdb

    try:
        return open_source(configuration.sources[name]).problems(resources)
    except MxdeliverError as error:
        return [error]
