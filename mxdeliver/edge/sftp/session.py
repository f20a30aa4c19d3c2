"""A logged-in session on a client's server: what push does with it, and nothing else.

Foreign exceptions end here, by `channels.mapped`.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import date

from mxdeliver.core.errors import (
    ConnectionLost,
    MxdeliverError,
    RemoteDirectoryMissing,
    RemoteFailure,
    Stalled,
    StopRequested,
    peer_text,
)
from mxdeliver.core.model import Endpoint
from mxdeliver.edge.sftp.address import Networks, Resolver, system_resolver
from mxdeliver.edge.sftp.attributes import unpack
from mxdeliver.edge.sftp.authentication import authenticate
from mxdeliver.edge.sftp.channels import FurtherChannels, mapped, start_sftp
from mxdeliver.edge.sftp.directory import look_requests, remote_path
from mxdeliver.edge.sftp.engine import (
    DEFAULT_PIECE,
    Engine,
    Kind,
    Posted,
    Reply,
    Status,
    read_string,
    text,
)
from mxdeliver.edge.sftp.failures import failure
from mxdeliver.edge.sftp.handshake import Connection, dialler, pinned_connection, scanned
from mxdeliver.edge.sftp.looks import Looks
from mxdeliver.edge.sftp.model import (
    Credentials,
    Evidence,
    Limits,
    Move,
    Ownership,
    PeerFacts,
    RemoteAttributes,
    Renaming,
    ScannedHostKey,
    Upload,
)
from mxdeliver.edge.sftp.publish import Publisher
from mxdeliver.edge.sftp.transport import key_sha256
from mxdeliver.edge.sftp.upload import upload_all
from mxdeliver.edge.sftp.verification import Verifier

_READS_UNDER_WAY = 32
_READ_ONLY = 0x01
_STATVFS = "statvfs@openssh.com"
_LEAST_FREE_BYTES = 1024 * 1024


def _never() -> bool:
    return False


@contextmanager
def connect(
    endpoint: Endpoint,
    credentials: Credentials,
    *,
    today: date,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    resolve: Resolver = system_resolver,
    stop: Callable[[], bool] = _never,
    sleep: Callable[[float], None] = time.sleep,
    files: Mapping[str, int] | None = None,
) -> Iterator[Session]:
    """Open a session; nothing but a handshake is sent before address and host key are proven.

    `today` decides which pins still count. A first attempt tells the sizes (bytes) of its `files` by
    name: further channels are opened for them where that is worth it, and OpenSSH is sent ahead what
    need not wait, the look at these names included. Raises PortNotAllowed, DnsFailed, AddressNotAllowed,
    ConnectTimeout, ConnectRefused, NetworkUnreachable, SshBanner, SshAlgorithmMismatch,
    HostKeyMismatch, AuthFailed, AuthMethod, AuthChangeRequired, SecretMissing, SessionLimit,
    SftpUnavailable, ConnectionLost, Stalled, StopRequested.
    """
    to = dialler(
        endpoint.host,
        endpoint.port,
        endpoint.allowed_ips,
        limits=limits,
        resolve=resolve,
        stop=stop,
    )
    with pinned_connection(to, endpoint, today) as connection:
        files = files or {}
        ahead = bool(files) and connection.transport.is_openssh
        authenticate(
            connection,
            endpoint.username,
            credentials,
            seconds=limits.authentication,
            ahead=ahead,
        )
        connection.transport.set_keepalive(round(limits.keepalive))
        names = tuple(files)
        started = start_sftp(
            connection,
            limits,
            tuple(files.values()),
            ahead=ahead,
            first=look_requests(endpoint, names),
        )
        yield Session(
            connection,
            started.engine,
            started.further,
            endpoint,
            limits=limits,
            sleep=sleep,
            asked=None if started.asked is None else (names, started.asked),
        )


def scan_host_keys(
    host: str,
    port: int,
    *,
    allowed_ips: Networks | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    resolve: Resolver = system_resolver,
    stop: Callable[[], bool] = _never,
) -> tuple[ScannedHostKey, ...]:
    """Give every host key that the server shows; no user name or credential is sent."""
    to = dialler(host, port, allowed_ips, limits=limits, resolve=resolve, stop=stop)
    return scanned(to)


class Session:
    """An open SFTP session; used by one thread. Every method may raise ConnectionLost and Stalled."""

    def __init__(
        self,
        connection: Connection,
        engine: Engine,
        further: FurtherChannels,
        endpoint: Endpoint,
        *,
        limits: Limits,
        sleep: Callable[[float], None],
        asked: tuple[tuple[str, ...], Posted] | None = None,
    ) -> None:
        self._connection = connection
        self._engine = engine
        self._further = further
        self._endpoint = endpoint
        self._limits = limits
        self._sleep = sleep
        self._asked = asked
        self._place = connection.place
        self._seen_free: set[str] = set()
        self.facts = PeerFacts(
            address=str(connection.address),
            port=endpoint.port,
            host_key=key_sha256(connection.host_key),
            server=peer_text(connection.transport.remote_version),
            extensions=frozenset(engine.extensions),
            is_strict=connection.transport.is_strict,
            negotiated=connection.transport.negotiated,
        )

    def check_directory(self) -> None:
        """Raise RemoteDirectoryMissing unless the directory is there, or cannot be looked at."""
        self.look([])

    def look(self, names: Sequence[str]) -> dict[str, RemoteAttributes | None]:
        """Check the directory and give the `attributes` of names in it, all at once."""
        directory = self._endpoint.directory or "."
        with self._bounded(self._limits.request):
            reply, *replies = self._look_replies(names)
            is_other = reply.kind == Kind.ATTRS and not unpack(reply.body).is_directory
            if reply.status == Status.NO_SUCH_FILE:
                raise RemoteDirectoryMissing(f"{directory} does not exist on {self._place}")
            if is_other:
                raise RemoteDirectoryMissing(f"{directory} on {self._place} is not a directory")
            return dict(zip(names, map(self._seen, names, replies), strict=True))

    def _look_replies(self, names: Sequence[str]) -> list[Reply]:
        """Give the answers to what was asked with the connection, once, or to what is asked now."""
        asked, self._asked = self._asked, None
        if asked is not None and asked[0] == tuple(names):
            return asked[1].answers()
        return self._engine.call_all(look_requests(self._endpoint, names))

    def attributes(self, names: Sequence[str]) -> dict[str, RemoteAttributes | None]:
        """Look at `names` without following links, all at once; None where there is nothing."""
        with self._bounded(self._limits.request):
            replies = self._engine.call_all(map(self._lstat, names))
            return dict(zip(names, map(self._seen, names, replies), strict=True))

    def _lstat(self, name: str) -> tuple[Kind, bytes]:
        return Kind.LSTAT, text(self._path(name).encode())

    def upload(
        self,
        uploads: Sequence[Upload],
        progress: Callable[[int], None] | None = None,
        give_up: Callable[[], bool] = lambda: False,
    ) -> dict[str, Evidence]:
        """Send all files to their temporary names, at once; gives the evidence by final name.

        `progress` is told how many bytes were acknowledged; `give_up` ends it as a stop does. On any
        error the temporary files are removed as far as possible. Raises RemoteFull, RemoteDenied,
        RemoteDirectoryMissing, RemoteName, RemoteFailure, RemoteVerify, SpoolCorrupt, SpoolIO,
        StopRequested.
        """
        looks = self._send(uploads, progress=progress, give_up=give_up)
        try:
            return self._verify(uploads, looks)
        except MxdeliverError:
            with suppress(ConnectionLost, Stalled, StopRequested):
                self.remove([upload.temporary for upload in uploads])
            raise

    def write(self, uploads: Sequence[Upload], ownership: Ownership) -> dict[str, Evidence]:
        """Send all files to their final names, each made new: where no rename is possible.

        On any error what was made is removed as far as possible. Raises what `upload` raises.
        """
        looks = self._send(uploads, ownership=ownership)
        try:
            return self._verify(uploads, looks)
        except MxdeliverError:
            with suppress(ConnectionLost, Stalled, StopRequested):
                ownership.may_remove()
                gone = self.remove([upload.temporary for upload in uploads])
                ownership.removed([name for name, is_gone in gone.items() if is_gone])
            raise

    def _send(
        self,
        uploads: Sequence[Upload],
        *,
        progress: Callable[[int], None] | None = None,
        give_up: Callable[[], bool] = lambda: False,
        ownership: Ownership | None = None,
    ) -> Looks:
        # Who owns final names is told in groups: one after the other.
        further = self._further.engines() if ownership is None else ()
        with self._bounded(self._limits.no_progress):
            return upload_all(
                uploads,
                [self._engine, *further],
                path=self._path,
                open_files=self._endpoint.open_files,
                place=self._place,
                is_full=self._is_full,
                stop_requested=lambda: self._connection.watchdog.stop_requested() or give_up(),
                progress=progress,
                ownership=ownership,
            )

    def rename(self, moves: Sequence[Move]) -> Renaming:
        """Make files appear under their final names, all at once, never replacing anything.

        Raises RemoteConflict and StopRequested before anything was renamed; what fails afterwards
        is told beside the files that have appeared: RemoteConflict, RemoteDenied (RenameRefused
        where the server allows no rename at all), RemoteVerify (TemporaryVanished), RemoteFull,
        RemoteFailure, RemoteName.
        """
        if self._connection.watchdog.stop_requested():
            raise StopRequested("stopped before files were renamed")
        free = self._seen_free & {move.final for move in moves}
        self._seen_free -= free
        with self._bounded(self._limits.request):
            return Publisher(
                self._engine,
                path=self._path,
                attributes=self.attributes,
                read=self.read,
                place=self._place,
                sleep=self._sleep,
            ).run(moves, free)

    def remove(self, names: Sequence[str]) -> dict[str, bool]:
        """Remove files as far as possible, all at once; tells which names are free now."""
        with self._bounded(self._limits.request):
            replies = self._engine.call_all(
                (Kind.REMOVE, text(self._path(name).encode())) for name in names
            )
        gone = {Status.OK, Status.NO_SUCH_FILE}
        return {name: reply.status in gone for name, reply in zip(names, replies, strict=True)}

    def read(self, name: str, size_limit: int) -> Iterator[bytes]:
        """Give a file's first `size_limit` bytes in pieces; RemoteDenied, RemoteFailure."""
        path = self._path(name)
        with self._bounded(self._limits.request):
            body = text(path.encode()) + struct.pack(">II", _READ_ONLY, 0)
            opened = self._engine.call(Kind.OPEN, body)
            if opened.status == Status.NO_SUCH_FILE:
                raise RemoteFailure(f"{path} on {self._place} vanished before it could be read")
            if opened.kind != Kind.HANDLE:
                raise failure(opened, "opening", path, self._place)
            handle, _ = read_string(opened.body)
        try:
            yield from self._pieces(handle, path, size_limit)
        finally:
            with self._bounded(self._limits.request):
                self._engine.call(Kind.CLOSE, text(handle))

    # -- details -----------------------------------------------------------------------------------

    def _path(self, name: str) -> str:
        return remote_path(self._endpoint, name)

    @contextmanager
    def _bounded(self, seconds: float) -> Iterator[None]:
        """Bound each wait for an answer, and map what paramiko and the socket raise."""

        def late() -> MxdeliverError:
            return Stalled(f"{self._place} acknowledged nothing for {seconds:g} s")

        watchdog = self._connection.watchdog
        with mapped(self._connection), watchdog.limit(seconds, late, patience=self._limits.stop):
            yield

    def _seen(self, name: str, reply: Reply) -> RemoteAttributes | None:
        if reply.kind == Kind.ATTRS:
            attributes = unpack(reply.body)
            return RemoteAttributes(size=attributes.size, is_regular=attributes.is_regular)
        if reply.status == Status.NO_SUCH_FILE:
            return None
        if reply.status in {Status.PERMISSION_DENIED, Status.UNSUPPORTED}:
            return RemoteAttributes(size=None, is_regular=True, denied=True)
        raise failure(reply, "looking at", self._path(name), self._place)

    def _verify(self, uploads: Sequence[Upload], looks: Looks) -> dict[str, Evidence]:
        """Look at what was sent, and in one go at the final names, for the `rename` that follows.

        Those of the `looks` that count are not done again.
        """
        sent = {upload.temporary: upload.size for upload in uploads}
        final = [upload.name for upload in uploads if upload.name not in sent]
        with self._bounded(self._limits.request):
            counting = looks.that_count(sent, self._limits.fresh)
            seen = {name: self._seen(name, reply) for name, reply in counting.items()}
            seen |= self.attributes([name for name in (*sent, *final) if name not in seen])
            self._seen_free = {name for name in final if seen[name] is None}
            return Verifier(
                self._engine,
                path=self._path,
                attributes=self.attributes,
                place=self._place,
                software=self.facts.server,
                sleep=self._sleep,
            ).run(uploads, seen)

    def _is_full(self, engine: Engine) -> bool:
        """Ask for free space where the server tells it (OpenSSH's extension)."""
        if _STATVFS not in engine.extensions:
            return False
        path = self._endpoint.directory or "."
        reply = engine.call(Kind.EXTENDED, text(_STATVFS.encode()) + text(path.encode()))
        if reply.kind != Kind.EXTENDED_REPLY or len(reply.body) < 40:
            return False
        _, fragment, _, _, available = struct.unpack_from(">QQQQQ", reply.body)
        return bool(fragment * available < _LEAST_FREE_BYTES)

    def _pieces(self, handle: bytes, path: str, size_limit: int) -> Iterator[bytes]:
        offset = 0
        while offset < size_limit:
            ahead = range(
                offset, min(size_limit, offset + _READS_UNDER_WAY * DEFAULT_PIECE), DEFAULT_PIECE
            )
            with self._bounded(self._limits.request):
                replies = self._engine.call_all(
                    (
                        Kind.READ,
                        text(handle)
                        + struct.pack(">QI", start, min(DEFAULT_PIECE, size_limit - start)),
                    )
                    for start in ahead
                )
            for start, reply in zip(ahead, replies, strict=True):
                if reply.status == Status.EOF:
                    return
                if reply.kind != Kind.DATA:
                    raise failure(reply, "reading", path, self._place)
                with mapped(self._connection):
                    data, _ = read_string(reply.body)
                if not data:
                    return
                offset += len(data)
                yield data
                if offset < min(start + DEFAULT_PIECE, size_limit):
                    break  # shorter than asked for: the rest is asked for again
