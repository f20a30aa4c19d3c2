"""(b) A whole day of one client: 63 files, of which 40 have no records, and the manifest."""

from __future__ import annotations

import sys

from bench.checks import Delivered
from bench.contest import GENEROUS_SECONDS, Contestant, Settings, compete
from bench.data import DAYS, count_files, names, write_days
from bench.ground import set_up
from bench.measure import Measured, measure, timed_by_itself
from bench.report import Part, compared, megabytes
from bench.workloads.one_file import run
from bench.workloads.transfer import DAY_WEIGHT


def day(settings: Settings) -> Part:
    """Compare the script with `mxdeliver run` as a command and in a process that has run before."""
    with set_up(settings.folder) as ground:
        (party,) = ground.parties
        database = ground.folder / "warehouse.duckdb"
        weight = DAY_WEIGHT / settings.size(1, 20)
        write_days(database, clients={party.guid: weight}, seed=settings.seed)
        source = {"database": str(database)}
        filled, records = count_files(database, party.guid, DAYS[1])
        second = DAYS[1].isoformat()
        plan = ground.write_plan(source, names(), DAYS[1])
        delivered = Delivered(ground, ground.parties, DAYS[1])

        def command() -> Measured:
            config = ground.write_config(ground.new_state(), source, "standard")
            return run(config, second, memory=False)

        def daemon() -> Measured:
            config = ground.write_config(ground.new_state(), source, "standard")
            return timed_by_itself("bench.ours", "days", config, DAYS[0].isoformat(), second)

        samples = compete(
            settings,
            "b",
            [
                Contestant(
                    name="script",
                    prepare=ground.empty,
                    run=lambda: measure(sys.executable, "-m", "bench.peers.script", plan),
                    check=delivered.look,
                    budget=GENEROUS_SECONDS,
                ),
                Contestant(name="ours", prepare=ground.empty, run=command, check=delivered.look),
                Contestant(name="daemon", prepare=ground.empty, run=daemon, check=delivered.look),
            ],
        )
        size = sum(path.stat().st_size for name, path in party.received().items() if second in name)
    work = f"a day: 63 files, {63 - filled} without records, {records:,} records, {megabytes(size)}"
    return Part(
        rows=[
            compared("b", f"{work}; as a command", samples["script"], samples["ours"], target=2),
            compared("b", f"{work}; in the daemon", samples["script"], samples["daemon"], target=3),
        ],
        note=(
            "**b**: the script is one Python process that does the day from a DuckDB database: one "
            "gpg for each file, one sftp batch, a manifest. *As a command* is `mxdeliver run --date` "
            "from an empty state, start to end. *In the daemon* is the same command's code called twice "
            "in one process, for two days of equal size: the second call is timed, from reading the "
            "configuration to the exit status, imports being paid; the script is the same process "
            "from start to end in both rows."
        ),
    )
