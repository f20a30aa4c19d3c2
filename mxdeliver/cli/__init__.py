"""The commands: one file per family, loaded when called; wiring, and the only place that exits.

Commands raise; `command_line` turns errors of the program into text and an exit status. Each of
them imports what costs time (pyarrow, duckdb, sqlalchemy, paramiko) inside its function.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from importlib import import_module

import click

from mxdeliver import __version__
from mxdeliver.cli import process
from mxdeliver.core.errors import (
    ConfigInvalid,
    Internal,
    Kind,
    MxdeliverError,
    Problem,
    UsageError,
)

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERNAL = 70
EXIT_TEMPORARY = 75
EXIT_CONFIGURATION = 78

_COMMANDS = {
    "demo": ("mxdeliver.cli.demo", "Deliver sample days to a server on this machine and check them."),
    "run": ("mxdeliver.cli.run", "Deliver what is due, or the days that are named."),
    "schedule": ("mxdeliver.cli.schedule", "Stay and deliver whatever becomes due."),
    "status": ("mxdeliver.cli.status", "Show what was delivered, what waits, and why."),
    "resume": ("mxdeliver.cli.resume", "Make parked or failed deliveries due again."),
    "resend": ("mxdeliver.cli.resend", "Send a delivered day again."),
    "adopt": ("mxdeliver.cli.adopt", "Vouch that a client has a day; nothing is sent for it."),
    "check": ("mxdeliver.cli.check", "Check configuration, keys, secrets and sources, offline."),
    "hostkey": ("mxdeliver.cli.hostkey", "Show every host key of a server, ready to pin."),
    "key": ("mxdeliver.cli.key", "Show what a public key is and whether it is accepted."),
    "verify": ("mxdeliver.cli.verify", "Check received files against their manifests."),
    "explain": ("mxdeliver.cli.explain", "Explain an error code."),
    "prune": ("mxdeliver.cli.prune", "Drop sealed bundles past their retention."),
    "ledger": ("mxdeliver.cli.ledger", "Make a lost or damaged ledger anew from the spool."),
    "config": ("mxdeliver.cli.config", "Print the configuration's JSON Schema or a sample."),
}  # fmt: skip


class Refused(UsageError):
    """The command is right, but not for what it names: nothing is done."""

    kind = Kind.FAILED
    remedy = ""


class _Commands(click.Group):
    """A group whose commands are imported when they are called, so that `--help` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the commands in the order in which people meet them."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; each module names its click command `command`."""
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(_COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mxdeliver")
def root() -> None:
    """Deliver each client's daily files to the client's own server: once, whole, for them alone."""


def command_line(arguments: list[str] | None = None) -> None:
    """Run a command and exit: errors of the program become text and an exit status."""
    try:
        status = root.main(args=arguments, prog_name="mxdeliver", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        status = exit_.exit_code
    except click.Abort:
        click.echo("mxdeliver: interrupted", err=True)
        status = EXIT_TEMPORARY
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except MxdeliverError as error:
        show(error)
        status = exit_status(error)
    except Exception as error:  # noqa: BLE001 - a traceback may show what must not be shown
        show(Internal.of(error))
        status = EXIT_INTERNAL
    sys.exit(_if_printed(status if isinstance(status, int) else 0))


def _if_printed(status: int) -> int:
    """Give the exit status; output that was cut short is no success."""
    lost = process.lost_output()
    if lost is None or status not in {0, EXIT_TEMPORARY}:
        return status
    if not isinstance(lost, BrokenPipeError):  # who reads no more need not be told
        click.echo(f"mxdeliver: standard output is cut short: {lost.strerror}", err=True)
    return EXIT_FAILED


def show(error: MxdeliverError) -> None:
    """Print an error for the person at the terminal or in the cron mail, on standard error."""
    if isinstance(error, ConfigInvalid) and error.problems:
        for problem in error.problems:
            click.echo(f"mxdeliver: {problem_code(problem)}: {problem}", err=True)
    else:
        click.echo(f"mxdeliver: {error.code}: {error.explain()}", err=True)


def problem_code(problem: Problem) -> str:
    """Give the error code of one line of the configuration that is wrong."""
    return problem.code


def worst(statuses: Collection[int]) -> int:
    """Give the exit status that tells of the worst of several; 0 where there is none."""
    worst_first = (EXIT_INTERNAL, EXIT_CONFIGURATION, EXIT_FAILED, EXIT_TEMPORARY)
    return next((status for status in worst_first if status in statuses), 0)


def exit_status(error: MxdeliverError) -> int:
    """Give the exit status for an error that stopped a command."""
    if error.code == "INTERNAL":
        return EXIT_INTERNAL
    if error.kind is Kind.CONFIGURATION:
        return EXIT_CONFIGURATION
    if error.kind is Kind.USAGE:
        return EXIT_USAGE
    if error.retryable or error.kind is Kind.ELSEWHERE:
        return EXIT_TEMPORARY
    return EXIT_FAILED
