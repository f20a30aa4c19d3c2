"""The page of results: one table, a target for each row, and whether it was reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.contest import BUDGET_SECONDS, LONG_SECONDS, Sample

HEADER = (
    "| | work | instead | its median (spread) | ours: median (spread) | rounds | target | reached |",
    "|---|---|---|---|---|---|---|---|",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    workload: str
    work: str
    peer: str = "–"
    theirs: str = "–"
    ours: str
    rounds: str
    target: str = "–"
    reached: str = "–"

    def __str__(self) -> str:
        cells = (
            self.workload, self.work, self.peer, self.theirs, self.ours, self.rounds, self.target,
            self.reached,
        )  # fmt: skip
        return "| " + " | ".join(cells) + " |"


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one workload came to; `note` says what exactly was timed, and how it was kept fair."""

    rows: Sequence[Row]
    note: str


def compared(
    workload: str,
    work: str,
    peer: Sample,
    ours: Sample,
    *,
    target: float | None = None,
    what: str = "seconds",
) -> Row:
    """Give the row of a comparison; `target` is how many times as fast ours ought to be.

    `what` is the time of the peer that counts, where it told more than one.
    """
    ratio = peer.median(what) / ours.median()
    reached = f"{ratio:.2f} ×" if ratio < 10 else f"{ratio:.1f} ×"
    return Row(
        workload=workload,
        work=work,
        peer=peer.name + (f" (1/{peer.scale:g} of the work, scaled)" if peer.scale != 1 else ""),
        theirs=spread(peer.values(what), peer.median(what)),
        ours=spread(ours.values(), ours.median()),
        rounds=_rounds(peer, ours),
        target="–" if target is None else f"≥ {target:g} ×",
        reached=reached if target is None else _verdict(reached, is_reached=ratio >= target),
    )


def limited(
    workload: str,
    work: str,
    sample: Sample,
    limit: float | None,
    *,
    what: str = "seconds",
) -> Row:
    """Give the row of a limit of our own, in seconds or bytes."""
    median = sample.median(what)
    unit = _seconds if what == "seconds" else megabytes
    return Row(
        workload=workload,
        work=work,
        ours=spread(sample.values(what), median, unit=unit),
        rounds=str(len(sample.rounds)),
        target="–" if limit is None else f"≤ {unit(limit)}",
        reached="–" if limit is None else _verdict("yes", is_reached=median <= limit),
    )


def _verdict(reached: str, *, is_reached: bool) -> str:
    if is_reached:
        return reached
    return "**missed**" if reached == "yes" else f"**missed**: {reached}"


def _rounds(peer: Sample, ours: Sample) -> str:
    if len(peer.rounds) == len(ours.rounds):
        return str(len(ours.rounds))
    return f"{len(peer.rounds)} and {len(ours.rounds)}"


def _seconds(value: float) -> str:
    return f"{value:.3f} s" if value < 1 else f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


def megabytes(value: float) -> str:
    """Write bytes as megabytes."""
    return f"{value / 1e6:,.0f} MB"


def spread(values: Sequence[float], median: float, unit: object = None) -> str:
    """Write a median with the lowest and the highest value."""
    write = unit if callable(unit) else _seconds
    low, _, high = (write(value).rpartition(" ") for value in (min(values), 0, max(values)))
    if len(values) == 1:
        return str(write(median))
    return f"{write(median)} ({low[0]}–{high[0]})"


def page(parts: Sequence[Part], machine: Sequence[str], seed: int, rounds: int) -> str:
    """Write the whole page."""
    rows = [row for part in parts for row in part.rows]
    missed = sum("missed" in row.reached for row in rows)
    wanted = sum(row.target != "–" for row in rows)
    lines = [
        "# mxdeliver beside what people would use instead",
        "",
        (
            f"`make bench`, seed {seed}. Everybody runs in turn on the same machine, {rounds} rounds "
            "after one that warms up, in which what everybody made is checked: decrypted and equal "
            f"record by record, or byte for byte. Whoever has taken {BUDGET_SECONDS} seconds in three "
            f"or more rounds, or in two of more than {LONG_SECONDS} seconds, makes no more, but for a "
            "and b, for the sake of a run that ends in time. Times are of whole processes from start to end unless a "
            "note says otherwise; ratios are of medians. The server is OpenSSH on this machine; its "
            "directory is in memory, what mxdeliver and the script keep is on the disk."
        ),
        "",
        f"**{wanted - missed} of {wanted} targets are reached{'' if missed else ', all of them'}.**",
        "",
        *HEADER,
        *(str(row) for row in rows),
        "",
        "## What was timed, and how it is fair",
        "",
        *(f"- {part.note}" for part in parts),
        "",
        "## Where",
        "",
        *machine,
    ]
    return "\n".join(lines) + "\n"
