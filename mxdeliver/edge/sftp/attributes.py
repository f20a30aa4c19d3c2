"""Attributes as SFTP version 3 packs them (draft-ietf-secsh-filexfer-02, section 5)."""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass

_SIZE = 0x1
_OWNER = 0x2
_PERMISSIONS = 0x4


@dataclass(frozen=True, slots=True)
class Attributes:
    """Size in bytes and file mode, each None where the server left it out."""

    size: int | None
    mode: int | None

    @property
    def is_regular(self) -> bool:
        """Whether this is a regular file; taken for granted where the server does not tell."""
        return self.mode is None or stat.S_IFMT(self.mode) in {0, stat.S_IFREG}

    @property
    def is_directory(self) -> bool:
        """Whether this is a directory; taken for granted where the server does not tell."""
        return self.mode is None or stat.S_IFMT(self.mode) in {0, stat.S_IFDIR}


def unpack(body: bytes) -> Attributes:
    """Read the attributes at the beginning of `body`; raises struct.error when cut short."""
    (flags,) = struct.unpack_from(">I", body)
    offset = 4
    size = mode = None
    if flags & _SIZE:
        (size,) = struct.unpack_from(">Q", body, offset)
        offset += 8
    if flags & _OWNER:
        offset += 8
    if flags & _PERMISSIONS:
        (mode,) = struct.unpack_from(">I", body, offset)
    return Attributes(size, mode)
