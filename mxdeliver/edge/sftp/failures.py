"""From a server's status to an error of the program, and the errors that only this package tells apart."""

from __future__ import annotations

from mxdeliver.core.errors import (
    DnsFailed,
    MxdeliverError,
    RemoteDenied,
    RemoteDirectoryMissing,
    RemoteFailure,
    RemoteFull,
    RemoteName,
    RemoteVerify,
)
from mxdeliver.edge.sftp.engine import Reply, Status

_FULL = ("no space", "quota", "disk full", "space left", "out of space", "not enough space")
_NAME = ("name too long", "invalid name", "invalid file name", "illegal name", "bad file name")


class NameUnknown(DnsFailed):
    """The resolver has answered, and the answer is that there is no such name (NXDOMAIN)."""

    remedy = "Ask the client whether their server's name has changed, then correct `sftp.host`."

    @classmethod
    def is_told_in(cls, text: str | None) -> bool:
        """Tell whether a text that the ledger has kept is one of this class: the code is DnsFailed's."""
        return text is not None and text.endswith(cls.remedy)


class RenameRefused(RemoteDenied):
    """No way of renaming is allowed: the file lies there, its final name is free, and it was refused.

    Both names were looked at; what remains is to write the final name directly.
    """


class TemporaryVanished(RemoteVerify):
    """A temporary file is gone and its final name is free: somebody takes what has just arrived."""


def failure(reply: Reply, did: str, path: str, place: str, *, full: bool = False) -> MxdeliverError:
    """Give the error for a status that is not OK.

    `did` is what was tried ("creating"), `full` that the server's disk was seen to be full.
    """
    words = reply.text.lower()
    said = f" ({reply.text})" if reply.text else ""
    status = reply.status if reply.status is not None else f"an answer of type {reply.kind}"
    message = f"{place}: {did} {path} failed with status {status}{said}"
    if full or any(word in words for word in _FULL):
        return RemoteFull(message)
    if any(word in words for word in _NAME):
        return RemoteName(message)
    if reply.status in {Status.PERMISSION_DENIED, Status.UNSUPPORTED}:
        return RemoteDenied(message)
    if reply.status == Status.NO_SUCH_FILE:
        return RemoteDirectoryMissing(message)
    if reply.status == Status.BAD_MESSAGE:
        return RemoteName(message)
    return RemoteFailure(message)
