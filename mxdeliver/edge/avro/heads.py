"""What stands before a value: the place of its type in a union, which is also how null is written."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mxdeliver.edge.avro.scatter import Numbers, Part

_MOST_OF_A_BYTE = 255


class Head(NamedTuple):
    """What stands before a value: `tag`; or `null_tag` and no value, where `valid` is 0.

    Tags have one byte at the most.
    """

    tag: bytes
    null_tag: bytes = b""
    valid: Numbers | None = None

    def of(self, rows: slice) -> Head:
        """Give the head of some of the rows."""
        return self if self.valid is None else self._replace(valid=self.valid[rows])

    def tags(self) -> tuple[Numbers | int, ...]:
        """Give the byte before each row's value, or the one before all, if there is any."""
        if self.valid is None:
            return tuple(self.tag)
        tag, null_tag = self.tag[0], self.null_tag[0]
        return (self.valid * np.uint8(tag ^ null_tag) ^ np.uint8(null_tag),)

    def widths(self, values: Numbers | int, most: int) -> Numbers | int:
        """Give the widths of cells, up to `most`, from those of values (uint8, or one for all)."""
        if self.valid is None:
            return values + len(self.tag)
        valid = self.valid if most <= _MOST_OF_A_BYTE else self.valid.astype(np.int32)
        cells: Numbers = valid * values
        cells += 1
        return cells

    def part(
        self, source: Numbers, widths: Numbers | int, *lengths: Numbers, begun: bool = False
    ) -> Part:
        """Make cells of the tag and the first `widths` bytes of each row of `source`, a matrix.

        `lengths` stand between, and count in `widths`. Cells that are `begun` have their tag already.
        """
        heads = () if begun else (*self.tags(), *lengths)
        most = len(heads) + source.shape[1]
        cells = self.widths(widths, most)
        if isinstance(cells, int):
            return Part(source, None, cells, cells, cells, heads)
        least = int(np.minimum.reduce(cells, initial=most))
        return Part(source, None, cells, least, most, heads)
