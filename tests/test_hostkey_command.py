"""`mxdeliver hostkey`: what a server shows, ready to paste, without logging in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from mxdeliver.cli import command_line
from tests.support.openssh import OpenSSHServer, free_port

FINGERPRINT = "4A3E0123456789ABCDEF4A3E0123456789ABCDEF"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSSHServer]:
    with OpenSSHServer(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@dataclass(frozen=True)
class Result:
    status: int
    stdout: str
    stderr: str


@pytest.fixture
def hostkey(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run the command in this process; gives its exit status and what it printed."""

    def run(*arguments: object) -> Result:
        with pytest.raises(SystemExit) as ended:
            command_line(["hostkey", *map(str, arguments)])
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, *capsys.readouterr())

    return run


def configuration(folder: Path, server: OpenSSHServer, **sftp: object) -> Path:
    client = {
        "guid": "CLT-0858efd1-2d2e-6a5d-f2b5-c7dad42ef184",
        "name": "First Example",
        "source": "warehouse",
        "resources": ["users"],
        "pgp": {"public_key": "first.asc", "fingerprint": FINGERPRINT},
        "sftp": {
            "host": "127.0.0.1",
            "port": server.port,
            "username": "mx",
            "password": {"env": "NOT_SET"},
            "host_keys": [server.pins["rsa"], "SHA256:" + "A" * 43],
            "allowed_ips": ["127.0.0.1"],
            **sftp,
        },
    }
    path = folder / "config.yaml"
    path.write_text(
        json.dumps(
            {
                "version": 1,
                "state_dir": "state",
                "sources": {"warehouse": {"type": "duckdb", "database": "w.duckdb"}},
                "clients": [client],
            }
        )
    )
    return path


def test_every_key_is_shown_ready_to_paste_and_nobody_logs_in(
    hostkey: Callable[..., Result], server: OpenSSHServer
) -> None:
    shown = hostkey(f"127.0.0.1:{server.port}")
    assert (shown.status, shown.stderr) == (0, "")
    assert set(yaml.safe_load(shown.stdout)["host_keys"]) == set(server.pins.values())
    assert max(map(len, shown.stdout.splitlines())) < 100
    assert server.login_attempts() == []


def test_lines_of_known_hosts_are_there_for_the_asking(
    hostkey: Callable[..., Result], server: OpenSSHServer
) -> None:
    shown = hostkey(f"127.0.0.1:{server.port}", "--known-hosts")
    assert set(yaml.safe_load(shown.stdout)["host_keys"]) == set(server.pins.values())
    for line in server.public_keys.values():
        algorithm, key, _ = line.split()
        assert f"\n# [127.0.0.1]:{server.port} {algorithm} {key}\n" in shown.stdout


def test_port_22_is_refused_without_a_word_of_the_configuration(
    hostkey: Callable[..., Result],
) -> None:
    assert "sftp.port" not in hostkey("127.0.0.1:22").stderr


def test_json_says_the_same(hostkey: Callable[..., Result], server: OpenSSHServer) -> None:
    document = json.loads(hostkey(f"127.0.0.1:{server.port}", "--json").stdout)
    assert (document["host"], document["port"]) == ("127.0.0.1", server.port)
    assert {key["sha256"] for key in document["host_keys"]} == set(server.pins.values())
    assert {key["pinned"] for key in document["host_keys"]} == {None}
    assert all(
        key["known_hosts"] == f"[127.0.0.1]:{server.port} {key['public_key']}"
        for key in document["host_keys"]
    )


def test_for_a_client_it_is_said_which_keys_are_pinned(
    hostkey: Callable[..., Result], server: OpenSSHServer, tmp_path: Path
) -> None:
    path = configuration(tmp_path, server)
    shown = hostkey("--client", "First Example", "-c", path)
    assert shown.status == 0, shown.stderr
    assert f'  - "{server.pins["rsa"]}"  # ssh-rsa, pinned' in shown.stdout
    assert f'  - "{server.pins["ed25519"]}"  # ssh-ed25519, not pinned' in shown.stdout
    assert "# pinned, but not shown: SHA256:AAAA" in shown.stdout
    document = json.loads(hostkey("--client", "First Example", "-c", path, "--json").stdout)
    pinned = [key["sha256"] for key in document["host_keys"] if key["pinned"]]
    assert pinned == [server.pins["rsa"]]


def test_for_a_client_only_allowed_addresses_are_connected_to(
    hostkey: Callable[..., Result], server: OpenSSHServer, tmp_path: Path
) -> None:
    path = configuration(tmp_path, server, host="localhost", allowed_ips=["192.0.2.1"])
    refused = hostkey("--client", "First Example", "-c", path)
    assert refused.status == 1
    assert "ADDRESS_NOT_ALLOWED" in refused.stderr


def test_a_client_whose_entry_is_wrong_is_named_with_its_problems(
    hostkey: Callable[..., Result], server: OpenSSHServer, tmp_path: Path
) -> None:
    path = configuration(tmp_path, server, allowed_ips=["not an address"])
    refused = hostkey("--client", "First Example", "-c", path)
    assert refused.status == 78
    assert "allowed_ips" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["127.0.0.1:22"], 78, "PORT_NOT_ALLOWED"),
        (["127.0.0.1"], 2, "not HOST:PORT"),
        (["127.0.0.1:70000"], 2, "not HOST:PORT: a port is a number from 1 to 65535"),
        (["127.0.0.1:0"], 2, "not HOST:PORT: a port is a number from 1 to 65535"),
        (["localhost"], 2, "not HOST:PORT, such as sftp.example.com:2222"),
        (["[::1]"], 2, "not HOST:PORT, such as"),
        (["::1:2222"], 2, "not HOST:PORT: an IPv6 address stands in brackets"),
        (["2001:db8::1"], 2, "not HOST:PORT: an IPv6 address stands in brackets"),
        (["[::1:2222"], 2, "not HOST:PORT: an IPv6 address stands in brackets"),
        (["127.0.0.1:ssh"], 2, "not HOST:PORT"),
        ([], 2, "either HOST:PORT or --client"),
        (["127.0.0.1:8022", "--client", "x"], 2, "either HOST:PORT or --client"),
    ],
)
def test_wrong_usage_is_said_so(
    hostkey: Callable[..., Result], arguments: list[str], status: int, words: str
) -> None:
    refused = hostkey(*arguments)
    assert refused.status == status
    assert words in refused.stderr
    assert refused.stdout == ""


def test_a_dead_port_is_temporary(hostkey: Callable[..., Result]) -> None:
    refused = hostkey(f"127.0.0.1:{free_port()}")
    assert refused.status == 75
    assert "CONNECT_REFUSED" in refused.stderr


def test_an_ipv6_address_is_written_in_brackets(hostkey: Callable[..., Result]) -> None:
    address = f"[::1]:{free_port()}"
    refused = hostkey(address)
    assert "CONNECT_REFUSED" in refused.stderr or "NETWORK_UNREACHABLE" in refused.stderr
    assert f"{address} " in refused.stderr
