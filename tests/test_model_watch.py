"""The checker of the stories notices what it is there to notice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.model_host import small_host
from tests.support.model_remote import MANIFEST, By, Change, ModelRemote
from tests.support.model_watch import Watch


def manifest_first(changes):
    return sorted(changes, key=lambda one: not one.name.endswith(MANIFEST))


def cut_short(changes):
    return [
        one if one.is_hidden or one.after is None else replace(one, after=one.after[:-1])
        for one in changes
    ]


def visible(changes):
    return next(one for one in changes if not one.is_hidden)


def replaced(changes):
    return [*changes, replace(visible(changes), before=b"", by=By.PROGRAM)]


def removed(changes):
    one = visible(changes)
    return [*changes, replace(one, before=one.after, after=None)]


def again(changes):
    return [*changes, visible(changes)]


def foreign(changes):
    hidden = next(one for one in changes if one.is_hidden)
    name = hidden.name.replace("-0000", "-cafe")
    return [*changes, Change(folder="first", name=name, before=b"", after=None, by=By.PROGRAM)]


def elsewhere(changes):
    return [replace(one, folder="second") for one in changes]


def none(_):
    return []


@pytest.mark.parametrize(
    ("forge", "invariant"),
    [
        (manifest_first, "I1"),
        (cut_short, "I2/I3"),
        (replaced, "I7"),
        (removed, "I7"),
        (none, "I8"),
        (again, "I9"),
        (elsewhere, "I12"),
        (foreign, "I16"),
    ],
)
def test_a_log_of_changes_that_breaks_an_invariant_is_noticed(tmp_path, forge, invariant):
    with ModelRemote() as remote:
        host = small_host(tmp_path, remote)
        host.run()
        Watch(host, remote).look()
        remote.changes = forge(remote.changes)
        with pytest.raises(AssertionError, match=rf"^{invariant}: "):
            Watch(host, remote).look()


def test_anything_that_happens_to_a_delivered_day_is_noticed(tmp_path):
    with ModelRemote() as remote:
        host = small_host(tmp_path, remote)
        host.run()
        watch = Watch(host, remote)
        watch.look()
        remote.changes.append(next(one for one in remote.changes if one.is_hidden))
        with pytest.raises(AssertionError, match=r"^I9: "):
            watch.look()
