"""`mxdeliver demo`: the whole thing on this machine, with sample data, and what to try next."""

from __future__ import annotations

import shlex
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mxdeliver.cli import EXIT_FAILED, options

if TYPE_CHECKING:
    from rich.console import Console

    from mxdeliver.demo.steps import DemoReport


@click.command("demo", cls=options.Command)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default="mxdeliver-demo",
    show_default=True,
    help="Where everything is put; an older demo there is replaced.",
)
@click.option(
    "--scale",
    type=click.FloatRange(0.0, 100.0, min_open=True),
    default=1.0,
    show_default=True,
    help="Multiplies the number of sample records.",
)
def command(folder: Path, scale: float) -> None:
    """Deliver two sample days to three clients' servers on this machine, and check them."""
    from rich.console import Console  # noqa: PLC0415 - costs time

    from mxdeliver.demo.steps import run_demo  # noqa: PLC0415 - costs time

    console = Console(highlight=False, soft_wrap=True)
    started = datetime.now(UTC)
    try:
        report = run_demo(folder, now=started, tell=click.echo, scale=scale)
    except FileExistsError as error:
        raise click.UsageError(str(error)) from error
    seconds = (datetime.now(UTC) - started).total_seconds()
    _show_deliveries(console, report)
    if report.run_status or report.unverified:
        for client in report.unverified:
            click.echo(f"mxdeliver: what {client.name} received is not right", err=True)
        sys.exit(report.run_status or EXIT_FAILED)
    _show_places(console, report, seconds)


def _show_deliveries(console: Console, report: DemoReport) -> None:
    from rich import box  # noqa: PLC0415 - costs time
    from rich.table import Table  # noqa: PLC0415 - costs time

    from mxdeliver.demo.clients import CLIENTS  # noqa: PLC0415 - with its package

    names = {client.guid: client.name for client in CLIENTS}
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0, pad_edge=False)
    for heading in ("client", "day", "state"):
        table.add_column(heading, no_wrap=True)
    for heading in ("files", "records", "bytes", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for delivery in report.deliveries:
        table.add_row(
            names[delivery["client_guid"]],
            delivery["snapshot_date"],
            delivery["error_code"] or delivery["state"],
            f"{delivery['files']:,}",
            f"{delivery['records']:,}",
            f"{delivery['bytes']:,}",
            f"{delivery['seconds']:.1f}",
        )
    console.print()
    console.print(table)
    console.print()


def _show_places(console: Console, report: DemoReport, seconds: float) -> None:
    from mxdeliver.demo.clients import CLIENTS  # noqa: PLC0415 - with its package

    folder = report.folder
    files = sum(delivery["files"] for delivery in report.deliveries)
    records = sum(delivery["records"] for delivery in report.deliveries)
    console.print(
        f"{files:,} files with {records:,} records delivered, decrypted and found right "
        f"in {seconds:.0f} seconds, making the data included.\n\n"
        f"received files  {folder.root / 'received'}\n"
        f"delivery log    {folder.log}\n"
        f"ledger          {folder.ledger}\n\n"
        "Try next:",
        markup=False,
    )
    for arguments in (
        ("status", "-c", folder.config),
        ("verify", folder.received(CLIENTS[0]), "--secret-key", folder.secret_key(CLIENTS[0])),
        ("key", folder.public_key(CLIENTS[0])),
    ):
        words = [*_program(), *map(str, arguments)]
        console.print("  " + shlex.join(words), markup=False)


def _program() -> list[str]:
    """Give the words that start the program from this shell."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        return [sys.executable, "-m", "mxdeliver"]
    found = shutil.which("mxdeliver")
    if found is not None and Path(found).resolve() == program.resolve():
        return ["mxdeliver"]
    return [str(program)]
