"""A system user for SFTP servers that log in real users, made at test time.

Needs root, as the servers themselves do to become that user. The user stays: several test
processes share it, so its password is the same for all of them and it is nothing but a test's.
"""

from __future__ import annotations

import fcntl
import pwd
import subprocess
from functools import cache
from pathlib import Path

USERNAME = "mxdeliver-sftp"
PASSWORD = "correct-horse-7-battery"
_LOCK = Path("/tmp/mxdeliver-test-account.lock")


@cache
def account() -> pwd.struct_passwd:
    """Make sure that the test user exists with its password, and give its entry."""
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            pwd.getpwnam(USERNAME)
        except KeyError:
            subprocess.run(
                ["useradd", "--no-create-home", "--home-dir", "/", "--shell", "/bin/sh", USERNAME],
                check=True,
            )
        subprocess.run(
            ["chpasswd", "--crypt-method", "SHA256", "--sha-rounds", "1000"],
            input=f"{USERNAME}:{PASSWORD}\n".encode(),
            check=True,
        )
    return pwd.getpwnam(USERNAME)
