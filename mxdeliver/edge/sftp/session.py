"""A logged-in session on a client's server: what push does with it, and nothing else.

Foreign exceptions end here: whatever paramiko or the socket raises becomes the watchdog's verdict
(Stalled, StopRequested) or ConnectionLost.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date

from paramiko import Channel, ChannelException, SSHException

from mxdeliver.core.errors import (
    ConnectionLost,
    MxdeliverError,
    RemoteDirectoryMissing,
    RemoteFailure,
    SessionLimit,
    SftpUnavailable,
    Stalled,
    StopRequested,
    peer_text,
)
from mxdeliver.core.model import Endpoint
from mxdeliver.edge.sftp.address import Networks, Resolver, system_resolver
from mxdeliver.edge.sftp.attributes import unpack
from mxdeliver.edge.sftp.authentication import authenticate
from mxdeliver.edge.sftp.engine import DEFAULT_PIECE, Engine, Kind, Reply, Status, read_string, text
from mxdeliver.edge.sftp.failures import failure
from mxdeliver.edge.sftp.handshake import Connection, dialler, pinned_connection, scanned
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
from mxdeliver.edge.sftp.upload import Uploader
from mxdeliver.edge.sftp.verification import Verifier

_READS_UNDER_WAY = 32
_READ_ONLY = 0x01
_STATVFS = "statvfs@openssh.com"
_LEAST_FREE_BYTES = 1024 * 1024
_SOON = 0.5


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
) -> Iterator[Session]:
    """Open a session; nothing but a handshake is sent before address and host key are proven.

    `today` decides which pins still count. Raises PortNotAllowed, DnsFailed, AddressNotAllowed,
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
        authenticate(connection, endpoint.username, credentials, seconds=limits.authentication)
        connection.transport.set_keepalive(round(limits.keepalive))
        engine = _start_sftp(connection, limits)
        yield Session(connection, engine, endpoint, limits=limits, sleep=sleep)


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


def _start_sftp(connection: Connection, limits: Limits) -> Engine:
    place, seconds = connection.place, limits.session

    def late() -> MxdeliverError:
        return Stalled(f"{place} did not start SFTP within {seconds:g} s")

    with _mapped(connection), connection.watchdog.limit(seconds, late):
        engine = Engine(_open_channel(connection), connection.watchdog, place)
        try:
            engine.start()
        except SftpUnavailable:
            if _has_ended(connection):
                raise EOFError from None  # by itself or by the watchdog: it tells nothing of SFTP
            raise
    return engine


def _has_ended(connection: Connection) -> bool:
    """Tell whether the connection has ended, not the channel alone: it closes channels first."""
    connection.transport.join(_SOON)
    return not connection.transport.is_alive()


def _open_channel(connection: Connection) -> Channel:
    place = connection.place
    try:
        channel = connection.transport.open_session()  # for as long as the watchdog lets it
    except ChannelException as error:
        raise SessionLimit(f"{place} opens no session: {error.text}") from error
    try:
        channel.invoke_subsystem("sftp")
    except SSHException as error:
        if connection.watchdog.failure is not None:
            raise
        raise SftpUnavailable(f"{place} refuses the sftp subsystem") from error
    return channel


@contextmanager
def _mapped(connection: Connection) -> Iterator[None]:
    try:
        yield
    except (SSHException, OSError, EOFError) as error:
        if connection.watchdog.failure is not None:
            raise connection.watchdog.failure from error
        raise ConnectionLost(f"the connection to {connection.place} broke") from error
    except struct.error as error:
        raise ConnectionLost(f"{connection.place} sent a packet cut short") from error


