"""A TCP proxy on a free port of 127.0.0.1 that spoils connections on purpose.

    with Proxy(server.port) as proxy:
        endpoint = server.endpoint(port=proxy.port)
        proxy.cut_after = 1_000_000   # bytes from the client, then both sides are reset
        proxy.hold.set()              # nothing passes any more, in both directions, until cleared
        proxy.one_way = 0.025         # seconds each direction is late: 50 ms of round trip
        proxy.rate = 1_000            # bytes a second in each direction, at most
        proxy.loss = 0.1              # of the packets, before TCP sees them; for new connections
        proxy.forgets_after = 2       # seconds without a byte; then nothing passes any more

Attributes may be changed at any time and count for what arrives from then on. `seen` are the bytes
that have come from the client, over all connections, and `answered` those from the server.
A new connection goes to `target`, the port of whichever server should answer.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from queue import SimpleQueue
from threading import Event, Thread
from typing import Self

_PIECE = 64 * 1024
_CALLS = ctypes.CDLL(None)


@contextmanager
def black_hole(port: int = 0, address: str = "127.0.0.1") -> Iterator[int]:
    """Give a port of the address that lets nobody in: a connect gets no answer at all."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket(family))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen(0)
        for _ in range(2):
            waiting = stack.enter_context(socket.socket(family))
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


def _lose(connection: socket.socket, share: float) -> None:
    """Have the kernel lose packets that arrive here by chance, before its TCP has seen them.

    A classic BPF program, as tcpdump's (linux/filter.h): load a random number, compare it, and keep
    all of the packet or nothing. The sender gets no acknowledgement and must send it again.
    """
    random, attach_filter = 0xFFFFF000 + 56, 26  # SKF_AD_RANDOM, SO_ATTACH_FILTER
    program = [
        (0x20, 0, 0, random),
        (0x35, 1, 0, int(share * 2**32)),
        (6, 0, 0, 0),
        (6, 0, 0, 2**31),
    ]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code)
    connection.setsockopt(
        socket.SOL_SOCKET,
        attach_filter,
        struct.pack("HP", len(program), ctypes.addressof(buffer)),
    )


class Proxy:
    """Passes every connection on to a port of 127.0.0.1; a context manager.

    `buffer` is how many bytes the kernel keeps for it of what it has not read yet, instead of megabytes.
    """

    def __init__(self, target_port: int, *, one_way: float = 0, buffer: int | None = None) -> None:
        self.target = target_port
        self.one_way = one_way
        self.cut_after: int | None = None
        self.hold = Event()
        self.hold_after: dict[int, int] = {}
        """Connections, numbered from 1, that are held once so many bytes came from their client."""
        self.spoil: Callable[[bytes, bool], bytes | None] | None = None
        """Given a piece and whether it comes from the client, gives what is passed on instead.

        Nothing is passed on for an empty one; None ends that direction alone (FIN).
        """
        self.rate: int | None = None
        self.loss = 0.0
        self.forgets_after: float | None = None
        self.last_seen = 0.0
        """When the last bytes came from a client, by the monotonic clock."""
        self.seen = 0
        self.answered = 0
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        if buffer is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.port: int = self._listener.getsockname()[1]
        self._seen_of: dict[int, int] = {}
        self._passed_at: dict[int, float] = {}
        self._forgotten: set[int] = set()
        self._open: list[socket.socket] = []
        self._threads: list[Thread] = []
        self._ended = Event()

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for side in self._open:
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for side in (self._listener, *self._open):
            side.close()

    @property
    def lost(self) -> int:
        """How many packets were lost on the way to us."""
        # SO_MEMINFO of linux/sock_diag.h: nine numbers, the last one is SK_MEMINFO_DROPS
        meminfo, numbers = 55, struct.Struct("9I")
        return sum(
            numbers.unpack(side.getsockopt(socket.SOL_SOCKET, meminfo, numbers.size))[-1]
            for side in self._open
        )

    def cut(self) -> None:
        """Reset every open connection."""
        for side in self._open:
            with suppress(OSError):
                # connect(2) to AF_UNSPEC dissolves a connection: RST at once, for both of its users
                _CALLS.connect(side.fileno(), bytes(16), 16)
                side.shutdown(socket.SHUT_RDWR)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                server = socket.create_connection(("127.0.0.1", self.target))
                for side in (client, server):
                    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    if self.loss:
                        _lose(side, self.loss)
                self._passed_at[self.connections] = time.monotonic()
                self._open += [client, server]
                self._pump(client, server, self.connections, from_client=True)
                self._pump(server, client, self.connections, from_client=False)

    def _pump(
        self, source: socket.socket, sink: socket.socket, number: int, *, from_client: bool
    ) -> None:
        late: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
        self._start(self._read, source, late, number, from_client)
        self._start(self._write, sink, late)

    def _read(
        self,
        source: socket.socket,
        late: SimpleQueue[tuple[float, bytes]],
        number: int,
        from_client: bool,
    ) -> None:
        data = b"-"
        while data:
            try:
                data = source.recv(_PIECE if self.rate is None else max(1, self.rate // 20))
            except OSError:
                data = b""
            self._slow_down(len(data))
            self._remember(number)
            if from_client:
                self.last_seen = time.monotonic()
                self.seen += len(data)
                self._seen_of[number] = self._seen_of.get(number, 0) + len(data)
                if self.cut_after is not None and self.seen >= self.cut_after:
                    self.cut()
                    data = b""
            else:
                self.answered += len(data)
            while self._is_held(number) and not self._ended.wait(0.01):
                pass
            if data and self.spoil is not None:
                passed_on = self.spoil(data, from_client)
                if passed_on == b"":
                    continue
                data = passed_on or b""
            late.put((time.monotonic() + self.one_way, data))

    def _slow_down(self, size: int) -> None:
        if self.rate is not None:
            self._ended.wait(size / self.rate)

    def _remember(self, number: int) -> None:
        now = time.monotonic()
        if self.forgets_after is not None and now - self._passed_at[number] > self.forgets_after:
            self._forgotten.add(number)
        self._passed_at[number] = now

    def _is_held(self, number: int) -> bool:
        limit = self.hold_after.get(number)
        return (
            self.hold.is_set()
            or number in self._forgotten
            or (limit is not None and self._seen_of.get(number, 0) > limit)
        )

    def _write(self, sink: socket.socket, late: SimpleQueue[tuple[float, bytes]]) -> None:
        with suppress(OSError):
            while True:
                due, data = late.get()
                if (pause := due - time.monotonic()) > 0:
                    time.sleep(pause)
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)
