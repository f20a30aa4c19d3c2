"""Builders one by one: whom they obey, what they hold, and what they are replaced for."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from threading import Event, Lock

import pytest

import mxdeliver.build
from mxdeliver import binding
from mxdeliver.builders import Builders, Work, wire
from mxdeliver.builders.wire import portable
from mxdeliver.cli import wiring
from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.errors import (
    BuilderDied,
    Internal,
    MxdeliverError,
    SourceUnavailable,
    StopRequested,
)
from mxdeliver.core.model import DeliveryKey
from mxdeliver.edge.avro import load_resources
from mxdeliver.edge.ledger.locks import Locks
from mxdeliver.edge.spool import Spool
from tests.support.builders import ENDLESS, at_work, builders_of
from tests.support.openssh import wait_until
from tests.support.outcomes import DAY, add_client, fill, small_deployment
from tests.support.sources import can_write
from tests.support.warehouse import make_warehouse

TODAY = SnapshotDate.of(DAY)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A day to build, and where its lock lies."""

    deployment: object
    work: Work
    locks: Locks

    def build(self, builders, *, revision=1, source=None, log=lambda *_, **__: None, stop=None):
        key = replace(self.work.key, revision=revision)
        work = replace(self.work, key=key, source=source or self.work.source)
        with self.locks.hold(key.client_guid, key.snapshot_date) as lock:
            return builders.build(work, lock, log, stop or (lambda: False))


@pytest.fixture
def bench(tmp_path, server):
    deployment = small_deployment(tmp_path, server)
    add_client(deployment, "First", resources=["users"])
    fill(deployment)
    deployment.write()
    configuration = wiring.load(deployment.config_path)
    (client,) = configuration.clients
    spool = Spool(configuration.state_dir)
    spool.check()
    return Bench(
        deployment=deployment,
        work=Work(
            key=DeliveryKey(client_guid=client.guid, snapshot_date=TODAY),
            client=client,
            resources=binding.resources_of(client, load_resources()),
            source=configuration.sources["warehouse"],
            certificate=binding.certificate(client, datetime.now(UTC)),
            spool=spool,
        ),
        locks=Locks(configuration.state_dir / "locks"),
    )


@contextmanager
def two_builders():
    with Builders(2, os.environ, places=2) as builders:
        builders.start(2)
        yield builders
    assert builders_of(os.getpid()) == []


@pytest.mark.parametrize(("most", "clients", "count"), [(2, 9, 2), (4, 3, 3), (1, 9, 0), (4, 1, 0)])
def test_there_are_as_many_as_have_work_and_none_where_one_would_be_alone(most, clients, count):
    with Builders(most, os.environ, places=2) as builders:
        assert builders.count == 0
        builders.start(clients)
        builders.start(clients)
        assert builders.count == len(builders_of(os.getpid())) == count


def is_locked(path):
    """Whether another process holds a lock of the file, as DuckDB does of what it has attached."""
    with path.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_the_source_is_kept_from_day_to_day_and_soon_left_where_none_comes(bench):
    with two_builders() as builders:
        revisions = count(1)
        assert any(still_locked(bench, builders, next(revisions)) for _ in range(5))
        wait_until(lambda: not is_locked(bench.deployment.warehouse), "the builders to let go")
        assert can_write(bench.deployment.warehouse)
        assert any(still_locked(bench, builders, next(revisions)) for _ in range(5))
        assert builders.count == 2


def test_a_source_is_left_as_soon_as_a_day_comes_from_another_one(bench):
    other = bench.deployment.warehouse.with_name("other.duckdb")
    shutil.copy(bench.deployment.warehouse, other)
    second = replace(bench.work.source, name="other", options={"database": str(other)})
    with Builders(1, os.environ, places=1) as builders:
        builders._add()
        bench.build(builders, revision=1)
        for revision in range(2, 5):
            bench.build(builders, revision=revision, source=second)
            assert not is_locked(bench.deployment.warehouse)


def still_locked(bench, builders, revision):
    """Whether its source is kept behind a day; on a busy machine it may be left before one looks."""
    bench.build(builders, revision=revision)
    return is_locked(bench.deployment.warehouse)


