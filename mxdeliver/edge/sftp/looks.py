"""Looks at names that were asked for behind a file's close, and which of them count."""

from __future__ import annotations

import time
from collections.abc import Mapping

from mxdeliver.edge.sftp.attributes import unpack
from mxdeliver.edge.sftp.engine import Kind, Reply, Status


class Looks:
    """The last answer to LSTAT for each name, and when it was asked for."""

    def __init__(self) -> None:
        self._answers: dict[str, tuple[float, Reply]] = {}

    def note(self, name: str, asked_at: float, reply: Reply) -> None:
        """Take an answer; `asked_at` in seconds of the monotonic clock."""
        self._answers[name] = (asked_at, reply)

    def that_count(self, sent: Mapping[str, int], seconds: float) -> dict[str, Reply]:
        """Give those that show a file of `sent` whole (bytes by name), or another name free.

        Others may have overtaken the close. Older ones than so many seconds do not count: while large
        files are sent, something may have come. Raises struct.error.
        """
        since = time.monotonic() - seconds
        return {
            name: reply
            for name, (asked_at, reply) in self._answers.items()
            if asked_at > since and _is_as_expected(reply, sent.get(name))
        }


def _is_as_expected(reply: Reply, size: int | None) -> bool:
    if size is None:
        return reply.status == Status.NO_SUCH_FILE
    return reply.kind == Kind.ATTRS and unpack(reply.body).size == size
