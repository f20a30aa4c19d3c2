"""Hosts that do not answer are left alone for a while; nothing here waits or reads a clock.

Forty clients of one dead server would otherwise each wait out their own connects and retries, and
keep the places from clients of other servers. Once a server has not answered `LIMIT` times in a row,
one delivery at a time goes on trying it: the probe. The others are put off without connecting, until
the probe was answered or the pause is over, when the next of them becomes the probe.

What is known lives as long as the process (docs/decisions/0004-a-breaker-in-each-process.md).
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from threading import Lock
from typing import NamedTuple

from mxdeliver.core.errors import (
    AuthChangeRequired,
    AuthFailed,
    AuthMethod,
    ConnectionLost,
    ConnectRefused,
    ConnectTimeout,
    DnsFailed,
    HostKeyMismatch,
    MxdeliverError,
    NetworkUnreachable,
    RemoteConflict,
    RemoteDenied,
    RemoteDirectoryMissing,
    RemoteFailure,
    RemoteFull,
    RemoteName,
    RemoteVerify,
    SessionLimit,
    SftpUnavailable,
    SshAlgorithmMismatch,
    SshBanner,
    Stalled,
)
from mxdeliver.core.model import Client

LIMIT = 3
"""One failed connect is an accident (a restart, a lost packet), and two may be the same accident met
by two places at once. A client alone on its server is never put off: it is the probe itself."""

SILENCE = (DnsFailed, ConnectTimeout, ConnectRefused, NetworkUnreachable, SshBanner)
"""Nothing that speaks SSH was reached."""

ANSWERS = (
    ConnectionLost,
    Stalled,
    SshAlgorithmMismatch,
    HostKeyMismatch,
    AuthFailed,
    AuthMethod,
    AuthChangeRequired,
    SessionLimit,
    SftpUnavailable,
    RemoteDirectoryMissing,
    RemoteDenied,
    RemoteFull,
    RemoteFailure,
    RemoteName,
    RemoteConflict,
    RemoteVerify,
)
"""A server was there, whatever it said. All other errors tell nothing of it."""


class Host(NamedTuple):
    """What is reached or not: clients that may connect to other addresses of a name are apart."""

    name: str
    port: int
    allowed: AbstractSet[IPv4Network | IPv6Network]

    @classmethod
    def of(cls, client: Client) -> Host:
        """Give the host that the client's files go to."""
        endpoint = client.endpoint
        return cls(endpoint.host.lower(), endpoint.port, frozenset(endpoint.allowed_ips))


@dataclass(frozen=True, slots=True, kw_only=True)
class Silent:
    """A host is not to be tried: how often it did not answer, what the last one met, until when."""

    failures: int
    error: MxdeliverError
    until: float


@dataclass(slots=True)
class _Silence:
    failures: int
    error: MxdeliverError
    pause: float
    until: float = 0.0
    probe: str | None = None
    under_way: bool = False


class Breaker:
    """Knows which hosts do not answer; shared by threads. Moments are monotonic seconds."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._silences: dict[Host, _Silence] = {}

    def ask(self, host: Host, who: str, *, now: float) -> Silent | None:
        """Tell why the delivery of `who` is not to connect now, or give None.

        After None, one of `failed`, `answered` and `untold` must follow.
        """
        with self._lock:
            silence = self._silences.get(host)
            if silence is None or silence.failures < LIMIT:
                return None
            if silence.probe in {None, who} or (now >= silence.until and not silence.under_way):
                silence.probe, silence.under_way = who, True
                return None
            # While a probe is under way past its pause, nobody can tell when it will have ended.
            until = silence.until if silence.until > now else now + silence.pause
            return Silent(failures=silence.failures, error=silence.error, until=until)

    def failed(
        self, host: Host, who: str, error: MxdeliverError, *, now: float, pause: float
    ) -> None:
        """Take note that the host did not answer; it is left alone for `pause` seconds."""
        with self._lock:
            silence = self._silences.setdefault(host, _Silence(0, error, pause))
            silence.failures += 1
            silence.error, silence.pause, silence.until = error, pause, now + pause
            if silence.failures >= LIMIT and silence.probe in {None, who}:
                silence.probe, silence.under_way = who, False

    def answered(self, host: Host) -> None:
        """Take note that the host is there."""
        with self._lock:
            self._silences.pop(host, None)

    def untold(self, host: Host, who: str) -> None:
        """Take note that the attempt of `who` ended before the host was asked: another may probe."""
        with self._lock:
            silence = self._silences.get(host)
            if silence is not None and silence.probe == who:
                silence.probe, silence.under_way = None, False

    def places(self, host: Host) -> int | None:
        """Tell how many of those put off may come back now; None for all of them."""
        with self._lock:
            silence = self._silences.get(host)
            if silence is None or silence.failures < LIMIT:
                return None
            return 1 if silence.probe is None else 0
