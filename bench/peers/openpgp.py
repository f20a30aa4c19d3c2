"""The OpenPGP programs and libraries, on one file.

    python -m bench.peers.openpgp pysequoia|pgpy FILE KEY OUTPUT

The libraries are timed without imports and reading the key. pgpy knows whole messages only: it has the file in memory,
and gives one that is written in one piece; compression is off for both.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path

from bench.measure import Growth, tell


def gpg_command(home: Path, key: Path, plain: Path) -> list[str]:
    """Give gpg's command line; the message goes to standard output."""
    return [
        "gpg", "--homedir", str(home), "--batch", "--quiet", "--yes", "--no-auto-check-trustdb",
        "--trust-model", "always", "--compress-algo", "none", "--recipient-file", str(key),
        "--output", "-", "--encrypt", str(plain),
    ]  # fmt: skip


def sqop_command(key: Path, plain: Path) -> list[str]:
    """Give sqop's command line; the message goes to standard output."""
    encrypt = 'exec sqop encrypt --no-armor "$1" < "$2"'
    return ["sh", "-c", encrypt, "sh", str(key), str(plain)]


def with_pysequoia(path: str, key: str, output: str) -> None:
    """Encrypt from file to file."""
    import pysequoia  # noqa: PLC0415 - only one library is loaded

    certificate = pysequoia.Cert.from_file(key)
    growth = Growth()
    started = time.perf_counter()
    pysequoia.encrypt_file(path, output, recipients=[certificate], armor=False)
    tell(time.perf_counter() - started, growth=growth.bytes())


def with_pgpy(path: str, key: str, output: str) -> None:
    """Encrypt a message in memory and write it."""
    warnings.simplefilter("ignore")
    import pgpy  # noqa: PLC0415 - only one library is loaded
    from pgpy.constants import CompressionAlgorithm, SymmetricKeyAlgorithm  # noqa: PLC0415 - as above

    certificate, _ = pgpy.PGPKey.from_file(key)
    growth = Growth()
    started = time.perf_counter()
    message = pgpy.PGPMessage.new(
        Path(path).read_bytes(), compression=CompressionAlgorithm.Uncompressed, format="b"
    )
    encrypted = certificate.encrypt(message, cipher=SymmetricKeyAlgorithm.AES256)
    Path(output).write_bytes(bytes(encrypted))
    tell(time.perf_counter() - started, growth=growth.bytes())


def main() -> None:
    """Encrypt one file with one library."""
    library, path, key, output = sys.argv[1:]
    {"pysequoia": with_pysequoia, "pgpy": with_pgpy}[library](path, key, output)


if __name__ == "__main__":
    main()
