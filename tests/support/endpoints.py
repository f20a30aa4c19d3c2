"""An endpoint on this machine, for servers that are no class of their own."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

from mxdeliver.core.model import Endpoint, HostKeyPin

STRANGER = HostKeyPin(sha256="SHA256:" + "A" * 43)
"""A pin that no server meets."""


def some_endpoint(port: int, **changes: object) -> Endpoint:
    """Give one with this port, whose server has to show the key of a stranger unless `changes` say else."""
    endpoint = Endpoint(
        host="127.0.0.1",
        port=port,
        username="someone",
        password=None,
        private_key=None,
        passphrase=None,
        host_keys=(STRANGER,),
        allowed_ips=(ip_network("127.0.0.1"),),
    )
    return replace(endpoint, **changes)  # type: ignore[arg-type]