def test_a_day_is_built_sealed_and_told(bench):
    lines = []
    with two_builders() as builders:
        bundle = bench.build(
            builders, log=lambda event, *_, **fields: lines.append((event, fields))
        )
    assert bench.work.spool.bundle(bench.work.key) == bundle
    assert [event for event, _ in lines] == ["file.built"] * 3
    assert [fields["record_count"] for _, fields in lines] == [
        one.record_count for one in bundle.artifacts
    ]
    assert bundle.record_count > 0


def test_what_was_built_of_a_day_that_fails_is_told_before_that_and_of_no_other_day(bench):
    wrong = "select error('no') as client_guid"
    failing = replace(bench.work.source, queries={"users": {"DELETED": wrong}})
    lines = []
    with two_builders() as builders:
        for _ in range(2):
            with pytest.raises(MxdeliverError):
                bench.build(
                    builders,
                    source=failing,
                    log=lambda *_, **fields: lines.append(fields["event_type"]),
                )
            assert lines == ["CREATED", "UPDATED"]
            lines.clear()
        bench.build(builders, log=lambda *_, **fields: lines.append(fields["event_type"]))
    assert lines == ["CREATED", "UPDATED", "DELETED"]


def test_the_day_stays_locked_until_its_builder_is_through_whoever_else_lets_go(bench):
    endless = replace(bench.work.source, queries={"users": {"CREATED": ENDLESS}})
    work, stop = replace(bench.work, source=endless), Event()
    key = work.key
    with (
        two_builders() as builders,
        ThreadPoolExecutor(1) as pool,
        bench.locks.hold(key.client_guid, key.snapshot_date) as lock,
    ):
        ours = os.dup(lock)
        built = pool.submit(builders.build, work, lock, lambda *_, **__: None, stop.is_set)
        wait_until(lambda: at_work(bench.deployment), "the day to be built")
        os.dup2(os.open(os.devnull, os.O_RDONLY), lock)  # as if the program were gone
        os.close(ours)
        assert not bench.locks.is_free(key.client_guid, key.snapshot_date)
        stop.set()
        with pytest.raises(StopRequested):
            built.result(10)
        assert bench.locks.is_free(key.client_guid, key.snapshot_date)
    assert not at_work(bench.deployment)


def test_a_source_whose_settings_changed_is_opened_anew_and_so_is_one_that_is_back(bench):
    other = bench.deployment.folder / "other.duckdb"
    make_warehouse(other, clients=[bench.work.client.guid], days=[DAY], rows=9, filled=["users"])
    changed = replace(bench.work.source, options={"database": str(other)})
    sources = [bench.work.source, bench.work.source, changed, changed, bench.work.source]
    with two_builders() as builders:
        counts = [
            bench.build(builders, revision=number, source=source).record_count
            for number, source in enumerate(sources, start=1)
        ]
    assert counts[0] == counts[1] == counts[4] < counts[2] == counts[3]


def test_one_that_died_while_it_had_nothing_to_do_is_replaced_and_nobody_hears_of_it(bench):
    with two_builders() as builders:
        for revision in (1, 2):
            bench.build(builders, revision=revision)
        before = builders_of(os.getpid())
        for process in before:
            os.kill(process, signal.SIGKILL)
        wait_until(lambda: all(_is_dead(one) for one in before), "them to die")
        assert bench.build(builders, revision=3) is not None
        assert builders.count == 2


def _is_dead(process):
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def test_one_at_something_that_nobody_waits_for_is_replaced(bench):
    def log(*_, **__):
        raise ZeroDivisionError

    with two_builders() as builders:
        bench.build(builders)
        before = set(builders_of(os.getpid()))
        with pytest.raises(ZeroDivisionError):
            bench.build(builders, revision=2, log=log)
        assert len(before & set(builders_of(os.getpid()))) == 1
        assert not at_work(bench.deployment)
        assert bench.build(builders, revision=3) is not None


