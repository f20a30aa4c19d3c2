"""Options that several commands share."""

from __future__ import annotations

from collections import Counter
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


class Command(click.Command):
    """A command that refuses an option of one value given twice: click would take the last alone."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line; wrong usage where it says the same thing twice."""
        _, _, given = self.make_parser(ctx).parse_args(list(args))
        for option, times in Counter(given).items():
            if times > 1 and _takes_one_value(option):
                name = option.opts[-1]
                raise click.BadOptionUsage(
                    name, f"{name} is given {times} times; give it once", ctx
                )
        return super().parse_args(ctx, args)


def _takes_one_value(option: click.Parameter) -> bool:
    return isinstance(option, click.Option) and not (
        option.multiple or option.is_flag or option.count
    )


class Group(click.Group):
    """A group of such commands."""

    command_class = Command


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
