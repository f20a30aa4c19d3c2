"""Bytes on their way from one stage to the next: counted, hashed, and handed to other threads."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, wait
from hashlib import sha256
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Buffer: TypeAlias = bytes | bytearray | memoryview
Sink: TypeAlias = Callable[[Buffer], object]
"""Takes the next bytes of a stream, all of them, and must not keep the buffer."""


_END = object()
_LOOK_SECONDS = 0.25


class Tally:
    """Passes bytes on to `sink` and keeps their number and SHA-256."""

    __slots__ = ("_digest", "_sink", "size")

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._digest = sha256()
        self.size = 0

    def write(self, data: Buffer) -> None:
        """Count, hash and pass on `data`."""
        self.size += len(data)
        self._digest.update(data)
        self._sink(data)

    @property
    def checksum(self) -> str:
        """SHA-256 of all bytes so far, as 64 lower-case hex digits."""
        return self._digest.hexdigest()


class Behind:
    """Makes calls in a thread of `worker`, at most `depth` of them behind; at once without a worker.

    What they raise comes out of a later `call` or of `drain`. `worker` has one thread, so that calls
    keep their order.
    """

    __slots__ = ("_depth", "_under_way", "_worker")

    def __init__(self, worker: Executor | None, *, depth: int) -> None:
        self._worker = worker
        self._depth = depth
        self._under_way: deque[Future[object]] = deque()

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Hand over a call; waits while too many are under way."""
        if self._worker is None:
            function(*arguments)
            return
        self._under_way.append(self._worker.submit(function, *arguments))
        if len(self._under_way) > self._depth:
            self._under_way.popleft().result()

    def drain(self) -> None:
        """Wait until all calls have been made."""
        while self._under_way:
            self._under_way.popleft().result()

    def abandon(self) -> None:
        """Leave calls out that have not begun, and wait for the one under way."""
        for future in self._under_way:
            future.cancel()
        wait(self._under_way)
        self._under_way.clear()


def ahead(
    items: Iterable[T],
    worker: Executor,
    *,
    depth: int,
    watch: Callable[[float], object] = lambda _: None,
    interrupt: Callable[[], object] = lambda: None,
) -> Generator[T, None, None]:
    """Yield `items`, which a thread of `worker` fetches up to `depth` items ahead.

    `worker` has one thread; whatever the items raise comes out here in their place. While an item
    is waited for, `watch` is told now and then for how many seconds; what it raises comes out, too.
    Whoever leaves before the end waits for the fetch under way, and `interrupt` is called until that
    has ended: repeatedly, since one call may come between two steps of a source and do nothing.
    """
    iterator = iter(items)
    under_way = deque(worker.submit(next, iterator, _END) for _ in range(depth))
    ended = False
    try:
        while (item := _watched(under_way[0], watch)) is not _END:
            under_way.popleft()
            under_way.append(worker.submit(next, iterator, _END))
            yield item  # type: ignore[misc]  # not the end
        ended = True
    finally:
        for future in under_way:
            future.cancel()
        while wait(under_way, timeout=0).not_done:
            if not ended:
                interrupt()
            wait(under_way, timeout=_LOOK_SECONDS)


def _watched(future: Future[T], watch: Callable[[float], object]) -> T:
    started = time.monotonic()
    while not future.done() and not wait([future], timeout=_LOOK_SECONDS).done:
        watch(time.monotonic() - started)
    return future.result()
