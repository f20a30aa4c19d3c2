"""A TCP proxy that adds round-trip time and nothing else, in a process of its own.

    python -m bench.delay TARGET_PORT ROUND_TRIP_MS     prints its port, serves until it is ended

Every piece of data is handed on half a round trip after it came, at whatever rate it comes: the
proxy always reads, so that no window but the programs' own is ever full. A connection costs its one
and a half round trips before the server sees it, as the handshake of TCP does.
"""

from __future__ import annotations

import heapq
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count

_PIECE = 1 << 18
_MOST_BYTES = 1 << 28
"""On their way in one direction; far beyond what any round trip here holds."""


@contextmanager
def delayed(target_port: int, round_trip_ms: int) -> Iterator[int]:
    """Give the port of such a proxy; without a delay the target's own, with nothing between."""
    if not round_trip_ms:
        yield target_port
        return
    command = [sys.executable, "-m", "bench.delay", str(target_port), str(round_trip_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="ascii") as process:
        try:
            yield int(process.stdout.readline() if process.stdout else "")
        finally:
            process.terminate()


class _Way:
    """One direction of a connection: what came from `source`, until it is due at `sink`."""

    def __init__(self, source: socket.socket, sink: socket.socket | None, opens: float) -> None:
        self.source = source
        self.sink = sink
        self.opens = opens
        """Nothing that came before this moment is due before it."""
        self.late: deque[tuple[float, memoryview]] = deque()
        self.bytes = 0
        self.ended = False

    def read(self, one_way: float) -> None:
        """Take what has come; empty when that side has ended."""
        try:
            data = self.source.recv(_PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.ended = not data
        self.bytes += len(data)
        self.late.append((max(time.monotonic() + one_way, self.opens), memoryview(data)))

    def write(self, now: float) -> bool:
        """Hand on what is due; True where the other side takes no more at the moment."""
        while self.sink and self.late and self.late[0][0] <= now:
            due, data = self.late[0]
            if not data:
                self.late.popleft()
                with suppress(OSError):
                    self.sink.shutdown(socket.SHUT_WR)
                continue
            try:
                sent = self.sink.send(data)
            except BlockingIOError:
                return True
            except OSError:
                sent = len(data)
            self.bytes -= sent
            if sent < len(data):
                self.late[0] = (due, data[sent:])
            else:
                self.late.popleft()
        return False

    @property
    def is_over(self) -> bool:
        """Whether everything was handed on, the end included."""
        return self.ended and not self.late


class Proxy:
    """All connections, served by one thread: `select` waits to the microsecond, unlike `epoll`."""

    def __init__(self, target_port: int, round_trip: float) -> None:
        self._target = ("127.0.0.1", target_port)
        self._round_trip = round_trip
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[tuple[_Way, _Way]] = []
        self._opening: list[tuple[float, int, _Way]] = []
        self._numbers = count()

    def serve(self) -> None:
        """Serve until the process is ended."""
        while True:
            now = time.monotonic()
            self._connect(now)
            full = [way for way in self._ways() if way.write(now)]
            self._close()
            self._wait(full)

    def _ways(self) -> list[_Way]:
        return [way for pair in self._pairs for way in pair]

    def _wait(self, full: list[_Way]) -> None:
        """Wait for data, room or the next moment, and read what has come."""
        ways = self._ways()
        moments = [way.late[0][0] for way in ways if way.late and way.sink and way not in full]
        moments += [self._opening[0][0]] if self._opening else []
        timeout = max(min(moments) - time.monotonic(), 0) if moments else None
        waiting = [way for _, _, way in self._opening]
        readers = {
            way.source: way
            for way in (*ways, *waiting)
            if not way.ended and way.bytes < _MOST_BYTES
        }
        writers = [way.sink for way in full if way.sink]
        ready, _, _ = select.select([self._listener, *readers], writers, [], timeout)
        for source in ready:
            if source is self._listener:
                self._accept()
            else:
                readers[source].read(self._round_trip / 2)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        _prepare(client)
        opens = time.monotonic() + 1.5 * self._round_trip
        way = _Way(client, None, opens)
        heapq.heappush(self._opening, (opens, next(self._numbers), way))

    def _connect(self, now: float) -> None:
        while self._opening and self._opening[0][0] <= now:
            _, _, way = heapq.heappop(self._opening)
            server = socket.create_connection(self._target)
            _prepare(server)
            way.sink = server
            self._pairs.append((way, _Way(server, way.source, now)))

    def _close(self) -> None:
        for pair in self._pairs:
            if all(way.is_over for way in pair):
                for way in pair:
                    way.source.close()
        self._pairs = [pair for pair in self._pairs if pair[0].source.fileno() >= 0]


def _prepare(side: socket.socket) -> None:
    side.setblocking(False)
    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def main() -> None:
    """Serve until the process is ended."""
    proxy = Proxy(int(sys.argv[1]), float(sys.argv[2]) / 1000)
    print(proxy.port, flush=True)
    proxy.serve()


if __name__ == "__main__":
    main()
