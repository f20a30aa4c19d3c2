"""What must hold at every instant of a story: a checker over the remote's log of changes.

    watch = Watch(host, remote)
    …                      # one step of the story
    watch.look()           # AssertionError names the invariant of reliability.md that broke

What was ever sealed is remembered here by revision, apart from ledger and spool, which the story
may lose. A step is what lies between two looks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256

from mxdeliver.core import naming
from mxdeliver.core.model import Bundle, Delivery, DeliveryKey, DeliveryState
from mxdeliver.edge.ledger import FileStage, FileState
from tests.support.model_host import Host
from tests.support.model_remote import MANIFEST, By, Change, ModelRemote

FILES = 4
"""Three events of one resource, and the manifest."""
_BUGS = {"INTERNAL", "SPOOL_CORRUPT", "LEDGER_CORRUPT", "AVRO_VERIFY", "ENCRYPT_VERIFY"}

Day = tuple[str, str]
"""A client's guid and a day."""


def digest(content: bytes) -> str:
    """Give the SHA-256 as the ledger has it."""
    return sha256(content).hexdigest()


@dataclass
class Excuses:
    """What the story did that loosens a bound."""

    leftovers: bool = False
    """In this step removals were refused, or names forgotten with a ledger: what is there may stay."""
    twice: bool = False
    """In this step an answer was lost: a name may have come twice, where it was taken meanwhile."""
    logins: int = 1
    """How often a refused password may have been sent."""


