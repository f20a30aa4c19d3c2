"""The client's directory: paths of names in it, and what is asked to look at them."""

from __future__ import annotations

from collections.abc import Sequence

from mxdeliver.core.model import Endpoint
from mxdeliver.edge.sftp.engine import Kind, text


def remote_path(endpoint: Endpoint, name: str) -> str:
    """Give the path of a name in the client's directory."""
    directory = endpoint.directory
    if not directory:
        return name
    return f"{directory}{name}" if directory.endswith("/") else f"{directory}/{name}"


def look_requests(endpoint: Endpoint, names: Sequence[str]) -> list[tuple[Kind, bytes]]:
    """Give the requests that look at the directory itself and, without following links, at names in it."""
    return [
        (Kind.STAT, text((endpoint.directory or ".").encode())),
        *((Kind.LSTAT, text(remote_path(endpoint, name).encode())) for name in names),
    ]
