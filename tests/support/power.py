"""A disk whose power can be cut: an ext4 image on a loop device, shut down without writing its log.

What was not made durable with fsync(2) is gone after `again`, as it is after a real power cut.
Needs root and loop devices, and says so where they are missing: there is no other way to show it.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from pathlib import Path
from typing import Self

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, linux/fs/ext4/ext4.h
_WITHOUT_LOG_FLUSH = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH


def cut(mount: Path) -> None:
    """Cut the power of the file system that is mounted here."""
    descriptor = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _WITHOUT_LOG_FLUSH))
    finally:
        os.close(descriptor)


class Disk:
    """A context manager: the image `folder/disk.img`, mounted on `folder/disk`."""

    def __init__(self, folder: Path, *, megabytes: int = 24) -> None:
        self.path = folder / "disk"
        self._image = folder / "disk.img"
        self._size = megabytes << 20

    def __enter__(self) -> Self:
        self.path.mkdir(mode=0o700)
        with self._image.open("wb") as image:
            image.truncate(self._size)
        _run("mke2fs", "-q", "-t", "ext4", "-m", "0", str(self._image))
        self._mount()
        self.path.chmod(0o700)
        return self

    def __exit__(self, *_: object) -> None:
        _run("umount", str(self.path))

    def again(self) -> None:
        """Bring the disk back, with what was durable."""
        _run("umount", str(self.path))
        self._mount()

    def _mount(self) -> None:
        # A commit of the file system's own every five seconds would make durable what nobody synced.
        _run("mount", "-o", "loop,commit=300", str(self._image), str(self.path))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(
            f"the test of power cuts needs root, loop devices and ext4; `{' '.join(command)}` says: "
            f"{done.stderr.strip()}"
        )
