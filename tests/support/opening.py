"""Messages opened by Sequoia, in this process: quick enough for every file of every run."""

from __future__ import annotations

from functools import cache

import pysequoia


@cache
def _decryptor(secret_key: bytes) -> pysequoia.PyDecryptor:
    return pysequoia.Tsk.from_bytes(secret_key).decryptor()


def opened(message: bytes, secret_key: bytes) -> bytes | None:
    """Give what a message holds; None where it is not whole or not for this key."""
    try:
        content = pysequoia.decrypt(bytes=message, decryptor=_decryptor(secret_key)).bytes
    except Exception:  # noqa: BLE001 - the library has no class of its own for this
        return None
    return bytes(content) if content is not None else None
