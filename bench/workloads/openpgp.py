"""(openpgp) OpenPGP alone: one file that cannot be compressed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.checks import same_bytes
from bench.contest import Contestant, Settings, compete
from bench.data import write_noise
from bench.ground import Ground, set_up
from bench.measure import Measured, measure, timed_by_itself
from bench.peers.openpgp import gpg_command, sqop_command
from bench.report import Part, compared, limited, megabytes

SIZE = 1_000_000_000
PGPY_SHARE = 10
MEMORY_LIMIT = 40_000_000
NOWHERE = Path("/dev/null")


def openpgp(settings: Settings) -> Part:
    """Compare libraries and programs that encrypt."""
    size = settings.size(SIZE, 50_000_000)
    folder = settings.memory
    plain, tenth = folder / "plain", folder / "tenth"
    write_noise(plain, size, settings.seed)
    write_noise(tenth, size // PGPY_SHARE, settings.seed)
    with set_up(settings.folder) as ground:
        samples = compete(settings, "openpgp", _contestants(ground, folder, plain, tenth))
    plain.unlink()
    tenth.unlink()
    ours = samples["ours"]
    work = f"{megabytes(size)} encrypted"
    return Part(
        rows=[
            compared("openpgp", work, samples["gpg"], ours, target=2),
            compared("openpgp", work, samples["pysequoia"], ours, target=2),
            compared("openpgp", work, samples["sqop"], ours),
            compared("openpgp", work, samples["pgpy"], ours),
            limited(
                "openpgp",
                "memory beyond the interpreter with its imports",
                ours,
                MEMORY_LIMIT,
                what="growth",
            ),
        ],
        note=(
            "**openpgp**: random bytes, read from memory, the message goes to `/dev/null` (in the "
            "round that warms up to memory, where gpg decrypts it and the bytes are compared). gpg "
            "and sqop are timed as processes, gpg with `--compress-algo none`; libraries within a "
            "process, without imports and reading the key. Nobody compresses. pgpy, which holds "
            f"everything in memory several times over, gets 1/{PGPY_SHARE} of the bytes. Memory: "
            f"pysequoia {megabytes(samples['pysequoia'].median('growth'))}, pgpy "
            f"{megabytes(samples['pgpy'].rounds[0].told['growth'])} for its tenth."
        ),
    )


def _contestants(ground: Ground, folder: Path, plain: Path, tenth: Path) -> list[Contestant]:
    (party,) = ground.parties
    key = party.public_key

    def contestant(
        name: str, run: Callable[[Path], Measured], data: Path = plain, scale: float = 1
    ) -> Contestant:
        target = [folder / "out.pgp"]  # nowhere once it was checked

        def check() -> None:
            _compare(ground, target[0], data, name)
            target[0].unlink()
            target[0] = NOWHERE

        return Contestant(name=name, run=lambda: run(target[0]), check=check, scale=scale)

    return [
        contestant(
            "gpg",
            lambda output: measure(*gpg_command(ground.gnupg_home, key, plain), output=output),
        ),
        contestant(
            "ours", lambda output: timed_by_itself("bench.ours", "openpgp", plain, key, output)
        ),
        contestant(
            "pysequoia",
            lambda output: timed_by_itself("bench.peers.openpgp", "pysequoia", plain, key, output),
        ),
        contestant("sqop", lambda output: measure(*sqop_command(key, plain), output=output)),
        contestant(
            "pgpy",
            lambda output: timed_by_itself("bench.peers.openpgp", "pgpy", tenth, key, output),
            tenth,
            PGPY_SHARE,
        ),
    ]


def _compare(ground: Ground, written: Path, data: Path, name: str) -> None:
    opened = written.with_suffix(".opened")
    measure(
        "gpg",
        "--homedir",
        ground.gnupg_home,
        "--batch",
        "--quiet",
        "--decrypt",
        written,
        output=opened,
    )
    same_bytes(opened, data, name)
    opened.unlink()
