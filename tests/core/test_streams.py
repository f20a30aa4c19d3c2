from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256
from threading import Event, Semaphore

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxdeliver.core.streams import Behind, Tally, ahead


@given(st.lists(st.binary()))
def test_a_tally_passes_everything_on_and_knows_size_and_checksum(pieces):
    passed = bytearray()
    tally = Tally(passed.extend)
    for piece in pieces:
        tally.write(piece)
    whole = b"".join(pieces)
    assert bytes(passed) == whole
    assert tally.size == len(whole)
    assert tally.checksum == sha256(whole).hexdigest()


def test_a_tally_takes_any_buffer_and_its_checksum_can_be_asked_on_the_way():
    tally = Tally(lambda _: None)
    tally.write(bytearray(b"ab"))
    assert tally.checksum == sha256(b"ab").hexdigest()
    tally.write(memoryview(b"xxcdxx")[2:4])
    assert (tally.size, tally.checksum) == (4, sha256(b"abcd").hexdigest())


def test_what_is_read_ahead_comes_in_order_and_its_error_in_its_place():
    def items():
        yield from range(10)
        raise KeyError("end")

    seen = []
    with ThreadPoolExecutor(max_workers=1) as worker, pytest.raises(KeyError):
        seen.extend(ahead(items(), worker, depth=3))
    assert seen == list(range(10))


def test_reading_ahead_is_bounded_and_stops_with_its_reader():
    fetched = []

    def items():
        for number in range(100):
            fetched.append(number)
            yield number

    with ThreadPoolExecutor(max_workers=1) as worker:
        with closing(ahead(items(), worker, depth=3)) as numbers:
            assert [next(numbers), next(numbers)] == [0, 1]
        assert len(fetched) <= 5


def test_a_reader_is_told_how_long_it_waits_and_may_give_up_a_fetch_that_hangs():
    released = Event()
    told = []

    def items():
        yield 1
        released.wait(20)
        yield 2

    def give_up(seconds):
        told.append(seconds)
        if len(told) == 2:
            raise KeyError("waited long enough")

    with ThreadPoolExecutor(max_workers=1) as worker:
        numbers = ahead(items(), worker, depth=3, watch=give_up, interrupt=released.set)
        assert next(numbers) == 1
        with pytest.raises(KeyError, match="waited long enough"):
            next(numbers)
    assert released.is_set()
    assert 0 < told[0] < told[1]


def test_a_fetch_is_interrupted_until_it_has_ended():
    begun = Event()
    interrupts = Semaphore(0)

    def items():
        yield 1
        begun.set()
        assert interrupts.acquire(timeout=20)
        assert interrupts.acquire(timeout=20)
        yield 2

    with ThreadPoolExecutor(max_workers=1) as worker:
        numbers = ahead(items(), worker, depth=2, interrupt=interrupts.release)
        with closing(numbers):
            assert next(numbers) == 1
            assert begun.wait(20)


def test_a_stream_that_was_read_to_its_end_is_not_interrupted():
    calls = []
    with ThreadPoolExecutor(max_workers=1) as worker:
        for _ in range(200):
            numbers = ahead(iter(range(3)), worker, depth=4, interrupt=lambda: calls.append(1))
            assert list(numbers) == [0, 1, 2]
    assert calls == []


@pytest.mark.parametrize("workers", [0, 1])
def test_calls_behind_are_made_in_order_and_their_error_comes_out(workers):
    taken = []

    def take(number, divisor):
        taken.append(number // divisor)

    with ThreadPoolExecutor(max_workers=1) as worker:
        behind = Behind(worker if workers else None, depth=2)
        for number in range(20):
            behind.call(take, number, 1)
        behind.drain()
        assert taken == list(range(20))

        def call_and_drain():
            behind.call(take, 1, 0)  # comes out here where there is no worker
            behind.drain()

        with pytest.raises(ZeroDivisionError):
            call_and_drain()


def test_what_is_abandoned_is_not_called_any_more():
    begun, released, calls = Event(), Event(), []

    def first():
        begun.set()
        released.wait(20)
        calls.append("first")

    with ThreadPoolExecutor(max_workers=1) as worker, ThreadPoolExecutor(max_workers=1) as other:
        behind = Behind(worker, depth=5)
        behind.call(first)
        behind.call(calls.append, "second")
        begun.wait(20)
        leaving = other.submit(behind.abandon)
        assert not leaving.done()
        released.set()
        leaving.result(20)
        assert calls == ["first"]
