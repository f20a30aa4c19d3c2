"""How the conversion of a column says no."""

from __future__ import annotations


class Refused(ValueError):
    """Why a column cannot be written; the sentence goes on from the column's name.

    Never holds a value. The writer makes RecordInvalid of it.
    """
