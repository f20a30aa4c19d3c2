"""How a step of a delivery says what it did, without knowing where that is written."""

from __future__ import annotations

from typing import Protocol


class Log(Protocol):
    """Takes an event of the delivery log, a sentence for people, and the event's fields."""

    def __call__(self, event: str, message: str, /, **fields: object) -> None:
        """Write one line; `level` is among the fields where it is not `info`."""


def counted(number: int, noun: str) -> str:
    """Give a number with its noun, as in `1 client` and `2 clients`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
