"""Progress bars of a run, on a terminal; fed by the events of the delivery log."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from mxdeliver.core.model import Client, EventType

if TYPE_CHECKING:
    from rich.progress import TaskID

Observer: TypeAlias = Callable[[str, Mapping[str, object]], None]
_STEPS = {"file.built": "building", "file.delivered": "sending", "manifest.delivered": "sending"}
_ENDS = {
    "delivery.delivered": "[green]delivered",
    "delivery.retrying": "[yellow]waits",
    "delivery.parked": "[red]parked",
    "delivery.failed": "[red]failed",
}


@contextmanager
def progress_bars(clients: Mapping[str, Client]) -> Iterator[Observer | None]:
    """Give what shows a bar for each delivery on standard error; None where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415 - see cli
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415 - see cli

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[step]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[tuple[object, object], TaskID] = {}

        def observe(event: str, fields: Mapping[str, object]) -> None:
            key = (fields.get("client_guid"), fields.get("snapshot_date"))
            if event == "delivery.started":
                client = clients[str(key[0])]
                files = len(client.resources) * len(EventType)
                if key not in tasks:
                    tasks[key] = progress.add_task(
                        f"{client.name}, {key[1]}", total=2 * files + 1, step=""
                    )
                progress.reset(tasks[key], step="building")
            elif key in tasks and event == "connection.opened":
                # the files may have been sealed by an earlier attempt
                files = len(clients[str(key[0])].resources) * len(EventType)
                progress.update(tasks[key], completed=files, step="sending")
            elif key in tasks and event in _STEPS:
                progress.update(tasks[key], advance=1, step=_STEPS[event])
            elif key in tasks and event in _ENDS:
                why = fields.get("error_code")
                progress.update(tasks[key], step=_ENDS[event] + (f", {why}" if why else ""))
                if event == "delivery.delivered":
                    progress.update(tasks[key], completed=progress.tasks[tasks[key]].total)

        yield observe
