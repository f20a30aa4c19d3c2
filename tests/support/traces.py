"""Looks for what must show nowhere: records (I11), secrets and unescaped text (I15), logins (I13).

The sign of a record is the text that every record of the tests' warehouses holds (`VALUE`); since
Avro is deflated, the head of an Avro file and of a manifest count, too. Only the source itself, the
configuration and the secret's own file are passed over.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.deployment import Deployment
from tests.support.openssh import OpenSSHServer
from tests.support.violation import Violation

VALUE = "é✓"
"""In every text of the warehouse's records; json.dumps would escape it."""
_RECORDS = (VALUE.encode(), json.dumps(VALUE)[1:-1].encode(), b"avro.schema", b"FileSize,Encrypted")
_TOO_LONG = 1200
"""A message is cut at 1,000 characters; a little more where it was escaped."""
_USER = re.compile(r"userauth-request for user (\S*)")


@dataclass(slots=True)
class Traces:
    """What a deployment leaves behind: its folders, its servers' logs, what its runs printed."""

    deployment: Deployment
    strangers: Sequence[OpenSSHServer] = ()
    """Servers that answer where the client's should, and that must never be told a user name."""
    violations: list[Violation] = field(default_factory=list)
    _logged_before: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for server in (*self._own(), *self.strangers):
            self._logged_before[server.port] = server.log_size()

    def printed(self, done: subprocess.CompletedProcess[str]) -> None:
        """Look at what a run printed."""
        for name, text in (("standard output", done.stdout), ("standard error", done.stderr)):
            self._look_into(name, text.encode(), "I15")

    def look(self) -> None:
        """Look at everything as it lies there."""
        folder = self.deployment.folder
        for path in _files(folder / "state", folder / "tmp"):
            self._look_into(str(path.relative_to(folder)), path.read_bytes(), "I11")
        for party in self.deployment.parties:
            for path in _files(party.directory):
                with suppress(FileNotFoundError):  # the server may be at its last requests
                    self._look_into(f"the client's {path.name}", path.read_bytes(), "I11")
        for path in _files(folder / "logs"):
            self._look_into(path.name, path.read_bytes(), "I15")
            self._look_at_lines(path)
        for path in folder.rglob("core*"):
            self._violated("I11", f"{path.name} was left, which may be a core file")
        self._look_at_logins()

    def logins(self) -> int:
        """Give how many user names have reached the client's own server since the beginning."""
        return sum(
            len(server.login_attempts(self._logged_before[server.port])) for server in self._own()
        )

    def _own(self) -> list[OpenSSHServer]:
        """Give the client's server where its log tells of logins."""
        server = self.deployment.server
        return [server] if isinstance(server, OpenSSHServer) else []

    def _look_into(self, name: str, content: bytes, invariant: str) -> None:
        for sign in _RECORDS:
            if sign in content:
                self._violated(invariant, f"{sign!r} of a record is in {name}")
        secrets = {
            self.deployment.server.password.encode(),
            self.deployment.secret_path.read_bytes().strip(),
        }
        if any(secret in content for secret in secrets):
            self._violated("I15", f"the password is in {name}")

    def _look_at_lines(self, path: Path) -> None:
        for line in path.read_text().splitlines():
            try:
                message = json.loads(line)["message"]
            except (ValueError, KeyError):
                self._violated("I15", f"a line of {path.name} is no event: {line[:80]!r}")
                continue
            if not message.isprintable() or len(message) > _TOO_LONG:
                self._violated("I15", f"{path.name} holds unescaped or endless text")

    def _look_at_logins(self) -> None:
        for server in self.strangers:
            if server.login_attempts(self._logged_before[server.port]):
                self._violated("I13", f"a stranger at port {server.port} was told a user name")
        for own in self._own():
            for line in own.login_attempts(self._logged_before[own.port]):
                match = _USER.search(line)
                if match is None or match[1] != own.username:
                    self._violated("I13", f"another user than the client's was tried: {line}")

    def _violated(self, invariant: str, what: str) -> None:
        violation = Violation(invariant=invariant, what=what)
        if violation not in self.violations:
            self.violations.append(violation)


def _files(*folders: Path) -> Iterator[Path]:
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                yield path
