from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxdeliver.core import errors, retry
from mxdeliver.core.errors import Kind
from mxdeliver.core.model import Attempt, Outcome, RetryPolicy

NOW = datetime(2026, 1, 2, 1, 15, tzinfo=UTC)
POLICY = RetryPolicy()
ERRORS = list(errors.all_errors())
CHANCES = st.floats(0, 1, exclude_max=True)


def decide(error, *, attempt=1, alike=None, deadline=NOW + timedelta(hours=6), chance=0.5):
    return retry.decide(
        error,
        attempt=attempt,
        alike=alike,
        now=NOW,
        deadline=deadline,
        policy=POLICY,
        chance=chance,
    )


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_each_error_is_retried_parked_failed_or_left_alone_by_its_kind(error):
    expected = {
        Kind.CONFIGURATION: Outcome.PARKED,
        Kind.USAGE: Outcome.FAILED,
        Kind.TRANSIENT: Outcome.RETRY,
        Kind.SLOW: Outcome.RETRY,
        Kind.PARKED: Outcome.PARKED,
        Kind.FAILED: Outcome.FAILED,
        Kind.ELSEWHERE: Outcome.STOPPED,
    }[error.kind]
    decision = decide(error("what happened"))
    assert (decision.outcome, decision.error_code) == (expected, error.code)
    assert (decision.retry_at is not None) == (expected is Outcome.RETRY)


@pytest.mark.parametrize(
    ("attempt", "longest"),
    [(1, 2), (2, 4), (3, 8), (4, 16), (5, 32), (6, 60), (7, 60), (33, 60), (10_000, 60)],
)
def test_waits_double_from_initial_to_maximum(attempt, longest):
    decision = decide(errors.ConnectTimeout("x"), attempt=attempt, chance=0.999)
    assert decision.retry_at == NOW + timedelta(seconds=longest) * 0.999


@given(st.integers(1, 100_000), CHANCES)
def test_a_wait_is_drawn_from_nothing_to_the_longest(attempt, chance):
    wait = retry.wait(errors.Stalled("x"), attempt=attempt, policy=POLICY, chance=chance)
    assert timedelta() <= wait <= POLICY.maximum


@given(st.integers(1, 100), CHANCES)
def test_what_heals_slowly_waits_at_least_half_the_maximum_from_the_start(attempt, chance):
    wait = retry.wait(errors.RemoteFull("x"), attempt=attempt, policy=POLICY, chance=chance)
    assert POLICY.maximum / 2 <= wait <= POLICY.maximum


@pytest.mark.parametrize(("chance", "share"), [(0, 0.5), (0.5, 0.75), (0.999, 0.9995)])
def test_a_server_that_does_not_answer_is_left_alone_for_half_to_all_of_the_maximum(chance, share):
    assert retry.pause(policy=POLICY, chance=chance) == POLICY.maximum * share


def test_what_is_put_off_waits_under_the_errors_code_until_it_is_its_turn():
    until = NOW + timedelta(minutes=5)
    deadline = until + timedelta(microseconds=1)
    decision = retry.put_off(errors.ConnectRefused("x"), until=until, deadline=deadline)
    assert decision.outcome is Outcome.RETRY
    assert (decision.error_code, decision.retry_at) == ("CONNECT_REFUSED", until)


@pytest.mark.parametrize("late", [timedelta(), timedelta(microseconds=1)])
def test_what_is_put_off_to_its_deadline_or_later_has_failed(late):
    until = NOW + timedelta(minutes=5)
    decision = retry.put_off(errors.ConnectRefused("x"), until=until, deadline=until - late)
    assert (decision.outcome, decision.error_code) == (Outcome.FAILED, "DEADLINE")
    assert decision.retry_at is None


def test_a_retry_that_would_come_at_the_deadline_or_later_is_a_failure():
    error = errors.ConnectionLost("x")
    wait = timedelta(seconds=1)  # half of the first wait
    late = decide(error, deadline=NOW + wait)
    assert (late.outcome, late.error_code, late.retry_at) == (Outcome.FAILED, "DEADLINE", None)
    in_time = decide(error, deadline=NOW + wait + timedelta(microseconds=1))
    assert (in_time.outcome, in_time.retry_at) == (Outcome.RETRY, NOW + wait)


