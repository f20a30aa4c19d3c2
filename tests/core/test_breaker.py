"""When a host is left alone, by whom it is tried, and when all may come back."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mxdeliver.core import errors
from mxdeliver.core.breaker import ANSWERS, LIMIT, SILENCE, Breaker, Host
from tests.support.ledgers import client

HOST = Host.of(client())
PAUSE = 60.0
REFUSED = errors.ConnectRefused("192.0.2.1:8022 refuses connections")


def silenced(*, by="first", now=0.0):
    """A breaker whose host has not answered `by` often enough."""
    breaker = Breaker()
    for _ in range(LIMIT):
        assert breaker.ask(HOST, by, now=now) is None
        breaker.failed(HOST, by, REFUSED, now=now, pause=PAUSE)
    return breaker


def test_a_few_failures_keep_nobody_away():
    breaker = Breaker()
    for who in ("first", "second"):
        breaker.failed(HOST, who, REFUSED, now=0, pause=PAUSE)
    assert breaker.ask(HOST, "third", now=0) is None


def test_after_three_in_a_row_the_others_are_told_why_and_until_when():
    silent = silenced().ask(HOST, "second", now=1)
    assert (silent.failures, silent.error, silent.until) == (3, REFUSED, PAUSE)


def test_the_one_that_met_the_last_failure_goes_on_trying():
    assert silenced().ask(HOST, "first", now=1) is None


def test_an_answer_in_between_starts_the_count_anew():
    breaker = Breaker()
    for _ in range(5):
        breaker.failed(HOST, "first", REFUSED, now=0, pause=PAUSE)
        breaker.failed(HOST, "first", REFUSED, now=0, pause=PAUSE)
        breaker.answered(HOST)
    assert breaker.ask(HOST, "second", now=0) is None


def test_an_answer_lets_everybody_come_back():
    breaker = silenced()
    assert breaker.places(HOST) == 0
    breaker.answered(HOST)
    assert breaker.places(HOST) is None
    assert breaker.ask(HOST, "second", now=0) is None


def test_after_the_pause_the_next_one_probes_alone():
    breaker = silenced()
    assert breaker.ask(HOST, "second", now=PAUSE) is None
    assert breaker.ask(HOST, "third", now=PAUSE).until == 2 * PAUSE
    assert breaker.ask(HOST, "first", now=PAUSE) is not None, "it is a probe no more"
    assert breaker.ask(HOST, "third", now=10 * PAUSE) is not None, "the probe is under way"
    breaker.failed(HOST, "second", REFUSED, now=10 * PAUSE, pause=PAUSE)
    assert breaker.ask(HOST, "third", now=11 * PAUSE) is None


def test_a_probe_that_never_reached_out_leaves_its_part_to_the_next():
    breaker = silenced()
    breaker.untold(HOST, "second")
    assert breaker.places(HOST) == 0, "the second was not the probe"
    breaker.untold(HOST, "first")
    assert breaker.places(HOST) == 1
    assert breaker.ask(HOST, "second", now=1) is None
    assert breaker.ask(HOST, "third", now=1) is not None


def test_other_hosts_ports_and_addresses_are_not_touched():
    breaker = silenced()
    for other in (
        HOST._replace(name="other.example"),
        HOST._replace(port=8023),
        HOST._replace(allowed=frozenset()),
    ):
        assert breaker.ask(other, "second", now=1) is None
    shouted = HOST.of(client())
    assert breaker.ask(shouted, "second", now=1) is not None


def test_each_error_of_network_and_server_tells_whether_the_host_was_there():
    told = {error.code for error in (*SILENCE, *ANSWERS)}
    codes = [error.code for error in errors.all_errors()]
    first = codes.index("DNS_FAILED")
    about_it = set(codes[first:]) - {"ADDRESS_NOT_ALLOWED"}  # that is said by the name's resolver
    assert told == about_it


class Hosts(RuleBasedStateMachine):
    """Deliveries of one host, under way or not, whatever it answers."""

    def __init__(self):
        super().__init__()
        self.breaker = Breaker()
        self.now = 0.0
        self.failures = 0
        self.under_way = set()
        self.begun_while_silent = set()

    @rule(seconds=st.sampled_from([0.5, PAUSE / 2, PAUSE, 3 * PAUSE]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(who=st.sampled_from("abcde"))
    def starts(self, who):
        if who in self.under_way:
            return
        silent = self.breaker.ask(HOST, who, now=self.now)
        if silent is None:
            self.under_way.add(who)
            if self.failures >= LIMIT:
                self.begun_while_silent.add(who)
        else:
            assert self.failures >= LIMIT
            assert silent.until > self.now

    def ended(self, data):
        who = data.draw(st.sampled_from(sorted(self.under_way)))
        self.under_way.remove(who)
        self.begun_while_silent.discard(who)
        return who

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def is_not_answered(self, data):
        self.failures += 1
        self.breaker.failed(HOST, self.ended(data), REFUSED, now=self.now, pause=PAUSE)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def is_answered(self, data):
        self.failures = 0
        self.begun_while_silent.clear()
        self.ended(data)
        self.breaker.answered(HOST)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def ends_before_it_asks(self, data):
        self.breaker.untold(HOST, self.ended(data))

    @invariant()
    def one_at_a_time_tries_a_silent_host(self):
        assert len(self.begun_while_silent) <= 1

    @invariant()
    def somebody_may_always_try_in_the_end(self):
        if not self.under_way and self.failures >= LIMIT:
            assert self.breaker.places(HOST) in {0, 1}


Hosts.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_a_silent_host_is_tried_by_one_at_a_time = Hosts.TestCase
