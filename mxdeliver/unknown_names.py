"""A server's name that does not exist: counted over all runs, and told once.

A resolver that does not answer comes back by itself; a name that the resolver says does not exist
mostly was changed, or mistyped. The delivery is tried again in both cases, because names vanish for
minutes, too, while a zone is moved. What is counted is what the ledger keeps of earlier attempts.
"""

from __future__ import annotations

from collections.abc import Sequence

from mxdeliver.core.errors import MxdeliverError
from mxdeliver.core.log import Log
from mxdeliver.core.model import Attempt, Client, Outcome
from mxdeliver.edge.sftp import NameUnknown

LIMIT = 3
"""So many answers in a row are no accident."""


def warn(error: MxdeliverError, earlier: Sequence[Attempt], client: Client, log: Log) -> None:
    """Log that the name does not exist where `error`, after `earlier` attempts, is the third to say so."""
    if not isinstance(error, NameUnknown) or in_a_row(earlier) + 1 != LIMIT:
        return
    endpoint = client.endpoint
    log(
        "name.unknown",
        f"{endpoint.host} does not exist, as the resolver has said {LIMIT} times in a row. Ask "
        f"{client.name} whether their server's name has changed, then correct `sftp.host`; if it has "
        "not, look at this host's resolver. Until then it is tried again",
        level="warning",
        error_code=error.code,
        host=endpoint.host,
        port=endpoint.port,
    )


def in_a_row(attempts: Sequence[Attempt]) -> int:
    """Count how many of the last attempts, those that were stopped left out, met an unknown name."""
    count = 0
    for attempt in reversed(attempts):
        if attempt.outcome is Outcome.STOPPED:
            continue
        if attempt.outcome is not Outcome.RETRY or not NameUnknown.is_told_in(attempt.error):
            break
        count += 1
    return count
