"""The invariants of a delivery, checked over everything that was seen, not only over how it ended.

    with watched(deployment, party, plain=undisturbed) as watch:
        deployment.start(…), kill(…)
        watch.look_at_rest()
        watch.ran(deployment.run("run", "--date", DAY))
    # leaving it checks, and fails naming each violation

What is promised (`I1` and so on) and why is in docs/guarantees.md. Here: I1 the manifest comes after
what it lists, I2 no half files under final names, I3 one set of bytes, I7 nothing is ever replaced,
I8 the ledger is never ahead of the server, I9 once each and nothing more, I16 nothing stays behind
and nothing foreign is touched; with what they need, I5 the manifest is true. The traces of records
and secrets (I11, I13, I15) are in tests/support/traces.py.
"""

from __future__ import annotations

import csv
import io
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.support.deployment import Deployment, Party
from tests.support.ledger_history import Said
from tests.support.opening import opened
from tests.support.traces import Traces
from tests.support.violation import Violation
from tests.support.watcher import AtRest, Record, Seen, Watcher

Revision = tuple[str, str, int]
"""A delivery: client, day and revision."""
_TEMPORARY = re.compile(r"\.(?P<final>.+)\.(?P<token>[0-9]+)-[0-9a-f]{8}\.part")
_SPOOL = re.compile(r"(?P<guid>.+)\.(?P<day>[0-9-]{10})\.r(?P<revision>[0-9]+)")
_MANIFEST = "-manifest.csv.pgp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What was arranged for a run beside the program, and how it is to end."""

    delivered: bool = True
    """In the end the client has the day."""
    plain: Mapping[str, bytes] | None = None
    """What the client decrypts after a run that nothing happened to."""
    secret_key: bytes | None = None
    foreign: frozenset[str] = frozenset()
    """Names that the test itself puts there, or takes away."""
    taken: bool = False
    """The receiver takes files as they appear."""
    late: bool = False
    """The network keeps requests of a dead connection and hands them over when they are not awaited
    any more: hidden files that the ledger knows may be made once more, beside those of the attempt
    that is under way by then, and nobody removes them."""
    moved: bool = False
    """The client has another directory now; what lay half done in the earlier one was reported."""
    replaced: bool = False
    """A later revision may replace what was ours."""
    direct: bool = False
    """The server allows no rename: daily files are written under their final names."""
    keeps: bool = False
    """The server lets nothing be removed: temporary files stay, and are reported."""


def check(record: Record, circumstances: Circumstances) -> list[Violation]:
    """Give every violation of I1, I2, I3, I7, I8, I9 and I16 in what was seen."""
    replay = _Replay(record, circumstances)
    for entry in record.entries:
        if isinstance(entry, Seen):
            replay.seen(entry)
        elif isinstance(entry, Said):
            replay.said(entry)
        else:
            replay.at_rest(entry)
    if circumstances.delivered:
        replay.at_the_end()
    return replay.violations


