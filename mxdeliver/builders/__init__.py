"""Processes that build, and nothing else: docs/decisions/0008.

    pool       Builders: how many there are, and who gets the next day
    builder    one of them, as the program sees it
    process    the same as it sees itself: what runs in the other process
    wire       what the two say to each other

A builder reads the source, the schemas and a vetted certificate, and writes into the spool. It asks
neither ledger nor network and is told no secret.
"""

from mxdeliver.builders.pool import Builders
from mxdeliver.builders.wire import Work

__all__ = ["Builders", "Work"]
