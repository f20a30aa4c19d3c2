"""Whatever a server answers, only the program's errors come out, in bounded time and memory.

reliability.md F91, F93; I14, I15.
"""

import io
import struct
import tracemalloc
from dataclasses import replace
from functools import partial
from hashlib import sha256

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mxdeliver.core.errors import ConnectionLost, MxdeliverError, peer_text
from mxdeliver.edge.sftp.attributes import unpack
from mxdeliver.edge.sftp.engine import Kind, text
from mxdeliver.edge.sftp.model import Evidence, Limits, Move, Upload
from tests.support.endpoints import some_endpoint
from tests.support.fuzzing import examples
from tests.support.sftp_peer import Peer, engine, framed, session

ENDPOINT = some_endpoint(8022, host="sftp.client.test", directory="/incoming")
SHORT = Limits(request=5, no_progress=5)
SIZES = {"one": 70_000, "two": 0, "three": 5}
MEGABYTE = 1024 * 1024
HOSTILE = ["", "No space left on device", "\x1b[2J\r\nroot", "%s%n{0}", "\u202e", "x" * 5_000]


def carry_out(peer):
    """Do all that push does with a session."""
    opened = session(peer, ENDPOINT, SHORT)
    opened.check_directory()
    opened.attributes(list(SIZES))
    opened.upload(
        [
            Upload(
                name=name,
                temporary=f".{name}",
                size=size,
                sha256=sha256(bytes(size)).hexdigest(),
                open=partial(io.BytesIO, bytes(size)),
            )
            for name, size in SIZES.items()
        ]
    )
    opened.rename(
        [Move(temporary=f".{name}", final=name, size=size) for name, size in SIZES.items()]
    )
    for name, size in SIZES.items():
        sum(map(len, opened.read(name, size + 1)))
    opened.remove(list(SIZES))


def outcome(peer):
    try:
        carry_out(peer)
    except MxdeliverError as error:
        return error
    return None


def check(peer):
    error = outcome(peer)
    assert str(error).isprintable()
    assert len(str(error)) < 1_000
    return error


def test_a_server_that_answers_as_it_should_is_served():
    assert check(Peer()) is None


# -- what a server may say -------------------------------------------------------------------------

NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 5, 8, 11, 31, 255, 2**31, 2**32 - 1]) | st.integers(0, 40)
LARGE = st.sampled_from([0, 1, 5, 70_000, 2**31, 2**63, 2**64 - 1])
WORDS = st.sampled_from(HOSTILE).map(str.encode) | st.binary(max_size=30)
STRINGS = st.builds(
    lambda value, lie: struct.pack(">I", min(len(value) + lie, 2**32 - 1)) + value,
    WORDS,
    st.sampled_from([0, 0, 0, 1, 70_000, 2**32 - 1]),
)
BODIES = st.one_of(
    st.builds(lambda code, words: struct.pack(">I", code) + words, NUMBERS, STRINGS | st.just(b"")),
    STRINGS,
    st.builds(
        lambda flags, size, mode: struct.pack(">IQI", flags, size, mode), NUMBERS, LARGE, NUMBERS
    ),
    st.builds(lambda numbers: struct.pack(">4Q", *numbers), st.tuples(LARGE, LARGE, LARGE, LARGE)),
    st.binary(max_size=40),
)
KINDS = st.sampled_from([int(kind) for kind in Kind]) | st.integers(0, 255)


def with_id(kind, body, off, cut):
    """Give an answer of the kind to request `id + off`, without its last `cut` bytes."""
    return lambda request: framed(
        (struct.pack(">BI", kind, (request + off) % 2**32) + body)[: -cut or None]
    )


def sent(peer):
    """Send one file, as push does; give what shows that it arrived."""
    data = b"a file"
    file = Upload(
        name="a",
        temporary=".a",
        size=6,
        sha256=sha256(data).hexdigest(),
        open=partial(io.BytesIO, data),
    )
    return session(peer, ENDPOINT, SHORT).upload([file])


