"""From an endpoint to a server that has proven to be the pinned one; no user name is sent here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date

from paramiko import RSAKey, SSHException
from paramiko.pkey import PKey
from paramiko.ssh_exception import IncompatiblePeer

from mxdeliver.core.errors import (
    ConnectionLost,
    HostKeyMismatch,
    MxdeliverError,
    SessionLimit,
    SshAlgorithmMismatch,
    SshBanner,
    Stalled,
    peer_text,
)
from mxdeliver.core.model import Endpoint, HostKeyPin, server_name
from mxdeliver.edge.sftp.address import (
    Address,
    Networks,
    Resolver,
    addresses,
    allowed,
    check_port,
    open_socket,
)
from mxdeliver.edge.sftp.model import Limits, ScannedHostKey
from mxdeliver.edge.sftp.transport import (
    CIPHERS,
    HOST_KEY_ALGORITHMS,
    KEY_EXCHANGES,
    MACS,
    PeerTransport,
    key_sha256,
)
from mxdeliver.edge.sftp.watchdog import Watchdog

_LEAST_RSA_BITS = 2048
_FULL = ("maxstartups", "too many", "not allowed at this time", "maximum number")
_TOO_MANY_CONNECTIONS = 12  # RFC 4253 section 11.1
_COMPARED = (
    ("kex_algo_list", KEY_EXCHANGES),
    ("server_key_algo_list", HOST_KEY_ALGORITHMS),
    ("client_encrypt_algo_list", CIPHERS),
    ("client_mac_algo_list", MACS),
)


@dataclass(frozen=True, slots=True)
class Connection:
    """An encrypted connection whose host key is known; not logged in."""

    transport: PeerTransport
    watchdog: Watchdog
    address: Address
    place: str
    host_key: PKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialler:
    """Where and how to connect; `candidates` are already filtered."""

    host: str
    port: int
    candidates: Sequence[Address]
    limits: Limits
    stop: Callable[[], bool]

    @property
    def place(self) -> str:
        """Host and port for messages."""
        return server_name(self.host, self.port)

    @contextmanager
    def dial(self, algorithms: tuple[str, ...] = HOST_KEY_ALGORITHMS) -> Iterator[Connection]:
        """Connect and exchange keys, the host key being one of `algorithms`."""
        connection, address = open_socket(
            self.candidates, self.port, limits=self.limits, stop=self.stop
        )
        with connection:
            transport = PeerTransport(connection, algorithms)
            with Watchdog(transport.close, self.stop) as watchdog:
                try:
                    self._exchange_keys(transport, watchdog)
                    key = transport.get_remote_server_key()
                    yield Connection(transport, watchdog, address, self.place, key)
                finally:
                    transport.close()
                    if transport.is_alive():
                        transport.join(1)

    def _exchange_keys(self, transport: PeerTransport, watchdog: Watchdog) -> None:
        limits = self.limits
        seconds = limits.banner + limits.key_exchange
        transport.banner_timeout = limits.banner

        def late() -> MxdeliverError:
            return Stalled(f"{self.place} did not finish the key exchange within {seconds:g} s")

        try:
            with watchdog.limit(seconds, late):
                transport.start_client()
        except (SSHException, OSError, EOFError) as error:
            raise self._failure(transport, watchdog, error) from error

    def _failure(
        self, transport: PeerTransport, watchdog: Watchdog, error: Exception
    ) -> MxdeliverError:
        if watchdog.failure is not None:
            return watchdog.failure
        said = f" (it said: {transport.preamble})" if transport.preamble else ""
        if not transport.remote_version.startswith("SSH-"):
            full = any(word in transport.preamble.lower() for word in _FULL)
            banner = SessionLimit if full else SshBanner
            return banner(f"{self.place} does not answer as an SSH server{said}")
        if transport.disconnected is not None:
            code, text = transport.disconnected
            kind = SessionLimit if code == _TOO_MANY_CONNECTIONS else ConnectionLost
            return kind(f"{self.place} ended the connection: {text}")
        if isinstance(error, IncompatiblePeer):
            return SshAlgorithmMismatch(f"{self.place}: {_both_sides(transport)}")
        return ConnectionLost(f"{self.place}: the key exchange failed ({type(error).__name__})")


def _both_sides(transport: PeerTransport) -> str:
    if not transport.offered:
        return f"the server speaks {transport.preamble}, not SSH 2.0"
    parts = []
    for name, ours in _COMPARED:
        theirs = transport.offered.get(name, [])
        if not set(theirs) & set(ours):
            offer = peer_text(", ".join(theirs)) or "nothing"
            parts.append(f"the server offers {offer}; accepted are {', '.join(ours)}")
    return "; ".join(parts) or "no common algorithm"


def dialler(
    host: str,
    port: int,
    networks: Networks | None,
    *,
    limits: Limits,
    resolve: Resolver,
    stop: Callable[[], bool],
) -> Dialler:
    """Resolve and filter once. Raises PortNotAllowed, DnsFailed, AddressNotAllowed."""
    check_port(host, port)
    found = addresses(host, port, resolve, seconds=limits.resolve, stop=stop)
    candidates = found if networks is None else allowed(host, found, networks)
    return Dialler(host=host, port=port, candidates=candidates, limits=limits, stop=stop)


@contextmanager
def pinned_connection(to: Dialler, endpoint: Endpoint, today: date) -> Iterator[Connection]:
    """Give a connection to a server that showed a pinned host key.

    A pin may be of any type: on a mismatch the handshake is made again with each other type that
    the server offers. Raises HostKeyMismatch naming all keys that were seen.
    """
    pins = _live_pins(endpoint.host_keys, today)
    seen: list[str] = []
    weak = False
    remaining: list[tuple[str, ...]] = [HOST_KEY_ALGORITHMS]
    tried: set[str] = set()
    while remaining:
        with to.dial(remaining.pop(0)) as connection:
            key = connection.host_key
            sha256 = key_sha256(key)
            if sha256 in pins and not _is_weak(key):
                yield connection
                return
            weak = weak or sha256 in pins
            seen.append(f"{key.get_name()} {sha256}")
            if not tried:
                remaining = _other_types(connection.transport, key)
            tried.add(key.get_name())
    shown = ", ".join(seen)
    if weak:
        raise SshAlgorithmMismatch(
            f"{to.place} shows {shown}; the pinned RSA key has fewer than {_LEAST_RSA_BITS} bits"
        )
    raise HostKeyMismatch(f"{to.place} shows {shown}, and none of them is pinned")


def _live_pins(pins: Sequence[HostKeyPin], today: date) -> frozenset[str]:
    return frozenset(pin.sha256 for pin in pins if pin.not_after is None or pin.not_after >= today)


def _is_weak(key: PKey) -> bool:
    return isinstance(key, RSAKey) and key.get_bits() < _LEAST_RSA_BITS


def _family(algorithm: str) -> str:
    return "ssh-rsa" if algorithm.startswith("rsa-sha2-") else algorithm


def _other_types(transport: PeerTransport, shown: PKey) -> list[tuple[str, ...]]:
    """Group the host key algorithms that the server offers too by the key behind them."""
    offered = transport.offered.get("server_key_algo_list", [])
    groups: dict[str, tuple[str, ...]] = {}
    for algorithm in HOST_KEY_ALGORITHMS:
        family = _family(algorithm)
        if algorithm in offered and family != shown.get_name():
            groups[family] = (*groups.get(family, ()), algorithm)
    return list(groups.values())


def scanned(to: Dialler) -> tuple[ScannedHostKey, ...]:
    """Give every host key that the server shows, in the order in which they are preferred."""
    found: list[PKey] = []
    with to.dial() as connection:
        found.append(connection.host_key)
        others = _other_types(connection.transport, connection.host_key)
    for algorithms in others:
        with to.dial(algorithms) as connection:
            found.append(connection.host_key)
    return tuple(
        ScannedHostKey(
            algorithm=key.get_name(),
            sha256=key_sha256(key),
            public_key_line=f"{key.get_name()} {key.get_base64()}",
        )
        for key in found
    )
