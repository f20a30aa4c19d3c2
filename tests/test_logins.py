"""What a run knows of refused logins, of all clients of an account at once."""

import sqlite3
import threading
import time
from contextlib import closing
from datetime import timedelta

import pytest

from mxdeliver.core.errors import AuthFailed, LedgerBusy
from mxdeliver.edge.ledger import Ledger
from mxdeliver.logins import Learnt, Logins
from tests.support.ledgers import NOON, YESTERDAY, client, guid, key

CLIENTS = [client(number) for number in range(1, 4)]  # of one account, with one secret


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path, now=NOON, busy_timeout=1.0) as opened:
        opened.ensure(CLIENTS, YESTERDAY, now=NOON)
        yield opened


def logins(ledger, learnt=None):
    return Logins(CLIENTS, ledger, context=lambda _: "context", learnt=learnt or Learnt())


def park(ledger, number, error):
    deadline = NOON + timedelta(hours=1)
    with ledger.claim(key(number=number), now=NOON, context="context", deadline=deadline) as lease:
        lease.park(now=NOON, error_code=error.code, error=error.explain())


def refused(known):
    return [known.refusal(one) is not None for one in CLIENTS]


def test_what_the_ledger_says_of_one_client_stands_against_all_of_its_account(ledger):
    assert refused(logins(ledger)) == [False] * 3
    park(ledger, 2, AuthFailed("no"))
    assert refused(logins(ledger)) == [True] * 3
    ledger.resume(client_guid=guid(2), day=None, now=NOON)
    assert refused(logins(ledger)) == [False] * 3


def test_what_is_forgotten_is_asked_anew_and_nothing_else_is(ledger):
    known = logins(ledger)
    assert refused(known) == [False] * 3
    park(ledger, 1, AuthFailed("no"))
    known.forget(CLIENTS[1])
    assert refused(known) == [False] * 3, "of the first it has asked already"
    known.forget(CLIENTS[0])
    assert refused(known) == [True] * 3


def test_an_attempt_from_before_the_configuration_was_renewed_tells_those_behind_it(ledger):
    learnt = Learnt()
    before, after = logins(ledger, learnt), logins(ledger, learnt)
    assert refused(after) == [False] * 3
    with pytest.raises(AuthFailed), before.in_turn(CLIENTS[0], lambda: False):
        raise AuthFailed("no")
    park(ledger, 1, AuthFailed("no"))
    before.forget(CLIENTS[0])
    assert refused(after) == [True] * 3


def test_many_that_ask_a_locked_ledger_wait_side_by_side(tmp_path, ledger):
    known = logins(ledger)
    answers = []

    def ask():
        try:
            known.refusal(CLIENTS[0])
        except LedgerBusy as error:
            answers.append(error)

    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        threads = [threading.Thread(target=ask) for _ in range(8)]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        known.forget()
        assert time.monotonic() - started < 1, "who forgets waits for nobody's question"
        for thread in threads:
            thread.join()
        assert len(answers) == 8
        assert time.monotonic() - started < 5  # one second each; eight, one after the other
