"""Ends what takes too long, by closing the connection from another thread.

Time-outs on channels and sockets do not end a write that the peer no longer reads; a closed socket
does. Whoever then meets the broken connection asks `failure` for the real reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from typing import Self

from mxdeliver.core.errors import MxdeliverError, StopRequested

_LOOK_EVERY = 0.1


@dataclass(frozen=True, slots=True)
class _Limit:
    seconds: float
    failure: Callable[[], MxdeliverError]
    patience: float


class Watchdog:
    """One thread beside one connection; `close` is called at most once, from that thread."""

    def __init__(self, close: Callable[[], None], stop: Callable[[], bool]) -> None:
        self._close = close
        self._stop = stop
        self._limit: _Limit | None = None
        self._renewed = 0.0
        self._stop_seen: float | None = None
        self._ended = Event()
        self._thread = Thread(target=self._watch, name="sftp-watchdog", daemon=True)
        self.failure: MxdeliverError | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @contextmanager
    def limit(
        self, seconds: float, failure: Callable[[], MxdeliverError], *, patience: float = 0
    ) -> Iterator[None]:
        """Close the connection unless the block ends, or `renew` is called, within `seconds`.

        When the program is to stop, the block has `patience` seconds to end by itself.
        """
        outer = self._limit
        self._renewed = time.monotonic()
        self._limit = _Limit(seconds, failure, patience)
        try:
            yield
        finally:
            self._renewed = time.monotonic()
            self._limit = outer

    def renew(self) -> None:
        """Take note of progress: the limit counts anew."""
        self._renewed = time.monotonic()

    def stop_requested(self) -> bool:
        """Tell whether the program is to stop."""
        return self._stop()

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_EVERY):
            self.failure = self._verdict()
            if self.failure is not None:
                self._close()
                return

    def _verdict(self) -> MxdeliverError | None:
        limit = self._limit
        if limit is None:
            return None
        now = time.monotonic()
        if now - self._renewed > limit.seconds:
            return limit.failure()
        if self._stop_seen is None and self._stop():
            self._stop_seen = now
        if self._stop_seen is not None and now - self._stop_seen >= limit.patience:
            return StopRequested("stopped while the connection was open")
        return None
