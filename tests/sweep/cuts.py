"""Connections disturbed at a random point of a delivery (reliability.md F63-F66, F68-F70, F99).

Every kind of disturbance happens once, to the first connection; the runs after it meet a network
that is well again. Points are bytes of one direction, or the moment in which the server has carried
out a CLOSE or RENAME whose reply is still on its way.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from threading import Timer
from time import monotonic, sleep
from typing import Protocol

from tests.support.proxy import Proxy
from tests.support.violation import Violation
from tests.support.watcher import Seen
from tests.sweep.day import Day, Repetition

LIMITS = {
    "connect": 4, "banner": 2, "key_exchange": 3, "authentication": 3, "session": 3,
    "request": 2, "no_progress": 2, "keepalive": 1,
}  # fmt: skip
"""How long the program waits in each phase here, in seconds: a silence is to be noticed soon."""
_REPLY_TAKES = 0.04
_TRICKLE = 512
_LATE = 3.5
_MARGIN = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What happens, and at which byte of which direction."""

    kind: str
    at: int
    from_client: bool

    def __str__(self) -> str:
        side = "client" if self.from_client else "server"
        return f"{self.kind} at byte {self.at} from the {side}"


def census(day: Day) -> dict[bool, int]:
    """Count the bytes of an undisturbed delivery from the client (True) and from the server."""
    with Proxy(day.server.port) as proxy, day.repetition(proxy.port) as one:
        assert one.run() == 0, one.said
        return {True: proxy.seen, False: proxy.answered}


def chosen(kind: str, bytes_: dict[bool, int], part: float, chance: random.Random) -> Cut:
    """Choose a point of the kind, `part` of the way through."""
    from_client = chance.random() < 1 / 2
    return Cut(kind=kind, at=int(bytes_[from_client] * part), from_client=from_client)


def disturb(day: Day, cut: Cut) -> tuple[bool, list[Violation]]:
    """Deliver the day although this happens to the first connection.

    Tells whether that run was kept from delivering, and gives what does not hold.
    """
    with Proxy(day.server.port) as proxy, day.repetition(proxy.port) as one:
        disturbance: Disturbance = KINDS[cut.kind](cut, proxy, one)
        status = one.run()
        disturbance.end()
        return status != 0, one.deliver(disturbance.settle, late=cut.kind == "late")


class Disturbance(Protocol):
    """Set up by its constructor; what `end` does not undo is over by itself."""

    def end(self) -> None:
        """Let the network be well again."""

    def settle(self) -> None:
        """Wait until nothing of it can come any more."""


class _Settled:
    def settle(self) -> None:
        """Have nothing to wait for."""


class _AtByte(_Settled):
    """Acts once, when the direction's byte is reached; counts the first connection alone."""

    def __init__(self, cut: Cut, proxy: Proxy, one: Repetition) -> None:
        del one
        self.cut = cut
        self.proxy = proxy
        self.passed = 0
        self.reached = False
        proxy.spoil = self._pass

    def end(self) -> None:
        self.proxy.spoil = None
        self.proxy.one_way = 0

    def _pass(self, data: bytes, from_client: bool) -> bytes | None:
        if from_client is not self.cut.from_client:
            return self.other(data)
        if self.reached:
            return self.after(data)
        self.passed += len(data)
        if self.passed <= self.cut.at:
            return data
        self.reached = True
        before = len(data) - (self.passed - self.cut.at)
        return self.at(data[:before], data[before:])

    def at(self, before: bytes, behind: bytes) -> bytes | None:
        """Decide about the piece with the byte in it."""
        raise NotImplementedError

    def after(self, data: bytes) -> bytes | None:
        """Decide about what comes later in this direction."""
        return data

    def other(self, data: bytes) -> bytes | None:
        """Decide about the other direction."""
        return data


class _Reset(_AtByte):
    def at(self, before: bytes, behind: bytes) -> bytes:
        del behind
        Timer(0.002, self.proxy.cut).start()
        return before

    def after(self, data: bytes) -> bytes:
        del data
        return b""


