"""paramiko's own `put`, on eight channels of one connection.

    python -m bench.peers.paramiko_put HOST PORT USER KEY DIRECTORY FOLDER MANIFEST

Timed from the connect to the last reply; `put` is as it is by default, so it looks at the size.
"""

from __future__ import annotations

import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import local

import paramiko

from bench.measure import tell
from bench.peers.transfer import TRANSFERS, in_order


def main() -> None:
    """Upload a folder, the manifest last, and tell the time."""
    host, port, user, key, directory, folder, manifest = sys.argv[1:]
    names = in_order(Path(folder), manifest or None)
    started = time.perf_counter()
    connection = socket.create_connection((host, int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with paramiko.Transport(connection) as transport:
        transport.connect(username=user, pkey=paramiko.Ed25519Key.from_private_key_file(key))
        own = local()

        def put(name: str) -> None:
            if not hasattr(own, "sftp"):
                own.sftp = paramiko.SFTPClient.from_transport(transport)
            own.sftp.put(f"{folder}/{name}", f"{directory}/{name}.part")
            own.sftp.rename(f"{directory}/{name}.part", f"{directory}/{name}")

        with ThreadPoolExecutor(TRANSFERS) as threads:
            daily, last = (names[:-1], names[-1:]) if manifest else (names, [])
            list(threads.map(put, daily))
            list(threads.map(put, last))
        seconds = time.perf_counter() - started
    tell(seconds)


if __name__ == "__main__":
    main()
