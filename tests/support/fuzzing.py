"""How many inputs the fuzz tests make up: few in every run of the suite, many with `make fuzz`.

@examples(80)
@given(st.binary())
def test_any_bytes_are_…
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings


def examples(count: int) -> settings:
    """Give settings for `count` inputs, times the environment's FUZZ where it is set."""
    return settings(
        max_examples=count * int(os.environ.get("FUZZ", "1")),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