class Session:
    """An open SFTP session; used by one thread. Every method may raise ConnectionLost and Stalled."""

    def __init__(
        self,
        connection: Connection,
        engine: Engine,
        endpoint: Endpoint,
        *,
        limits: Limits,
        sleep: Callable[[float], None],
    ) -> None:
        self._connection = connection
        self._engine = engine
        self._endpoint = endpoint
        self._limits = limits
        self._sleep = sleep
        self._place = connection.place
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
        directory = self._endpoint.directory or "."
        with self._bounded(self._limits.request):
            reply = self._engine.call(Kind.STAT, text(directory.encode()))
            is_other = reply.kind == Kind.ATTRS and not unpack(reply.body).is_directory
        if reply.status == Status.NO_SUCH_FILE:
            raise RemoteDirectoryMissing(f"{directory} does not exist on {self._place}")
        if is_other:
            raise RemoteDirectoryMissing(f"{directory} on {self._place} is not a directory")

    def attributes(self, names: Sequence[str]) -> dict[str, RemoteAttributes | None]:
        """Look at `names` without following links, all at once; None where there is nothing."""
        with self._bounded(self._limits.request):
            replies = self._engine.call_all(
                (Kind.LSTAT, text(self._path(name).encode())) for name in names
            )
            return {
                name: self._seen(name, reply) for name, reply in zip(names, replies, strict=True)
            }

    def upload(
        self, uploads: Sequence[Upload], progress: Callable[[int], None] | None = None
    ) -> dict[str, Evidence]:
        """Send all files to their temporary names, at once; gives the evidence by final name.

        `progress` is told how many bytes were acknowledged. On any error the temporary files that
        were created are removed as far as possible. Raises RemoteFull, RemoteDenied,
        RemoteDirectoryMissing, RemoteName, RemoteFailure, RemoteVerify, SpoolCorrupt, SpoolIO,
        StopRequested.
        """
        self._send(uploads, progress=progress)
        try:
            return self._verify(uploads)
        except MxdeliverError:
            with suppress(ConnectionLost, Stalled, StopRequested):
                self.remove([upload.temporary for upload in uploads])
            raise

    def write(self, uploads: Sequence[Upload], ownership: Ownership) -> dict[str, Evidence]:
        """Send all files to their final names, each made new: where no rename is possible.

        On any error what was made is removed as far as possible. Raises what `upload` raises.
        """
        self._send(uploads, ownership=ownership)
        try:
            return self._verify(uploads)
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
        ownership: Ownership | None = None,
    ) -> None:
        with self._bounded(self._limits.no_progress):
            Uploader(
                self._engine,
                [(upload, self._path(upload.temporary)) for upload in uploads],
                open_files=self._endpoint.open_files,
                place=self._place,
                is_full=self._is_full,
                stop_requested=self._connection.watchdog.stop_requested,
                progress=progress,
                ownership=ownership,
            ).run()

    def rename(self, moves: Sequence[Move]) -> Renaming:
        """Make files appear under their final names, all at once, never replacing anything.

        Raises RemoteConflict and StopRequested before anything was renamed; what fails afterwards
        is told beside the files that have appeared: RemoteConflict, RemoteDenied (RenameRefused
        where the server allows no rename at all), RemoteVerify (TemporaryVanished), RemoteFull,
        RemoteFailure, RemoteName.
        """
        if self._connection.watchdog.stop_requested():
            raise StopRequested("stopped before files were renamed")
        with self._bounded(self._limits.request):
            return Publisher(
                self._engine,
                path=self._path,
                attributes=self.attributes,
                read=self.read,
                place=self._place,
                sleep=self._sleep,
            ).run(moves)

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
        directory = self._endpoint.directory
        if not directory:
            return name
        return f"{directory}{name}" if directory.endswith("/") else f"{directory}/{name}"

    @contextmanager
    def _bounded(self, seconds: float) -> Iterator[None]:
        """Bound each wait for an answer, and map what paramiko and the socket raise."""

        def late() -> MxdeliverError:
            return Stalled(f"{self._place} acknowledged nothing for {seconds:g} s")

        watchdog = self._connection.watchdog
        with _mapped(self._connection), watchdog.limit(seconds, late, patience=self._limits.stop):
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

    def _verify(self, uploads: Sequence[Upload]) -> dict[str, Evidence]:
        with self._bounded(self._limits.request):
            return Verifier(
                self._engine,
                path=self._path,
                attributes=self.attributes,
                place=self._place,
                software=self.facts.server,
                sleep=self._sleep,
            ).run(uploads)

    def _is_full(self) -> bool:
        """Ask for free space where the server tells it (OpenSSH's extension)."""
        if _STATVFS not in self._engine.extensions:
            return False
        path = self._endpoint.directory or "."
        reply = self._engine.call(Kind.EXTENDED, text(_STATVFS.encode()) + text(path.encode()))
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
                with _mapped(self._connection):
                    data, _ = read_string(reply.body)
                if not data:
                    return
                offset += len(data)
                yield data
                if offset < min(start + DEFAULT_PIECE, size_limit):
                    break  # shorter than asked for: the rest is asked for again
