"""Received days as a sender who knows nothing of this program makes them: gpg, fastavro and csv."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import fastavro

COLUMNS = [
    "ResourceType", "EventType", "RecordCount", "EffectiveDate",
    "FileSize", "EncryptedFileSize", "Checksum", "FileName",
]  # fmt: skip
SCHEMA = {
    "type": "record",
    "name": "Sample",
    "fields": [
        {"name": "guid", "type": "string"},
        {"name": "balance", "type": ["null", "double"], "default": None},
    ],
}


class GnuPG:
    """gpg with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, *arguments: str, given: bytes = b"") -> bytes:
        """Run gpg and give its standard output."""
        command = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", *arguments]
        return subprocess.run(command, input=given, check=True, capture_output=True).stdout

    def make_key(self, user: str, algorithm: str, passphrase: str = "") -> None:
        """Make a key that signs and its subkey that encrypts."""
        secret = ("--pinentry-mode", "loopback", "--passphrase", passphrase)
        primary, subkey = {
            "rsa2048": ("rsa2048", "rsa2048"),
            "curve25519": ("ed25519", "cv25519"),
        }[algorithm]
        self.run(*secret, "--quick-generate-key", user, primary, "sign", "never")
        listed = self.run("--with-colons", "--list-keys", user).decode().splitlines()
        fingerprint = next(line for line in listed if line.startswith("fpr")).split(":")[9]
        self.run(*secret, "--quick-add-key", fingerprint, subkey, "encrypt", "never")

    def secret_key(self, user: str, *, armor: bool, passphrase: str = "") -> bytes:
        """Export the secret key, still protected if it was."""
        secret = ("--pinentry-mode", "loopback", "--passphrase", passphrase)
        return self.run(*secret, *(["--armor"] * armor), "--export-secret-keys", user)

    def encrypt(self, user: str, data: bytes, *options: str) -> bytes:
        """Encrypt as gpg does when nothing is asked of it, compression included."""
        return self.run(*options, "--trust-model", "always", "-r", user, "--encrypt", given=data)

    def forget_passphrases(self) -> None:
        """Let the agent ask again for passphrases that it was given before."""
        command = ["gpg-connect-agent", "--homedir", str(self.home), "reloadagent", "/bye"]
        subprocess.run(command, check=True, capture_output=True)


@contextmanager
def gnupg() -> Iterator[GnuPG]:
    """Give a gpg of its own; its agent ends with it."""
    home = Path(tempfile.mkdtemp(prefix="g"))  # short: the agent's socket lies in it
    try:
        yield GnuPG(home)
    finally:
        subprocess.run(
            ["gpgconf", "--homedir", str(home), "--kill", "all"], check=False, capture_output=True
        )
        shutil.rmtree(home, ignore_errors=True)


def avro(records: int, codec: str = "deflate") -> bytes:
    """Make an Avro file with so many records."""
    file = io.BytesIO()
    rows = [{"guid": f"USR-{number}", "balance": number / 4} for number in range(records)]
    fastavro.writer(file, SCHEMA, rows, codec=codec)
    return file.getvalue()


@dataclass
class Day:
    """One client's day before it is written: plain files, and the manifest's rows to tamper with."""

    gpg: GnuPG
    user: str
    client_guid: str = "CLT-0858efd1-2d2e-6a5d-f2b5-c7dad42ef184"
    date: str = "2026-01-01"
    suffix: str = ".avro.pgp"
    files: dict[str, bytes] = field(default_factory=dict)
    rows: list[dict[str, object]] = field(default_factory=list)

    @property
    def manifest_name(self) -> str:
        """The manifest's file name."""
        return f"{self.client_guid}.{self.date}-manifest.csv.pgp"

    def name(self, resource: str, event: str) -> str:
        """Give a daily file's name."""
        return f"{self.client_guid}.{self.date}.{resource}.{event}{self.suffix}"

    def add(self, resource: str, event: str, plain: bytes, records: int) -> None:
        """Encrypt a daily file and add its row."""
        name = self.name(resource, event)
        self.files[name] = self.gpg.encrypt(self.user, plain)
        values = (
            resource.upper(), event.upper(), records, self.date, len(plain),
            len(self.files[name]), sha256(plain).hexdigest(), name.removesuffix(self.suffix),
        )  # fmt: skip
        self.rows.append(dict(zip(COLUMNS, values, strict=True)))

    def row(self, resource: str, event: str) -> dict[str, object]:
        """Give the row of a daily file."""
        wanted = resource.upper(), event.upper()
        return next(row for row in self.rows if (row["ResourceType"], row["EventType"]) == wanted)

    def manifest(self) -> bytes:
        """Write the rows as CSV."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue().encode()

    def write(self, folder: Path) -> Path:
        """Lay all files and the encrypted manifest into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self.files.items():
            (folder / name).write_bytes(data)
        (folder / self.manifest_name).write_bytes(self.gpg.encrypt(self.user, self.manifest()))
        return folder
