"""Texts and bytes to cells: the length, then bytes of the column's own buffer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mxdeliver.edge.avro import varints
from mxdeliver.edge.avro.heads import Head
from mxdeliver.edge.avro.scatter import AnyPart, Numbers, Part

_LONGEST_SHORT = 63  # the longest text whose length is one byte


def encode(stack: Any, columns: Sequence[slice], head: Head) -> list[list[AnyPart]]:
    """Encode columns of text or bytes that stand one below the other; give the parts of each."""
    _, offsets, content = stack.buffers()
    ends = np.frombuffer(offsets, np.int32, len(stack) + 1, stack.offset * 4)
    data = np.frombuffer(content or b"", np.uint8)
    lengths, size = ends[1:] - ends[:-1], int(ends[-1] - ends[0])
    longest = [int(np.maximum.reduce(lengths[rows], initial=0)) for rows in columns]
    most = max(longest)
    if most <= _LONGEST_SHORT and size == len(stack) * most:  # all have one length
        matrix = data[ends[0] : ends[-1]].reshape(len(stack), most)
        part = head.part(matrix, 1 + most, np.full(len(stack), most << 1, np.uint8))
        return [[one] for one in part.apart(columns)]
    widest = max((one for one in longest if one <= _LONGEST_SHORT), default=None)
    if widest is None:
        short: list[Part] = []
    else:
        short = _short(data, ends, lengths, widest, head).apart(columns)
    return [
        [short[number]]
        if most <= _LONGEST_SHORT
        else _long(data, ends[:-1][rows], lengths[rows], most, head.of(rows))
        for number, (most, rows) in enumerate(zip(longest, columns, strict=True))
    ]


def _long(data: Numbers, begins: Numbers, lengths: Numbers, most: int, head: Head) -> list[AnyPart]:
    if head.valid is not None:  # Arrow allows rows without a value to own bytes
        lengths = lengths * head.valid
    return [varints.lengths(lengths, head), Part(data, begins, lengths, 0, most)]


def _short(data: Numbers, ends: Numbers, lengths: Numbers, widest: int, head: Head) -> Part:
    """Encode short texts: copied with the bytes before, in place of which tag and length go.

    Longer ones between them come out wrong.
    """
    sizes = lengths.astype(np.uint8)
    heads = (*head.tags(), sizes << 1)
    most = len(heads) + widest
    source, begins = _with_room(data, ends, len(heads), widest)
    sizes += 1
    return Part(source, begins, head.widths(sizes, most), 1, most, heads)


def _with_room(data: Numbers, ends: Numbers, before: int, behind: int) -> tuple[Numbers, Numbers]:
    """Give texts with bytes before the first and behind the last, and where to read from for each."""
    first, last = int(ends[0]), int(ends[-1])
    if first >= before and last + behind <= len(data):
        return data, ends[:-1] - before
    room = np.empty(before + last - first + behind, np.uint8)
    room[before : before + last - first] = data[first:last]
    return room, ends[:-1] - first


ROOM = (pa.array([" " * 2]), pa.array([" " * _LONGEST_SHORT]))
"""Texts that give those between them room, so that they need not be copied once more."""
