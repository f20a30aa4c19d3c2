"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

from mxdeliver.core.calendar import SnapshotDate

config_option = click.option(
    "-c",
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default="config.yaml",
    envvar="MXDELIVER_CONFIG",
    show_default=True,
    show_envvar=True,
    help="The configuration file.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on standard output."
)


class _Date(click.ParamType[SnapshotDate]):
    """A day as `YYYY-MM-DD`."""

    name = "YYYY-MM-DD"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> SnapshotDate:
        """Read the day; wrong usage for anything else."""
        if isinstance(value, SnapshotDate):
            return value
        try:
            return SnapshotDate.parse(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a date of the form YYYY-MM-DD", param, ctx)


DATE = _Date()
