"""A nameserver of our own on a loopback address, and the way to have a program ask it alone.

    with Nameserver({"sftp.example.test": ["127.0.0.1"], "broken.example.test": SERVFAIL}) as names:
        deployment.start("run", wrapper=names.wrapper(tmp_path))
        names.asked                  # every name asked for, in order

The program gets a mount namespace of its own in which /etc/resolv.conf names this server.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from threading import Thread
from typing import Self, TypeAlias

SERVFAIL = 2
NXDOMAIN = 3
SILENCE = -1

Answer: TypeAlias = "list[str] | Iterator[list[str]] | int"
"""Addresses, other addresses each time, or a response code of RFC 1035 section 4.1.1."""

_PORT = 53
_ADDRESS = 1
_INTERNET = 1
_RESPONSE = 0x8180


class Nameserver:
    """Answers questions for IPv4 addresses; a context manager."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self.answers = dict(answers)
        """May be changed at any time."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._thread = Thread(target=self._serve, daemon=True)
        self.address = ""
        self.asked: list[str] = []

    def __enter__(self) -> Self:
        for last in range(2, 255):
            try:
                self._socket.bind((f"127.0.0.{last}", _PORT))
                break
            except OSError:
                continue
        self.address = self._socket.getsockname()[0]
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waking:
            waking.sendto(b"", (self.address, _PORT))
        self._thread.join(10)
        self._socket.close()

    def wrapper(self, folder: Path) -> list[str]:
        """Give the start of a command line that runs the rest with this nameserver."""
        path = folder / "resolv.conf"
        path.write_text(f"nameserver {self.address}\n")
        script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, str(path)]

    def _serve(self) -> None:
        while True:
            question, sender = self._socket.recvfrom(512)
            if not question:
                return
            answer = self._answer(question)
            if answer is not None:
                self._socket.sendto(answer, sender)

    def _answer(self, question: bytes) -> bytes | None:
        labels, place = [], 12
        while length := question[place]:
            labels.append(question[place + 1 : place + 1 + length].decode())
            place += 1 + length
        name = ".".join(labels)
        kind, _ = struct.unpack_from(">HH", question, place + 1)
        found: list[str] | int = []
        if kind == _ADDRESS:
            self.asked.append(name)
            known = self.answers.get(name, NXDOMAIN)
            found = known if isinstance(known, list | int) else next(known)
        elif isinstance(known := self.answers.get(name, NXDOMAIN), int):
            found = known
        if found == SILENCE:
            return None
        code, addresses = (found, []) if isinstance(found, int) else (0, found)
        header = struct.pack(
            ">HHHHHH",
            struct.unpack_from(">H", question)[0],
            _RESPONSE | code,
            1,
            len(addresses),
            0,
            0,
        )
        records = b"".join(
            struct.pack(">HHHIH", 0xC00C, _ADDRESS, _INTERNET, 0, 4) + IPv4Address(one).packed
            for one in addresses
        )
        return header + question[12 : place + 5] + records
