"""Watches a client's directory as a poller would, and remembers all that was ever visible."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Self


class Poller:
    """Lists the final names of a directory over and over; a context manager.

    `sizes` holds every size that each name was ever seen with, `order` the names as they appeared.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.sizes: dict[str, set[int]] = {}
        self.order: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(0.001):
            self._look()

    def _look(self) -> None:
        for path in sorted(self._directory.iterdir(), key=lambda path: "manifest" in path.name):
            if path.name.startswith("."):
                continue
            size = path.stat().st_size
            if path.name not in self.sizes:
                self.order.append(path.name)
            self.sizes.setdefault(path.name, set()).add(size)
