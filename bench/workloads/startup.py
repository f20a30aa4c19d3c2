"""(g) How long commands take to answer."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from bench.contest import Contestant, Settings, compete
from bench.data import names, write_days
from bench.ground import set_up
from bench.measure import Measured, measure
from bench.report import Part, limited
from bench.workloads.one_file import run

LIMITS = {"--help": 0.25, "status": 0.6}


def startup(settings: Settings) -> Part:
    """Time commands that have little to do."""
    with set_up(settings.folder) as ground:
        (party,) = ground.parties
        database = ground.folder / "warehouse.duckdb"
        write_days(database, clients={party.guid: 0.01}, seed=settings.seed)
        config = ground.write_config(ground.new_state(), {"database": str(database)}, names()[:3])
        run(config)
        command(config, "run")  # the days that are due by now
        on_config = {
            "status": ("status",),
            "check": ("check",),
            "prune": ("prune",),
            "run, nothing due": ("run",),
            "run --dry-run": ("run", "--dry-run"),
        }
        alone = {
            "--help": ("--help",),
            "--version": ("--version",),
            "run --help": ("run", "--help"),
            "explain": ("explain", "KEY_EXPIRED"),
            "key": ("key", str(party.public_key)),
            "config schema": ("config", "schema"),
        }
        samples = compete(
            settings,
            "g",
            [
                Contestant(name=name, run=partial(command, None, *arguments))
                for name, arguments in alone.items()
            ]
            + [
                Contestant(name=name, run=partial(command, config, *arguments))
                for name, arguments in on_config.items()
            ],
        )
    return Part(
        rows=[
            limited("g", f"`mxdeliver {name}`", sample, LIMITS.get(name))
            for name, sample in samples.items()
        ],
        note=(
            "**g**: whole processes, with byte code compiled before; one client whose due days "
            "are all delivered."
        ),
    )


def command(config: Path | None, *arguments: str) -> Measured:
    """Run a command, on a configuration where it has one."""
    chosen: list[str | Path] = [] if config is None else ["-c", config]
    return measure(sys.executable, "-m", "mxdeliver", *arguments, *chosen)
