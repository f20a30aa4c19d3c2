"""(c) Many small clients, each with its own key and directory."""

from __future__ import annotations

import sys

from bench.checks import Delivered, require
from bench.contest import Contestant, Settings, compete
from bench.data import DAYS, count_files, names, write_clients, write_days
from bench.ground import Ground, guid, set_up
from bench.measure import Measured, measure
from bench.report import Part, compared
from bench.workloads.one_file import run

CLIENTS = 200
RESOURCES = ("users", "accounts", "transactions")
WEIGHT = 0.013
FILES = 3 * len(RESOURCES) + 1
LOOKED_AT = 3


def clients(settings: Settings) -> Part:
    """Compare the script, client after client, with one `mxdeliver run` for all."""
    count = settings.size(CLIENTS, 8)
    with set_up(settings.folder, clients=count) as ground:
        database = ground.folder / "warehouse.duckdb"
        write_days(database, clients={guid(0): WEIGHT}, seed=settings.seed)
        write_clients(database, [party.guid for party in ground.parties])
        _, records = count_files(database, guid(0), DAYS[0], RESOURCES)
        source = {"database": str(database)}
        plan = ground.write_plan(source, names(RESOURCES), DAYS[0])
        delivered = Delivered(ground, ground.parties[:: count // LOOKED_AT], DAYS[0])

        def check() -> None:
            _all_have_all(ground)
            delivered.look()

        def ours() -> Measured:
            config = ground.write_config(ground.new_state(), source, names(RESOURCES))
            return run(config, memory=False)

        samples = compete(
            settings,
            "c",
            [
                Contestant(
                    name="script",
                    prepare=ground.empty,
                    run=lambda: measure(sys.executable, "-m", "bench.peers.script", plan),
                    check=check,
                ),
                Contestant(name="ours", prepare=ground.empty, run=ours, check=check),
            ],
        )
    work = f"{count} clients, {len(RESOURCES)} resources, {records} records each"
    return Part(
        rows=[compared("c", work, samples["script"], samples["ours"], target=5)],
        note=(
            f"**c**: all clients from one DuckDB database; {FILES} files each, a manifest among "
            "them. Three resources instead of 21, since a round of the script would take many minutes "
            "otherwise. The script does all clients in one process, which is faster than one "
            "process for each; ours is one `mxdeliver run --date` with everything as it is by default."
        ),
    )


def _all_have_all(ground: Ground) -> None:
    for party in ground.parties:
        found = len(party.received())
        require(found == FILES, f"{party.guid} has {found} files, not {FILES}")
