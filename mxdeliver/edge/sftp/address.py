"""From a host name to a connected socket: one resolution, allowed addresses only.

The name is resolved once and the socket goes to a literal address of that answer, so that a second
answer (DNS rebinding) is never asked for. Addresses are parsed and compared by `ipaddress` alone.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from threading import Thread
from typing import TypeAlias

from mxdeliver.core.errors import (
    AddressNotAllowed,
    ConnectRefused,
    ConnectTimeout,
    DnsFailed,
    MxdeliverError,
    NetworkUnreachable,
    PortNotAllowed,
    StopRequested,
)
from mxdeliver.core.model import server_name
from mxdeliver.edge.sftp.failures import NameUnknown
from mxdeliver.edge.sftp.model import Limits

Address: TypeAlias = IPv4Address | IPv6Address
Networks: TypeAlias = Sequence[IPv4Network | IPv6Network]
Resolver: TypeAlias = Callable[[str, int], Sequence[str]]

_SSH_PORT = 22
_LOOK_EVERY_MS = 100


def system_resolver(host: str, port: int) -> Sequence[str]:
    """Ask the system's resolver; raises OSError where it knows no address."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def check_port(host: str, port: int) -> None:
    """Raise PortNotAllowed for port 22, which the clients' contract excludes."""
    if port == _SSH_PORT:
        raise PortNotAllowed(f"{host}: port 22 is not allowed")


def addresses(
    host: str, port: int, resolve: Resolver, *, seconds: float, stop: Callable[[], bool]
) -> tuple[Address, ...]:
    """Resolve `host` once, within `seconds`; IPv4-mapped IPv6 addresses become IPv4.

    Raises DnsFailed (NameUnknown) and StopRequested. The resolver runs in a thread of its own, because getaddrinfo has no time limit.
    """
    answer: list[Sequence[str]] = []
    failure: list[OSError] = []

    def ask() -> None:
        try:
            answer.append(resolve(host, port))
        except (OSError, UnicodeError) as error:  # UnicodeError: a label that IDNA does not take
            failure.append(error if isinstance(error, OSError) else OSError(str(error)))

    thread = Thread(target=ask, name="sftp-resolver", daemon=True)
    thread.start()
    limit = time.monotonic() + seconds
    while thread.is_alive() and (left := limit - time.monotonic()) > 0:
        if stop():
            raise StopRequested(f"stopped while {host} was being resolved")
        thread.join(min(left, _LOOK_EVERY_MS / 1000))
    if failure:
        reason = failure[0].strerror or str(failure[0])
        kind = NameUnknown if failure[0].errno == socket.EAI_NONAME else DnsFailed
        raise kind(f"{host} cannot be resolved: {reason}") from failure[0]
    if not answer:
        raise DnsFailed(f"{host} was not resolved within {seconds:g} s")
    found = tuple(dict.fromkeys(_normalised(text) for text in answer[0]))
    if not found:
        raise DnsFailed(f"{host} has no address")
    return found


def _normalised(text: str) -> Address:
    address = ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def allowed(host: str, found: Sequence[Address], networks: Networks) -> tuple[Address, ...]:
    """Keep the addresses that are inside `networks`; AddressNotAllowed where none is."""
    kept = tuple(a for a in found if is_allowed(a, networks))
    if not kept:
        raise AddressNotAllowed(
            f"{host} resolves to {_listed(found)}, and only {_listed(networks)} may be connected to"
        )
    return kept


def is_allowed(address: Address, networks: Networks) -> bool:
    """Tell whether `address` is inside one of `networks`; the families are never mixed."""
    return any(address.version == network.version and address in network for network in networks)


def _listed(items: Sequence[object]) -> str:
    return ", ".join(str(item).removesuffix("/32").removesuffix("/128") for item in items)


def open_socket(
    candidates: Sequence[Address],
    port: int,
    *,
    limits: Limits,
    stop: Callable[[], bool],
) -> tuple[socket.socket, Address]:
    """Connect to the first of `candidates` that answers, all within `limits.connect` seconds.

    A dead address leaves the later ones their share of that time. Raises what went wrong with the
    last one: ConnectTimeout, ConnectRefused, NetworkUnreachable; StopRequested.
    """
    started = time.monotonic()
    failure: MxdeliverError | None = None
    for place, address in enumerate(candidates):
        left = limits.connect - (time.monotonic() - started)
        try:
            return _connected(
                address, port, left / (len(candidates) - place), limits, stop
            ), address
        except (ConnectTimeout, ConnectRefused, NetworkUnreachable) as error:
            failure = error
    assert failure is not None  # noqa: S101 - there is always one candidate, see `allowed`
    raise failure


def _connected(
    address: Address, port: int, seconds: float, limits: Limits, stop: Callable[[], bool]
) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    except OSError as error:  # a host without IPv6 may be given its addresses all the same
        raise _unreachable(f"{address}:{port}", error.errno) from error
    try:
        _configure(connection, limits)
        connection.setblocking(False)
        _wait_for_connection(connection, str(address), port, seconds, stop)
        _check_peer(connection, address, port)
    except BaseException:
        connection.close()
        raise
    return connection


def _configure(connection: socket.socket, limits: Limits) -> None:
    """Let the kernel give up on a peer that no longer acknowledges, also while we are writing."""
    milliseconds = round(limits.tcp_user_timeout * 1000)
    idle = max(1, round(limits.keepalive))
    tcp = socket.IPPROTO_TCP
    connection.setsockopt(tcp, socket.TCP_USER_TIMEOUT, milliseconds)
    connection.setsockopt(tcp, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(tcp, socket.TCP_KEEPIDLE, idle)
    connection.setsockopt(tcp, socket.TCP_KEEPINTVL, 5)
    connection.setsockopt(tcp, socket.TCP_KEEPCNT, 3)


def _wait_for_connection(
    connection: socket.socket, address: str, port: int, seconds: float, stop: Callable[[], bool]
) -> None:
    place = server_name(address, port)
    limit = time.monotonic() + seconds
    try:
        code = connection.connect_ex((address, port))
    except OSError as error:  # a scope that is no interface of this host
        raise NetworkUnreachable(f"{place} cannot be reached: {error.strerror}") from error
    if code == errno.EINPROGRESS:
        poll = select.poll()
        poll.register(connection, select.POLLOUT)
        while not poll.poll(_LOOK_EVERY_MS):
            if stop():
                raise StopRequested(f"stopped while connecting to {place}")
            if time.monotonic() > limit:
                raise ConnectTimeout(f"{place} did not answer within {seconds:.0f} s")
        code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code == errno.ECONNREFUSED:
        raise ConnectRefused(f"{place} refuses connections")
    if code == errno.ETIMEDOUT:
        raise ConnectTimeout(f"{place} did not answer")
    if code:
        raise _unreachable(place, code)


def _unreachable(place: str, code: int | None) -> NetworkUnreachable:
    return NetworkUnreachable(f"{place} cannot be reached: {os.strerror(code or 0)}")


def _check_peer(connection: socket.socket, address: Address, port: int) -> None:
    peer = connection.getpeername()
    if _normalised(peer[0]) != address or peer[1] != port:
        raise AddressNotAllowed(f"connected to {peer[0]}:{peer[1]} instead of {address}:{port}")
