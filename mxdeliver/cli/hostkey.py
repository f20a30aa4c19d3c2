"""`mxdeliver hostkey`: what a server shows, for a person to compare over a second channel.

Only handshakes are made: no user name, no credential. Nothing is written into the configuration;
whether a key is the right one is for the client to say.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mxdeliver.cli import wiring
from mxdeliver.cli.documents import JsonCommand
from mxdeliver.cli.options import config_option, json_option
from mxdeliver.core.errors import ConfigInvalid
from mxdeliver.core.model import HostKeyPin, server_name

if TYPE_CHECKING:
    from mxdeliver.edge.sftp import ScannedHostKey

_HIGHEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class _Target:
    """Where to look; `networks` and `pins` only for a client of the configuration."""

    host: str
    port: int
    networks: Sequence[IPv4Network | IPv6Network] | None = None
    pins: Sequence[HostKeyPin] | None = None

    @property
    def name(self) -> str:
        """Host and port as known_hosts has them."""
        return f"[{self.host}]:{self.port}"


@click.command("hostkey", cls=JsonCommand)
@click.argument("address", metavar="HOST:PORT", required=False)
@click.option(
    "--client", "name", metavar="C", help="A client's server, by the client's guid or name."
)
@click.option("--known-hosts", is_flag=True, help="Print the keys as lines of known_hosts, too.")
@config_option
@json_option
def command(
    address: str | None, *, name: str | None, known_hosts: bool, config_path: Path, as_json: bool
) -> None:
    """Show every host key of a server as lines ready to paste under `host_keys:`.

    Sends no credentials. HOST:PORT needs no configuration; --client connects to that client's
    allowed addresses only and says which of the keys are pinned.
    """
    from mxdeliver.edge.sftp import scan_host_keys  # noqa: PLC0415 - imports paramiko

    if (address is None) == (name is None):
        raise click.UsageError("give either HOST:PORT or --client")
    target = _client(config_path, name) if name is not None else _parse(address or "")
    keys = scan_host_keys(target.host, target.port, allowed_ips=target.networks)
    if as_json:
        click.echo(_document(target, keys))
        return
    click.echo(_page(target, keys))
    if known_hosts:
        click.echo("\n".join(["", "# as lines of known_hosts:", *_known_hosts(target, keys)]))


def _parse(address: str) -> _Target:
    host, _, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not bare or not port.isascii() or not port.isdigit():
        raise _not_an_address(address, ", such as sftp.example.com:2222")
    if not 1 <= int(port) <= _HIGHEST_PORT:
        raise _not_an_address(address, f": a port is a number from 1 to {_HIGHEST_PORT}")
    if (":" in bare) != (host == f"[{bare}]") and ":" in host:
        raise _not_an_address(
            address, ": an IPv6 address stands in brackets, such as [2001:db8::1]:2222"
        )
    return _Target(bare, int(port))


def _not_an_address(address: str, why: str) -> click.UsageError:
    return click.UsageError(f"{address!r} is not HOST:PORT{why}")


def _client(config_path: Path, name: str) -> _Target:
    from mxdeliver.edge.config import load  # noqa: PLC0415 - imports pydantic

    chosen = wiring.choose(load(config_path), [name])
    if not chosen.clients:
        problems = tuple(problem for broken in chosen.broken for problem in broken.problems)
        raise ConfigInvalid(f"the entry of {name} is wrong", problems)
    endpoint = chosen.clients[0].endpoint
    return _Target(endpoint.host, endpoint.port, endpoint.allowed_ips, endpoint.host_keys)


def _page(target: _Target, keys: Sequence[ScannedHostKey]) -> str:
    lines = [
        f"# {server_name(target.host, target.port)} shows these host keys. Pin them only after the client has",
        "# confirmed them over a second channel.",
        "host_keys:",
    ]
    lines += [f'  - "{key.sha256}"  # {key.algorithm}{_mark(target, key)}' for key in keys]
    lines += [f"# pinned, but not shown: {pin.sha256}" for pin in _unseen(target, keys)]
    return "\n".join(lines)


def _known_hosts(target: _Target, keys: Sequence[ScannedHostKey]) -> list[str]:
    return [f"# {target.name} {key.public_key_line}" for key in keys]


def _mark(target: _Target, key: ScannedHostKey) -> str:
    if target.pins is None:
        return ""
    return ", pinned" if _is_pinned(target, key) else ", not pinned"


def _is_pinned(target: _Target, key: ScannedHostKey) -> bool:
    return any(pin.sha256 == key.sha256 for pin in target.pins or ())


def _unseen(target: _Target, keys: Sequence[ScannedHostKey]) -> list[HostKeyPin]:
    shown = {key.sha256 for key in keys}
    return [pin for pin in target.pins or () if pin.sha256 not in shown]


def _document(target: _Target, keys: Sequence[ScannedHostKey]) -> str:
    return json.dumps(
        {
            "host": target.host,
            "port": target.port,
            "host_keys": [
                {
                    "algorithm": key.algorithm,
                    "sha256": key.sha256,
                    "public_key": key.public_key_line,
                    "known_hosts": f"{target.name} {key.public_key_line}",
                    "pinned": None if target.pins is None else _is_pinned(target, key),
                }
                for key in keys
            ],
        }
    )
