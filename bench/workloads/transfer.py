"""(d) The transfer of a day's files, (e) of one large file, over several round-trip times."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.checks import require, same_bytes
from bench.contest import Contestant, Sample, Settings, compete
from bench.data import DAYS, RESOURCE, count_files, write_days, write_transactions
from bench.delay import delayed
from bench.ground import Ground, Party, set_up
from bench.measure import Measured, measure, timed_by_itself
from bench.peers import transfer
from bench.report import Part, Row, compared, megabytes

DAY_WEIGHT = 2.92
LARGE_ROWS = 1_535_000
_MANIFEST = "-manifest.csv.pgp"


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """A sealed bundle: the state directory that holds it, and its files for the others to send."""

    ground: Ground
    state: Path
    files: Path
    manifest: str | None
    source: Mapping[str, Any]
    resources: Sequence[str] | str
    codec: str = "deflate"

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(path.stat().st_size for path in self.files.iterdir())

    def push(self, port: int) -> Measured:
        """Send the bundle with a state that knows of no attempt yet."""
        state = self.ground.new_state()
        shutil.copytree(self.state / "state", state / "state", copy_function=_link)
        config = self.ground.write_config(
            state, self.source, self.resources, codec=self.codec, port=port
        )
        return timed_by_itself("bench.ours", "push", config, DAYS[0].isoformat())


def _link(source: str, target: str) -> str:
    """Link what is sealed, which nobody writes to, and copy the ledger."""
    if source.endswith(".pgp"):
        Path(target).hardlink_to(source)
    else:
        shutil.copy2(source, target)
    return target


def seal(
    ground: Ground,
    memory: Path,
    source: Mapping[str, Any],
    resources: Sequence[str] | str,
    *,
    codec: str = "deflate",
    largest_alone: bool = False,
) -> Sealed:
    """Let mxdeliver build the files, and put them where the others take them from.

    With `largest_alone` the others get the largest file only.
    """
    state = ground.folder / "sealed"
    state.mkdir()
    config = ground.write_config(state, source, resources, codec=codec)
    timed_by_itself("bench.ours", "seal", config, DAYS[0].isoformat())
    made = sorted((state / "state" / "spool").glob("*/*.pgp"), key=lambda path: path.stat().st_size)
    files = memory / "files"
    files.mkdir()
    for path in made[-1:] if largest_alone else made:
        shutil.copyfile(path, files / path.name)
    return Sealed(
        ground=ground,
        state=state,
        files=files,
        manifest=None
        if largest_alone
        else next(path.name for path in made if path.name.endswith(_MANIFEST)),
        source=source,
        resources=resources,
        codec=codec,
    )


def day_transfer(settings: Settings) -> Part:
    """Compare the transfer of 64 files at several round-trip times."""
    rows: list[Row] = []
    with set_up(settings.folder) as ground:
        (party,) = ground.parties
        database = ground.folder / "warehouse.duckdb"
        weight = DAY_WEIGHT / settings.size(1, 20)
        write_days(database, clients={party.guid: weight}, seed=settings.seed)
        filled, _ = count_files(database, party.guid, DAYS[0])
        sealed = seal(ground, settings.memory, {"database": str(database)}, "standard")
        work = f"{len(list(sealed.files.iterdir()))} files, {megabytes(sealed.bytes)}"
        for delay in (0, 10, 50, 150) if not settings.small else (0, 50):
            with delayed(ground.server.port, delay) as port:
                samples = compete(settings, f"d {delay} ms", _contestants(sealed, party, port))
            rows += _day_rows(f"{work}, {delay} ms", samples, far=delay >= 50)
        shutil.rmtree(sealed.files)
    return Part(
        rows=rows,
        note=(
            f"**d**: the files of a day ({filled} with records), sent to the server through "
            "`bench/delay.py`, which adds round-trip time and nothing else (0 ms: no proxy). "
            "Ours is `push` of the sealed bundle, from its call to its return, imports being paid: the files are read "
            "and hashed as well, ledger and log are kept, every answer is looked at, the manifest is "
            "renamed last. Programs are timed from start to end; paramiko from its connect. "
            "sftp, lftp and paramiko use temporary names and renames and send the manifest last; "
            "rclone does neither. lftp opens up to eight connections, the others one; paramiko's "
            "`put` looks at each file's size, as it does by default."
        ),
    )


def _day_rows(work: str, samples: dict[str, Sample], *, far: bool) -> list[Row]:
    targets = {"OpenSSH sftp": 9, "lftp, 8 transfers": 3, "paramiko put, 8 channels": 2}
    return [
        compared("d", work, sample, samples["ours"], target=targets.get(name) if far else None)
        for name, sample in samples.items()
        if name != "ours"
    ]


def large_transfer(settings: Settings) -> Part:
    """Compare the transfer of one large file, near and far."""
    rows: list[Row] = []
    with set_up(settings.folder) as ground:
        (party,) = ground.parties
        parquet = ground.folder / "transactions.parquet"
        count = settings.size(LARGE_ROWS, 30_000)
        write_transactions(parquet, count, settings.seed, client=party.guid)
        source = {"views": {RESOURCE: f"read_parquet('{parquet}')"}}
        sealed = seal(ground, settings.memory, source, [RESOURCE], codec="null", largest_alone=True)
        work = f"one file of {megabytes(sealed.bytes)}"
        for delay in (0, 50):
            with delayed(ground.server.port, delay) as port:
                samples = compete(settings, f"e {delay} ms", _contestants(sealed, party, port))
            rows += _large_rows(f"{work}, {delay} ms", samples, far=delay > 0)
        shutil.rmtree(sealed.files)
    return Part(
        rows=rows,
        note=(
            "**e**: as d, but one file, which is a sealed one of Avro without compression; ours "
            "sends the two files without records and the manifest beside it, the others do not. "
            "lftp has 64 requests under way, as OpenSSH's sftp and rclone have by default."
        ),
    )


def _large_rows(work: str, samples: dict[str, Sample], *, far: bool) -> list[Row]:
    peers = [sample for name, sample in samples.items() if name != "ours"]
    fastest = min(peers, key=Sample.median)
    return [
        compared(
            "e",
            work,
            sample,
            samples["ours"],
            target=1 if (sample is fastest if far else sample.name == "OpenSSH sftp") else None,
        )
        for sample in peers
    ]


def _contestants(sealed: Sealed, party: Party, port: int) -> list[Contestant]:
    ground, folder, manifest = sealed.ground, sealed.files, sealed.manifest
    login = transfer.Login(
        host=ground.server.host,
        port=port,
        username=ground.server.username,
        key=ground.ssh_key,
        directory=str(party.directory),
    )
    batch = transfer.sftp_batch(login, folder, manifest)

    def contestant(name: str, run: Callable[[], Measured]) -> Contestant:
        def check() -> None:
            _compare(sealed, party, name)

        return Contestant(name=name, run=run, prepare=party.empty, check=check)

    return [
        contestant("OpenSSH sftp", lambda: measure(*transfer.sftp(login), text=batch)),
        contestant("ours", lambda: sealed.push(port)),
        contestant("lftp, 8 transfers", lambda: measure(*transfer.lftp(login, folder, manifest))),
        contestant("rclone", lambda: measure(*transfer.rclone(login, folder))),
        contestant(
            "paramiko put, 8 channels",
            lambda: timed_by_itself(*transfer.paramiko(login, folder, manifest)),
        ),
    ]


def _compare(sealed: Sealed, party: Party, name: str) -> None:
    received = party.received()
    for path in sealed.files.iterdir():
        require(path.name in received, f"{name}: {path.name} did not arrive")
        same_bytes(path, received[path.name], f"{name}: {path.name}")
    strange = [one for one in received if one.startswith(".") or one.endswith(".part")]
    require(not strange, f"{name}: temporary files are left")
