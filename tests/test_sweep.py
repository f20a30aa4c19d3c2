"""The sweep's short form: crashes and network cuts spread over a delivery; `make crash-sweep` is long.

Each ends with the invariant checker (tests/support/invariants.py) over everything that was seen.
"""

from __future__ import annotations

import pytest

from tests.sweep import cuts
from tests.sweep.sweep import Task, sweeping

SEED = 3
CRASHES = 8
LEFT_TO_THE_LONG_FORM = {"late", "delay and reset", "reset behind CLOSE"}
KINDS = [
    pytest.param(number, id=kind)
    for number, kind in enumerate(cuts.KINDS)
    if kind not in LEFT_TO_THE_LONG_FORM
]


@pytest.fixture(scope="module")
def carry_out(tmp_path_factory):
    with sweeping(tmp_path_factory.mktemp("sweep")) as carry_out:
        yield carry_out


@pytest.mark.parametrize("number", range(CRASHES))
def test_killed_at_a_system_call_the_day_is_delivered_once_and_whole(carry_out, number):
    done = carry_out(Task("crash", number, CRASHES, SEED))
    assert done.violations == [], done.point


@pytest.mark.parametrize("number", KINDS)
def test_over_a_network_that_fails_the_day_is_delivered_once_and_whole(carry_out, number):
    done = carry_out(Task("cut", number, len(cuts.KINDS), SEED))
    assert done.violations == [], done.point
    is_only_slow = list(cuts.KINDS)[number] == "trickle"
    assert done.stopped is not is_only_slow, f"{done.point} did not disturb the run"
