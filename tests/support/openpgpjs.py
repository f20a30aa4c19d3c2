"""Messages read by OpenPGP.js, the library of mail clients in browsers; its version is pinned."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from tests.support.certificates import tool
from tests.support.npm import install

_SOURCE = Path(__file__).with_name("openpgp_js")


def read(secret_key: Path, messages: Sequence[Path]) -> list[bytes]:
    """Decrypt messages with an unprotected secret key, both binary files."""
    install(_SOURCE)
    output = tool("node", _SOURCE / "read.js", secret_key, *messages)
    return [base64.b64decode(line) for line in output.splitlines()]
