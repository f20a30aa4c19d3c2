"""SFTP over a connection that is logged in: one channel, and more of them where the way is long.

What may be under way on one channel is bounded by the server's window (OpenSSH: 2 MiB), so a round
trip of 50 ms lets 40 MB/s through, whatever the line could carry. Each further channel has a window of
its own. They are opened beside the first, in threads, as many as pay for the bytes at hand; those that
the server refuses, or opens late, are done without.

Foreign exceptions end in `mapped`: whatever paramiko or the socket raises becomes the watchdog's
verdict (Stalled, StopRequested) or ConnectionLost.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Thread

from paramiko import Channel, ChannelException, SSHException

from mxdeliver.core.errors import (
    ConnectionLost,
    MxdeliverError,
    SessionLimit,
    SftpUnavailable,
    Stalled,
)
from mxdeliver.edge.sftp.engine import Engine
from mxdeliver.edge.sftp.handshake import Connection
from mxdeliver.edge.sftp.model import Limits
from mxdeliver.edge.sftp.transport import DataChannel

MOST_CHANNELS = 8
"""OpenSSH allows ten sessions to a connection (MaxSessions)."""
_WINDOW = 2 * 1024 * 1024
_LONG_WAY = 0.01  # one window each: 200 MB/s, about as much as one process encrypts
_ROUND_TRIPS_TO_WAIT = 3
_SOON = 0.5
_ONE_AFTER_THE_OTHER = "-OpenSSH_"  # sftp-server.c: one loop, one request at a time


@contextmanager
def mapped(connection: Connection) -> Iterator[None]:
    """Give foreign errors of a block as ours."""
    try:
        yield
    except (SSHException, OSError, EOFError) as error:
        if connection.watchdog.failure is not None:
            raise connection.watchdog.failure from error
        raise ConnectionLost(f"the connection to {connection.place} broke") from error
    except struct.error as error:
        raise ConnectionLost(f"{connection.place} sent a packet cut short") from error


def start_sftp(
    connection: Connection, limits: Limits, sizes: Sequence[int]
) -> tuple[Engine, FurtherChannels]:
    """Start SFTP on the first channel, and on more in the background, as files of `sizes` are worth.

    Without sizes nothing is taken for granted of the server that is not in the protocol.
    Raises SessionLimit, SftpUnavailable, Stalled.
    """
    place, seconds = connection.place, limits.session

    def late() -> MxdeliverError:
        return Stalled(f"{place} did not start SFTP within {seconds:g} s")

    with mapped(connection), connection.watchdog.limit(seconds, late):
        channel = _open_channel(connection)
        further = FurtherChannels(connection, sizes)  # never before the one that is needed
        engine = _engine(channel, connection, eager=bool(sizes))
        try:
            engine.start()
        except SftpUnavailable:
            if _has_ended(connection):
                raise EOFError from None  # by itself or by the watchdog: it tells nothing of SFTP
            raise
    return engine, further


def _has_ended(connection: Connection) -> bool:
    """Tell whether the connection has ended, not the channel alone: it closes channels first."""
    connection.transport.join(_SOON)
    return not connection.transport.is_alive()


def _open_channel(connection: Connection) -> Channel:
    try:
        return connection.transport.open_session()  # for as long as the watchdog lets it
    except ChannelException as error:
        raise SessionLimit(f"{connection.place} opens no session: {error.text}") from error


def _engine(channel: Channel, connection: Connection, *, eager: bool) -> Engine:
    try:
        channel.invoke_subsystem("sftp")
    except SSHException as error:
        if connection.watchdog.failure is not None or _has_ended(connection):
            raise
        raise SftpUnavailable(f"{connection.place} refuses the sftp subsystem") from error
    engine = Engine(DataChannel(channel), connection.watchdog, connection.place)
    engine.answers_in_order = eager and _ONE_AFTER_THE_OTHER in connection.transport.remote_version
    return engine


def channels_worth(sizes: Sequence[int], round_trip: float) -> int:
    """Give how many channels files of these sizes (bytes) are worth at a round trip of so many seconds.

    One window each, but never more than there are files: a file stays on one channel.
    """
    if round_trip < _LONG_WAY:
        return 1
    return max(1, min(MOST_CHANNELS, len(sizes), -(-sum(sizes) // _WINDOW)))


class FurtherChannels:
    """Channels beside the first, for files of these sizes (bytes); none where the way is short.

    They end with the connection.
    """

    def __init__(self, connection: Connection, sizes: Sequence[int]) -> None:
        self._connection = connection
        self._engines: list[Engine] = []
        round_trip = connection.transport.round_trip
        self._patience = _ROUND_TRIPS_TO_WAIT * round_trip
        self._threads = [
            Thread(target=self._open, name="sftp-channel", daemon=True)
            for _ in range(channels_worth(sizes, round_trip) - 1)
        ]
        for thread in self._threads:
            thread.start()

    def _open(self) -> None:
        connection = self._connection
        with suppress(MxdeliverError, SSHException, OSError, EOFError, struct.error):
            engine = _engine(_open_channel(connection), connection, eager=True)
            engine.start()
            self._engines.append(engine)

    def engines(self) -> Sequence[Engine]:
        """Give those that are open by now, or within a few round trips."""
        until = time.monotonic() + self._patience
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return tuple(self._engines)
