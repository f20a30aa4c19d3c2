"""`mxdeliver check`: is everything right that can be known without the network, and who gets what."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mxdeliver import cli
from mxdeliver.cli import options, wiring
from mxdeliver.cli.documents import JsonCommand
from mxdeliver.cli.key import spaced
from mxdeliver.core.log import counted
from mxdeliver.core.manifest import STANDARD_RESOURCES
from mxdeliver.edge import kernel

if TYPE_CHECKING:
    from mxdeliver.cli.examination import Finding, Subject
    from mxdeliver.core.model import Client

_WIDTH = 88


@click.command(cls=JsonCommand)
@options.config_option
@click.option(
    "--client", "names", multiple=True, help="Only this client (guid or name); repeatable."
)
@options.json_option
def command(config_path: Path, names: tuple[str, ...], *, as_json: bool) -> int:
    """Check configuration, keys, secrets, schemas, sources and directories, without the network.

    Shows who is bound to what: client -> host:port -> fingerprint -> resources. Exit status: 0 all
    is well, 78 something in the configuration or a schema is wrong, 1 a key, a secret, a directory
    or a source's data is wrong, 75 a source cannot be reached at the moment.
    """
    from mxdeliver.cli.examination import examine  # noqa: PLC0415 - see cli

    kernel.harden()
    configuration = wiring.load(config_path)
    chosen = wiring.choose(configuration, names)
    subjects = examine(configuration, chosen, wiring.utc_now())
    if as_json:
        click.echo(json.dumps(_document(subjects)))
    else:
        _show(subjects)
    return cli.worst({finding.status for subject in subjects for finding in subject.findings})


# -- for people ------------------------------------------------------------------------------------


def _show(subjects: Sequence[Subject]) -> None:
    for subject in subjects:
        title = _title(subject)
        if title is not None:
            click.echo(title)
        elif subject.findings or subject.warnings:
            click.echo("for all clients")
        for finding in subject.findings:
            click.echo(f"    {finding}")
        for warning in subject.warnings:
            click.echo(f"    warning: {warning}")
    count = sum(len(subject.findings) for subject in subjects)
    clients = sum(subject.client is not None for subject in subjects)
    well = f"all is well with {counted(clients, 'client')}"
    click.echo(counted(count, "problem") if count else well)


def _title(subject: Subject) -> str | None:
    client = subject.client
    if client is not None:
        bound = (client.endpoint.server_name, *_fingerprints(client), _resources(client))
        lines = [_wrapped(f"  -> {part}") for part in bound]
        return "\n".join((f"{client.name} ({client.guid})", *lines))
    if subject.name or subject.guid:
        return f"{subject.name or 'a client'} ({subject.guid or 'no guid'}): not usable"
    is_nameless = any(finding.problem is not None for finding in subject.findings)
    return "a client without guid and name: not usable" if is_nameless else None


def _wrapped(text: str) -> str:
    return textwrap.fill(
        text, _WIDTH, subsequent_indent="     ", break_long_words=False, break_on_hyphens=False
    )


def _fingerprints(client: Client) -> list[str]:
    return [spaced(recipient.fingerprint) for recipient in client.recipients]


def _resources(client: Client) -> str:
    if client.resources == STANDARD_RESOURCES:
        return f"standard ({len(STANDARD_RESOURCES)} resources)"
    return ", ".join(client.resources)


# -- for programs ----------------------------------------------------------------------------------


def _document(subjects: Sequence[Subject]) -> dict[str, Any]:
    general, *others = subjects
    return {
        "problems": [_finding(finding) for finding in general.findings],
        "warnings": general.warnings,
        "clients": [
            {
                "client_guid": subject.guid,
                "name": subject.name,
                **_bound(subject.client),
                "problems": [_finding(finding) for finding in subject.findings],
                "warnings": subject.warnings,
            }
            for subject in others
        ],
    }


def _bound(client: Client | None) -> dict[str, Any]:
    if client is None:
        return {}
    return {
        "host": client.endpoint.host,
        "port": client.endpoint.port,
        "directory": client.endpoint.directory,
        "fingerprints": [recipient.fingerprint for recipient in client.recipients],
        "source": client.source,
        "resources": list(client.resources),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    problem = finding.problem
    return {
        "code": finding.code,
        "message": finding.message,
        "remedy": finding.remedy,
        "file": problem.file if problem else None,
        "line": problem.line if problem else None,
        "path": problem.path if problem else None,
    }