class _HalfClose(_AtByte):
    def at(self, before: bytes, behind: bytes) -> None:
        del before, behind

    def after(self, data: bytes) -> None:
        del data


class _Swallow(_AtByte):
    def at(self, before: bytes, behind: bytes) -> bytes:
        del behind
        return before

    def after(self, data: bytes) -> bytes:
        del data
        return b""


class _FlipABit(_AtByte):
    def at(self, before: bytes, behind: bytes) -> bytes:
        return before + bytes([behind[0] ^ 1 << self.cut.at % 8]) + behind[1:]


class _Trickle(_AtByte):
    """From the byte on a few bytes at a time: slow, but never silent."""

    def at(self, before: bytes, behind: bytes) -> bytes:
        return before + self.after(behind)

    def after(self, data: bytes) -> bytes:
        sleep(min(len(data) / _TRICKLE * 0.01, 0.5))
        return data


class _Late(_AtByte):
    """What was sent arrives when the client has given up, and perhaps begun anew."""

    arrives = 0.0

    def at(self, before: bytes, behind: bytes) -> bytes:
        self.proxy.one_way = _LATE
        # an answer to what arrives late is late as well
        self.arrives = monotonic() + 2 * _LATE + _MARGIN
        return before + behind

    def settle(self) -> None:
        sleep(max(0, self.arrives - monotonic()))


class _Delay(_AtByte):
    """A long way, and then a reset."""

    def __init__(self, cut: Cut, proxy: Proxy, one: Repetition) -> None:
        super().__init__(cut, proxy, one)
        proxy.one_way = 0.03

    def at(self, before: bytes, behind: bytes) -> bytes:
        self.proxy.cut()
        return before + behind


class _ReplyLost(_Settled):
    """The server has renamed or closed a file; from its reply on nothing comes back any more."""

    name_is_hidden = False
    what = "appeared"

    def __init__(self, cut: Cut, proxy: Proxy, one: Repetition) -> None:
        self._left = cut.at % 7 + 1
        self._lost = False
        self._proxy = proxy
        proxy.one_way = _REPLY_TAKES
        proxy.spoil = self._pass
        one.listener = self._seen

    def end(self) -> None:
        self._proxy.spoil = None
        self._proxy.one_way = 0
        self._left = -1

    def _seen(self, seen: Seen) -> None:
        if seen.what == self.what and seen.hidden is self.name_is_hidden:
            self._left -= 1
            if self._left == 0:
                self._lost = True
                self.lost()

    def lost(self) -> None:
        """Do more than being silent."""

    def _pass(self, data: bytes, from_client: bool) -> bytes:
        return b"" if self._lost and not from_client else data


class _CloseReplyLost(_ReplyLost):
    name_is_hidden = True
    what = "closed"


class _ResetAtRename(_ReplyLost):
    def lost(self) -> None:
        self._proxy.cut()


class _ResetAtClose(_CloseReplyLost):
    def lost(self) -> None:
        self._proxy.cut()


class _Stranger(_Settled):
    """Another server answers; nobody tells it a user name (I13)."""

    def __init__(self, cut: Cut, proxy: Proxy, one: Repetition) -> None:
        self._own = proxy.target
        self._proxy = proxy
        strangers = one.day.strangers
        proxy.target = strangers[cut.at % len(strangers)].port

    def end(self) -> None:
        self._proxy.target = self._own


KINDS: dict[str, Callable[[Cut, Proxy, Repetition], Disturbance]] = {
    "reset": _Reset,
    "half-close": _HalfClose,
    "swallow": _Swallow,
    "flip a bit": _FlipABit,
    "trickle": _Trickle,
    "late": _Late,
    "delay and reset": _Delay,
    "reply to RENAME lost": _ReplyLost,
    "reply to CLOSE lost": _CloseReplyLost,
    "reset behind RENAME": _ResetAtRename,
    "reset behind CLOSE": _ResetAtClose,
    "stranger": _Stranger,
}
