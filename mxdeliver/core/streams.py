"""Bytes on their way from one stage to the next: counted, hashed, and handed to other threads."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, wait
from hashlib import sha256
from threading import Condition, Lock
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")
Buffer: TypeAlias = bytes | bytearray | memoryview
Sink: TypeAlias = Callable[[Buffer], object]
"""Takes the next bytes of a stream, all of them, and must not keep the buffer."""

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
    fetched = _Fetched[T](depth)
    fetching = worker.submit(fetched.fill, items)
    ended = False
    try:
        while fetched.waits_for_next(watch):
            yield fetched.take()
        fetching.result()
        ended = True
    finally:
        fetched.leave()
        while wait([fetching], timeout=0).not_done:
            if not ended:
                interrupt()
            wait([fetching], timeout=_LOOK_SECONDS)


class _Fetched(Generic[T]):
    """What was fetched and not taken yet: one hand-over for all items that are there at once."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._items: deque[T] = deque()
        self._is_over = False
        self._is_left = False
        self._changed = Condition(Lock())

    def fill(self, items: Iterable[T]) -> None:
        """Fetch all items, no more of them than there is room for, until nobody wants any more."""
        try:
            for item in items:
                with self._changed:
                    self._items.append(item)
                    self._changed.notify()
                    while len(self._items) >= self._depth and not self._is_left:
                        self._changed.wait()
                    if self._is_left:
                        return
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify()

    def waits_for_next(self, watch: Callable[[float], object]) -> bool:
        """Wait for the next item, telling `watch` for how long; tell whether there is one."""
        started = time.monotonic()
        while not self._is_known():
            watch(time.monotonic() - started)
        return bool(self._items)

    def _is_known(self) -> bool:
        with self._changed:
            if not (self._items or self._is_over):
                self._changed.wait(_LOOK_SECONDS)
            return bool(self._items) or self._is_over

    def take(self) -> T:
        """Take the next item."""
        with self._changed:
            item = self._items.popleft()
            self._changed.notify()
        return item

    def leave(self) -> None:
        """Want no more."""
        with self._changed:
            self._is_left = True
            self._changed.notify()
