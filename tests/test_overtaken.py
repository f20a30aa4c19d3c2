"""A run that was paused past its lease finds another one's work, and spoils none of it (F117)."""

from __future__ import annotations

import pytest

from mxdeliver.core.model import DeliveryState
from tests.support.model_host import DAY, small_host
from tests.support.model_remote import By, Fault, ModelRemote, Strike
from tests.support.model_watch import FILES, Watch

REQUESTS = [("open", 1), ("open", 3), ("write", 2), ("close", 4), ("rename", 1), ("rename", 4)]


@pytest.fixture
def host(tmp_path):
    with ModelRemote() as remote:
        yield small_host(tmp_path, remote)


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
