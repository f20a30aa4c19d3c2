"""When a delivery counts as changed since its last attempt, and when it only looks so from here."""

from datetime import timedelta

import pytest

from mxdeliver.edge.ledger import Ledger
from mxdeliver.edge.ledger.contexts import is_changed
from tests.support.ledgers import NOON, client, guid, key

DEADLINE = NOON + timedelta(hours=6)
KNOWN = "configuration=1 key1=2 password=3 schemas=4"
WITHOUT_PASSWORD = "configuration=1 key1=2 schemas=4"


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path, now=NOON) as opened:
        opened.plan([client()], now=NOON, catch_up_days=7)
        yield opened


def park(ledger, context, error_code):
    with ledger.claim(key(), now=NOON, context=context, deadline=DEADLINE) as lease:
        lease.park(now=NOON, error_code=error_code, error="parked")


def is_due(ledger, context):
    return ledger.due([client()], now=NOON, contexts={guid(): context}) != []


@pytest.mark.parametrize(
    ("earlier", "now", "changed"),
    [
        (KNOWN, KNOWN, False),
        (KNOWN, KNOWN.replace("password=3", "password=5"), True),
        (KNOWN, KNOWN.replace("schemas=4", "schemas=5"), True),
        (KNOWN, WITHOUT_PASSWORD, False),
        (WITHOUT_PASSWORD, KNOWN, False),
        (KNOWN, WITHOUT_PASSWORD.replace("key1=2", "key1=7"), True),
        ("another", KNOWN, True),
        (None, KNOWN, False),
        (KNOWN, None, False),
    ],
)
def test_only_parts_that_both_could_read_are_compared(earlier, now, changed):
    assert is_changed(earlier, now, "AUTH_FAILED") is changed


def test_a_refused_password_is_not_tried_again_by_a_process_that_cannot_see_it(ledger):
    park(ledger, KNOWN, "AUTH_FAILED")
    assert not is_due(ledger, WITHOUT_PASSWORD)
    assert not is_due(ledger, KNOWN)
    assert is_due(ledger, KNOWN.replace("password=3", "password=5"))


@pytest.mark.parametrize("code", ["SECRET_MISSING", "KEY_MISSING"])
def test_what_was_missing_opens_the_delivery_by_its_appearing(ledger, code):
    park(ledger, WITHOUT_PASSWORD, code)
    assert not is_due(ledger, WITHOUT_PASSWORD)
    assert is_due(ledger, KNOWN)
    with ledger.claim(key(), now=NOON, context=KNOWN, deadline=DEADLINE) as lease:
        assert lease.number == 2
