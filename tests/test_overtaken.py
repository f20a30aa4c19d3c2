"""A run that was paused past its lease finds another one's work, and spoils none of it (F117)."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.model import DeliveryState
from tests.support.deployment import key_pair
from tests.support.model_host import Host, guid_of
from tests.support.model_remote import By, Fault, ModelRemote, Strike
from tests.support.model_watch import FILES, Watch
from tests.support.warehouse import make_warehouse

DAY = SnapshotDate.of(date.today() + timedelta(days=7))  # noqa: DTZ011 - behind the key's birthday
REQUESTS = [("open", 1), ("open", 3), ("write", 2), ("close", 4), ("rename", 1), ("rename", 4)]


@pytest.fixture
def host(tmp_path):
    make_warehouse(
        tmp_path / "warehouse.duckdb", clients=[guid_of(0)], days=[DAY], rows=2, filled=["users"]
    )
    with ModelRemote() as remote:
        yield Host(
            tmp_path / "host",
            remote=remote,
            warehouse=tmp_path / "warehouse.duckdb",
            clients={"first": {"active_since": DAY, "replace": "ours"}},
            key=key_pair(),
            now=datetime(DAY.year, DAY.month, DAY.day, 6, tzinfo=UTC) + timedelta(days=1),
        )


def pause_and_overtake(host, request, number):
    host.remote.begin(Fault(request=request, number=number, what=Strike.HOLD))
    host.run_and_be_overtaken()
    assert host.remote.struck
    assert [one.state for one in host.deliveries()][-1] is DeliveryState.DELIVERED


@pytest.mark.parametrize(("request_", "number"), REQUESTS)
def test_a_run_that_was_overtaken_leaves_no_temporary_file_behind(host, request_, number):
    pause_and_overtake(host, request_, number)
    assert len(host.remote.visible("first")) == FILES
    assert host.remote.hidden("first") == []
    Watch(host, host.remote).look()


@pytest.mark.parametrize(("request_", "number"), REQUESTS)
def test_a_rebuild_that_was_overtaken_takes_none_of_the_others_files_away(host, request_, number):
    host.run()
    first = host.remote.visible("first")
    host.resend(host.clients["first"], DAY, rebuild=True)
    pause_and_overtake(host, request_, number)
    second = host.remote.visible("first")
    assert second.keys() == first.keys()
    assert all(second[name] != content for name, content in first.items())
    removed = [one for one in host.remote.changes if one.after is None and not one.is_hidden]
    assert sorted(one.name for one in removed) == sorted(first)
    assert {one.by for one in removed} == {By.PROGRAM}
    assert host.remote.hidden("first") == []
