"""`mxdeliver schedule`: the daemon. APScheduler is the alarm clock, the ledger the truth.

Nothing is kept in the scheduler: whenever it wakes, the same code as `mxdeliver run` asks the ledger
what is due. A change to daylight-saving time, a clock that jumps, a second daemon or a cron job
beside it can therefore neither skip a day nor deliver one twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING

import click

from mxdeliver import cli
from mxdeliver.cli import options, process, wiring
from mxdeliver.cli.run import carry_out, show_broken, show_troubles
from mxdeliver.core.breaker import Breaker
from mxdeliver.core.errors import Internal, MxdeliverError
from mxdeliver.edge import kernel

if TYPE_CHECKING:
    from apscheduler.events import JobExecutionEvent

    from mxdeliver.cli.wiring import Chosen
    from mxdeliver.core.model import Client, Resource
    from mxdeliver.edge.config import Configuration
    from mxdeliver.site import Site


@click.command(cls=options.Command)
@options.config_option
@click.option(
    "--wake-every",
    type=click.FloatRange(min=0.1),
    default=30.0,
    show_default=True,
    help="Seconds after which the ledger is asked at the latest.",
)
def command(config_path: Path, wake_every: float) -> int:
    """Stay and deliver whatever becomes due, until SIGTERM.

    The configuration is read anew at each wake-up, so that a changed key, password or client is
    noticed by itself. Problems are said once on standard error, and again when they change.
    """
    kernel.harden()
    stop = Event()
    process.stop_on_signals(stop)
    wiring.load(config_path)
    # Whatever takes the place of the program's files meanwhile, this one can go on.
    import mxdeliver.build  # noqa: F401, PLC0415 - see cli

    every = timedelta(seconds=wake_every)
    Alarm(Daemon(config_path, stop, every=every).wake, stop, every=every).keep()
    return 0


class Alarm:
    """Calls `wake` now, at the moments that it asks for, and after `every` at the latest.

    One call at a time, in a thread of APScheduler's; the next one is set once APScheduler has
    taken note that it ended, since it drops an alarm that goes off before. The waits follow the
    wall clock; should that be set back, `every` of monotonic time is still the longest wait. An
    alarm is lost where no thread could be started for it; after twice `every` it is set again.
    """

    def __init__(
        self, wake: Callable[[], datetime | None], stop: Event, *, every: timedelta
    ) -> None:
        from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED  # noqa: PLC0415 - see cli
        from apscheduler.schedulers.background import BackgroundScheduler  # noqa: PLC0415 - see cli

        self._wake = wake
        self._stop = stop
        self._every = every
        self._ringing = Lock()
        self._rung = 0
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        self._scheduler.add_listener(self._set_next, EVENT_JOB_EXECUTED | EVENT_JOB_ERROR)

    def keep(self) -> None:
        """Ring until `stop` is set and the call under way has ended."""
        from apscheduler.jobstores.base import JobLookupError  # noqa: PLC0415 - see cli

        self._scheduler.start()
        self._set(wiring.utc_now())
        quiet_since = None
        try:
            while not self._stop.wait(self._every.total_seconds()):
                jobs = self._scheduler.get_jobs()  # the one to come, or none during a call
                if jobs or self._ringing.locked():
                    quiet_since = None
                elif quiet_since != self._rung:
                    quiet_since = self._rung  # it may be about to ring, or to set the next one
                else:
                    self._set(wiring.utc_now())
                    quiet_since = None
                for job in jobs:
                    if job.next_run_time > wiring.utc_now() + self._every:
                        with suppress(JobLookupError):  # it goes off just now
                            job.modify(next_run_time=wiring.utc_now())
        finally:
            # APScheduler would wait for the call under way while holding what that call needs.
            with self._ringing:
                self._scheduler.shutdown(wait=False)

    def _set(self, moment: datetime) -> None:
        # Under a name of its own: what has just gone off is removed by name, maybe after this.
        self._scheduler.add_job(self._ring, "date", run_date=moment)

    def _set_next(self, ended: JobExecutionEvent) -> None:
        if not self._stop.is_set():
            latest = wiring.utc_now() + self._every
            self._set(latest if ended.retval is None else min(ended.retval, latest))

    def _ring(self) -> datetime | None:
        with self._ringing:
            self._rung += 1
            return None if self._stop.is_set() else self._wake()


@dataclass(slots=True)
class _Read:
    """The configuration and the schemas as they were last read."""

    configuration: Configuration
    resources: Mapping[str, Resource]


def _places(configuration: Configuration) -> tuple[object, ...]:
    return configuration.state_dir, configuration.ledger_url, configuration.delivery_log


class Daemon:
    """What happens at each wake-up: the same as `mxdeliver run`.

    But a client's longer wait keeps nobody: it is left to the ledger, and the alarm is set for it.
    While one client's delivery takes its time, the ledger is asked `every` so often what has become
    due for the others, with the configuration as it is by then. Other places for ledger, spool and log,
    another number of workers, and what is wrong with the configuration wait for the next wake-up.
    """

    def __init__(
        self,
        config_path: Path,
        stop: Event,
        *,
        every: timedelta,
        clock: Callable[[], datetime] = wiring.utc_now,
    ) -> None:
        self._config_path = config_path
        self._stop = stop
        self._every = every
        self._clock = clock
        self._breaker = Breaker()
        self._run_id = wiring.new_run_id()
        self._said: dict[str, str] = {}

    def wake(self) -> datetime | None:
        """Deliver what is due, and give the moment of the next retry.

        An error that concerns all clients is said, and the next wake-up tries again.
        """
        try:
            configuration = wiring.load(self._config_path)
            next_retry = self._deliver(configuration, wiring.choose(configuration, ()))
        except MxdeliverError as error:
            self._say(error)
            return None
        except Exception as error:  # noqa: BLE001 - the daemon stays; the next wake-up tries again
            self._say(Internal.of(error))
            return None
        self._is_new("error", "")
        return next_retry

    def _deliver(self, configuration: Configuration, chosen: Chosen) -> datetime | None:
        from mxdeliver.edge.avro import load_resources  # noqa: PLC0415 - imports pyarrow

        resources = load_resources(configuration.schema_folders)
        if self._is_new("broken clients", repr(chosen.broken)):
            show_broken(chosen)
        with wiring.open_site(
            configuration,
            resources=resources,
            run_id=self._run_id,
            stop=self._stop,
            clock=self._clock,
        ) as site:
            renew = partial(self._renewed, _Read(configuration, resources), site)
            report, deliveries = carry_out(
                configuration,
                chosen,
                None,
                site,
                self._stop,
                log_run=False,
                ask_every=self._every,
                breaker=self._breaker,
                renew=renew,
            )
        if not self._stop.is_set():
            show_troubles(report, deliveries, chosen)
        retries = [one.not_before for one in deliveries if one.not_before is not None]
        return min(retries, default=None)

    def _renewed(self, read: _Read, site: Site) -> tuple[Sequence[Client], Site] | None:
        from mxdeliver.edge.avro import load_resources  # noqa: PLC0415 - imports pyarrow

        configuration = wiring.load(self._config_path)
        resources = load_resources(configuration.schema_folders)
        fresh = _Read(configuration, resources)
        if fresh == read or _places(configuration) != _places(read.configuration):
            return None
        chosen = wiring.choose(configuration, ())
        read.configuration, read.resources = configuration, resources
        return chosen.clients, wiring.renewed(site, configuration, resources)

    def _say(self, error: MxdeliverError) -> None:
        if self._is_new("error", f"{error.code}{error}"):
            cli.show(error)

    def _is_new(self, about: str, what: str) -> bool:
        """Tell whether something else was last said about this."""
        new = self._said.get(about) != what
        self._said[about] = what
        return new
