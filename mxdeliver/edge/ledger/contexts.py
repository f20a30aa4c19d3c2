"""Whether what a delivery depends on has changed since its last attempt.

A context is a text of `part=version` pairs, parted by spaces. A part that could not be read by one
of the two processes says nothing about a change: a person's shell without the timer's environment
must not have a refused password tried again.
"""

from __future__ import annotations

_ABOUT_READING = ("KEY_", "SECRET_")


def is_changed(earlier: str | None, context: str | None, error_code: str | None = None) -> bool:
    """Tell whether a part that both contexts have differs; None counts as unchanged.

    After an error about a key or secret (`error_code`) a part that can be read only now is a change,
    too: it is what the delivery waits for, and no login was tried without it.
    """
    if earlier is None or context is None or earlier == context:
        return False
    before, now = _parts(earlier), _parts(context)
    common = before.keys() & now.keys()
    if not common or any(before[part] != now[part] for part in common):
        return True
    appeared = bool(now.keys() - before.keys())
    return appeared and error_code is not None and error_code.startswith(_ABOUT_READING)


def _parts(context: str) -> dict[str, str]:
    pairs = (pair.rpartition("=") for pair in context.split())
    return {part: version for part, _, version in pairs}
