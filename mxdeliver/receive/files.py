"""Looking into directories and messages."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mxdeliver.core import manifest, naming
from mxdeliver.core.errors import MessageUnreadable, peer_text
from mxdeliver.core.model import DailyFile, ManifestFile
from mxdeliver.core.streams import Buffer, Tally
from mxdeliver.edge.avro import ContainerReader
from mxdeliver.edge.openpgp import SecretKeyring, decrypt

_AVRO_MAGIC = b"Obj\x01"
_MANIFEST_LIMIT = 16 << 20


@dataclass(slots=True, kw_only=True)
class Folder:
    """The files of one directory, told apart by their names and first bytes.

    `unopened` holds why a file could not be looked into.
    """

    manifests: dict[ManifestFile, Path] = field(default_factory=dict)
    daily_files: dict[DailyFile, list[Path]] = field(default_factory=dict)
    unencrypted: dict[Path, DailyFile | ManifestFile] = field(default_factory=dict)
    unopened: dict[Path, tuple[DailyFile | ManifestFile, str]] = field(default_factory=dict)
    ignored: list[Path] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether nothing of ours lies here."""
        return not (self.manifests or self.daily_files or self.unencrypted or self.unopened)

    def days(self) -> list[ManifestFile]:
        """Give every client's day of which a file lies here that can be checked."""
        days = {day_of(identity) for identity in self.daily_files} | set(self.manifests)
        return sorted(days, key=lambda day: (day.client_guid, day.snapshot_date))

    def of_day(self, day: ManifestFile) -> dict[DailyFile, list[Path]]:
        """Give the encrypted daily files of one client's day."""
        return {who: paths for who, paths in self.daily_files.items() if day_of(who) == day}

    def useless(self) -> set[DailyFile | ManifestFile]:
        """Give what is here but was already found to be of no use."""
        return {*self.unencrypted.values(), *(who for who, _ in self.unopened.values())}


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What came out of one daily file; `records` is None where it is not a whole Avro file."""

    encrypted_size: int | None = None
    unreadable: str = ""
    size: int = 0
    checksum: str = ""
    records: int | None = None
    not_avro: str = ""


def folders(directory: Path, unreadable: Callable[[Path, str], None]) -> Iterator[Folder]:
    """Look into `directory` and all below it by name; links to directories are not followed."""

    def tell(error: OSError) -> None:
        unreadable(Path(error.filename), reason(error))

    for name, below, files in os.walk(directory, onerror=tell):
        below.sort()
        folder = _look_into(Path(name), sorted(files))
        folder.ignored += [Path(name, link) for link in below if Path(name, link).is_symlink()]
        yield folder


def read_daily_file(path: Path, keyring: SecretKeyring) -> Content:
    """Decrypt one daily file and measure what is in it."""
    counter = _RecordCount()
    tally = Tally(counter.write)
    encrypted_size: int | None = None
    try:
        with path.open("rb") as source:
            encrypted_size = os.fstat(source.fileno()).st_size
            decrypt(source, keyring, tally.write)
    except (MessageUnreadable, OSError) as error:
        return Content(encrypted_size=encrypted_size, unreadable=reason(error))
    return Content(
        encrypted_size=encrypted_size,
        size=tally.size,
        checksum=tally.checksum,
        records=counter.finish(),
        not_avro=counter.problem,
    )


def read_manifest(path: Path, keyring: SecretKeyring) -> tuple[manifest.ManifestRow, ...]:
    """Decrypt and parse a manifest; MessageUnreadable, OSError, or ValueError for its content."""
    content = bytearray()

    def take(data: Buffer) -> None:
        if len(content) <= _MANIFEST_LIMIT:
            content.extend(data)

    with path.open("rb") as source:
        decrypt(source, keyring, take)
    if len(content) > _MANIFEST_LIMIT:
        raise ValueError(f"the manifest has more than {_MANIFEST_LIMIT} bytes")
    return manifest.parse(bytes(content))


def day_of(identity: DailyFile | ManifestFile) -> ManifestFile:
    """Give the client's day that a file belongs to, as its manifest."""
    return ManifestFile(client_guid=identity.client_guid, snapshot_date=identity.snapshot_date)


def reason(error: MessageUnreadable | OSError) -> str:
    """Tell why a file could not be read."""
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    return str(error)


class _RecordCount:
    """Counts an Avro file's records; a file that is none is still heard to its end.

    So the checksum and the message's integrity are known of a file whose Avro is wrong, too.
    """

    def __init__(self) -> None:
        self._reader = ContainerReader()
        self.problem = ""

    def write(self, data: Buffer) -> None:
        """Take the next bytes of the Avro file."""
        if self.problem:
            return
        try:
            self._reader.write(data)
        except ValueError as error:
            self.problem = peer_text(str(error))

    def finish(self) -> int | None:
        """Give the number of records, or None and a `problem`."""
        if self.problem:
            return None
        try:
            return self._reader.finish()
        except ValueError as error:
            self.problem = peer_text(str(error))
            return None


def _look_into(directory: Path, names: list[str]) -> Folder:
    """Tell a directory's files apart; nothing that is not ours is opened."""
    folder = Folder()
    for name in names:
        path = directory / name
        identity = _identify(name)
        if identity is None:
            folder.ignored.append(path)
            continue
        try:
            start = _first_bytes(path)
        except OSError as error:
            folder.unopened[path] = (identity, reason(error))
            continue
        if _is_plain(start) or (name.endswith(".csv") and isinstance(identity, ManifestFile)):
            folder.unencrypted[path] = identity
        elif isinstance(identity, ManifestFile):
            folder.manifests[identity] = path
        else:
            folder.daily_files.setdefault(identity, []).append(path)
    return folder


def _first_bytes(path: Path) -> bytes:
    # Opening a named pipe would wait for its writer.
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("not a regular file")
    with path.open("rb") as file:
        return file.read(64)


def _identify(name: str) -> DailyFile | ManifestFile | None:
    """Tell which file a name stands for; a manifest that lost its `.pgp` is recognised as well."""
    for candidate in (name, f"{name}.pgp"):
        try:
            identity = naming.parse_file_name(candidate)
        except ValueError:
            continue
        if candidate == name or isinstance(identity, ManifestFile):
            return identity
    return None


def _is_plain(start: bytes) -> bool:
    return start.startswith(_AVRO_MAGIC) or manifest.COLUMNS[0].encode() in start