def test_one_that_is_killed_says_how_and_leaves_nothing(bench):
    endless = replace(bench.work.source, queries={"users": {"CREATED": ENDLESS}})

    def stop():
        for process in at_work(bench.deployment).values():
            os.kill(process, signal.SIGKILL)
        return False

    with two_builders() as builders:
        with pytest.raises(BuilderDied, match="ended, by SIGKILL"):
            bench.build(builders, source=endless, stop=stop)
        assert not at_work(bench.deployment)
        assert bench.work.spool.sealed_keys() == []


def test_where_no_process_can_be_started_nobody_builds(bench, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with Builders(2, os.environ, places=2) as builders:
        builders.start(2)
        assert builders.count == 0
        assert bench.build(builders) is None


def test_without_builders_no_more_days_are_built_at_once_than_there_are_places():
    inside, most, lock = [], [], Lock()

    def build(builders):
        with builders.here(lambda: False):
            with lock:
                inside.append(1)
                most.append(len(inside))
            time.sleep(0.05)
            with lock:
                inside.pop()

    with Builders(2, os.environ, places=2) as builders, ThreadPoolExecutor(6) as pool:
        list(pool.map(build, [builders] * 6))
    assert max(most) == 2


def test_who_waits_to_build_here_hears_of_a_stop():
    with (
        Builders(2, os.environ, places=1) as builders,
        builders.here(lambda: False),
        pytest.raises(StopRequested),
        builders.here(lambda: True),
    ):
        pass


def test_old_and_new_files_of_the_program_are_never_loaded_together(monkeypatch):
    monkeypatch.delitem(sys.modules, "mxdeliver.build", raising=False)
    with Builders(2, os.environ, places=1) as builders:
        with builders.here(lambda: False):
            pass
        monkeypatch.setattr(wire, "PROGRAM_FILES", "those before")
        with pytest.raises(BuilderDied, match="files were replaced"), builders.here(lambda: False):
            pass
        monkeypatch.setitem(sys.modules, "mxdeliver.build", mxdeliver.build)
        with builders.here(lambda: False):
            pass


def test_a_builder_that_a_signal_without_a_name_ends_is_told_by_its_number(bench):
    endless = replace(bench.work.source, queries={"users": {"CREATED": ENDLESS}})

    def stop():
        for process in builders_of(os.getpid()) if at_work(bench.deployment) else ():
            os.kill(process, signal.SIGRTMIN + 6)
        return False

    with two_builders() as builders, pytest.raises(BuilderDied, match="ended, by signal 40"):
        bench.build(builders, source=endless, stop=stop)


def test_who_waits_for_a_builder_hears_of_a_stop(bench):
    with two_builders() as builders:
        free = [builders._free(lambda: False) for _ in range(2)]
        with pytest.raises(StopRequested):
            bench.build(builders, stop=lambda: True)
        for one in free:
            builders._give_back(one)


def test_an_error_that_cannot_be_sent_is_a_bug_named_by_its_place():
    class Own(SourceUnavailable):
        """Of a function, so that it cannot be found again."""

    try:
        raise Own("a value")
    except MxdeliverError as error:
        sent = portable(error)
    assert isinstance(sent, Internal)
    assert "unexpected Own at test_builder_pool.py" in str(sent)
    assert portable(SourceUnavailable("down")).args == ("down",)


@contextmanager
def two_ends():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield wire.Wire(ours), wire.Wire(theirs)


def test_a_resource_is_packed_once_and_unpacked_once(bench):
    with two_ends() as (ours, theirs):
        received = []
        for revision in (1, 2):
            ours.send(replace(bench.work, key=replace(bench.work.key, revision=revision)))
            received.append(theirs.receive()[0])
    assert [one.key.revision for one in received] == [1, 2]
    (first,), (second,) = [one.resources for one in received]
    assert first is second
    assert (first,) == bench.work.resources
    assert first is not bench.work.resources[0]


def test_resources_of_one_name_and_other_schemas_are_told_apart(bench):
    (users,) = bench.work.resources
    with two_ends() as (ours, theirs):
        for schema in (users.schema, users.schema + " "):
            work = replace(bench.work, resources=(replace(users, schema=schema),))
            ours.send(work)
            assert theirs.receive()[0].resources == work.resources
