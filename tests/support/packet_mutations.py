"""OpenPGP data taken apart into packets, and put together again wrongly.

@given(changed(PACKETS, foreign=OTHER_PACKETS))
def test_…(data): ...
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

from hypothesis import strategies as st

from mxdeliver.edge.openpgp.packets import whole_packets
from tests.support.certificates import packet


def packets(data: bytes) -> list[bytes]:
    """Give each packet of a certificate or secret key whole, with a header of the newer kind."""
    return [packet(one.tag, one.body) for one in whole_packets(data)]


_INSERTED = st.sampled_from(
    [b"", b"\0", b"\xff", b"\xff\xff\xff\xff\xff", b"\xc2\x01\x04", b"\xe0", b"\xfe", b"\x9b",
     b"\x99\xff\xff", b"\xca\x03PGP", b"\xcd\x00", b"\xd3\x14" + bytes(20), b"\x80"]
) | st.binary(max_size=12)  # fmt: skip


@st.composite
def changed(
    draw: Callable[[st.SearchStrategy[int]], int],
    parts: Sequence[bytes],
    foreign: Sequence[bytes] = (),
    most: int = 5,
) -> bytes:
    """Draw the parts with a few of them lost, doubled, moved, nested, damaged, or strange ones among them."""
    left = list(parts)
    choose: Callable[[int], int] = lambda bound: draw(st.integers(0, max(0, bound - 1)))  # noqa: E731
    for _ in range(draw(st.integers(0, most))):
        if not left:
            break
        at, other = choose(len(left)), choose(len(left))
        match choose(9):
            case 0:
                del left[at]
            case 1:
                left.insert(other, left[at])
            case 2:
                left[at], left[other] = left[other], left[at]
            case 3 if foreign:
                left.insert(at, foreign[choose(len(foreign))])
            case 4:
                left[at] = packet(choose(64), left[other])
            case 5:
                left[at] = left[at][: choose(len(left[at]))]
            case 6:
                left[at] = bytes((0xC0 | choose(64),)) + left[at][1:]
            case _:
                left[at] = _damaged(draw, left[at])
    return b"".join(left)


def _damaged(draw: Callable[..., int], data: bytes) -> bytes:
    found = bytearray(data or b"\0")
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(found) - 1))
        if draw(st.booleans()):
            found[at] ^= 1 << draw(st.integers(0, 7))
        else:
            found[at : at + draw(st.integers(0, 3))] = bytes(draw(_INSERTED)) or b"\1"
    return bytes(found)


@st.composite
def retyped(draw: Callable[..., int], text: bytes) -> bytes:
    """Draw an armored text with lines lost, doubled, moved or damaged."""
    lines = text.split(b"\n")
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.integers(0, 5)):
            case 0:
                lines[at] = b""
            case 1:
                lines.insert(draw(st.integers(0, len(lines))), lines[at])
            case 2:
                lines[at] = _damaged(draw, lines[at])
            case 3:
                lines.insert(at, bytes(draw(_INSERTED)))
            case 4:
                lines[at] = base64.b64encode(bytes(draw(_INSERTED)) * 4)
            case _:
                lines[at] += b"\r"
    return b"\n".join(lines)
