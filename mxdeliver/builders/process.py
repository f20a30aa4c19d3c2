"""What runs in a builder's process: it builds what it is asked for, until the program is gone.

It is hardened before it reads anything. SIGINT and SIGTERM, which may be sent to all processes of a
service, it leaves to the program, which tells it to stop. It is in no terminal's foreground, and may
write there all the same.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

from mxdeliver.builders.wire import (
    PROGRAM_FILES,
    Built,
    Event,
    Events,
    Failed,
    Gone,
    Ready,
    Stop,
    Wire,
    Work,
    portable,
)
from mxdeliver.core.errors import Internal, MxdeliverError
from mxdeliver.edge import kernel
from mxdeliver.interpreter import settle

if TYPE_CHECKING:
    from mxdeliver.build import Threads
    from mxdeliver.core.model import Bundle, SourceSettings
    from mxdeliver.edge.sources import Source

_LINGER_SECONDS = 0.5
"""So long a source stays at its data where the next day does not come."""
_TELL_SECONDS = 0.2
"""So long what has come to pass may wait for more, to be told in one message."""


def main(program: int, descriptor: int) -> None:
    """Serve the process `program` over the socket `descriptor`."""
    kernel.harden()
    kernel.end_with_parent()
    if os.getppid() != program:  # it was gone before
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)
    settle()
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    status = 0
    try:
        _Serving(program, Wire(connection)).serve()
    except Gone:
        pass
    except BaseException as error:  # noqa: BLE001 - a traceback may show what must not be shown
        sys.stderr.write(f"mxdeliver: a process that builds: {Internal.of(error)}\n")
        status = 70
    os._exit(status)  # nobody waits for libraries to be unloaded


class _Serving:
    def __init__(self, program: int, wire: Wire) -> None:
        self._program = program
        self._wire = wire
        self._sources: dict[str, tuple[SourceSettings, Source]] = {}
        self._threads: Threads
        self._is_stopped = False
        self._events: list[Event] = []
        self._told_at = time.monotonic()

    def serve(self) -> None:
        """Build one day after the other; Gone when the program is."""
        # All that building loads, while the program looks at what there is to do.
        from mxdeliver.build import Threads  # noqa: PLC0415 - hardened first, see `main`

        self._threads = Threads()
        gc.freeze()  # as in `cli.run`
        self._wire.send(Ready(files=PROGRAM_FILES))
        while True:
            if not self._wire.waits(_LINGER_SECONDS):
                self._let_go()
            match self._wire.receive():
                case Work() as work, [lock]:
                    self._wire.send(self._answer(work, lock))
                case Stop(), _:
                    pass  # the day was through already
                case _:
                    raise Gone  # such as a day whose lock did not arrive

    def _answer(self, work: Work, lock: int) -> Built | Failed:
        self._is_stopped = False
        try:
            return Built(bundle=self._build(work))
        except MxdeliverError as error:
            return Failed(error=portable(error))
        except BaseException as error:  # noqa: BLE001 - a bug stays with its client
            return Failed(error=Internal.of(error))
        finally:
            os.close(lock)

    def _build(self, work: Work) -> Bundle:
        from mxdeliver.build import build  # noqa: PLC0415 - hardened first, see `main`

        try:
            return build(
                work.key,
                work.client,
                resources=work.resources,
                source=self._source(work.source),
                certificate=work.certificate,
                spool=work.spool,
                threads=self._threads,
                log=self._log,
                stop=self._stop,
            )
        finally:
            self._tell()  # what is told later would be taken for another day's

    def _source(self, settings: SourceSettings) -> Source:
        """Give the source of the day before, where its settings are the same."""
        from mxdeliver.edge.sources import (  # noqa: PLC0415 - hardened first, see `main`
            Lingering,
            open_source,
        )

        known = self._sources.get(settings.name)
        if known is None or known[0] != settings:
            source = open_source(settings)
            if isinstance(source, Lingering):
                source.linger()
            known = self._sources[settings.name] = (settings, source)
        self._let_go(but=settings.name)
        return known[1]

    def _let_go(self, *, but: str | None = None) -> None:
        """Let others write to the sources that no day comes from; one that cannot is opened anew."""
        from mxdeliver.edge.sources import Lingering  # noqa: PLC0415 - hardened first, see `main`

        for name, (_, source) in list(self._sources.items()):
            if name != but and isinstance(source, Lingering):
                try:
                    source.let_go()
                except Exception:  # noqa: BLE001 - a source of somebody else's; the next day meets it
                    del self._sources[name]

    def _log(self, event: str, message: str, /, **fields: object) -> None:
        self._events.append(Event(event, message, fields))
        self._tell_in_time()

    def _tell_in_time(self) -> None:
        """Tell what has come to pass, unless somebody was told a moment ago."""
        if time.monotonic() >= self._told_at + _TELL_SECONDS:
            self._tell()

    def _tell(self) -> None:
        self._told_at = time.monotonic()
        events, self._events = tuple(self._events), []
        if events:
            self._wire.send(Events(events=events))

    def _stop(self) -> bool:
        self._tell_in_time()
        if not self._is_stopped and self._wire.waits(0):
            self._is_stopped = True
            self._wire.receive()  # Stop, or Gone
        return self._is_stopped or os.getppid() != self._program
