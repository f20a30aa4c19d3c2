"""Looking at what was just sent: sizes where the server tells them, hashes where it computes them.

Contents are compared by `check-file-name` (draft-ietf-secsh-filexfer-extensions-00, section 3), which
is asked only of servers that offer it, and of ProFTPD, which answers it without saying so: a server
that does not know a request should say so, but some fall silent.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence

from mxdeliver.core.errors import RemoteVerify
from mxdeliver.edge.sftp.engine import Engine, Kind, Reply, read_string, text
from mxdeliver.edge.sftp.model import Evidence, RemoteAttributes, Upload

_LOOK_AGAIN_AFTER = (0.1, 0.4, 1.5)
_CHECK_FILE = b"check-file-name"
_ALGORITHM = b"sha256"
_ANSWERS_UNASKED = "mod_sftp"
_MOST_HASHED = 64 * 1024 * 1024
"""Bytes of a file whose hash is asked for: the answer must come before the request's time is over."""


class Verifier:
    """Compares what lies on the server under temporary names with what was sent."""

    def __init__(
        self,
        engine: Engine,
        *,
        path: Callable[[str], str],
        attributes: Callable[[Sequence[str]], dict[str, RemoteAttributes | None]],
        place: str,
        software: str,
        sleep: Callable[[float], None],
    ) -> None:
        self._engine = engine
        self._path = path
        self._attributes = attributes
        self._place = place
        self._sleep = sleep
        offered = any(name.startswith("check-file") for name in engine.extensions)
        self._computes_hashes = offered or _ANSWERS_UNASKED in software

    def run(
        self, uploads: Sequence[Upload], seen: Mapping[str, RemoteAttributes | None]
    ) -> dict[str, Evidence]:
        """Give the evidence by final name; RemoteVerify where something else lies there.

        `seen` is what lies under the temporary names. One that a sweeper took counts as acknowledged.
        """
        evidence = self._sizes(uploads, seen)
        if self._computes_hashes:
            self._hashes([one for one in uploads if evidence[one.name].level == "size"], evidence)
        return evidence

    def _sizes(
        self, uploads: Sequence[Upload], found: Mapping[str, RemoteAttributes | None]
    ) -> dict[str, Evidence]:
        """Compare sizes; some servers tell them late, so wrong ones are looked at again."""
        evidence: dict[str, Evidence] = {}
        waiting = list(uploads)
        for pause in (*_LOOK_AGAIN_AFTER, None):
            for upload in waiting:
                seen = found[upload.temporary]
                if seen is None or seen.size is None:
                    evidence[upload.name] = Evidence(
                        level="ack", size=upload.size, taken=seen is None
                    )
                elif seen.size == upload.size and seen.is_regular:
                    evidence[upload.name] = Evidence(level="size", size=upload.size)
            waiting = [upload for upload in waiting if upload.name not in evidence]
            if not waiting:
                return evidence
            if pause is not None:
                self._sleep(pause)
                found = self._attributes([upload.temporary for upload in waiting])
        seen = found[waiting[0].temporary]
        raise RemoteVerify(
            f"{self._path(waiting[0].temporary)} on {self._place} has {seen.size if seen else 'no'} "
            f"bytes instead of {waiting[0].size}"
        )

    def _hashes(self, uploads: Sequence[Upload], evidence: dict[str, Evidence]) -> None:
        """Compare contents as far as the server computes their hashes."""
        asked = [upload for upload in uploads if upload.sha256 and 0 < upload.size <= _MOST_HASHED]
        requests = [
            (Kind.EXTENDED, _hash_request(self._path(upload.temporary))) for upload in asked
        ]
        replies = self._engine.call_all(requests, optional=True)
        for upload, reply in zip(asked, replies, strict=True):
            digest = _digest(reply)
            if digest is None:
                continue
            if digest.hex() != upload.sha256:
                raise RemoteVerify(
                    f"{self._path(upload.temporary)} on {self._place} holds other bytes than were "
                    "sent, as its SHA-256 shows"
                )
            evidence[upload.name] = Evidence(level="hash", size=upload.size)


def _hash_request(path: str) -> bytes:
    """Ask for the SHA-256 of a whole file: from byte 0, to its end, in one block."""
    whole = struct.pack(">QQI", 0, 0, 0)
    return text(_CHECK_FILE) + text(path.encode()) + text(_ALGORITHM) + whole


def _digest(reply: Reply) -> bytes | None:
    """Read the hash; None where the answer, of whatever form, holds none.

    ProFTPD leaves out the first of the draft's strings.
    """
    if reply.kind != Kind.EXTENDED_REPLY:
        return None
    try:
        name, offset = read_string(reply.body)
        if name == b"check-file":
            name, offset = read_string(reply.body, offset)
    except struct.error:  # cut short: the server cannot tell
        return None
    digest = reply.body[offset:]
    return digest if name == _ALGORITHM and len(digest) == 32 else None
