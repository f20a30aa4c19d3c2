"""Packages from npm that tests need: each folder with a lock file is installed there once."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path


def install(folder: Path) -> None:
    """Install the pinned packages, unless that was done for this lock file; one process at a time."""
    lock_file = folder / "package-lock.json"
    installed = folder / "node_modules/installed-lock.json"
    with (folder / ".installing").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if installed.exists() and installed.read_bytes() == lock_file.read_bytes():
            return
        # what is optional there is compiled code, for speed alone
        done = subprocess.run(
            ["npm", "ci", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        installed.write_bytes(lock_file.read_bytes())
