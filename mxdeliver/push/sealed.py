"""What is sealed is read whole and compared with its SHA-256 before any of it appears anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Self

from mxdeliver.core.errors import StopRequested
from mxdeliver.core.model import Artifact, DeliveryKey
from mxdeliver.edge.spool import Spool

LARGE = 64 << 20
"""Bytes from which on a file is compared beside the network; smaller ones take less than a login."""


class SealedFiles:
    """Compares sealed files as the `with` begins, large ones `beside` it in a thread that ends with it.

    So a large file may be on its way under a temporary name when it turns out to be damaged; it is
    told by `settle` at the latest, without which nothing may get its final name.
    """

    def __init__(
        self,
        files: Sequence[Artifact],
        *,
        key: DeliveryKey,
        spool: Spool,
        stop: Callable[[], bool],
        beside: bool,
    ) -> None:
        self._files = files
        self._verify = partial(spool.verify, key)
        self._stop = stop
        self._beside = beside
        self._is_left = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sealed")
        self._comparisons: list[Future[None]] = []

    def __enter__(self) -> Self:
        """Compare what is not left to the thread; SpoolCorrupt, SpoolIO, SpoolMode, StopRequested."""
        large = [f for f in self._files if self._beside and f.encrypted_file_size >= LARGE]
        for file in self._files:
            if file not in large:
                self._verify(file, self._stop)
        self._comparisons = [
            self._pool.submit(self._verify, file, lambda: self._is_left or self._stop())
            for file in large
        ]
        return self

    @property
    def is_damaged(self) -> bool:
        """Whether a file is known by now not to be what was sealed, or not to be readable."""
        return any(one.done() and one.exception() is not None for one in self._comparisons)

    def settle(self) -> None:
        """Wait until all files are compared; SpoolCorrupt, SpoolIO, SpoolMode, StopRequested."""
        for comparison in self._comparisons:
            comparison.result()

    @contextmanager
    def told_first(self) -> Iterator[None]:
        """Raise what is wrong with a file instead of the stop that it has led to."""
        try:
            yield
        except StopRequested:
            if self.is_damaged:
                self.settle()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_left = True
        self._pool.shutdown(cancel_futures=True)
