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
from dataclasses import dataclass
from threading import Thread

from paramiko import ChannelException, SSHException

from mxdeliver.core.errors import (
    ConnectionLost,
    MxdeliverError,
    SessionLimit,
    SftpUnavailable,
    Stalled,
)
from mxdeliver.edge.sftp.engine import Engine, Kind, Posted
from mxdeliver.edge.sftp.handshake import Connection
from mxdeliver.edge.sftp.model import Limits
from mxdeliver.edge.sftp.opening import DataChannel, Opening

MOST_CHANNELS = 8
"""OpenSSH allows ten sessions to a connection (MaxSessions)."""
_WINDOW = 2 * 1024 * 1024
_LONG_WAY = 0.01  # one window each: 200 MB/s, about as much as one process encrypts
_ROUND_TRIPS_TO_WAIT = 3
_MOST_AHEAD = 200
"""Requests; far less than a window, and than may be under way."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """SFTP on the first channel, and what comes beside it; `asked` are requests that were sent ahead."""

    engine: Engine
    further: FurtherChannels
    asked: Posted | None = None


def start_sftp(
    connection: Connection,
    limits: Limits,
    sizes: Sequence[int],
    *,
    ahead: bool = False,
    first: Sequence[tuple[Kind, bytes]] = (),
) -> Started:
    """Start SFTP on the first channel, and on more in the background, as files of `sizes` are worth.

    With `ahead`, for OpenSSH, nothing waits that need not: neither for one channel to be open before
    the next is asked for, nor for the server's version before the `first` requests are sent. What
    goes wrong then may be the fault of what was sent ahead, and is ConnectionLost: the next attempt,
    which sends nothing ahead, tells whether there is SFTP. That the server refuses the subsystem is
    true in any case: it takes that request first.
    Raises SessionLimit, SftpUnavailable, ConnectionLost, Stalled.
    """
    place, seconds = connection.place, limits.session

    def late() -> MxdeliverError:
        return Stalled(f"{place} did not start SFTP within {seconds:g} s")

    with mapped(connection), connection.watchdog.limit(seconds, late):
        opening = connection.transport.request_session()
        if not ahead:
            _wait_for(opening, connection)
        further = FurtherChannels(connection, sizes, ahead=ahead)  # behind the one that is needed
        sent_ahead = first if ahead and len(first) <= _MOST_AHEAD else ()
        engine, asked = _engine(opening, connection, ahead=ahead, first=sent_ahead)
        try:
            engine.start()
        except SftpUnavailable as error:
            if _has_ended(connection):
                raise EOFError from None  # by itself or by the watchdog: it tells nothing of SFTP
            if ahead:
                raise _taken_amiss(connection) from error
            raise
    return Started(engine=engine, further=further, asked=asked if sent_ahead else None)


def _has_ended(connection: Connection) -> bool:
    """Tell whether the connection has ended, not the channel alone: it closes channels first."""
    connection.transport.hear_out()
    return not connection.transport.is_alive()


def _taken_amiss(connection: Connection) -> ConnectionLost:
    return ConnectionLost(
        f"{connection.place} did not start SFTP, which was asked for without waiting"
    )


def _wait_for(opening: Opening, connection: Connection) -> DataChannel:
    try:
        channel = opening.wait()  # for as long as the watchdog lets it
    except ChannelException as error:
        raise SessionLimit(f"{connection.place} opens no session: {error.text}") from error
    return DataChannel(channel, connection.transport)


def _engine(
    opening: Opening,
    connection: Connection,
    *,
    ahead: bool,
    first: Sequence[tuple[Kind, bytes]] = (),
) -> tuple[Engine, Posted]:
    """Give an engine that can be started; with `ahead` it has begun, and sent the `first` requests."""
    channel = _wait_for(opening, connection)
    engine = Engine(channel, connection.watchdog, connection.place)
    engine.answers_in_order = ahead
    asked = Posted(engine)
    try:
        channel.request_subsystem("sftp")
        if ahead:
            engine.hail()
        for kind, body in first:
            asked.add(kind, body)
        engine.flush()
        channel.await_subsystem()
    except (SSHException, OSError, EOFError) as error:  # a refusal closes the channel
        if connection.watchdog.failure is not None or _has_ended(connection):
            raise
        if ahead and not channel.is_refused:
            raise _taken_amiss(connection) from error
        raise SftpUnavailable(f"{connection.place} refuses the sftp subsystem") from error
    return engine, asked


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

    def __init__(
        self, connection: Connection, sizes: Sequence[int], *, ahead: bool = False
    ) -> None:
        self._connection = connection
        self._engines: list[Engine] = []
        round_trip = connection.transport.round_trip
        self._patience = _ROUND_TRIPS_TO_WAIT * round_trip
        self._ahead = ahead
        number = channels_worth(sizes, round_trip) - 1
        openings = [connection.transport.request_session() for _ in range(number)]
        self._threads = [
            Thread(target=self._start, args=[opening], name="sftp-channel", daemon=True)
            for opening in openings
        ]
        for thread in self._threads:
            thread.start()

    def _start(self, opening: Opening) -> None:
        with suppress(MxdeliverError, SSHException, OSError, EOFError, struct.error):
            engine, _ = _engine(opening, self._connection, ahead=self._ahead)
            engine.start()
            engine.flush()  # nobody asks for more before the files are sent
            self._engines.append(engine)

    def engines(self) -> Sequence[Engine]:
        """Give those that are open by now, or within a few round trips."""
        until = time.monotonic() + self._patience
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return tuple(self._engines)
