"""What the program and a builder say to each other, over a socket that nobody else has.

Both ends run the same files, which is looked at first, and are of one user, and nothing listens
anywhere: messages are pickled. A message is its length and its pickle; the day's lock travels beside
the length (SCM_RIGHTS).
"""

from __future__ import annotations

import pickle
import select
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from mxdeliver.core.errors import Internal, MxdeliverError
from mxdeliver.core.model import Bundle, Client, DeliveryKey, Resource, SourceSettings
from mxdeliver.edge.spool import Spool

if TYPE_CHECKING:
    from mxdeliver.edge.openpgp.model import Certificate

_LENGTH = struct.Struct("!Q")


def _program_files() -> str:
    """Tell the package's files from those that may take their place: by name, size and time."""
    root = Path(__file__).parents[1]
    found = ((str(path.relative_to(root)), path.stat()) for path in sorted(root.rglob("*.py")))
    text = "".join(f"{name} {status.st_size} {status.st_mtime_ns}\n" for name, status in found)
    return sha256(text.encode()).hexdigest()


PROGRAM_FILES = _program_files()
"""Of the files when this process has loaded them, or soon after."""


def are_replaced() -> bool:
    """Tell whether the program's files are others by now than those that this process runs."""
    return _program_files() != PROGRAM_FILES


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The builder has started, and has all that it needs, from these `files` (PROGRAM_FILES)."""

    files: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A day to build: all that a builder is told about it."""

    key: DeliveryKey
    client: Client
    resources: tuple[Resource, ...]
    source: SourceSettings
    certificate: Certificate
    spool: Spool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Give up what is being built."""


class Event(NamedTuple):
    """A line for the delivery log."""

    event: str
    message: str
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """What has come to pass since the last message: each one costs both sides more than a line."""

    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """The day is sealed, and the builder holds its lock no longer."""

    bundle: Bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Nothing is sealed, and the builder holds the day's lock no longer."""

    error: MxdeliverError


Message: TypeAlias = Ready | Work | Stop | Events | Built | Failed


class Gone(Exception):
    """The other side is not there any more, stops in the middle of a message, or is not understood."""


class _Pickler(pickle.Pickler):
    """Packs a resource once for all the days that it goes along with: it is most of what is sent."""

    def reducer_override(self, value: object) -> Any:
        if isinstance(value, Resource):
            return _unpacked, (_packed(value),)
        return NotImplemented


_PACKED: dict[int, tuple[Resource, bytes]] = {}
_MOST_PACKED = 256


def _packed(resource: Resource) -> bytes:
    known = _PACKED.get(id(resource))
    if known is None:
        if len(_PACKED) >= _MOST_PACKED:
            _PACKED.clear()
        # beside the resource itself, whose place in memory would be another one's when it is gone
        known = _PACKED[id(resource)] = resource, pickle.dumps(resource)
    return known[1]


@lru_cache(maxsize=_MOST_PACKED)
def _unpacked(data: bytes) -> Resource:
    resource: Resource = pickle.loads(data)  # noqa: S301 - pickled by a process of ours
    return resource


class Wire:
    """One end of the socket; used by one thread at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def send(self, message: Message, *files: int) -> None:
        """Send a message, and open files with it; Gone."""
        buffer = BytesIO()
        _Pickler(buffer).dump(message)
        data = buffer.getbuffer()
        try:
            socket.send_fds(self._socket, [_LENGTH.pack(len(data))], files)
            self._socket.sendall(data)
        except OSError as error:
            raise Gone from error

    def receive(self) -> tuple[Message, list[int]]:
        """Wait for the next message, and the open files that come with it; Gone."""
        try:
            length, files, *_ = socket.recv_fds(
                self._socket, _LENGTH.size, 1, socket.MSG_CMSG_CLOEXEC
            )
            length += self._exactly(_LENGTH.size - len(length))
            data = self._exactly(_LENGTH.unpack(length)[0])
            message: Message = pickle.loads(data)  # noqa: S301 - pickled by a process of ours
        except Exception as error:  # of the socket, or of a message of another version
            raise Gone from error
        return message, files

    def _exactly(self, size: int) -> bytes:
        data = bytearray(size)
        rest = memoryview(data)
        while rest:
            count = self._socket.recv_into(rest)
            if not count:
                raise Gone
            rest = rest[count:]
        return bytes(data)

    def waits(self, seconds: float) -> bool:
        """Tell whether the other side says something, or goes, within so many seconds."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))


def portable(error: MxdeliverError) -> MxdeliverError:
    """Give the error, or, where it is of a kind that cannot be sent, its place in the program."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:  # noqa: BLE001 - a source of somebody else's may raise errors of its own
        return Internal.of(error)
    return error