@given(
    st.sampled_from(ERRORS),
    st.integers(1, 1000),
    st.integers(1, 1000),
    st.integers(-100_000, 100_000),
    CHANCES,
)
def test_whatever_went_wrong_is_tried_again_in_time_or_ended_by_name(
    error, attempt, alike, seconds, chance
):
    deadline = NOW + timedelta(seconds=seconds)
    decision = decide(error("x"), attempt=attempt, alike=alike, deadline=deadline, chance=chance)
    if decision.outcome is Outcome.RETRY:
        assert error.kind in {Kind.TRANSIENT, Kind.SLOW}
        assert NOW <= decision.retry_at < deadline
        assert decision.retry_at <= NOW + POLICY.maximum
        assert error.tries is None or alike < error.tries
    else:
        assert decision.retry_at is None
    parked = error.kind in {Kind.PARKED, Kind.CONFIGURATION}
    assert (decision.outcome is Outcome.PARKED) == parked
    late = decision.outcome is Outcome.FAILED and error.kind in {Kind.TRANSIENT, Kind.SLOW}
    assert decision.error_code in ({error.code, "DEADLINE"} if late else {error.code})


def test_a_deadline_does_not_fail_what_is_parked():
    decision = decide(errors.AuthFailed("x"), deadline=NOW - timedelta(days=1))
    assert (decision.outcome, decision.error_code) == (Outcome.PARKED, "AUTH_FAILED")


@pytest.mark.parametrize("error", [e for e in ERRORS if e.tries is not None], ids=lambda e: e.code)
def test_an_error_with_few_tries_fails_under_its_own_code(error):
    assert decide(error("x"), attempt=error.tries - 1).outcome is Outcome.RETRY
    for attempt in (error.tries, error.tries + 1):
        decision = decide(error("x"), attempt=attempt)
        assert (decision.outcome, decision.error_code) == (Outcome.FAILED, error.code)


def test_a_policys_own_waits_are_used():
    policy = RetryPolicy(initial=timedelta(seconds=10), maximum=timedelta(seconds=15))
    first = retry.wait(errors.Stalled("x"), attempt=1, policy=policy, chance=0.5)
    later = retry.wait(errors.Stalled("x"), attempt=2, policy=policy, chance=0.5)
    assert (first, later) == (timedelta(seconds=5), timedelta(seconds=7.5))


def attempts(*ends):
    """Attempts a minute apart that ended with these codes, or in other outcomes."""
    return [
        Attempt(
            number=number,
            started_at=NOW + timedelta(minutes=number),
            ended_at=NOW + timedelta(minutes=number, seconds=30),
            outcome=end if isinstance(end, Outcome) else Outcome.RETRY,
            error_code=None if isinstance(end, Outcome) else end,
        )
        for number, end in enumerate(ends, start=1)
    ]


@pytest.mark.parametrize(
    ("ends", "attempt", "alike"),
    [
        ((), 1, 1),
        (("STALLED", "STALLED"), 3, 1),
        (("REMOTE_VERIFY", "STALLED"), 3, 2),
        (("REMOTE_VERIFY", Outcome.STOPPED), 2, 2),
        (("STALLED", "REMOTE_VERIFY", Outcome.FAILED), 1, 1),
        (("REMOTE_VERIFY", Outcome.PARKED, "STALLED"), 2, 1),
        (("STALLED", Outcome.DELIVERED, "REMOTE_VERIFY"), 2, 2),
    ],
)
def test_attempts_are_counted_since_the_last_one_that_settled_the_delivery(ends, attempt, alike):
    counted = retry.count(errors.RemoteVerify("x"), attempts(*ends))
    assert (counted.attempt, counted.alike) == (attempt, alike)


def test_attempts_before_a_person_asked_do_not_count():
    earlier = attempts("REMOTE_VERIFY", "REMOTE_VERIFY", "STALLED")
    since = NOW + timedelta(minutes=2)
    counted = retry.count(errors.RemoteVerify("x"), earlier, since=since)
    assert (counted.attempt, counted.alike) == (3, 2)


def test_a_check_that_failed_is_made_once_more_however_often_the_connection_broke():
    verify = errors.RemoteVerify("x")
    counted = retry.count(verify, attempts("STALLED", "STALLED", "STALLED"))
    decision = decide(verify, attempt=counted.attempt, alike=counted.alike, chance=0.999)
    assert decision.retry_at == NOW + timedelta(seconds=16) * 0.999
    again = retry.count(verify, attempts("STALLED", "REMOTE_VERIFY", "STALLED"))
    assert decide(verify, attempt=again.attempt, alike=again.alike).outcome is Outcome.FAILED