@dataclass(slots=True)
class _Replay:
    """Goes through a record from its beginning, remembering how things stand."""

    record: Record
    circumstances: Circumstances
    violations: list[Violation] = field(default_factory=list)
    sealed: dict[Revision, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    given_out: set[str] = field(default_factory=set)
    """Every temporary name of the ledger's."""
    visible: dict[tuple[Path, str], str | None] = field(default_factory=dict)
    appeared: set[tuple[Path, str, str]] = field(default_factory=set)
    """Directory, name and SHA-256 of all that was ever visible."""
    temporaries: dict[Path, set[str]] = field(default_factory=lambda: defaultdict(set))
    used: set[tuple[Path, str]] = field(default_factory=set)
    stages: dict[tuple[Revision, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    states: dict[tuple[str, str], Said] = field(default_factory=dict)
    """What the ledger last said of each client's day."""

    claimed: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        for entry in self.record.entries:
            if isinstance(entry, Said) and entry.what == "sealed":
                digest = entry.value.split()[0]
                if self.sealed[entry.delivery].setdefault(entry.name, digest) != digest:
                    self._violated("I3", f"{entry.name} was sealed twice, with different bytes")
            elif isinstance(entry, Said) and entry.what == "temporary":
                self.given_out.add(entry.name)

    def _violated(self, invariant: str, what: str) -> None:
        self.violations.append(Violation(invariant=invariant, what=what))

    # -- the client's directory --------------------------------------------------------------------

    def seen(self, change: Seen) -> None:
        if change.name in self.circumstances.foreign:
            if change.what in {"appeared", "closed"}:
                self._keep(change)
            return
        day = self._day_of(change.name)
        # the handle of a file that is gone already may still be closed
        is_late = self.circumstances.late and change.name in self.given_out
        is_delivered = day is not None and day.value == "delivered"
        if is_delivered and change.what != "closed" and not is_late:
            self._violated("I9", f"{change.name} {change.what} although the day was delivered")
        if change.hidden:
            self._temporary(change)
        elif change.what == "appeared":
            self._final_appeared(change)
        elif change.what == "vanished":
            self._final_vanished(change)
        elif not self.circumstances.direct:
            self._violated("I2", f"{change.name} was {change.what} while it was visible")
        elif change.what == "closed":
            self._keep(change)

    def _temporary(self, change: Seen) -> None:
        here = self.temporaries[change.directory]
        if change.what == "appeared":
            if change.name not in self.given_out:
                self._violated("I16", f"{change.name} was made and is no name of the ledger's")
            if (change.directory, change.name) in self.used and not self.circumstances.late:
                self._violated("I7", f"{change.name} was made twice: it belongs to one attempt")
            self.used.add((change.directory, change.name))
            here.add(change.name)
            for files in self.sealed.values():
                lying = [name for name in here if _final_of(name) in files]
                if self.circumstances.late:  # another attempt's may come beside them
                    lying = [name for name in lying if _token(name) == _token(change.name)]
                if len(lying) > len(files) and not self.circumstances.keeps:
                    self._violated("I16", f"{len(lying)} temporary files for {len(files)} files")
        elif change.what == "vanished":
            here.discard(change.name)
            if change.name not in self.given_out:
                self._violated("I16", f"{change.name} was removed and is no name of the ledger's")

    def _final_appeared(self, change: Seen) -> None:
        key = (change.directory, change.name)
        if key in self.visible:
            self._violated("I7", f"{change.name} was replaced")
        revision = self._sealed_as(change.name, change.digest)
        if not any(change.name in files for files in self.sealed.values()):
            self._violated("I3", f"{change.name} appeared, which no delivery has sealed")
        elif revision is None and not self._may_be_partial(change):
            self._violated("I2", f"{change.name} appeared with other bytes than were sealed")
        elif revision is not None and (*key, str(change.digest)) in self.appeared:
            self._violated("I9", f"{change.name} appeared a second time")
        self._keep(change)
        if change.name.endswith(_MANIFEST) and revision is not None:
            self._listed_are_there(revision, change)

    def _keep(self, change: Seen) -> None:
        self.visible[change.directory, change.name] = change.digest
        self.appeared.add((change.directory, change.name, str(change.digest)))

    def _may_be_partial(self, change: Seen) -> bool:
        if change.digest is None:
            return self.circumstances.taken
        return self.circumstances.direct

    def _listed_are_there(self, revision: Revision, manifest: Seen) -> None:
        for name, digest in self.sealed[revision].items():
            if name == manifest.name:
                continue
            was_there = (manifest.directory, name, digest) in self.appeared
            if not was_there and self.circumstances.taken:
                was_there = (manifest.directory, name, "None") in self.appeared
            is_there = self.visible.get((manifest.directory, name)) == digest
            if not (is_there or (was_there and self.circumstances.taken)):
                self._violated("I1", f"{manifest.name} appeared while {name} was not there, whole")

    def _final_vanished(self, change: Seen) -> None:
        digest = self.visible.pop((change.directory, change.name), None)
        revision = self._sealed_as(change.name, digest)
        if self.circumstances.taken:
            return
        if revision is None:
            if not (self.circumstances.direct and digest is not None):
                self._violated("I16", f"{change.name} was removed, which is not ours")
            return
        self.appeared.discard((change.directory, change.name, str(digest)))
        later = any(one[:2] == revision[:2] and one > revision for one in self.sealed)
        if not (self.circumstances.replaced and later):
            self._violated("I1", f"{change.name} was removed after it was delivered")
        for name in self.sealed[revision]:
            listing = (change.directory, name)
            if name.endswith(_MANIFEST) and listing in self.visible:
                self._violated("I1", f"{change.name} was removed while {name} still lists it")

    # -- the ledger --------------------------------------------------------------------------------

    def said(self, said: Said) -> None:
        if said.what == "delivery":
            self._delivery(said)
        elif said.what == "file":
            self.stages[said.delivery, said.name].add(said.value.partition("/")[0])
            if "/" in said.value:
                self.stages[said.delivery, said.name].add("publishing")
            if said.value == "published" and not self._was_there(said.delivery, said.name):
                self._violated("I8", f"the ledger says {said.name} is there, which it never was")

    def _delivery(self, said: Said) -> None:
        day = said.delivery[:2]
        before = self.states.get(day)
        if before is not None and before.delivery == said.delivery:
            token, earlier = int(said.name), int(before.name)
            if token < earlier:
                self._violated("I7", f"lease {token} of {day} was taken after lease {earlier}")
        self.states[day] = said
        if said.value == "running":
            self.claimed.add(day)
        if said.value == "delivered":
            for name in self.sealed[said.delivery]:
                if not self._was_there(said.delivery, name):
                    self._violated("I8", f"the ledger says delivered, and {name} never was there")

    def _was_there(self, revision: Revision, name: str) -> bool:
        digest = self.sealed[revision].get(name)
        wanted = {str(digest)} | ({"None"} if self.circumstances.taken else set())
        return any(
            (directory, name, one) in self.appeared
            for directory in self.record.directories
            for one in wanted
        )

    # -- while nothing runs ------------------------------------------------------------------------

    def at_rest(self, rest: AtRest) -> None:
        for directory, found in rest.directories.items():
            for name, digest in found.items():
                if name.startswith(".") or name in self.circumstances.foreign:
                    continue
                if self.visible.get((directory, name)) != digest:
                    self._violated("I2", f"{name} is no longer what it was when it appeared")
                revision = self._sealed_as(name, digest)
                if revision is not None and not (
                    self.stages[revision, name] & {"publishing", "published"}
                ):
                    self._violated("I8", f"{name} is there, and the ledger had no word of it")
        for folder, files in rest.spool.items():
            if match := _SPOOL.fullmatch(folder):
                sealed = self.sealed.get((match["guid"], match["day"], int(match["revision"])), {})
                for name, digest in sealed.items():
                    if files.get(name) != digest:
                        self._violated("I3", f"{name} in the spool is not what was sealed")

    def at_the_end(self) -> None:
        last = next(one for one in reversed(self.record.entries) if isinstance(one, AtRest))
        for folder in last.spool:
            if folder.startswith("."):
                self._violated("I16", f"{folder} stayed in the spool")
        directory = self.record.directories[-1]
        self._nothing_stayed(last, directory)
        for day, said in self.states.items():
            if day in self.claimed and said.value != "delivered":
                self._violated("I9", f"{said.delivery} ended {said.value}")
        received = {
            name: digest
            for name, digest in last.directories[directory].items()
            if not name.startswith(".") and name not in self.circumstances.foreign
        }
        if not self.circumstances.taken and self.circumstances.secret_key is not None:
            self._received_are_right(received)

    def _nothing_stayed(self, last: AtRest, directory: Path) -> None:
        for place, found in last.directories.items():
            if self.circumstances.moved and place != directory:
                continue
            for name in found if not self.circumstances.keeps else ():
                known = self.circumstances.foreign
                if self.circumstances.late:
                    known |= self.given_out
                if name.startswith(".") and name not in known:
                    self._violated("I16", f"{name} stayed in {place.name}")

    def _received_are_right(self, received: Mapping[str, str]) -> None:
        assert self.circumstances.secret_key is not None
        plain = {}
        for name, digest in received.items():
            content = opened(self.record.contents[digest], self.circumstances.secret_key)
            if content is None:
                self._violated("I2", f"{name} cannot be decrypted")
            else:
                plain[name] = content
        for name in plain:
            if name.endswith(_MANIFEST):
                self._manifest_is_true(name, plain, received)
        wanted = self.circumstances.plain
        if wanted is not None and plain != wanted:
            differing = sorted(
                name for name in {*plain, *wanted} if plain.get(name) != wanted.get(name)
            )
            self._violated("I9", f"after a run without trouble these are others: {differing}")

    def _manifest_is_true(
        self, manifest: str, plain: Mapping[str, bytes], received: Mapping[str, str]
    ) -> None:
        rows = list(csv.DictReader(io.StringIO(plain[manifest].decode())))
        if len(rows) != len(plain) - 1:
            self._violated("I1", f"{manifest} lists {len(rows)} of {len(plain) - 1} files")
        for row in rows:
            found = [name for name in plain if name.startswith(row["FileName"] + ".")]
            if not found:
                self._violated("I1", f"{manifest} lists {row['FileName']}, which is not there")
                continue
            encrypted = self.record.contents[received[found[0]]]
            said = (row["Checksum"], row["FileSize"], row["EncryptedFileSize"])
            content = plain[found[0]]
            if said != (sha256(content).hexdigest(), str(len(content)), str(len(encrypted))):
                self._violated("I5", f"{manifest} tells wrong things about {row['FileName']}")

    # -- names -------------------------------------------------------------------------------------

    def _sealed_as(self, name: str, digest: str | None) -> Revision | None:
        for revision, files in sorted(self.sealed.items(), reverse=True):
            if digest is not None and files.get(name) == digest:
                return revision
        return None

    def _day_of(self, name: str) -> Said | None:
        final = _final_of(name)
        for (guid, day), said in self.states.items():
            if final.startswith((f"{guid}.{day}.", f"{guid}.{day}{_MANIFEST}")):
                return said
        return None


def _token(temporary: str) -> str:
    """Give the token of the attempt that a temporary name belongs to."""
    return temporary.rpartition("-")[0].rpartition(".")[2]


def _final_of(name: str) -> str:
    match = _TEMPORARY.fullmatch(name)
    return match["final"] if match else name


@dataclass(slots=True)
class Watch:
    """What a test says about its run while it is watched."""

    watcher: Watcher
    traces: Traces

    def look_at_rest(self) -> None:
        """Look at everything while nothing of ours runs."""
        self.watcher.look_at_rest()
        self.traces.look()

    def ran(self, done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
        """Look at what a run printed and left."""
        self.traces.printed(done)
        self.look_at_rest()
        return done

    def violations(self, circumstances: Circumstances) -> list[Violation]:
        """Give all that does not hold."""
        return check(self.watcher.record, circumstances) + self.traces.violations


@contextmanager
def watched(deployment: Deployment, *parties: Party, **circumstances: Any) -> Iterator[Watch]:
    """Watch what happens to the clients' directories and the deployment; check it at the end.

    Further arguments are those of `Circumstances`.
    """
    told = Circumstances(**{"secret_key": parties[-1].key.secret, **circumstances})
    traces = Traces(deployment)
    with Watcher(deployment.folder, [party.directory for party in parties]) as watcher:
        watch = Watch(watcher, traces)
        yield watch
    traces.look()
    assert not (found := watch.violations(told)), "\n".join(map(str, found))


@contextmanager
def everyone_watched(deployment: Deployment) -> Iterator[dict[str, Any]]:
    """Watch each client that is added inside; check what holds however their days end.

    What is put into the dict given is told of the circumstances.
    """
    told: dict[str, Any] = {"delivered": False}
    with Watcher(deployment.folder, []) as watcher:
        deployment.when_added = lambda party: watcher.also(party.directory)
        traces = Traces(deployment)
        yield told
    traces.look()
    found = check(watcher.record, Circumstances(**told)) + traces.violations
    assert not found, "\n".join(map(str, found))
