"""What goes into and comes out of an SFTP session; no I/O here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import BinaryIO

from mxdeliver.core.errors import MxdeliverError
from mxdeliver.core.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What the user may prove themselves with; with both, the private key is offered first."""

    password: Secret | None = None
    private_key: Secret | None = None
    passphrase: Secret | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long each phase may take at most, in seconds.

    `connect` is for all addresses together, `request` for each single answer, `no_progress` for the
    next acknowledgement during an upload, `stop` for requests under way once a stop was asked for.
    `fresh` is how old a look behind a file's close may be when all files are sent, to count then.
    `tcp_user_timeout` and `keepalive` are for the kernel and for an idle connection.
    """

    resolve: float = 10
    connect: float = 15
    banner: float = 15
    key_exchange: float = 20
    authentication: float = 30
    session: float = 20
    request: float = 60
    no_progress: float = 60
    fresh: float = 2
    stop: float = 5
    tcp_user_timeout: float = 45
    keepalive: float = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerFacts:
    """Who answered: literal address, host key as `SHA256:…`, SSH version line, SFTP extensions.

    `is_strict` tells whether the key exchange was, `negotiated` names what came of it.
    """

    address: str
    port: int
    host_key: str
    server: str
    extensions: frozenset[str]
    is_strict: bool
    negotiated: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannedHostKey:
    """A host key that a server showed; `public_key_line` is algorithm and base64 as in `.pub`."""

    algorithm: str
    sha256: str
    public_key_line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file to be sent under a temporary name; `open` gives exactly `size` bytes.

    Where a server allows no rename, `temporary` is the final name itself. `sha256` of its bytes (hex)
    is compared where the server computes hashes.
    """

    name: str
    temporary: str
    size: int
    open: Callable[[], BinaryIO]
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """Whose final names are, while they are written directly; by name, in groups.

    `created` is told which the server has made for us, before any of their bytes is sent;
    `may_remove` raises unless they are still ours to remove; `removed` is told which are gone.
    """

    created: Callable[[Sequence[str]], None]
    may_remove: Callable[[], None]
    removed: Callable[[Sequence[str]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """How far the server confirmed a file.

    `level`: "ack" (every answer was good), "size" (looked at) or "hash" (contents compared).
    `taken`: the name was gone right after the last answer, because the receiver takes such files.
    """

    level: str
    size: int
    taken: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A temporary name that is to appear under its final one, holding `size` bytes."""

    temporary: str
    final: str
    size: int


class RenameOutcome(Enum):
    """How a file came to lie under its final name; SWEPT: it was there, and the receiver took it."""

    RENAMED = "renamed"
    WRITTEN = "written"
    ALREADY_PUBLISHED = "already published"
    SWEPT = "swept"


@dataclass(frozen=True, slots=True, kw_only=True)
class Renaming:
    """What became of many renames at once: the files that appeared, and why others did not.

    `unconfirmed` are the final names of those whose rename the server has acknowledged, but which
    could not be seen there.
    """

    outcomes: Mapping[str, RenameOutcome]
    unconfirmed: frozenset[str] = frozenset()
    failure: MxdeliverError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteAttributes:
    """What LSTAT tells; with `denied` it told nothing, and the other two are guesses."""

    size: int | None
    is_regular: bool
    denied: bool = False