@dataclass
class Watch:
    """Follows one host and its clients' remote."""

    host: Host
    remote: ModelRemote
    excuses: Excuses = field(default_factory=Excuses)
    sealed: dict[DeliveryKey, dict[str, str]] = field(default_factory=dict)
    """SHA-256 by name of all that was ever sealed."""
    placed: dict[str, str] = field(default_factory=dict)
    """What came under each name and was not removed by the program: taken by the receiver or there."""
    _there: dict[str, str] = field(default_factory=dict)
    _excused: set[str] = field(default_factory=set)
    _seen: int = 0
    _ever: set[tuple[str, str]] = field(default_factory=set)
    _published: set[str] = field(default_factory=set)
    _delivered: set[Day] = field(default_factory=set)
    _revisions: dict[Day, int] = field(default_factory=dict)
    _made: Counter[str] = field(default_factory=Counter)

    def look(self) -> list[Delivery]:
        """Check everything that the last step did; gives the latest revisions."""
        with self.host.ledger() as (ledger, spool):
            deliveries = ledger.deliveries(latest_only=False)
            files = {one.key: ledger.files(one.key) for one in deliveries}
            bundles = [found for one in deliveries if (found := ledger.bundle(one.key)) is not None]
            bundles += spool.bundles()
            temporaries = {one.key: ledger.temporaries(one.key) for one in deliveries}
        for bundle in bundles:
            self._remember(bundle)
        self._made.clear()
        for change in self.remote.changes[self._seen :]:
            self._follow(change)
        self._seen = len(self.remote.changes)
        latest = {(one.key.client_guid, str(one.key.snapshot_date)): one for one in deliveries}
        for one in latest.values():
            self._check_ledger(one, files[one.key])
        self._check_leftovers(latest)
        for password, count in self.remote.failed_logins.items():
            assert count <= self.excuses.logins, f"I17: {password} was sent {count} times"
        bugs = [alarm for alarm in self.host.alarms if alarm[2] in _BUGS]
        assert not bugs, bugs
        assert all(len(names) == len(set(names)) for names in temporaries.values())
        self._published = {
            name
            for one in latest.values()
            for name, state in files[one.key].items()
            if state.state is FileStage.PUBLISHED
        }
        self._delivered = {
            day for day, one in latest.items() if one.state is DeliveryState.DELIVERED
        }
        self._revisions = {day: one.key.revision for day, one in latest.items()}
        self.excuses.twice = self.excuses.leftovers = False
        return list(latest.values())

    def forget_what_was_known(self) -> None:
        """Take note that the ledger was replaced: what it says next is not held against it."""
        self._published, self._delivered = set(), set()

    def _remember(self, bundle: Bundle) -> None:
        names = {file.name: file.encrypted_checksum for file in bundle.files}
        known = self.sealed.setdefault(bundle.key, names)
        assert known == names, f"I3: {bundle.key} was sealed twice"

    # -- the log of changes --------------------------------------------------------------------

    def _follow(self, change: Change) -> None:
        if change.is_hidden:
            if change.by is By.PROGRAM:
                self._check_hidden(change)
            return
        if change.by is By.PROGRAM:
            self._check_ours(change)
        self._there.pop(change.name, None)
        if change.after is not None:
            content = self._there[change.name] = digest(change.after)
            self.placed[change.name] = content
            self._ever.add((change.name, content))
        elif change.by is not By.RECEIVER:
            self.placed.pop(change.name, None)

    def _check_hidden(self, change: Change) -> None:
        final = naming.final_name_of(change.name)
        nonce = change.name.rsplit("-", 1)[1].removesuffix(".part")
        assert nonce in self.host.nonces, f"I16: {change.name} is none of the program's"
        day = day_of(final)
        assert day not in self._delivered, f"I9: {change} although {day} was delivered"

    def _check_ours(self, change: Change) -> None:
        name, day = change.name, day_of(change.name)
        assert change.folder == self.folder_of(day), f"I12: {name} came to {change.folder}"
        assert day not in self._delivered, f"I9: {name} although {day} was delivered"
        if change.after is None:
            self._check_removal(change)
            return
        assert change.before is None, f"I7: {name} was replaced"
        assert name not in self._published, f"I9: {name} came again although the ledger had it"
        self._made[name] += 1
        assert self._made[name] == 1 or self.excuses.twice, f"I9: {name} came twice"
        revision = self._revision_of(name, change.after)
        assert revision is not None, f"I2/I3: {name} holds what was never sealed"
        manifest = f"{day[0]}.{day[1]}{MANIFEST}"
        if name == manifest:
            for other, content in self.sealed[revision].items():
                if other != name:
                    assert self.placed.get(other) == content, f"I1: {manifest} came before {other}"
        else:
            there = self._there.get(manifest)
            same = there is None or self.sealed[revision][manifest] == there
            known = any(names.get(manifest) == there for names in self.sealed.values())
            assert same or not known, f"I1: {name} came under another revision's manifest"

    def _check_removal(self, change: Change) -> None:
        day = day_of(change.name)
        assert change.before is not None
        revision = self._revision_of(change.name, change.before)
        replaces = self.host.clients[change.folder].endpoint.replace.value == "ours"
        assert replaces, f"I7: {change.name} was removed"
        assert revision is not None, f"I7: {change.name} was removed, which was none of ours"
        newer = [key for key in self.sealed if same_day(key, day) and key > revision]
        assert newer, f"I7: {change.name} was removed without a newer revision"
        manifest = f"{day[0]}.{day[1]}{MANIFEST}"
        if change.name != manifest:
            listed = self.sealed[revision][manifest]
            assert self._there.get(manifest) != listed, (
                f"I1: {change.name} was removed before its manifest"
            )

    def _revision_of(self, name: str, content: bytes) -> DeliveryKey | None:
        found = digest(content)
        return next((key for key, names in self.sealed.items() if names.get(name) == found), None)

    def folder_of(self, day: Day) -> str:
        """Give the client's folder."""
        return next(name for name, client in self.host.clients.items() if client.guid == day[0])

    # -- the ledger ----------------------------------------------------------------------------

    def _check_ledger(self, delivery: Delivery, files: dict[str, FileState]) -> None:
        key = delivery.key
        for name, state in files.items():
            if state.state is FileStage.PUBLISHED:
                was = (name, self.sealed[key][name]) in self._ever
                assert was, f"I8: the ledger has {name} published, and it never was there"
        if delivery.state is DeliveryState.DELIVERED:
            assert len(files) == FILES
            unpublished = [
                name for name, one in files.items() if one.state is not FileStage.PUBLISHED
            ]
            assert not unpublished, f"I8: {key} is delivered without {unpublished}"
        if delivery.state in {DeliveryState.FAILED, DeliveryState.PARKED}:
            assert delivery.error_code, f"I10: {key} is {delivery.state} without a reason"
        waits_until, deadline = delivery.not_before, delivery.deadline
        if delivery.state is DeliveryState.WAITING and waits_until and deadline:
            assert waits_until <= deadline, f"I10: {key} waits past its deadline"

    def _check_leftovers(self, latest: dict[Day, Delivery]) -> None:
        for folder in self.host.clients:
            ours = [name for name in self.remote.hidden(folder) if is_of(self.host, name)]
            if self.excuses.leftovers:
                self._excused.update(ours)
            ours = [name for name in ours if name not in self._excused]
            days = Counter(day_of(naming.final_name_of(name)) for name in ours)
            for day, count in days.items():
                assert count <= FILES, f"I16: {count} temporary files of {day}"
                state = latest[day].state
                assert state is not DeliveryState.DELIVERED, f"I16: {ours} stayed behind"


def is_of(host: Host, name: str) -> bool:
    """Tell whether a hidden name is one that the program gave out."""
    return any(f"-{nonce}.part" in name for nonce in host.nonces)


def day_of(name: str) -> Day:
    """Give the client's guid and the day that a final name is about."""
    identity = naming.parse_file_name(name)
    return identity.client_guid, str(identity.snapshot_date)


def same_day(key: DeliveryKey, day: Day) -> bool:
    """Tell whether a revision is of that day."""
    return (key.client_guid, str(key.snapshot_date)) == day
