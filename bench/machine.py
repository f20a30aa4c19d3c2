"""The machine, and the version of everything that took part."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

_LIBRARIES = (
    "mxdeliver", "duckdb", "pyarrow", "fastavro", "polars", "avro", "pysequoia", "pgpy", "paramiko",
    "cryptography", "isal",
)  # fmt: skip
_PROGRAMS = (
    ("gpg", "--version"),
    ("sqop", "version"),
    ("ssh", "-V"),
    ("lftp", "--version"),
    ("rclone", "version"),
)


def described() -> list[str]:
    """Give the lines of the page that say where and with what it was measured."""
    programs = "; ".join(_first_line(*command) for command in _PROGRAMS)
    return [
        (
            f"{datetime.now(UTC).date()}, {os.cpu_count()} cores ({_processor()}), "
            f"{_memory()} of memory, {platform.system()} {platform.release().partition('-')[0]}, "
            f"Python {platform.python_version()}."
        ),
        "",
        ", ".join(f"{name} {version(name)}" for name in _LIBRARIES) + ".",
        "",
        f"{programs}.",
    ]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory() -> str:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{pages / 2**30:.0f} GiB"


def _first_line(*command: str) -> str:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", check=False
    )
    return done.stdout.splitlines()[0].removeprefix("LFTP | ").strip()
