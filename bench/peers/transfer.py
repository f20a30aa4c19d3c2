"""The command lines of the programs that transfer a folder's files, the manifest last.

Each uploads under a temporary name and renames, where it can: rclone 1.60 writes under the final
name, and sends everything in one go, since a second run for the manifest would cost another login.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TRANSFERS = 8


@dataclass(frozen=True, kw_only=True)
class Login:
    """Where to, and as whom."""

    host: str
    port: int
    username: str
    key: Path
    directory: str

    @property
    def options(self) -> list[str]:
        """Options of ssh and sftp; the host key is taken as it comes, which costs nothing."""
        return [
            "-i", str(self.key), "-o", "StrictHostKeyChecking=no",
            "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
        ]  # fmt: skip


def in_order(folder: Path, manifest: str | None) -> list[str]:
    """Give the names of a folder's files, the manifest last."""
    names = sorted(path.name for path in folder.iterdir() if path.name != manifest)
    return names if manifest is None else [*names, manifest]


def sftp(login: Login) -> list[str]:
    """Give OpenSSH's sftp, which takes its batch from standard input."""
    return [
        "sftp", "-q", "-b", "-", "-P", str(login.port), *login.options,
        f"{login.username}@{login.host}",
    ]  # fmt: skip


def sftp_batch(login: Login, folder: Path, manifest: str | None) -> str:
    """Give that batch: everything under temporary names, then the renames."""
    names = in_order(folder, manifest)
    lines = [f"put {folder}/{name} {login.directory}/{name}.part" for name in names]
    lines += [f"rename {login.directory}/{name}.part {login.directory}/{name}" for name in names]
    return "\n".join(lines) + "\n"


def lftp(login: Login, folder: Path, manifest: str | None) -> list[str]:
    """Give lftp with eight transfers at once, each on a connection of its own."""
    ssh = " ".join(["ssh -a -x", *login.options])
    steps = [
        "set cmd:fail-exit yes",
        f'set sftp:connect-program "{ssh}"',
        "set xfer:use-temp-file yes",
        "set sftp:max-packets-in-flight 64",
        f"open -u {login.username}, -p {login.port} sftp://{login.host}",
        f"cd {login.directory}",
    ]
    if manifest is None:
        steps += [f"put {folder}/{name}" for name in in_order(folder, None)]
    else:
        mirror = f"mirror -R -P {TRANSFERS} --no-perms --no-umask -x ^{manifest}$"
        steps += [f"{mirror} {folder}/ .", f"put {folder}/{manifest}"]
    return ["lftp", "--norc", "-c", "; ".join(steps)]


def rclone(login: Login, folder: Path) -> list[str]:
    """Give rclone with eight transfers at once and without looking at what it has sent."""
    return [
        "rclone", "copy", "--config", "/dev/null", str(folder), f":sftp:{login.directory}",
        "--sftp-host", login.host, "--sftp-port", str(login.port), "--sftp-user", login.username,
        "--sftp-key-file", str(login.key), "--sftp-set-modtime=false",
        "--sftp-disable-hashcheck", "--sftp-concurrency", "64", "--transfers", str(TRANSFERS),
        "--checkers", str(TRANSFERS), "--no-check-dest", "--sftp-shell-type", "none", "--quiet",
    ]  # fmt: skip


def paramiko(login: Login, folder: Path, manifest: str | None) -> list[str]:
    """Give the arguments of `bench.measure.timed_by_itself` for paramiko's `put`."""
    return [
        "bench.peers.paramiko_put", login.host, str(login.port), login.username, str(login.key),
        login.directory, str(folder), manifest or "",
    ]  # fmt: skip
