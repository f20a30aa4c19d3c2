"""A person at a terminal, where a run shows more than in a cron mail."""

from __future__ import annotations

import os
import pty
import subprocess

from tests.support.deployment import Deployment


def run_on_a_terminal(deployment: Deployment, *arguments: str) -> tuple[int, bytes, str]:
    """Run a command whose standard error is a terminal; give status, output and what was shown."""
    deployment.write()
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        deployment.command(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # the other side was closed
        pass
    output, _ = process.communicate()
    os.close(ours)
    return process.returncode, output, shown.decode()
