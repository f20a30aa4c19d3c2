"""What the measurements rest on: the proxy that adds round trips, the rounds, and the verdicts."""

import socket
import time
from threading import Thread

from bench.contest import Contestant, Sample, Settings, compete
from bench.delay import delayed
from bench.measure import Measured
from bench.report import compared

ROUND_TRIP_MS = 40


def _echo(listener):
    with listener.accept()[0] as side:
        while data := side.recv(1 << 16):
            side.sendall(data)


def _sample(name, *seconds, scale=1):
    rounds = [Measured(seconds=one) for one in seconds]
    return Sample(name=name, scale=scale, rounds=rounds)


def test_the_delay_proxy_hands_on_everything_and_not_before_its_time():
    sent = bytes(range(256)) * 20_000
    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=_echo, args=(listener,), daemon=True).start()
        with delayed(listener.getsockname()[1], ROUND_TRIP_MS) as port:
            started = time.monotonic()
            with socket.create_connection(("127.0.0.1", port)) as side:
                Thread(target=side.sendall, args=(sent,), daemon=True).start()
                received = side.recv(1)
                first = time.monotonic() - started
                while len(received) < len(sent):
                    received += side.recv(1 << 20)
                side.shutdown(socket.SHUT_WR)
                assert side.recv(1) == b""
    assert received == sent
    assert first >= 2 * ROUND_TRIP_MS / 1000  # the handshake's, and the one of the data


def test_without_a_delay_nothing_stands_between():
    with delayed(12345, 0) as port:
        assert port == 12345


def test_everybody_warms_up_once_is_checked_once_and_begins_in_turn(tmp_path):
    calls = []
    settings = Settings(seed=1, rounds=3, small=True, folder=tmp_path, memory=tmp_path)

    def contestant(name):
        def run():
            calls.append(name)
            return Measured(seconds=1)

        return Contestant(name=name, run=run, check=lambda: calls.append(f"{name} checked"))

    samples = compete(settings, "test", [contestant("a"), contestant("b")])
    assert calls == ["a", "a checked", "b", "b checked", "a", "b", "b", "a", "a", "b"]
    assert [len(sample.rounds) for sample in samples.values()] == [3, 3]


def test_a_slow_contestant_makes_no_more_rounds_than_enough(tmp_path):
    settings = Settings(seed=1, rounds=5, small=True, folder=tmp_path, memory=tmp_path)
    seconds = {"quick": 1, "slow": 20, "very slow": 100}

    def contestant(name):
        return Contestant(name=name, run=lambda: Measured(seconds=seconds[name]))

    samples = compete(settings, "test", [contestant(name) for name in seconds])
    assert [len(samples[name].rounds) for name in seconds] == [5, 3, 2]


def test_a_target_that_is_not_reached_is_said_to_be_missed():
    ours = _sample("ours", 1.0, 2.0, 3.0)
    row = compared("x", "work", _sample("peer", 7.0, 8.0, 9.0), ours, target=4)
    assert row.reached.startswith("4.00 ")
    row = compared("x", "work", _sample("peer", 7.0, 7.9, 9.0), ours, target=4)
    assert row.reached.startswith("**missed**: 3.95 ")


def test_less_work_is_scaled_and_said():
    row = compared("x", "work", _sample("peer", 1.0, scale=10), _sample("ours", 2.0))
    assert row.peer == "peer (1/10 of the work, scaled)"
    assert row.theirs == "10.00 s"
    assert row.reached.startswith("5.00 ")
