"""`mxdeliver config schema` and `mxdeliver config sample`."""

from __future__ import annotations

import json

import click

from mxdeliver.cli import options


@click.group(name="config", cls=options.Group)
def command() -> None:
    """Print the configuration's JSON Schema or a sample."""


@command.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from mxdeliver.edge.config import json_schema  # noqa: PLC0415 - pydantic takes its time to load

    click.echo(json.dumps(json_schema(), indent=2))


@command.command()
def sample() -> None:
    """Print a commented configuration with every key there is."""
    from mxdeliver.edge.config import sample as text  # noqa: PLC0415 - as above

    click.echo(text(), nl=False)
