"""What a client's server allows: remembered from earlier deliveries, found out anew in each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import date

from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.edge.ledger import Lease, Publishing, ServerProfile
from mxdeliver.edge.sftp import Evidence, RenameOutcome

_LEVELS = ("ack", "size", "hash")  # of `Evidence`, the weakest first
_DAYS_REMEMBERED = 7
"""Direct writing is the weaker way: whether renaming has become possible is tried again after these."""


class Profile:
    """The profile of one push."""

    def __init__(
        self,
        known: ServerProfile | None,
        *,
        destination: str,
        software: str,
        today: date,
        lease: Lease,
    ) -> None:
        same = known is not None and (known.destination, known.software) == (destination, software)
        self._known = known if same else None
        self._destination = destination
        self._software = software
        self._today = SnapshotDate.of(today)
        self._lease = lease
        self._level: str | None = None
        self._sweeps = False

    @property
    def is_direct(self) -> bool:
        """Whether renaming was found impossible on this server a short while ago."""
        known = self._known
        return (
            known is not None
            and known.publishing is Publishing.DIRECT
            and 0 <= self._today.toordinal() - known.decided_on.toordinal() < _DAYS_REMEMBERED
        )

    @property
    def sweeps(self) -> bool:
        """Whether the receiver was seen to take files away, but for temporary ones."""
        known = self._known
        return known is not None and known.publishing is Publishing.RENAME and known.sweeps

    def rename_is_impossible(self, evidence: Mapping[str, Evidence]) -> None:
        """Remember at once that files must be written directly."""
        self.saw(evidence)
        self._known = self._found(Publishing.DIRECT, decided_on=self._today)
        self._lease.server(self._known)
        self._level = None

    def saw(self, evidence: Mapping[str, Evidence], outcomes: Iterable[RenameOutcome] = ()) -> None:
        """Take note of how far files were verified, and whether they were taken away."""
        levels = [_LEVELS.index(one.level) for one in evidence.values()]
        if self._level is not None:
            levels.append(_LEVELS.index(self._level))
        if levels:
            self._level = _LEVELS[min(levels)]
        self._sweeps |= any(one.taken for one in evidence.values())
        self._sweeps |= RenameOutcome.SWEPT in set(outcomes)

    def news(self) -> ServerProfile | None:
        """Give what this delivery has shown and the ledger does not know, to be written there; or None."""
        if self._level is None:
            return None
        known = self._known
        if self.is_direct and known is not None:
            found = self._found(Publishing.DIRECT, decided_on=known.decided_on)
        else:
            found = self._found(Publishing.RENAME, decided_on=self._today)
        self._known = found
        if known is not None and found.publishing is known.publishing is Publishing.RENAME:
            # a new date alone is not worth being written
            known = replace(known, decided_on=found.decided_on)
        return None if found == known else found

    def _found(self, publishing: Publishing, *, decided_on: SnapshotDate) -> ServerProfile:
        return ServerProfile(
            destination=self._destination,
            software=self._software,
            publishing=publishing,
            level=self._level or "ack",
            sweeps=self._sweeps,
            decided_on=decided_on,
        )