@examples(300)
@given(KINDS, BODIES, st.integers(0, 3))
@example(Kind.EXTENDED_REPLY, b"", 0)
@example(Kind.EXTENDED_REPLY, text(b"check-file"), 0)
@example(Kind.EXTENDED_REPLY, text(b"check-file") + text(b"sha256")[:-1], 0)
@example(Kind.EXTENDED_REPLY, struct.pack(">I", 2**32 - 1), 0)
@example(Kind.EXTENDED_REPLY, text(b"sha256") + bytes(31), 0)
@example(Kind.STATUS, b"", 0)
@example(Kind.STATUS, struct.pack(">II", 8, 70_000), 0)
def test_an_answer_that_holds_no_hash_says_that_the_server_cannot_tell(kind, body, cut):
    def answer(request):
        return struct.pack(">BI", kind, request) + body[: len(body) - cut]

    assert sent(Peer(hashes=answer)) == {"a": Evidence(level="size", size=6)}


LIKELY = st.sampled_from([0, 0, 0, 0, 0, 0, 0, 1, 4, 2**31])
ANSWERS = st.one_of(
    st.builds(with_id, KINDS, BODIES, st.just(0), st.just(0)),
    st.builds(with_id, st.just(Kind.STATUS), BODIES, st.just(0), st.just(0)),
    st.builds(with_id, KINDS, BODIES, LIKELY, LIKELY),
    st.binary(max_size=60).map(framed),
    st.binary(max_size=60) | st.just(b""),
)


@examples(500)
@given(st.dictionaries(st.integers(0, 40), ANSWERS, max_size=6))
def test_odd_answers_anywhere_end_in_an_error_of_ours_or_are_overcome(odd):
    check(Peer(odd))


@examples(200)
@given(st.integers(0, 4), st.lists(ANSWERS, min_size=1, max_size=12))
def test_a_server_that_is_odd_from_some_answer_on_is_given_up(first, answers):
    odd = {number: answers[number % len(answers)] for number in range(first, 2_000)}
    check(Peer(odd))


@examples(100)
@given(st.binary(max_size=300))
def test_any_bytes_are_no_server(data):
    assert check(Peer({0: data})) is not None or data.startswith(b"\0\0")


@examples(150)
@given(st.binary(max_size=40))
def test_any_bytes_are_attributes_or_cut_short(data):
    try:
        attributes = unpack(data)
    except struct.error:
        return
    assert attributes.is_regular or attributes.is_directory or attributes.mode is not None


@examples(150)
@given(st.text(max_size=400) | st.binary(max_size=1_000), st.integers(0, 300))
def test_peers_words_are_printable_and_short_whatever_they_are(words, limit):
    shown = peer_text(words, limit)
    assert shown.isprintable()
    assert len(shown) <= limit


# -- bounds ----------------------------------------------------------------------------------------


class Flood:
    """A channel into which nothing goes and from which bytes come without end."""

    def settimeout(self, seconds):
        pass

    def send(self, _):
        raise TimeoutError

    def recv_ready(self):
        return True

    def recv(self, size):
        return bytes(size)


def peak(work):
    """The most memory that `work` held at once."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_server_that_takes_nothing_and_talks_without_end_is_given_up():
    def work():
        with pytest.raises(ConnectionLost, match="without end"):
            engine(Flood()).call(Kind.STAT, text(b"/"))

    assert peak(work) < 16 * MEGABYTE


@pytest.mark.parametrize("length", [300 * 1024 + 1, 256 * MEGABYTE, 2**32 - 1])
def test_an_announced_length_is_not_believed(length):
    odd = struct.pack(">I", length) + bytes(400_000)

    def work():
        assert isinstance(check(Peer({4: odd})), ConnectionLost)

    assert peak(work) < 16 * MEGABYTE


def test_pieces_that_a_server_wants_tiny_are_not_all_under_way_at_once():
    peer = Peer(write_limit=1, slow=True)
    small = session(peer, replace(ENDPOINT), SHORT)
    most = 0

    def look(_):
        nonlocal most
        most = max(most, small._engine.under_way)

    file = Upload(name="a", temporary=".a", size=1_500, open=partial(io.BytesIO, bytes(1_500)))
    small.upload([file], look)
    assert 500 < most <= 1_024


def test_the_longest_texts_of_a_server_are_cut_short():
    said = b"\x1b[31m" + b"A" * 200_000
    answer = with_id(Kind.STATUS, struct.pack(">I", 4) + text(said) + text(b""), 0, 0)
    for number in range(2, 30):
        error = check(Peer({number: answer}))
        assert error is None or "\\x1b[31mAAA" in str(error) or "\x1b" not in str(error)
