"""The builders of a run: how many there are, and which of them gets the next day."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Condition, Semaphore
from typing import Self

from mxdeliver.builders.builder import Builder, NotStarted
from mxdeliver.builders.wire import Work, are_replaced
from mxdeliver.core.errors import BuilderDied, MxdeliverError, StopRequested
from mxdeliver.core.log import Log
from mxdeliver.core.model import Bundle, Delivery

_LOOK_SECONDS = 0.2


class Builders:
    """Up to `most` processes that build, with `environment`; none before `start`, nor after a `with`.

    Where they are not to be had, up to `places` days are built `here`, in the program's process.
    """

    def __init__(self, most: int, environment: Mapping[str, str], *, places: int) -> None:
        self._most = most
        self._here = Semaphore(places)
        self._environment = environment
        self._all: set[Builder] = set()
        self._idle: deque[Builder] = deque()
        self._changed = Condition()
        # The kernel ends a builder with the thread that started it: this one is there to the end.
        self._starter = ThreadPoolExecutor(1, "builders")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for builder in self._all:
            builder.end()
        self._starter.shutdown()

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._all)

    def expect(self, deliveries: Iterable[Delivery]) -> None:
        """Start as many as the clients need whose days among these are not sealed yet."""
        self.start(len({one.key.client_guid for one in deliveries if not one.sealed}))

    def start(self, clients: int) -> None:
        """See to it that there are enough for so many clients, and none where one would be alone.

        Where the system lets no process start there are fewer, or none.
        """
        wanted = min(self._most, clients)
        with self._changed, suppress(OSError, RuntimeError):  # no process, or no thread
            while wanted > 1 and self.count < wanted:
                self._add()

    def _add(self) -> None:
        builder = self._starter.submit(Builder.start, self._environment).result()
        self._all.add(builder)
        self._give_back(builder)

    def build(self, work: Work, lock: int, log: Log, stop: Callable[[], bool]) -> Bundle | None:
        """Have a day built as soon as somebody is free, as `Builder.build` does; None without anybody."""
        while (builder := self._free(stop)) is not None:
            try:
                return builder.build(work, lock, log, stop)
            except NotStarted:
                continue
            finally:
                if builder.is_usable:
                    self._give_back(builder)
                else:
                    self._replace(builder)
                    with suppress(MxdeliverError):
                        work.spool.sweep()  # what it has not sealed
        return None

    @contextmanager
    def here(self, stop: Callable[[], bool]) -> Iterator[None]:
        """Wait until one more day may be built in this process; StopRequested.

        BuilderDied where what builds is not loaded yet and the program's files were replaced: old and
        new ones would not fit together.
        """
        while not self._here.acquire(timeout=_LOOK_SECONDS):
            if stop():
                raise StopRequested("stopped before the day was built; nothing was sealed")
        try:
            if "mxdeliver.build" not in sys.modules and are_replaced():
                raise BuilderDied(
                    "no process to build in can be had from this program, whose files were replaced "
                    "since it was started: start it again"
                )
            yield
        finally:
            self._here.release()

    def _free(self, stop: Callable[[], bool]) -> Builder | None:
        while self._all:
            with self._changed:
                self._changed.wait_for(lambda: self._idle, _LOOK_SECONDS)
                builder = self._idle.popleft() if self._idle else None
            if builder is not None and builder.is_usable:
                return builder
            if builder is not None:
                self._replace(builder)
            elif stop():
                raise StopRequested("stopped before the day was built; nothing was sealed")
        return None

    def _give_back(self, builder: Builder) -> None:
        with self._changed:
            self._idle.append(builder)
            self._changed.notify()

    def _replace(self, builder: Builder) -> None:
        """Put another in the place of one that is dead, or is at what nobody waits for any more.

        But not of one that never was ready: the next would not be, either.
        """
        builder.end()
        with self._changed, suppress(OSError, RuntimeError):  # no process, or no thread
            self._all.remove(builder)
            if builder.is_ready:
                self._add()
